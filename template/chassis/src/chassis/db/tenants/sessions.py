"""Sessions of tenants: what each adds to its statements, and what it refuses."""

import re

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    bindparam,
    cast,
    event,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import REGCLASS
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.orm import (
    ORMExecuteState,
    Session,
    SessionTransaction,
    with_loader_criteria,
)

from ..session_guards import ReadSession
from ..sessions import Sessions, session_scope
from .models import TABLES, RowSecured, Tenanted, TenantId
from .scope import ALL, TenantError, check_tenant, current_tenant, scope
from .sent_sql import check_sql

_TENANT_KEY = "chassis_tenant"
_TOLD_KEY = "chassis_told_tenant"
# Of a statement of a session: whether its SQL has to name the tenant.
_CHECK_OPTION = "chassis_check_tenant"

# One object for all statements: what differs is what the parameter is asked for.
_TENANT = bindparam("tenant", callable_=current_tenant, type_=TenantId, unique=True)


def _is_of_tenant(model: type[Tenanted]) -> ColumnElement[bool]:
    """Return the condition; not a lambda, as a loaded object is pickled with it."""
    return model.tenant == _TENANT


_CRITERIA = with_loader_criteria(Tenanted, _is_of_tenant, include_aliases=True)
_READING_SQL = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
_TELL = text("SELECT set_config('app.tenant', :tenant, true)")


@event.listens_for(Session, "do_orm_execute")
def add_criteria(state: ORMExecuteState) -> None:
    """Add the condition of the tenant to a statement of models; have its SQL checked."""
    prepare_session(state.session)
    if scope.get() == ALL:
        return
    if state.is_orm_statement:
        _refuse_update_by_key(state)
        state.statement = state.statement.options(_CRITERIA)
    # What is loaded again by its key is a row that the session has.
    state.update_execution_options(**{_CHECK_OPTION: not state.is_column_load})


def _refuse_update_by_key(state: ORMExecuteState) -> None:
    mapper = state.bind_mapper
    is_of_tenants = mapper is not None and issubclass(mapper.class_, Tenanted)
    if is_of_tenants and state.is_update and state.is_executemany:
        raise TenantError(
            "nothing keeps an update(…) with a list of rows to a tenant: load the objects and "
            "change them, or .where(…) and .values(…)"
        )


@event.listens_for(Engine, "before_cursor_execute")
def check_statement(
    connection: Connection,
    cursor: object,
    statement: str,
    parameters: object,
    context: ExecutionContext,
    executemany: bool,
) -> None:
    """Raise TenantError for a statement, however it came to be, that is not kept to a tenant."""
    tenant = scope.get()
    if tenant == ALL:
        return
    # Beside sessions' statements there are those of a flush, and of connections.
    default = tenant is not None and _READING_SQL.match(statement) is not None
    if context.execution_options.get(_CHECK_OPTION, default):
        check_sql(statement)


@event.listens_for(Session, "before_flush")
def check_objects(session: Session, context: object, instances: object) -> None:
    """Raise TenantError for an object of another tenant that would be changed or deleted."""
    prepare_session(session)
    for each in (*session.dirty, *session.deleted):
        if isinstance(each, Tenanted):
            check_tenant(vars(each).get("tenant"))


def prepare_session(session: Session) -> None:
    """Bind a session to the tenant in whose scope it is used first; tell the server."""
    tenant = scope.get()
    if tenant is None:
        return
    if session.info.setdefault(_TENANT_KEY, tenant) != tenant:
        raise TenantError("a session is for one tenant: open another session for this one")
    if _TOLD_KEY not in session.info and _is_told(session.get_bind().dialect):
        if isinstance(session, ReadSession):
            session.begin_snapshot()
        tell_server(session, None, session.connection())


@event.listens_for(Session, "after_begin")
def tell_server(session: Session, transaction: object, connection: Connection) -> None:
    """Tell PostgreSQL the tenant, until the transaction ends: a pooler keeps none of it."""
    tenant = scope.get()
    if tenant is not None and _TOLD_KEY not in session.info and _is_told(connection.dialect):
        session.info[_TOLD_KEY] = True
        connection.execute(_TELL, {"tenant": tenant})


@event.listens_for(Session, "after_transaction_end")
def forget_what_was_told(session: Session, transaction: SessionTransaction) -> None:
    """Have the next transaction tell the server again."""
    if transaction.parent is None:
        session.info.pop(_TOLD_KEY, None)


def _is_told(dialect: Dialect) -> bool:
    return dialect.name == "postgresql" and bool(RowSecured.__subclasses__())


async def check_row_security(sessions: Sessions) -> None:
    """Raise TenantError if PostgreSQL would show this role the rows of all tenants."""
    async with session_scope(sessions.write) as session:
        dialect = session.get_bind().dialect
        if not _is_told(dialect):
            return
        quote = dialect.identifier_preparer.format_table
        for model in TABLES.values():
            table = inspect(model).local_table
            if issubclass(model, RowSecured) and not await session.scalar(
                select(func.row_security_active(cast(quote(table), REGCLASS)))
            ):
                raise TenantError(
                    f"the row security of {quote(table)} is not active: this role owns the table "
                    "or bypasses it, or no migration has enabled it"
                )
