"""What a model inherits whose rows belong to tenants."""

from typing import Any

from sqlalchemy import Dialect, String, Table, event
from sqlalchemy.orm import Mapped, Mapper, mapped_column
from sqlalchemy.types import TypeDecorator

from .scope import TenantError, check_tenant, current_tenant

# The tables of the models: by their names in SQL, in lower case.
TABLES: dict[str, type[Any]] = {}


class TenantId(TypeDecorator[str]):
    """Refuses, in the scope of a tenant, the id of another in what is written and what is read."""

    impl = String(200)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        check_tenant(value)
        return value

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        check_tenant(value)
        return value


class Tenanted:
    """Whose row it is: a new one belongs to the tenant of the scope."""

    tenant: Mapped[str] = mapped_column(TenantId, index=True, insert_default=current_tenant)


class RowSecured(Tenanted):
    """The same, and PostgreSQL is told the tenant of each transaction, in `app.tenant`."""


@event.listens_for(Tenanted, "after_mapper_constructed", propagate=True)
def register_table(mapper: Mapper[Any], model: type[Any]) -> None:
    """Remember the table of a model. Raise TenantError if the tenant stands in another one."""
    table = mapper.local_table
    assert isinstance(table, Table)
    if "tenant" not in table.c:
        raise TenantError(
            f"{model.__name__} has a table of its own, and its tenant in that of its parent: let "
            "both have one table (single table inheritance)"
        )
    TABLES[table.name.lower()] = model
