"""A resolver falls silent while it looks a database up, and a store while it fetches a password."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2

from tests.postgres import USER

from .resolver import resolving
from .servers import Cluster
from .service import Ledger, create_ledger_database, served, wait_until

END_CONNECTIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    f"WHERE usename = '{USER}' AND pid <> pg_backend_pid()"
)


STORE = """
import time

def fetch(host, port, user):
    with open("asked", "a") as file:
        file.write("x")
    time.sleep(60)
"""
FOLDER = Path(__file__).parent


def writes(ledger: Ledger, number: int) -> bool:
    try:
        return ledger.client.put(f"/entries/{number}").status_code == 200
    except httpx2.TransportError:
        return False


def test_a_silent_resolver_holds_up_neither_recovery_nor_the_end(
    plain_server: Cluster, tmp_path: Path
) -> None:
    url = plain_server.url(create_ledger_database(plain_server), "database.test")
    with (
        resolving(tmp_path) as (resolver, through),
        served(tmp_path, *through, APP_DATABASE_URL=url) as ledger,
    ):
        assert writes(ledger, 1)
        resolver.silent.set()
        plain_server.execute(END_CONNECTIONS)
        time.sleep(6)
        asked = resolver.asked
        numbers = iter(range(2, 10_000))
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda number: writes(ledger, number), range(100, 112)))
        lookups = resolver.asked - asked

        resolver.silent.clear()
        recovered = wait_until(lambda: writes(ledger, next(numbers)), "a write", 120)

        resolver.silent.set()
        plain_server.execute(END_CONNECTIONS)
        time.sleep(6)
        with ThreadPoolExecutor(4) as pool:
            pool.map(lambda number: writes(ledger, number), range(200, 204))
        ledger.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        ledger.process.wait(120)
        ended = time.monotonic() - started
    print(f"\n{lookups} queries, recovered in {recovered:.1f} s, ended in {ended:.1f} s")
    assert not any(answers)
    assert recovered < 12
    assert ended < 5


def test_a_password_that_never_comes_does_not_hold_up_the_end(tmp_path: Path) -> None:
    (tmp_path / "store.py").write_text(STORE)
    variables = {
        "APP_DATABASE_URL": "postgresql://somebody@127.0.0.1:9/app",
        "APP_DATABASE_PASSWORD_PROVIDER": "store:fetch",
        "APP_DATABASE_CONNECT_TIMEOUT_SECONDS": "0.2",
    }
    with served(tmp_path, "env", f"PYTHONPATH={FOLDER}:{tmp_path}", **variables) as ledger:
        for number in range(3):
            assert not writes(ledger, number)
        # Once by each engine that asks: the one that writes, and readiness.
        assert len((tmp_path / "asked").read_text()) <= 2
        ledger.process.send_signal(signal.SIGTERM)
        assert ledger.process.wait(10) == 0
