"""JSON documents of models: a change inside one is stored, however deep it is.

SQLAlchemy notices an assignment of the attribute only, never `note.meta["seen"] = True`, and its
`Mutable` one level. Here dicts and lists of a document mark the attribute as changed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.mutable import Mutable
from sqlalchemy.orm import InstanceState, Mapper
from sqlalchemy.orm.attributes import flag_modified
from sqlalchemy.types import JSON, TypeDecorator, TypeEngine

from .errors import InvalidValueError


def track_documents(mapper: Mapper[Any], model: type[Any]) -> None:
    """Make changes inside a model's JSON attributes count; a listener of `mapper_configured`."""
    keys = [
        attribute.key
        for attribute in mapper.column_attrs
        if attribute.parent is mapper and _is_json(attribute.columns[0].type)
    ]
    for key in keys:
        _track_assigned(getattr(model, key), key)
    if keys:
        _listen_for_documents(model, keys)


def _report_after(change: Callable[..., Any]) -> Any:
    """Return a method of dict or list that reports its change, for those that add no values."""

    def change_and_report(self: Any, *arguments: Any, **named: Any) -> Any:
        result = change(self, *arguments, **named)
        self._owner.report_change()
        return result

    return change_and_report


class TrackedDict(dict[str, Any]):
    """An object in a document: a dict that reports its changes."""

    __slots__ = ("_owner",)

    __delitem__ = _report_after(dict.__delitem__)
    clear = _report_after(dict.clear)
    pop = _report_after(dict.pop)
    popitem = _report_after(dict.popitem)

    def __init__(self, values: Any = (), owner: "_Owner | None" = None) -> None:
        super().__init__(values)
        self._owner = owner = owner or _Owner()
        for key, value in self.items():
            if isinstance(value, _CONTAINERS):
                super().__setitem__(key, _track_container(value, owner))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (dict(self),)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _track_container(value, self._owner))
        self._owner.report_change()

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def update(self, *values: Any, **named: Any) -> None:
        super().update(TrackedDict(dict(*values, **named), self._owner))
        self._owner.report_change()

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]


class TrackedList(list[Any]):
    """An array in a document: a list that reports its changes."""

    __slots__ = ("_owner",)

    __delitem__ = _report_after(list.__delitem__)
    __imul__ = _report_after(list.__imul__)
    clear = _report_after(list.clear)
    pop = _report_after(list.pop)
    remove = _report_after(list.remove)
    reverse = _report_after(list.reverse)
    sort = _report_after(list.sort)

    def __init__(self, values: Iterable[Any] = (), owner: "_Owner | None" = None) -> None:
        super().__init__(values)
        self._owner = owner = owner or _Owner()
        for index, value in enumerate(self):
            if isinstance(value, _CONTAINERS):
                super().__setitem__(index, _track_container(value, owner))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (list(self),)

    def __setitem__(self, index: Any, value: Any) -> None:
        tracked = TrackedList(value, self._owner) if isinstance(index, slice) else value
        super().__setitem__(index, _track_container(tracked, self._owner))
        self._owner.report_change()

    def __iadd__(self, values: Iterable[Any]) -> Any:  # type: ignore[misc]
        self.extend(values)
        return self

    def append(self, value: Any) -> None:
        self.extend([value])

    def extend(self, values: Iterable[Any]) -> None:
        super().extend(TrackedList(values, self._owner))
        self._owner.report_change()

    def insert(self, index: Any, value: Any) -> None:
        super().insert(index, _track_container(value, self._owner))
        self._owner.report_change()


class _Owner:
    """The attribute of an object that a document and all of its parts belong to, if there is one.

    All parts share it, so that a document that is unpickled gets its object in one step.
    """

    __slots__ = ("key", "state")

    def __init__(self, state: InstanceState[Any] | None = None, key: str = "") -> None:
        self.state = state
        self.key = key

    def report_change(self) -> None:
        model = None if self.state is None else self.state.object
        if model is not None:
            flag_modified(model, self.key)


_CONTAINERS = (dict, list)
_PICKLED = "chassis_documents"


def _track_container(value: Any, owner: _Owner) -> Any:
    """Return a copy of a container that reports its changes; anything else as it is."""
    if isinstance(value, dict):
        return TrackedDict(value, owner)
    return TrackedList(value, owner) if isinstance(value, list) else value


def _track_assigned(attribute: Any, key: str) -> None:
    @event.listens_for(attribute, "set", raw=True, retval=True, propagate=True)
    def track_assigned(state: InstanceState[Any], value: Any, *_: Any) -> Any:
        if _is_tracked(value, state, key):
            return value
        try:
            return _track_container(value, _Owner(state, key))
        except RecursionError:
            raise InvalidValueError(f"{key} is nested too deeply to be stored") from None


def _listen_for_documents(model: type[Any], document_keys: Sequence[str]) -> None:
    """Let a model's documents notice changes inside them after a load, a refresh, an unpickle."""

    def track_loaded(state: InstanceState[Any], *_: Any) -> None:
        values = state.dict
        for key in document_keys:
            value = values.get(key)
            if isinstance(value, _CONTAINERS) and not _is_tracked(value, state, key):
                values[key] = _track_container(value, _Owner(state, key))

    def pickle_documents(state: InstanceState[Any], pickled: dict[str, Any]) -> None:
        documents = {key: state.dict[key] for key in document_keys if key in state.dict}
        pickled.setdefault(_PICKLED, {}).update(documents)

    def track_unpickled(state: InstanceState[Any], pickled: dict[str, Any]) -> None:
        for key in document_keys:
            owner = getattr(pickled.get(_PICKLED, {}).get(key), "_owner", None)
            if isinstance(owner, _Owner):
                owner.state, owner.key = state, key

    for name in ("load", "refresh", "refresh_flush"):
        event.listen(model, name, track_loaded, raw=True, propagate=True)
    event.listen(model, "pickle", pickle_documents, raw=True, propagate=True)
    event.listen(model, "unpickle", track_unpickled, raw=True, propagate=True)


def _is_tracked(value: Any, state: InstanceState[Any], key: str) -> bool:
    """Return whether a value reports to this attribute already, or is a `Mutable` that does."""
    if isinstance(value, Mutable):
        return True
    owner = getattr(value, "_owner", None)
    return isinstance(owner, _Owner) and owner.state is state and owner.key == key


def _is_json(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind.impl_instance if isinstance(kind, TypeDecorator) else kind, JSON)
