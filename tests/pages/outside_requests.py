"""The guide's page of work outside requests: its own text runs, on both engines."""

import asyncio
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chassis import ChassisSettings, create_app
from chassis.db import open_sessions, session_scope
from chassis.tasks import Stop
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from starlette.types import Message

from tests.model_table import lint
from tests.models.trial import ENGINES, Databases, Package
from tests.postgres import HOST, free_port
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/outside_requests.md"
# More than are read at once.
MANY = 1500
ROUTERS = ("counting", "exports", "sending", "watching")
# The write pool of SQLite has one connection anyway.
HASTY: dict[str, Any] = {"database_pool_size": 1, "database_pool_timeout": 0.1}
SETTINGS = "from chassis import ChassisSettings as Settings\n"


def test_every_block_of_the_page_is_run(package: Package) -> None:
    blocks = re.findall(r"^ *```(\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    modules = {"sender.py", "cli.py", "import_parcels.py", "tests/test_watching.py"}
    modules |= {f"routers/{name}.py" for name in ROUTERS}
    files = {"models/__init__.py", "models/parcel.py", *modules}
    assert blocks == ["python"] * len(files)
    for name in files:
        lint((package.folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_page_makes_a_service_on_both_engines(
    package: Package, databases: Databases, engine: str
) -> None:
    settings = databases.create(engine)
    migrate(package, settings)
    assert package.drift(settings) == ""
    fields = settings.model_dump(exclude_unset=True)
    service = ChassisSettings(**fields, **HASTY)
    watching = load(package, "tests.test_watching")
    watching.test_it_tells_how_many_wait(create(package, service))
    watching.test_it_goes_on_by_itself(create(package, service))
    watching.test_the_stream_begins(create(package, service))
    asyncio.run(use_service(package, service))


def migrate(package: Package, settings: Any) -> None:
    if not (package.versions / "parcels_parcels.py").exists():
        lint(package.generate(settings, "parcels"))
    package.upgrade(settings)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_worker_waits_for_the_migration_and_ends_at_sigterm(
    package: Package, databases: Databases, engine: str, tmp_path: Path
) -> None:
    settings = databases.create(engine)
    fields = settings.model_dump(exclude_unset=True)
    service = ChassisSettings(**fields)
    (package.folder / "settings.py").write_text(SETTINGS, encoding="utf-8")
    url = settings.database_target.url.render_as_string(hide_password=False)
    log = tmp_path / "worker.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", f"from {package.name}.cli import run; run(['send-parcels'])"],
            env={**os.environ, "PYTHONPATH": str(package.folder.parent), "APP_DATABASE_URL": url},
            stderr=output,
        ) as worker,
    ):
        try:
            until(lambda: "the database's schema is not there: " in log.read_text())
            migrate(package, settings)
            asyncio.run(load(package, "import_parcels").import_parcels(service, ["Elm Street"]))
            until(lambda: asyncio.run(count_waiting(package, service)) == 0)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0, log.read_text()
        finally:
            worker.kill()
    assert "Traceback" not in log.read_text()
    assert '"ERROR"' not in log.read_text()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


async def count_waiting(package: Package, settings: ChassisSettings) -> int:
    async with (
        open_sessions(settings) as sessions,
        session_scope(sessions.read) as session,
    ):
        waiting: int = (await session.scalars(load(package, "routers.counting").COUNT)).one()
        return waiting


def test_a_courier_that_fails_costs_its_parcel_and_no_other(
    package: Package, databases: Databases
) -> None:
    settings = databases.create("sqlite")
    migrate(package, settings)
    service = ChassisSettings(**settings.model_dump(exclude_unset=True))
    (package.folder / "settings.py").write_text(SETTINGS, encoding="utf-8")
    sender = load(package, "sender")

    async def refuse_elm_street(parcel: Any) -> None:
        if parcel.address == "Elm Street":
            raise LookupError("no such street")

    async def send_two() -> int:
        await load(package, "import_parcels").import_parcels(service, ["Elm Street", "Oak Lane"])
        stop = Stop()
        async with open_sessions(service) as sessions:
            sending = asyncio.create_task(sender.send_all(sessions, stop))
            async with asyncio.timeout(20):
                while await count_waiting(package, service) > 1:
                    await asyncio.sleep(0.05)
            stop.set()
            await sending
        return await count_waiting(package, service)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender, "call_courier", refuse_elm_street)
        assert asyncio.run(send_two()) == 1


def test_an_export_whose_database_is_away_is_a_503(package: Package) -> None:
    away = SecretStr(f"postgresql://user:password@{HOST}:{free_port()}/away")

    async def export_nothing() -> int:
        app = create(package, ChassisSettings(database_url=away))
        async with (
            app.router.lifespan_context(app),
            AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
        ):
            return (await http.get("/parcels/export")).status_code

    assert asyncio.run(export_nothing()) == 503


def create(package: Package, settings: ChassisSettings, lifespan: Any = None) -> FastAPI:
    """Build the application of the page."""
    routers = [load(package, f"routers.{name}").router for name in ROUTERS]
    return create_app(settings, package=package.name, routers=routers, lifespan=lifespan)


async def use_service(package: Package, settings: ChassisSettings) -> None:
    """Import parcels by the script, then meet each part of the page."""
    (package.folder / "settings.py").write_text(SETTINGS, encoding="utf-8")
    addresses = ["Elm Street", "Oak Lane", "Ash Road"]
    await load(package, "import_parcels").import_parcels(settings, addresses)
    app = create(package, settings)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        assert await export(http) == addresses
        assert await ask(app, "how many?", "and now?") == ["3", "3"]
        await send_while_the_database_is_busy(app, http)
        assert (await http.post("/parcels/4/send")).status_code == 404
        assert await ask(app, "how many?") == ["2"]
        addresses += [f"Main Street {number}" for number in range(MANY)]
        await load(package, "import_parcels").import_parcels(settings, addresses[3:])
        assert await export(http) == addresses
    app = create(package, settings, load(package, "sender").lifespan)
    async with app.router.lifespan_context(app), asyncio.timeout(30):
        while int((await ask(app, "how many?"))[0]) > MANY - 20:
            await asyncio.sleep(0.01)


async def export(http: AsyncClient) -> list[str]:
    """Read all addresses."""
    lines = (await http.get("/parcels/export")).text.splitlines()
    return [json.loads(line)["address"] for line in lines]


async def send_while_the_database_is_busy(app: FastAPI, http: AsyncClient) -> None:
    """Send a parcel in the background while no connection is free for longer than it waits."""
    async with app.state.sessions.write.kw["bind"].connect():
        answer = asyncio.create_task(http.post("/parcels/2/send"))
        await asyncio.sleep(0.3)
        # The client of this test waits for what a server does after the answer.
        assert not answer.done()
    assert (await answer).status_code == 202


async def ask(app: FastAPI, *messages: str) -> list[str]:
    """Send messages to the websocket and return its answers."""
    received: list[Message] = [{"type": "websocket.connect"}]
    received += [{"type": "websocket.receive", "text": message} for message in messages]
    received.append({"type": "websocket.disconnect", "code": 1000})
    sent: list[Message] = []

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/parcels/waiting", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    return [message["text"] for message in sent[1:]]


def load(package: Package, name: str) -> Any:
    """Import a module of the page."""
    return importlib.import_module(f"{package.name}.{name}")
