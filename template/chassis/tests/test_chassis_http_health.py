"""Health: alive without a database, ready when it answers and its schema is not too old."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from chassis_depot import Depot, written
from chassis_relay import Relay, relayed
from chassis_stock import changed, engines, executing, only_on, started, threads_ended
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from sqlalchemy import Engine, event, inspect, text

from chassis import ChassisSettings, add_readiness_check, create_app
from chassis.db import readiness
from chassis.db.migrations.upgrade import downgrade, upgrade
from chassis.http import health


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    """Give a package with three revisions."""
    with written(tmp_path) as depot:
        depot.add(
            "1", "op.create_table('bin', sa.Column('id', sa.Integer))", "op.drop_table('bin')"
        )
        depot.add(
            "2", "op.create_table('box', sa.Column('id', sa.Integer))", "op.drop_table('box')"
        )
        depot.add("3", "op.add_column('box', sa.Column('size', sa.Integer))")
        yield depot


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every probe ask the database."""
    monkeypatch.setattr(readiness, "SHARED_FOR_SECONDS", 0.0)


@asynccontextmanager
async def serving(settings: ChassisSettings, depot: Depot) -> AsyncIterator[AsyncClient]:
    async with started(create_app(settings, package=depot.package)) as client:
        yield client


def check_refusal(response: Response, words: str) -> None:
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    detail: str = response.json()["detail"]
    assert words in detail
    for shown in ("Error", "bin", "127.0.0.1", "refused"):
        assert shown not in detail


async def test_a_migrated_database_is_ready(depot: Depot, settings: ChassisSettings) -> None:
    upgrade(depot.package, settings)
    async with serving(settings, depot) as client:
        response = await client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "ok"


async def test_a_database_without_a_schema_is_not_ready(
    depot: Depot, settings: ChassisSettings
) -> None:
    async with serving(settings, depot) as client:
        check_refusal(await client.get("/readyz"), "schema is behind the code")


@pytest.mark.usefixtures("impatient")
async def test_an_older_schema_is_not_ready_until_it_is_migrated(
    depot: Depot, settings: ChassisSettings
) -> None:
    upgrade(depot.package, settings, "2")
    async with serving(settings, depot) as client:
        check_refusal(await client.get("/readyz"), "schema is behind the code")

        await asyncio.to_thread(upgrade, depot.package, settings)
        assert (await client.get("/readyz")).status_code == 200


async def test_a_schema_that_is_newer_than_the_code_is_ready(
    depot: Depot, settings: ChassisSettings
) -> None:
    upgrade(depot.package, settings)
    depot.forget("3")
    async with serving(settings, depot) as client:
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("becomes", "says"),
    [
        ("an older one", "schema is behind the code"),
        ("an empty one", "schema is behind the code"),
        ("one without revisions", "schema is behind the code"),
        ("another service's", "another service's"),
    ],
)
async def test_a_ready_service_whose_database_is_replaced_is_not_ready_until_it_is_right(
    depot: Depot, settings: ChassisSettings, becomes: str, says: str
) -> None:
    depot.configure("sa.Table('bin', metadata, sa.Column('id', sa.Integer))")
    upgrade(depot.package, settings)
    async with serving(settings, depot) as client:
        assert (await client.get("/readyz")).status_code == 200

        await asyncio.to_thread(replace, settings, becomes, depot)
        check_refusal(await client.get("/readyz"), says)

        await asyncio.to_thread(replace, settings, "an empty one", depot)
        await asyncio.to_thread(upgrade, depot.package, settings)
        assert (await client.get("/readyz")).status_code == 200


def replace(settings: ChassisSettings, becomes: str, depot: Depot) -> None:
    """Make the database what a restored dump or one made anew is."""
    if becomes == "an older one":
        downgrade(depot.package, settings, "1")
        return
    with executing(settings) as connection:
        if becomes == "one without revisions":
            connection.execute(text("DELETE FROM alembic_version"))
            return
        for name in inspect(connection).get_table_names():
            connection.execute(text(f"DROP TABLE {name}"))
        if becomes == "another service's":
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(text("INSERT INTO alembic_version VALUES ('9f')"))


async def test_it_is_alive_without_a_database(depot: Depot, settings: ChassisSettings) -> None:
    async with threads_ended(), serving(broken(settings), depot) as client:
        response = await client.get("/livez")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        check_refusal(await client.get("/readyz"), "does not answer")


def broken(settings: ChassisSettings) -> ChassisSettings:
    """Give settings of a database that can't be opened."""
    if settings.database_target.backend == "sqlite":
        Path(settings.database_target.url.database or "").mkdir(parents=True)
        return settings
    return changed(settings, database_url="postgres://ann:pw@127.0.0.1:1/bin")


@pytest.mark.usefixtures("impatient")
async def test_a_database_that_goes_away_and_comes_back(
    depot: Depot, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    upgrade(depot.package, settings)
    with relayed(settings.database_target) as relay:
        async with serving(through(relay, settings), depot) as client:
            assert (await client.get("/readyz")).status_code == 200
            relay.stop()
            check_refusal(await client.get("/readyz"), "does not answer")
            relay.start()
            assert (await client.get("/readyz")).status_code == 200


async def test_a_database_that_keeps_silent_does_not_hold_the_probe_up(
    depot: Depot, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_on("postgres", settings)
    monkeypatch.setattr(readiness, "PROBE_TIMEOUT_SECONDS", 0.2)
    with relayed(settings.database_target) as relay:
        relay.stop()
        relay.start(deaf=True)
        async with serving(through(relay, settings), depot) as client:
            begun = time.monotonic()
            check_refusal(await client.get("/readyz"), "does not answer")
            assert time.monotonic() - begun < 2


def through(relay: Relay, settings: ChassisSettings) -> ChassisSettings:
    """Give settings that reach the same database by way of a relay."""
    url = settings.database_target.url.set(host="127.0.0.1", port=relay.port)
    return changed(settings, database_url=url.render_as_string(hide_password=False))


async def test_a_full_pool_is_no_outage(depot: Depot, settings: ChassisSettings) -> None:
    upgrade(depot.package, settings)
    settings = changed(settings, database_pool_size=1, database_read_pool_size=1)
    app = create_app(settings, package=depot.package)
    async with started(app) as client, AsyncExitStack() as stack:
        for engine in engines(app):
            await stack.enter_async_context(engine.connect())
        assert (await client.get("/readyz")).status_code == 200


async def test_all_probes_of_one_second_share_one_answer(
    depot: Depot, settings: ChassisSettings
) -> None:
    upgrade(depot.package, settings)
    app = create_app(settings, package=depot.package)
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *args: object) -> None:
        asked.append(statement)

    async with started(app) as client:
        event.listen(Engine, "before_cursor_execute", note)
        responses = await asyncio.gather(*[client.get("/readyz") for _ in range(20)])
        event.remove(Engine, "before_cursor_execute", note)

    assert {response.status_code for response in responses} == {200}
    assert [one.split() for one in asked].count(
        ["SELECT", "version_num", "FROM", "alembic_version"]
    ) == 1


class Reached:
    """A check that is an object, whose call is asynchronous."""

    async def __call__(self) -> bool:
        return True


async def find_nothing() -> None: ...


async def refuse() -> bool:
    return False


async def say_why() -> str:
    return "the cache is empty"


async def fail() -> None:
    raise ConnectionRefusedError("127.0.0.1")


def fail_in_a_thread() -> None:
    raise ConnectionRefusedError("127.0.0.1")


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        (find_nothing, None),
        (lambda: None, None),
        (lambda: True, None),
        (lambda: "", None),
        (Reached(), None),
        (lambda: Reached()(), None),
        (refuse, "it is not ready"),
        (lambda: False, "it is not ready"),
        (say_why, "the cache is empty"),
        (lambda: "the cache is empty", "the cache is empty"),
        (fail, "it does not answer"),
        (fail_in_a_thread, "it does not answer"),
        (lambda: (False, "no"), "its check is wrong"),
        (lambda: 1, "its check is wrong"),
        (lambda _: True, "it does not answer"),
    ],
)
async def test_a_check_says_whether_it_is_ready(
    depot: Depot,
    settings: ChassisSettings,
    check: Any,
    reason: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    upgrade(depot.package, settings)
    app = create_app(settings, package=depot.package)
    add_readiness_check(app, "cache", check)
    async with started(app) as client:
        response = await client.get("/readyz")

    if reason is None:
        assert response.json()["checks"] == {"database": "ok", "cache": "ok"}
    else:
        check_refusal(response, f"cache: {reason}")
    if reason == "its check is wrong":
        assert "the readiness check cache returned" in caplog.text


async def test_a_check_of_the_lifespan_is_added_anew_at_each_start(
    depot: Depot, settings: ChassisSettings
) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        add_readiness_check(app, "worker", lambda: None)
        yield

    upgrade(depot.package, settings)
    app = create_app(settings, package=depot.package, lifespan=lifespan)
    for _ in range(2):
        async with started(app) as client:
            checks = (await client.get("/readyz")).json()["checks"]
        assert checks == {"database": "ok", "worker": "ok"}


async def test_a_check_that_blocks_takes_one_thread_and_no_request_waits_for_it(
    depot: Depot, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(depot.package, settings)
    monkeypatch.setattr(health, "CHECK_TIMEOUT_SECONDS", 0.05)
    app, freed, calls = create_app(settings, package=depot.package), threading.Event(), 0

    def hang() -> None:
        nonlocal calls
        calls += 1
        freed.wait(60)

    add_readiness_check(app, "cache", hang)
    async with started(app) as client:
        for _ in range(5):
            check_refusal(await client.get("/readyz"), "cache: it does not answer")
        assert calls == 1
        assert (await client.get("/livez")).status_code == 200
        freed.set()
        monkeypatch.undo()
        for _ in range(2):
            assert (await client.get("/readyz")).status_code == 200
        assert calls > 1


def test_what_is_no_check_is_refused(settings: ChassisSettings) -> None:
    app = create_app(settings, package="sample")
    with pytest.raises(TypeError, match="'cache' must be a function without arguments, not True"):
        add_readiness_check(app, "cache", True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="named 'database' already"):
        add_readiness_check(app, "database", say_why)
