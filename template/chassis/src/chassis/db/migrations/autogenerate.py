"""What autogenerate writes into a revision: types and defaults that are right on both backends."""

from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import JSON
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import dialect as postgres_dialect

from ..base import UTCDateTime

if TYPE_CHECKING:
    from alembic.autogenerate.api import AutogenContext

_POSTGRES = postgres_dialect()  # type: ignore[no-untyped-call]


def render_item(kind: str, item: Any, context: "AutogenContext") -> str | Literal[False]:
    """Write chassis types as SQLAlchemy's: a revision must outlive the chassis it was made with."""
    if kind != "type":
        return False
    if isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if type(item) is JSON and isinstance(item.dialect_impl(_POSTGRES), JSONB):
        # Alembic's own rendering of a variant lacks an import.
        context.imports.add("from sqlalchemy.dialects import postgresql")
        return 'sa.JSON().with_variant(postgresql.JSONB(), "postgresql")'
    return False
