"""Failover: a standby takes over and nothing is lost; a replica goes, and reads come back to it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from chassis.db import create_database_engine, create_read_engine
from chassis.db.errors import DatabaseUnavailableError, ReadOnlySessionError
from chassis.db.postgres import connect
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.postgres import HOST, PASSWORD, USER
from tests.scale import FULL

from .conftest import ReadSettings
from .logins import Login, outcomes
from .servers import Cluster, create_role, find_programs, relay, standby_of
from .servers import cluster as make_cluster
from .service import create_ledger_database, served, wait_until, writing

SECONDS = 10.0 if FULL else 0.5
IN_RECOVERY = "SELECT pg_is_in_recovery()"
SYNCHRONOUS = "synchronous_standby_names = standby"


@dataclass(frozen=True)
class Pair:
    """A primary, and a standby that has what the primary acknowledged."""

    primary: Cluster
    standby: Cluster
    database: str

    @property
    def url(self) -> str:
        """Name both, the primary first, as libpq does."""
        hosts = f"{HOST}:{self.primary.port},{HOST}:{self.standby.port}"
        return f"postgres://{USER}:{quote(PASSWORD, safe='')}@{hosts}/{self.database}"

    def restart_standby(self) -> None:
        """Start the standby that was stopped."""
        self.standby.start(f"-h {HOST}", "-c fsync=off")
        wait_until(self.is_synchronous, "a synchronous standby")

    def is_synchronous(self) -> bool:
        """Say whether the primary waits for the standby."""
        return self.primary.execute("SELECT sync_state FROM pg_stat_replication") == "sync"


@contextmanager
def started_pair() -> Iterator[Pair]:
    """Run a primary and its synchronous standby."""
    programs, system_user = find_programs()
    with make_cluster(programs, system_user) as primary:
        primary.start(f"-h {HOST}", "-c fsync=off")
        create_role(primary)
        database = create_ledger_database(primary)
        with standby_of(primary) as standby:
            # Not of the standby too, which copied the settings before.
            primary.execute(f"ALTER SYSTEM SET {SYNCHRONOUS}", "SELECT pg_reload_conf()")
            made = Pair(primary, standby, database)
            wait_until(made.is_synchronous, "a synchronous standby")
            yield made


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A primary and a standby; a test may stop the standby if it starts it again."""
    with started_pair() as made:
        yield made


@pytest.fixture
def pair_to_break() -> Iterator[Pair]:
    """A primary and a standby of the test's own."""
    with started_pair() as made:
        yield made


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_writes_resume_on_the_promoted_standby_and_nothing_is_lost(
    pair_to_break: Pair, tmp_path: Path, end: str
) -> None:
    pair = pair_to_break
    with served(tmp_path, APP_DATABASE_URL=pair.url) as service, writing(service) as writers:
        time.sleep(SECONDS)
        wait_until(lambda: len(writers.acknowledged) > 10, "writes before the end")
        before = len(writers.acknowledged)
        if end == "stopped":
            pair.primary.stop("fast")
        else:
            pair.primary.kill()
        time.sleep(SECONDS)
        pair.standby.promote()
        promoted = time.monotonic()
        wait_until(lambda: writers.since(promoted) > 0, "a write after the promotion")
        resumed = min(at for at in writers.acknowledged.values() if at > promoted) - promoted
        time.sleep(SECONDS)
        after = writers.since(promoted)
        writers.stopped.set()
        kept = service.client.get("/entries").json()
        assert service.is_running()

    lost = writers.acknowledged.keys() - set(kept)
    print(
        f"{end}: {before} acknowledged before, {after} after the promotion, resumed in "
        f"{resumed:.2f} s; answers {dict(writers.answers)}, slowest {writers.slowest:.1f} s; "
        f"lost {len(lost)}"
    )
    assert lost == set()
    assert writers.answers.keys() <= {200, 503}
    assert after > 0
    assert resumed < 5


def test_a_standby_that_is_named_first_is_not_written_to(
    pair: Pair, read_settings: ReadSettings
) -> None:
    address = f"{USER}:{quote(PASSWORD, safe='')}@{HOST}:{pair.standby.port},{HOST}"
    url = f"postgres://{address}:{pair.primary.port}/{pair.database}"
    settings = read_settings(APP_DATABASE_URL=url)

    assert set(map(type, outcomes(settings).values())) == {Login}
    assert asyncio.run(ask(create_database_engine(settings), IN_RECOVERY)) == [False]


@pytest.mark.parametrize(
    ("wanted", "standby"),
    [
        ("read-write", False),
        ("primary", False),
        ("standby", True),
        ("read-only", True),
        ("any", False),
    ],
)
def test_a_read_session_reaches_the_kind_of_server_that_the_url_asks_for(
    pair: Pair, read_settings: ReadSettings, wanted: str, standby: bool
) -> None:
    url = f"{pair.url}?target_session_attrs={wanted}"
    settings = read_settings(APP_DATABASE_URL=pair.url, APP_DATABASE_READ_URL=url)

    assert asyncio.run(ask(create_read_engine(settings), IN_RECOVERY)) == [standby]


def test_prefer_standby_takes_the_primary_where_there_is_no_standby(
    pair: Pair, read_settings: ReadSettings
) -> None:
    url = f"{pair.url}?target_session_attrs=prefer-standby"
    settings = read_settings(APP_DATABASE_URL=pair.url, APP_DATABASE_READ_URL=url)
    assert asyncio.run(ask(create_read_engine(settings), IN_RECOVERY)) == [True]

    pair.standby.stop("immediate")
    try:
        assert asyncio.run(ask(create_read_engine(settings), IN_RECOVERY)) == [False]
    finally:
        pair.restart_standby()


def test_a_silent_host_does_not_hide_the_one_after_it(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    with relay(plain_server.port) as silent:
        silent.silent = True
        hosts = f"{HOST}:{silent.port},{HOST}:{plain_server.port}"
        settings = read_settings(
            APP_DATABASE_URL=f"postgres://{USER}:{quote(PASSWORD, safe='')}@{hosts}/app",
            APP_DATABASE_CONNECT_TIMEOUT_SECONDS="1",
        )
        engine = create_database_engine(settings)
        started = time.monotonic()
        asyncio.run(ask(engine, IN_RECOVERY))
        first = time.monotonic()
        asyncio.run(ask(engine, IN_RECOVERY))
        second = time.monotonic()

    assert 1 <= first - started < 2
    assert second - first < 0.5


def test_reads_fall_back_to_the_primary_and_return_to_the_replica(
    pair: Pair, read_settings: ReadSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "SKIP_FAILED_HOST_SECONDS", 1.0)
    settings = read_settings(
        APP_DATABASE_URL=pair.primary.url(pair.database),
        APP_DATABASE_READ_URL=pair.standby.url(pair.database),
        APP_DATABASE_READ_FALLBACK="true",
        APP_DATABASE_PING_IDLE_SECONDS="0",
    )

    async def follow() -> None:
        engine = create_read_engine(settings)
        assert await ask_with(engine, IN_RECOVERY) == [True]
        pair.standby.stop("immediate")
        assert await ask_with(engine, IN_RECOVERY) == [False]
        with pytest.raises(ReadOnlySessionError):
            await ask_with(engine, "DELETE FROM entry RETURNING true")
        pair.restart_standby()
        await asyncio.sleep(1.2)
        assert await ask_with(engine, IN_RECOVERY) == [True]
        await engine.dispose()

    asyncio.run(follow())


def test_without_the_setting_reads_wait_for_the_replica(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    url = plain_server.url("app")
    settings = read_settings(
        APP_DATABASE_URL=url, APP_DATABASE_READ_URL=url.replace(str(plain_server.port), "1")
    )

    with pytest.raises(DatabaseUnavailableError, match=f"{HOST}:1/app"):
        asyncio.run(ask(create_read_engine(settings), IN_RECOVERY))
    assert asyncio.run(ask(create_database_engine(settings), IN_RECOVERY)) == [False]


def test_a_wrong_password_on_the_replica_is_no_reason_to_fall_back(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    url = plain_server.url("app")
    settings = read_settings(
        APP_DATABASE_URL=url,
        APP_DATABASE_READ_URL=url.replace(quote(PASSWORD, safe=""), "wrong"),
        APP_DATABASE_READ_FALLBACK="true",
    )

    with pytest.raises(DatabaseUnavailableError, match="password authentication failed"):
        asyncio.run(ask(create_read_engine(settings), IN_RECOVERY))


def test_a_server_that_became_a_standby_is_left_at_the_first_refused_write(
    plain_server: Cluster, read_settings: ReadSettings
) -> None:
    async def write() -> None:
        engine = create_database_engine(read_settings(APP_DATABASE_URL=plain_server.url("app")))
        before = await ask_with(engine, "SELECT pg_backend_pid()")
        with pytest.raises(DBAPIError) as refused:
            await ask_with(engine, "SET TRANSACTION READ ONLY", "CREATE TABLE never ()")
        assert refused.value.connection_invalidated
        assert await ask_with(engine, "SELECT pg_backend_pid()") != before
        await engine.dispose()

    asyncio.run(write())


async def ask_with(engine: AsyncEngine, *statements: str) -> list[object]:
    """Run statements on one connection and give the first column of the last one."""
    async with engine.connect() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
        return list(result.scalars())


async def ask(engine: AsyncEngine, *statements: str) -> list[object]:
    """Run statements and leave the engine without connections."""
    try:
        return await ask_with(engine, *statements)
    finally:
        await engine.dispose()
