"""The declarative base: names, types and defaults that every model shares."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, MetaData, Table, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapper, TypeResolve
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

from .documents import track_documents
from .errors import TimeZoneError


def _demand_name(check: CheckConstraint, table: Table) -> str:
    if check.name is None:
        raise InvalidRequestError(
            f'table {table.name}: CheckConstraint("{check.sqltext}") has no name to be dropped by: '
            'CheckConstraint(…, name="…")'
        )
    return ""


# Without names a constraint can't be dropped by a later migration, least of all on SQLite.
NAMING_CONVENTION: dict[str, str | Callable[[Any, Table], str]] = {
    "demanded": _demand_name,
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(demanded)s%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
# What PostgreSQL itself calls a constraint without a name, for a schema that is older than the
# chassis; https://www.postgresql.org/docs/current/sql-createtable.html has no more than examples.
POSTGRES_NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class UTCDateTime(TypeDecorator[datetime]):
    """Store time zone aware datetimes and give them back in UTC, on both backends.

    Raises TimeZoneError for a naive datetime: its time zone would be a guess.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> Any:
        """Return the type of what a column is added to or compared with: a timedelta is none."""
        if isinstance(value, timedelta):
            return self.impl_instance.coerce_compared_value(op, value)
        return self

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if isinstance(value, date) and getattr(value, "tzinfo", None) is None:
            raise TimeZoneError(value)
        # What is no datetime at all is the driver's to refuse, as a bug.
        return value.astimezone(UTC) if isinstance(value, datetime) else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        # SQLite's driver returns them without a time zone, PostgreSQL's with some.
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_OBJECTS = (dict[str, Any], dict[str, str])
_ARRAYS = (list[Any], list[str], list[int], list[dict[str, Any]])
_DOCUMENTS = (*_OBJECTS, *_ARRAYS)


class Base(DeclarativeBase):
    """The parent of every model.

    `Mapped[datetime]` is aware and in UTC; `Mapped[dict[str, Any]]`, `Mapped[list[str]]` and the
    like are JSON (JSONB on PostgreSQL). A change inside a JSON attribute is stored, and what the
    server fills in is there after a flush.
    """

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, TypeEngine[Any]]] = {datetime: UTCDateTime()}


@event.listens_for(Base, "resolve_type_annotation")
def resolve_document(annotation: TypeResolve) -> TypeEngine[Any] | None:
    """Return the type of a document, unless the service's own map of types has one."""
    kind = annotation.resolved_type
    named = (kind, annotation.raw_pep_695_type, annotation.raw_pep_593_type)
    if kind not in _DOCUMENTS or any(name and annotation.resolve(name) for name in named):
        return None
    # 20 ms, for nothing in a service without documents on SQLite.
    from sqlalchemy.dialects.postgresql import JSONB

    return JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


@event.listens_for(Base, "after_mapper_constructed", propagate=True)
def fetch_what_the_server_fills(mapper: Mapper[Any], model: type[Any]) -> None:
    """Fetch with an UPDATE what the server makes of it: on access it would be MissingGreenlet.

    `__mapper_args__` of `Base` would do so only until a model has its own.
    """
    if mapper.eager_defaults == "auto":
        mapper.eager_defaults = True


event.listen(Base, "mapper_configured", track_documents, propagate=True)
