"""Metrics of several processes: they count each request once, whoever is asked, whoever died."""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import httpx2
import pytest

from tests.postgres import free_port
from tests.scale import FULL

from .attacked import ITEM, SETTLES_WITHIN_SECONDS, Attacked, Running

Series = tuple[str, str, str]

ROUNDS = 50 if FULL else 5
CLIENTS = 8
SCRAPES = 6
RANDOM_PATHS = 10_000 if FULL else 250
REQUESTS = re.compile(r'http_requests_total\{method="(.+)",route="(.+)",status="(\d+)"\}')
# What is asked for, and what it is counted as.
ASKED: tuple[tuple[str, str, object, Series], ...] = (
    ("GET", "/livez", None, ("GET", "/livez", "200")),
    ("GET", "/readyz", None, ("GET", "/readyz", "200")),
    ("GET", "/items", None, ("GET", "/items", "200")),
    ("GET", "/items?limit=0", None, ("GET", "/items", "422")),
    ("GET", "/items/2147483647", None, ("GET", "/items/{item_id}", "404")),
    ("POST", "/items", ITEM, ("POST", "/items", "201")),
    ("POST", "/items", {}, ("POST", "/items", "422")),
    ("PUT", "/items", None, ("PUT", "/items", "405")),
    ("GET", "/nowhere", None, ("GET", "(no route)", "404")),
    ("PROPFIND", "/nowhere", None, ("OTHER", "(no route)", "404")),
)


@pytest.mark.parametrize("on", ["path", "port"])
def test_the_sums_of_two_workers_are_exact_and_survive_both(attacked: Attacked, on: str) -> None:
    port = free_port() if on == "port" else None
    with two_workers(attacked, port) as running:
        expected = counted(running, port)
        for dead in (0, 1, 2):
            expected += ask_often(running)
            for _ in range(SCRAPES):
                assert counted(running, port) == expected
            if dead < 2:
                kill_and_wait(running, running.processes()[dead])
        running.check_that_it_serves()


def test_paths_and_methods_by_chance_add_no_series(attacked: Attacked) -> None:
    random = Random(1)
    with two_workers(attacked) as running:
        ask_often(running)
        # Whatever is asked for below is of one of these kinds.
        running.client.request("PUT", "/items/1")
        running.client.get("/items/x")
        running.metrics()
        before = set(running.metrics())
        for number in range(RANDOM_PATHS):
            name = random.randbytes(8).hex()
            kinds = (
                ("GET", f"/{name}"),
                ("GET", f"/items/{number + 10**9}"),
                ("GET", f"/items/{name}"),
                ("PUT", f"/items/{name}"),
                (f"X{name}".upper(), f"/{name}/{name}?{name}={name}"),
            )
            method, path = kinds[number % len(kinds)]
            running.client.request(method, path, headers={"Host": name, "User-Agent": name})
        after = set(running.metrics())
        print(f"{len(after)} series after {RANDOM_PATHS} random paths")
        assert after == before


@contextmanager
def two_workers(attacked: Attacked, port: int | None = None) -> Iterator[Running]:
    """Serve by two processes."""
    own_port = {} if port is None else {"APP_METRICS_PORT": str(port)}
    with attacked.serving(APP_SERVER_WORKERS="2", **own_port) as running:
        wait_for_workers(running, 2)
        yield running


def wait_for_workers(running: Running, started: int) -> None:
    """Wait until so many have started since the beginning."""
    deadline = time.monotonic() + SETTLES_WITHIN_SECONDS
    while running.said().count("Application startup complete") < started:
        assert time.monotonic() < deadline, running.said()
        time.sleep(0.05)


def kill_and_wait(running: Running, process: int) -> None:
    """Kill a worker as nothing can prevent, and wait for the next one."""
    started = len(running.processes())
    os.kill(process, signal.SIGKILL)
    wait_for_workers(running, started + 1)


def ask_often(running: Running) -> Counter[Series]:
    """Ask by several clients at once; give what is to be counted."""

    def ask_each(_round: int) -> None:
        # Each by a connection of its own: any of the workers may take it.
        with httpx2.Client(
            base_url=running.client.base_url,
            headers={"Connection": "close"},
            trust_env=False,
            verify=False,
        ) as client:
            for method, path, body, (_, _, status) in ASKED:
                response = client.request(method, path, json=body)
                assert response.status_code == int(status), (method, path, response.text)

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(ask_each, range(ROUNDS)))
    return Counter({series: ROUNDS * many for series, many in KINDS.items()})


KINDS = Counter(series for *_, series in ASKED)


def counted(running: Running, port: int | None) -> Counter[Series]:
    """Scrape what was asked for, and no scrapes."""
    found = ((REQUESTS.fullmatch(one), value) for one, value in running.metrics(port).items())
    series = {(one[1], one[2], one[3]): int(value) for one, value in found if one is not None}
    return Counter({one: many for one, many in series.items() if one[1] != "/metrics"})
