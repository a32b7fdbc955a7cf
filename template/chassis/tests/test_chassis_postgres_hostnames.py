"""Lookups of host names: shared, kept for a moment, and used by the driver in place of its own."""

import asyncio
import socket
from threading import Event
from typing import Any

import pytest
from chassis_relay import relayed
from chassis_stock import changed, only_on
from sqlalchemy import text

from chassis import ChassisSettings
from chassis.db import create_database_engine
from chassis.db.postgres.hostnames import HostNames, is_address

ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))


class Resolver:
    """Stands for the system's lookup; it answers once it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.released = Event()
        self.answer: list[Any] | OSError = [ADDRESS, ADDRESS]
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, name: str, *_: object, **__: object) -> list[Any]:
        self.asked.append(name)
        self.released.wait(10)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


async def test_all_that_ask_at_once_share_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver, names = Resolver(monkeypatch), HostNames()
    asking = [asyncio.create_task(names.find_addresses("db.test")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    resolver.released.set()

    assert await asyncio.gather(*asking[1:]) == [["127.0.0.1"]] * 4
    assert await names.find_addresses("db.test") == ["127.0.0.1"]
    assert resolver.asked == ["db.test"]
    names.forget("db.test")
    await names.find_addresses("db.test")
    assert resolver.asked == ["db.test"] * 2


async def test_a_failed_lookup_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver, names = Resolver(monkeypatch), HostNames()
    resolver.released.set()
    resolver.answer = socket.gaierror("no such name")
    with pytest.raises(OSError, match="no such name"):
        await names.find_addresses("db.test")
    resolver.answer = [ADDRESS]

    assert await names.find_addresses("db.test") == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "expected"), [("/run/pg", True), ("10.0.0.1", True), ("::1", True), ("db", False)]
)
def test_what_needs_no_lookup(host: str, expected: bool) -> None:
    assert is_address(host) is expected


async def test_statements_are_cancelled_on_a_connection_to_a_name(
    settings: ChassisSettings,
) -> None:
    only_on("postgres", settings)
    with relayed(settings.database_target) as relay:
        url = settings.database_target.url.set(host="localhost", port=relay.port)
        named = changed(settings, database_url=url.render_as_string(hide_password=False))
        engine = create_database_engine(named)
        for _ in range(3):
            async with engine.connect() as connection:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await connection.execute(text("SELECT pg_sleep(60)"))
            async with engine.connect() as connection:
                assert await connection.scalar(text("SELECT 1")) == 1
        active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
        async with engine.connect() as connection:
            assert await connection.scalar(text(f"{active} AND state = 'active'")) == 0
        await engine.dispose()
