"""The types of routes: a name in them that FastAPI can't find stops the start."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from chassis_stock import create_stock, started

from chassis import ChassisSettings
from chassis.http.routes import RouteError

AS_TEXT = "from __future__ import annotations\n"
MODULE = """
from typing import TYPE_CHECKING, Annotated, Literal
from fastapi import APIRouter, Depends, Request, WebSocket
from pydantic import BaseModel
from chassis.db import DbSession
if TYPE_CHECKING:
    from elsewhere import Missing

router = APIRouter()


class Known(BaseModel):
    name: str = "pencil"


async def depend(known: {taken}) -> Missing: ...
class Order(BaseModel):
    lines: list[{line}] = []


{route}


class Later(BaseModel):
    pass


def find_later() -> Later:
    return Later()


Found = Annotated[Later, Depends(find_later)]
"""
POST = "@router.post('/items')\nasync def post(item: {}) -> {}:\n    return Known()"
SOCKET = "@router.websocket('/items')\nasync def talk(socket: WebSocket, room: {}) -> None: ..."


@pytest.fixture(
    params=[
        AS_TEXT,
        pytest.param(
            "",
            marks=pytest.mark.skipif(
                sys.version_info < (3, 14), reason="looks names up at once before Python 3.14"
            ),
        ),
    ],
    ids=["as text", "as names"],
)
def first_line(request: pytest.FixtureRequest) -> str:
    """Give what a module begins with."""
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder that modules are imported from, and forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "routes_of_a_team", raising=False)
    return tmp_path


def write_routes(
    folder: Path, first_line: str, route: str, *, taken: str = "Known", line: str = "Known"
) -> ModuleType:
    """Import a module with a route."""
    source = first_line + MODULE.format(route=route, taken=taken, line=line)
    (folder / "routes_of_a_team.py").write_text(source, encoding="utf-8")
    importlib.invalidate_caches()
    return importlib.import_module("routes_of_a_team")


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (POST.format("Missing", "None"), "Missing is not defined, which post takes as item"),
        (POST.format("Missing | None", "None"), "Missing.* is not defined, which post takes"),
        (POST.format("list[Missing]", "None"), "Missing.* is not defined, which post takes"),
        (POST.format("list['Known']", "None"), "Known.* is not defined, which post takes"),
        (POST.format("Known", "Missing"), "Missing is not defined, which post returns"),
        (POST.format("Known", "list['Known']"), "Known.* is not defined, which post returns"),
        # FastAPI reads it once, with the module half read.
        (POST.format("Known", "Later"), "Later is not defined, which post returns"),
        (SOCKET.format("Missing"), "Missing is not defined, which talk takes as room"),
    ],
)
async def test_a_name_that_is_not_there_stops_the_start(
    settings: ChassisSettings, folder: Path, first_line: str, route: str, words: str
) -> None:
    module = write_routes(folder, first_line, route)
    with pytest.raises(RouteError, match=f"^/items: .*{words}.*: import it outside"):
        async with started(create_stock(settings, module.router)):
            pass


async def test_a_name_that_a_dependency_takes_is_not_there(
    settings: ChassisSettings, folder: Path, first_line: str
) -> None:
    route = POST.format("Annotated[str, Depends(depend)]", "None")
    module = write_routes(folder, first_line, route, taken="Missing")
    with pytest.raises(RouteError, match="Missing is not defined, which depend takes as known"):
        async with started(create_stock(settings, module.router)):
            pass


async def test_a_name_that_a_model_has_is_not_there(
    settings: ChassisSettings, folder: Path, first_line: str
) -> None:
    module = write_routes(folder, first_line, POST.format("Order", "None"), line="Missing")
    with pytest.raises(RouteError, match="Missing of Order is not defined, which post takes"):
        async with started(create_stock(settings, module.router)):
            pass


@pytest.mark.parametrize(
    "kinds",
    [
        ("Known", "Known"),
        ("'Known'", "Known"),
        ("Annotated[Known, 'Missing']", "Known | None"),
        # Read again when the router is included.
        ("Later", "Known"),
        ("Found", "Known"),
        ("Annotated[str, Depends(depend)]", "Known"),
        ("Literal['Missing'] = 'Missing'", "Known"),
        ("Order, request: Request, session: DbSession", "Known"),
    ],
)
async def test_a_name_that_is_there_is_found(
    settings: ChassisSettings, folder: Path, first_line: str, kinds: tuple[str, str]
) -> None:
    module = write_routes(folder, first_line, POST.format(*kinds), line="Later")
    async with started(create_stock(settings, module.router)) as client:
        assert (await client.post("/items", json={})).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


async def test_a_type_that_nobody_reads_may_be_unknown(
    settings: ChassisSettings, folder: Path, first_line: str
) -> None:
    route = POST.format("Known", "Missing").replace("items'", "items', response_model=Known")
    module = write_routes(folder, first_line, route)
    async with started(create_stock(settings, module.router)) as client:
        assert (await client.post("/items", json={})).json() == {"name": "pencil"}
