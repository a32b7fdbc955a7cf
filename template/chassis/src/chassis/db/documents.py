"""JSON documents of models: a change inside one is noticed and stored, however deep it is.

SQLAlchemy itself notices an assignment only, never `note.meta["seen"] = True`.
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
    """Notice changes inside a model's JSON attributes; a listener of `mapper_configured`."""
    keys = [
        attribute.key
        for attribute in mapper.column_attrs
        if attribute.parent is mapper and _is_json(attribute.columns[0].type)
    ]
    for key in keys:
        _track_assigned(getattr(model, key), key)
    if keys:
        _track_loaded(model, keys)


def _reporting(change: Callable[..., Any]) -> Any:
    """Return a method of dict or list that reports what it changes, and adds nothing."""

    def change_and_report(self: Any, *arguments: Any, **named: Any) -> Any:
        result = change(self, *arguments, **named)
        self._holder.report_change()
        return result

    return change_and_report


class TrackedDict(dict[str, Any]):
    """An object in a document; a dict that reports its changes."""

    __slots__ = ("_holder",)

    __delitem__ = _reporting(dict.__delitem__)
    clear = _reporting(dict.clear)
    pop = _reporting(dict.pop)
    popitem = _reporting(dict.popitem)

    def __init__(self, values: Any = (), holder: "_Holder | None" = None) -> None:
        super().__init__(values)
        self._holder = holder = holder or _Holder()
        for key, value in self.items():
            if isinstance(value, _CONTAINERS):
                super().__setitem__(key, _track(value, holder))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (dict(self),)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _track(value, self._holder))
        self._holder.report_change()

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self

    def update(self, *values: Any, **named: Any) -> None:
        """Take the items of another dict over."""
        super().update(TrackedDict(dict(*values, **named), self._holder))
        self._holder.report_change()

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return a value, after the default was put in its place if there was none."""
        if key not in self:
            self[key] = default
        return self[key]


class TrackedList(list[Any]):
    """An array in a document; a list that reports its changes."""

    __slots__ = ("_holder",)

    __delitem__ = _reporting(list.__delitem__)
    __imul__ = _reporting(list.__imul__)
    clear = _reporting(list.clear)
    pop = _reporting(list.pop)
    remove = _reporting(list.remove)
    reverse = _reporting(list.reverse)
    sort = _reporting(list.sort)

    def __init__(self, values: Iterable[Any] = (), holder: "_Holder | None" = None) -> None:
        super().__init__(values)
        self._holder = holder = holder or _Holder()
        for index, value in enumerate(self):
            if isinstance(value, _CONTAINERS):
                super().__setitem__(index, _track(value, holder))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (list(self),)

    def __setitem__(self, index: Any, value: Any) -> None:
        tracked = TrackedList(value, self._holder) if isinstance(index, slice) else value
        super().__setitem__(index, _track(tracked, self._holder))
        self._holder.report_change()

    def __iadd__(self, values: Iterable[Any]) -> Any:  # type: ignore[misc]
        self.extend(values)
        return self

    def append(self, value: Any) -> None:
        """Add a value at the end."""
        self.extend([value])

    def extend(self, values: Iterable[Any]) -> None:
        """Add values at the end."""
        super().extend(TrackedList(values, self._holder))
        self._holder.report_change()

    def insert(self, index: Any, value: Any) -> None:
        """Add a value before another."""
        super().insert(index, _track(value, self._holder))
        self._holder.report_change()


class _Holder:
    """The attribute that a document and all of its parts belong to, once there is one."""

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


def _track(value: Any, holder: _Holder) -> Any:
    """Return a copy of a container that reports its changes; anything else as it is."""
    if isinstance(value, dict):
        return TrackedDict(value, holder)
    return TrackedList(value, holder) if isinstance(value, list) else value


def _track_assigned(attribute: Any, key: str) -> None:
    @event.listens_for(attribute, "set", raw=True, retval=True, propagate=True)
    def track_assigned(state: InstanceState[Any], value: Any, *_: Any) -> Any:
        if _is_held(value, state, key):
            return value
        try:
            return _track(value, _Holder(state, key))
        except RecursionError:
            raise InvalidValueError(f"{key} is nested too deeply to be stored") from None


def _track_loaded(model: type[Any], keys: Sequence[str]) -> None:
    def track_loaded(state: InstanceState[Any], *_: Any) -> None:
        values = state.dict
        for key in keys:
            value = values.get(key)
            if isinstance(value, _CONTAINERS) and not _is_held(value, state, key):
                values[key] = _track(value, _Holder(state, key))

    def pickle_documents(state: InstanceState[Any], pickled: dict[str, Any]) -> None:
        documents = {key: state.dict[key] for key in keys if key in state.dict}
        pickled.setdefault(_PICKLED, {}).update(documents)

    def track_unpickled(state: InstanceState[Any], pickled: dict[str, Any]) -> None:
        for key in keys:
            holder = getattr(pickled.get(_PICKLED, {}).get(key), "_holder", None)
            if isinstance(holder, _Holder):
                holder.state, holder.key = state, key

    for name in ("load", "refresh", "refresh_flush"):
        event.listen(model, name, track_loaded, raw=True, propagate=True)
    event.listen(model, "pickle", pickle_documents, raw=True, propagate=True)
    event.listen(model, "unpickle", track_unpickled, raw=True, propagate=True)


def _is_held(value: Any, state: InstanceState[Any], key: str) -> bool:
    if isinstance(value, Mutable):
        return True
    holder = getattr(value, "_holder", None)
    return isinstance(holder, _Holder) and holder.state is state and holder.key == key


def _is_json(kind: TypeEngine[Any]) -> bool:
    return isinstance(kind.impl_instance if isinstance(kind, TypeDecorator) else kind, JSON)
