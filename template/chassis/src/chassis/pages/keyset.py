"""A list's statement with its order: made once, it reads every page."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnExpressionArgument, Integer, bindparam
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from ..db.errors import Failure, InvalidValueError, classify, sqlstate
from .cursors import Cursors
from .keys import read_key, split_after
from .query import Page, PageRequest
from .uniqueness import Statement, check_unique, read_sources

# The name of a key, as a column and as a parameter.
_NAME = "page_key_{}"
_INSTEAD = {
    "order_by": "the order follows it, keyset(select(…), Order.id.desc())",
    "limit": "a page has its own",
    "offset": "a page begins after its cursor",
    "group_by": "count or add up in a scalar_subquery() of each row",
}


def keyset(statement: Statement, *order: Any) -> "Keyset":
    """Return what reads the pages of a statement; make it once, at module level.

    The order is of columns or expressions, each with `asc()` or `desc()`, `nulls_first()` or
    `nulls_last()`; by default NULL is larger than any value, on both databases. Raise ValueError
    if two rows may have the same keys, TypeError for what can't be a key.
    """
    _check_clauses(statement)
    sources = read_sources(statement)
    keys = [read_key(part, sources.outer) for part in order]
    check_unique(sources, [key.column for key in keys])
    return Keyset(statement.order_by(*(key.order_by() for key in keys)), Cursors(keys))


class Keyset:
    """A list whose pages are read in one order."""

    def __init__(self, statement: Statement, cursors: Cursors) -> None:
        self._statement = statement
        self._cursors = cursors
        # By the database, and by which keys of a cursor are NULL.
        self._built: dict[tuple[str, tuple[bool, ...]], list[Statement]] = {}

    def where(self, *conditions: ColumnExpressionArgument[bool]) -> "Keyset":
        """Return the list of those rows alone. Its cursors are those of the whole list."""
        return Keyset(self._statement.where(*conditions), self._cursors)

    async def page(self, session: AsyncSession, page: PageRequest) -> Page[Any]:
        """Read a page, and send the header `Link` if another follows.

        An item is an entity or value, a dict if the statement selects several. Raise
        RequestValidationError, a 422, for a cursor that is none of this list's.
        """
        count = len(self._cursors.keys)
        rows, names = await self._read_rows(session, page)
        found, cursor = rows[: page.limit], None
        if len(rows) > page.limit:
            cursor = self._cursors.dump(found[-1][-count:])
            page.link_next(cursor)
        names = names[:-count]
        is_single = len(names) == 1
        items = [row[0] if is_single else dict(zip(names, row, strict=False)) for row in found]
        return Page.model_construct(items=items, next=cursor)

    async def _read_rows(
        self, session: AsyncSession, page: PageRequest
    ) -> tuple[list[Any], list[str]]:
        """Return the rows of a page, one more if there is one, and the names of their columns."""
        dialect = session.get_bind().dialect.name
        values = self._load_values(page)
        parameters = {_NAME.format(place): value for place, value in enumerate(values)}
        if dialect != "sqlite":
            parameters = {name: str(value) for name, value in parameters.items()}
        rows: list[Any] = []
        names: list[str] = []
        try:
            for statement in self._find_statements(dialect, values):
                parameters["page_limit"] = page.limit + 1 - len(rows)
                result = await session.execute(statement, parameters)
                names = list(result.keys())
                rows += result
                if len(rows) > page.limit:
                    break
        except (StatementError, InvalidValueError) as error:
            if page.cursor is not None and _is_refused_value(error):
                raise page.refuse_cursor() from error
            raise
        return rows, names

    def _load_values(self, page: PageRequest) -> Sequence[Any]:
        try:
            return () if page.cursor is None else self._cursors.load(page.cursor)
        except ValueError as error:
            raise page.refuse_cursor() from error

    def _find_statements(self, dialect: str, values: Sequence[Any]) -> list[Statement]:
        """Return the statements whose rows, one after the other, come after a row with values."""
        kind = dialect, tuple(value is None for value in values)
        if kind not in self._built:
            self._built[kind] = self._build_statements(*kind)
        return self._built[kind]

    def _build_statements(self, dialect: str, are_null: Sequence[bool]) -> list[Statement]:
        keys = [(_NAME.format(place), key) for place, key in enumerate(self._cursors.keys)]
        columns = [key.select(dialect).label(name) for name, key in keys]
        limit = bindparam("page_limit", type_=Integer)
        statement = self._statement.add_columns(*columns).limit(limit)
        if not are_null:
            return [statement]
        bounds = [
            None if is_null else key.bind(name, dialect)
            for is_null, (name, key) in zip(are_null, keys, strict=True)
        ]
        return [statement.where(each) for each in split_after(self._cursors.keys, bounds)]


def _is_refused_value(error: Exception) -> bool:
    """Return whether a value can't be what its column has: PostgreSQL's are of one class."""
    is_data_exception = isinstance(error, DBAPIError) and sqlstate(error).startswith("22")
    return is_data_exception or classify(error) is Failure.INVALID


def _check_clauses(statement: Statement) -> None:
    """Raise ValueError for a clause that no page can have."""
    without = {
        "order_by": statement.order_by(None),
        "limit": statement.limit(None),
        "offset": statement.offset(None),
        "group_by": statement.group_by(None),
    }
    for clause, cleared in without.items():
        if str(cleared) != str(statement):
            raise ValueError(
                f"keyset(…): leave {clause}() out of the statement: {_INSTEAD[clause]}"
            )
