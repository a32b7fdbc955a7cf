"""Private names of other packages: only in one module, and never needed."""

import ast
import asyncio
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import aiosqlite
import pytest
import sqlalchemy
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.sql import text

import chassis
from chassis.db import DatabaseSettings, create_database_engine, create_read_engine
from chassis.db.borrowed import LOANS, describe_fallbacks, find_route_template, may_use
from chassis.db.pool import FairQueue, Pool, choose_pool
from chassis.db.sqlite.connection import SQLiteConnection

SOURCE = Path(chassis.__file__).parent
BORROWED = SOURCE / "db" / "borrowed.py"
# Documented, for all their underscores.
DOCUMENTED = {"_replace", "_asdict", "_fields", "_current_frames", "_exit"}
UNDOCUMENTED_MODULES = (
    "fastapi.dependencies",
    "sqlalchemy.connectors",
    "sqlalchemy.util",
    "uvicorn.protocols",
    "uvicorn.supervisors",
)
# What releases of other packages have renamed or are about to.
UNDOCUMENTED_WORDS = (
    "effective_route_context",
    "fastapi_function_astack",
    "fastapi_inner_astack",
    "async_creator_fn",
    "ResolutionError",
    "HttpToolsProtocol",
    "await_only",
    "build_middleware_stack",
    "in_greenlet",
    "is_dml",
    "loaded_app",
    "on_tick",
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED


def find_own_names(tree: ast.AST) -> set[str]:
    """Return what a module names itself: functions, classes, variables and attributes of `self`."""
    own: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                own.add(name)
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.Attribute(attr=name, value=ast.Name(id="self" | "cls" | "copy")):
                if isinstance(node.ctx, ast.Store):
                    own.add(name)
    return own


def find_borrowed(source: str) -> Iterator[str]:
    """Yield the private names of other packages, and assignments by `setattr`, in a module."""
    tree = ast.parse(source)
    own = find_own_names(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                yield ast.unparse(node)
            case ast.Call(func=ast.Name(id="setattr")):
                yield ast.unparse(node)
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if is_private(name) and name not in own and f"self.{name}" not in source:
                    yield ast.unparse(node)
            case ast.ImportFrom(module=str(module), level=0):
                names = [*module.split("."), *(alias.name for alias in node.names)]
                if any(map(is_private, names)) or module.startswith(UNDOCUMENTED_MODULES):
                    yield ast.unparse(node)
            case ast.Import():
                names = [alias.name for alias in node.names]
                if any(is_private(part) for name in names for part in name.split(".")):
                    yield ast.unparse(node)
    yield from (word for word in UNDOCUMENTED_WORDS if word in source)


def test_only_one_module_names_what_is_private_to_other_packages() -> None:
    found = {
        f"{file.relative_to(SOURCE)}: {name}"
        for file in SOURCE.rglob("*.py")
        if file != BORROWED
        for name in find_borrowed(file.read_text())
    }
    assert found == set()


@pytest.mark.parametrize(
    "source",
    [
        "driver._transport.get_extra_info('socket')",
        "getattr(driver, '_transport')",
        "from sqlalchemy.util import await_",
        "from starlette._utils import get_route_path",
        "from sqlalchemy.sql.selectable import _JoinTarget",
        "import sqlalchemy.orm._orm_constructors",
        "setattr(engine.dialect, name, timed)",
        "scope['fastapi_inner_astack']",
    ],
)
def test_a_borrowed_name_is_found(source: str) -> None:
    assert list(find_borrowed(source))


def find_replaced(module: ModuleType) -> Iterator[str]:
    """Yield the private names of other packages' classes that a module's classes define anew."""
    own = find_own_names(ast.parse(Path(str(module.__file__)).read_text()))
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            for name in filter(is_private, own & vars(kind).keys()):
                if any(name in vars(parent) for parent in kind.__mro__ if is_foreign(parent)):
                    yield f"{kind.__name__}.{name}"


def is_foreign(kind: type) -> bool:
    return not kind.__module__.startswith(("chassis", __name__))


def test_no_class_replaces_what_is_private_to_its_parent() -> None:
    found: list[str] = []
    for module in pkgutil.walk_packages(chassis.__path__, "chassis."):
        with suppress(ModuleNotFoundError):  # It needs a package of an extra.
            found += find_replaced(importlib.import_module(module.name))
    assert found == []


def test_few_names_are_borrowed() -> None:
    listed = [name for loan in LOANS.values() for name in loan.names]
    # And the argument for a creator, and FastAPI's entry of the scope.
    assert len(listed) + 2 <= 10


@pytest.mark.parametrize("package", LOANS)
def test_the_locked_release_is_one_that_was_tested(package: str) -> None:
    assert may_use(package)
    assert describe_fallbacks() == []


@pytest.fixture(params=["release", "name"])
def without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes SQLAlchemy newer, or takes a name of it away."""
    if request.param == "release":
        monkeypatch.setattr(sqlalchemy, "__version__", "2.2.0b1")
    else:
        monkeypatch.delattr(sqlalchemy.util, "await_")


@pytest.mark.usefixtures("without")
def test_sqlalchemys_own_pool_serves_where_its_queue_is_unknown() -> None:
    assert choose_pool() is Pool
    [sentence] = [one for one in describe_fallbacks() if one.startswith("sqlalchemy 2.")]
    assert "not always served first" in sentence


async def read_number(settings: DatabaseSettings) -> tuple[int, Any, Any]:
    """Write a number and read it again; return it with the pool and the connection in use."""
    engine, read_engine = create_database_engine(settings), create_read_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE number (value INTEGER)"))
        await connection.execute(text("INSERT INTO number VALUES (7)"))
    async with read_engine.connect() as connection:
        number = (await connection.execute(text("SELECT value FROM number"))).scalar_one()
        driver = (await connection.get_raw_connection()).driver_connection
    await engine.dispose()
    await read_engine.dispose()
    return number, engine.pool, driver


@pytest.fixture
def settings(tmp_path: Path) -> DatabaseSettings:
    return DatabaseSettings(database_sqlite_path=tmp_path / "app.db")


def test_with_tested_releases_the_faster_ways_are_used(settings: DatabaseSettings) -> None:
    number, pool, driver = asyncio.run(read_number(settings))
    assert number == 7
    assert isinstance(driver, SQLiteConnection)
    assert isinstance(vars(type(pool))["_queue_class"](1), FairQueue)


@pytest.mark.usefixtures("without")
def test_with_another_release_sqlalchemys_own_pool_and_connection_do_the_same(
    settings: DatabaseSettings,
) -> None:
    number, pool, driver = asyncio.run(read_number(settings))
    assert number == 7
    assert type(driver) is aiosqlite.Connection
    assert type(pool).__mro__[1] is AsyncAdaptedQueuePool


def test_a_route_has_a_template_without_fastapis_private_entry() -> None:
    class Route:
        path_format = "/{item_id}"

    class Included:
        path_format = "/items/{item_id}"

    scope = {"route": Route, "fastapi": {"effective_route_context": Included}}
    assert find_route_template(scope) == "/items/{item_id}"
    assert find_route_template({"route": Route}) == "/{item_id}"
    assert find_route_template({}) is None
