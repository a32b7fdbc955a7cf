"""Connections: how many there may be, and how one is noticed whose other end is gone."""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop
from chassis.db import create_database_engine
from chassis.db.postgres import connection_budget
from chassis.db.postgres.connection_budget import report_budget
from sqlalchemy import text

from tests.postgres import PASSWORD

from .conftest import ReadSettings
from .servers import Cluster
from .service import served, wait_until

POOLS = {"APP_DATABASE_POOL_SIZE": "5", "APP_DATABASE_READ_POOL_SIZE": "10"}


def reported(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Give what was logged of the budget."""
    return [record for record in caplog.records if record.name == connection_budget.__name__]


@pytest.mark.parametrize(
    ("processes", "level", "needed"), [(1, "INFO", 18), (5, "INFO", 82), (8, "WARNING", 130)]
)
def test_the_budget_of_connections_is_logged_and_warned_about(
    plain_server: Cluster,
    read_settings: ReadSettings,
    caplog: pytest.LogCaptureFixture,
    processes: int,
    level: str,
    needed: int,
) -> None:
    caplog.set_level("INFO")
    settings = read_settings(APP_DATABASE_URL=plain_server.url("app"), **POOLS)

    asyncio.run(report_budget(settings, processes=processes))

    (record,) = reported(caplog)
    assert record.levelname == level
    said = record.getMessage()
    assert said.startswith(f"up to {needed} connections to {settings.database_target.masked}")
    assert "which allows 97" in said
    assert ("lower APP_DATABASE_POOL_SIZE" in said) == (level == "WARNING")


def test_a_limit_of_the_database_counts_where_it_is_lower(
    plain_server: Cluster, read_settings: ReadSettings, caplog: pytest.LogCaptureFixture
) -> None:
    name = plain_server.create_database()
    plain_server.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 17")
    settings = read_settings(APP_DATABASE_URL=plain_server.url(name), **POOLS)

    asyncio.run(report_budget(settings, processes=1))

    assert "up to 18 connections" in caplog.text
    assert "which allows 17: lower" in caplog.text


def test_a_replica_has_a_budget_of_its_own(
    plain_server: Cluster,
    tls_server: Cluster,
    read_settings: ReadSettings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    settings = read_settings(
        APP_DATABASE_URL=plain_server.url("app"),
        APP_DATABASE_READ_URL=tls_server.url("app"),
        **POOLS,
    )

    asyncio.run(report_budget(settings, processes=2))

    primary, replica = (record.getMessage() for record in reported(caplog))
    assert primary.startswith("up to 14 connections")
    assert replica.startswith("up to 20 connections")


def test_the_budget_of_a_server_that_is_down_is_left_to_readiness(
    read_settings: ReadSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    asyncio.run(
        report_budget(read_settings(APP_DATABASE_URL="postgres://h@127.0.0.1:1/app"), processes=1)
    )

    assert reported(caplog) == []


def test_a_service_logs_at_start_what_does_not_fit_and_what_is_not_honoured(
    plain_server: Cluster, tmp_path: Path
) -> None:
    variables = {
        "APP_DATABASE_URL": f"{plain_server.url('app')}?channel_binding=require",
        "APP_SERVER_WORKERS": "2",
        "APP_SERVER_REPLICAS": "4",
    }
    with served(tmp_path, **variables) as service:
        wait_until(lambda: "which allows 97: lower" in service.log.read_text(), "the budget", 120)
        log = service.log.read_text()

    assert "up to 130 connections" in log
    assert "channel_binding=require; it is ignored" in log
    assert quote(PASSWORD) not in log
    assert PASSWORD not in log


@pytest.mark.skipif(sys.platform != "linux", reason="the names of the options are Linux's")
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("query", "keepalive", "idle", "unanswered"),
    [
        ("", 1, 30, 60_000),
        ("?keepalives_idle=7&keepalives_interval=2&keepalives_count=4", 1, 7, 15_000),
        ("?tcp_user_timeout=9000", 1, 30, 9_000),
        ("?keepalives=0", 0, None, 0),
    ],
)
def test_the_system_is_asked_to_notice_a_peer_that_is_gone(
    plain_server: Cluster,
    read_settings: ReadSettings,
    loop: Callable[[], asyncio.AbstractEventLoop],
    query: str,
    keepalive: int,
    idle: int | None,
    unanswered: int,
) -> None:
    settings = read_settings(APP_DATABASE_URL=plain_server.url("app") + query)

    async def look() -> None:
        engine = create_database_engine(settings)
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            raw = await connection.get_raw_connection()
            driver: Any = raw.driver_connection
            link = driver._transport.get_extra_info("socket")
            with socket.socket(fileno=link.fileno()) as opened:
                found = opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                waits = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                limit = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                opened.detach()
        await engine.dispose()
        assert (found, limit) == (keepalive, unanswered)
        assert idle in (None, waits)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(look())
