"""The promise to services that are out there: what they rely on stays."""

import importlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import chassis.db
import pytest
from chassis import ChassisSettings
from fastapi import Depends
from pydantic import Field
from pydantic_settings import BaseSettings
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from tests.api import CHASSIS, MODULES, api, find_broken, recorded
from tests.repository import ROOT
from tests.signatures import describe


@pytest.mark.parametrize("kind", recorded())
def test_nothing_that_services_rely_on_is_removed_or_changed(kind: str) -> None:
    assert find_broken(recorded()[kind], api().get(kind, [])) == []


@pytest.mark.parametrize("kind", api())
def test_what_is_new_is_recorded(kind: str) -> None:
    """`python -m tests.api` records it."""
    assert set(api()[kind]) - set(recorded().get(kind, [])) == set()


@pytest.mark.parametrize("module", MODULES)
def test_the_readme_of_the_chassis_lists_every_public_name_once(module: str) -> None:
    rows = list(read_names(module))
    public = set(importlib.import_module(module).__all__)
    table = f"the table `from {module}` of template/chassis/README.md"
    missing, unknown = sorted(public - {*rows}), sorted({*rows} - public)
    assert not missing, f"add to {table} a row for each of {missing}: | `name` | what it is |"
    assert not unknown, f"remove from {table}: {unknown}; {module}.__all__ has no such names"
    assert len(rows) == len({*rows}), f"{table} lists a name twice"


def read_names(module: str) -> Iterator[str]:
    """Yield the names in a table of public names; each has a line that says what it is."""
    readme = (CHASSIS / "README.md").read_text(encoding="utf-8")
    [table] = re.findall(rf"^\| from `{module}` \|.*\n\|---\|---\|\n((?:\|.*\n)+)", readme, re.M)
    for row in table.splitlines():
        match = re.fullmatch(r"\| `(\w+)` \| [^|]+ \|", row)
        assert match, f"write | `name` | what it is | instead of {row}"
        yield match[1]


IMPORT = re.compile(r"^ *from (chassis[.\w]*) import (?:\(([^)]*)\)|(.*))", re.M)
SHOWN = [
    *(CHASSIS / "docs").glob("*.md"),
    *(CHASSIS.parent / "src").rglob("*.py*"),
    *(CHASSIS.parent / "tests").rglob("*.py*"),
    *CHASSIS.glob("*.md"),
    ROOT / "README.md",
]


@pytest.mark.parametrize("file", SHOWN, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_service_is_shown_public_names_only(file: Path) -> None:
    """What a page or the rendered half imports of the chassis, each service may import."""
    for module, *forms in IMPORT.findall(file.read_text(encoding="utf-8")):
        names = set(re.findall(r"\w+", re.sub(r"#.*| as \w+", "", "".join(forms))))
        assert module in MODULES, f"{module} is not public: {', '.join(MODULES)} are"
        assert names <= {*importlib.import_module(module).__all__}


async def as_generator(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Yield a session, as the dependency once did."""
    assert connection
    yield AsyncSession()


def as_function(connection: HTTPConnection) -> AsyncSession:
    """Return a session."""
    raise NotImplementedError(connection)


async def with_more(connection: HTTPConnection, name: str) -> AsyncSession:
    """Demand one more argument."""
    raise NotImplementedError(connection, name)


async def with_another_type(connection: str) -> AsyncSession:
    """Demand another argument."""
    raise NotImplementedError(connection)


async def with_an_option(connection: HTTPConnection, *, name: str = "") -> AsyncSession:
    """Take one more argument, or none."""
    raise NotImplementedError(connection, name)


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        (as_generator, True),
        (asynccontextmanager(as_generator), True),
        (as_function, True),
        (with_more, True),
        (with_another_type, True),
        (with_an_option, False),
    ],
)
def test_another_kind_or_parameter_of_a_function_is_noticed(
    change: object, breaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not find_broken(recorded()["chassis.db"], api()["chassis.db"])
    monkeypatch.setattr(chassis.db, "get_db_session", change)
    found = find_broken(recorded()["chassis.db"], api()["chassis.db"])
    assert any(line.startswith("get_db_session") for line in found) == breaks


class Old(BaseSettings):
    """Some settings."""

    size: int = Field(5, ge=1)
    name: str | None = None


class OtherDefault(Old):
    """Another default."""

    size: int = Field(6, ge=1)


class Narrower(Old):
    """A narrower range."""

    size: int = Field(5, ge=2)


class OtherType(Old):
    """Another type."""

    name: str = ""


class Longer(Old):
    """One more field."""

    more: bool = False


@pytest.mark.parametrize(
    ("change", "breaks"), [(OtherDefault, 1), (Narrower, 1), (OtherType, 1), (Longer, 0)]
)
def test_another_type_or_default_of_a_setting_is_noticed(
    change: type[BaseSettings], breaks: int
) -> None:
    old, new = ([*describe("Settings", kind)][1:] for kind in (Old, change))
    assert len(find_broken(old, new)) == breaks


def test_another_scope_or_dependency_of_an_alias_is_noticed() -> None:
    old = [*describe("DbSession", chassis.db.DbSession)]
    for change in (
        Depends(chassis.db.get_db_session),
        Depends(chassis.db.get_db_read_session, scope="function"),
    ):
        assert find_broken(old, [*describe("DbSession", Annotated[AsyncSession, change])]) == old


def test_the_module_of_a_type_is_no_part_of_the_record() -> None:
    """Modules may move; the settings' own fields are listed once."""
    lines = [line for kind, found in api().items() if "chassis" in kind for line in found]
    assert not [line for line in lines if "chassis." in line or "sqlalchemy." in line]
    assert not any("ChassisSettings.database_" in line for line in lines)
    assert ChassisSettings.model_fields.keys() >= {"database_url"}
