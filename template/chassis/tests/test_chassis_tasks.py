"""Tasks of the service's own: run again when they fail, and told of the stop in time."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import chassis_beside
import pytest
from chassis_forks import Fork
from chassis_processes import environment_of_sample, free_port, serving, until
from chassis_stock import started
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from httpx2 import AsyncClient
from sqlalchemy import text

from chassis import ChassisSettings, add_readiness_check, create_app, tasks
from chassis.commands import server_middleware
from chassis.commands.listening import open_sockets
from chassis.commands.serve import Server
from chassis.db import DatabaseUnavailableError, session_scope
from chassis.http.request import current_log_fields
from chassis.tasks import ServerStop, Stop, Work, run_until_stopped, supervised

MODULE = "chassis_beside"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start again soon, though not before what the loop does here can be done."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_SECONDS", 0.5)
    monkeypatch.setattr(tasks, "LONGEST_PAUSE_SECONDS", 0.5)


def service(settings: ChassisSettings, work: Work) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with supervised(app, "sender", work):
            yield

    return create_app(settings, package="sample", lifespan=lifespan)


async def read_reason(client: AsyncClient) -> str:
    """Return what `/readyz` says of the task; the sample has no migrations."""
    detail: str = (await client.get("/readyz")).json()["detail"]
    return "".join(part for part in detail.split("; ") if part.startswith("sender"))


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool, str]]:
    return [
        (record.levelname, bool(record.exc_info), record.getMessage().partition("; it starts")[0])
        for record in caplog.records
        if record.name == "chassis.tasks"
    ]


async def test_a_stop_is_waited_for_as_long_as_is_wanted() -> None:
    stop = Stop()
    assert (stop.is_set(), await stop.wait(0.01)) == (False, False)
    asyncio.get_running_loop().call_later(0.05, stop.set)
    began = time.monotonic()
    assert await stop.wait(30)
    assert time.monotonic() - began < 5
    assert (stop.is_set(), await stop.wait(), await stop.wait(0)) == (True, True, True)


@pytest.mark.usefixtures("quick")
async def test_a_loop_that_fails_is_logged_run_again_and_named_by_readyz_until_it_is_well(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str | None] = []
    well = asyncio.Event()

    async def ask_a_table_that_is_not_there() -> None:
        # In the sessions that are open: a try that takes long counts as well.
        async with session_scope(app.state.sessions.read) as session:
            await session.execute(text("SELECT 1 FROM bolts"))

    async def work(stop: Stop) -> None:
        asked.append(await app.state.readiness_checks["sender"]())
        match len(asked):
            case 1:
                raise DatabaseUnavailableError("the database is away")
            case 2:
                await ask_a_table_that_is_not_there()
            case 3:
                raise LookupError("a bug")
            case 4:
                raise asyncio.CancelledError
            case 5:
                return
        well.set()
        await stop.wait()

    app = service(settings, lambda stop: work(stop))
    async with started(app) as client:
        await asyncio.wait_for(well.wait(), 20)
        assert await read_reason(client) == "sender: it failed 5 times in a row"
        await asyncio.sleep(0.6)
        assert await read_reason(client) == ""
    assert asked[:3] == [None, None, None]
    assert asked[3:] == [f"it failed {times} times in a row" for times in (3, 4, 5)]
    (away, missing, bug, cancelled, returned) = lines_of(caplog)
    assert away == ("WARNING", False, "the task sender failed: the database is away")
    assert missing[:2] == ("WARNING", False)
    assert missing[2].startswith("the task sender failed: the database's schema is not there: ")
    assert "bolts" in missing[2]
    assert bug == ("ERROR", True, "the task sender failed")
    assert cancelled == bug
    assert returned == ("ERROR", False, "the task sender returned before the stop")
    assert len(re.findall(r"; it starts again in 0\.[2-5] s$", caplog.text, re.M)) == 5


async def test_the_pauses_grow_with_jitter_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    class Hasty(Stop):
        async def wait(self, seconds: float | None = None) -> bool:
            pauses.append(seconds or 0)
            if len(pauses) == 2000:
                self.set()
            return self.is_set()

    async def fail(stop: Stop) -> None:
        raise DatabaseUnavailableError

    await tasks._Supervisor("sender", fail, Hasty()).run()
    assert all(
        longest / 2 <= pause <= longest
        for pause, longest in zip(pauses, [1, 2, 4, 8, 16, 32, *[60] * 1994], strict=True)
    )
    assert len(set(pauses)) > 1900


async def test_a_long_run_makes_a_failure_the_first_again(settings: ChassisSettings) -> None:
    supervisor = tasks._Supervisor("sender", chassis_beside.work, Stop())  # type: ignore[arg-type]
    supervisor._failures, supervisor._pause = 3, 0.05
    assert await supervisor.check() == "it failed 3 times in a row"
    supervisor._began = time.monotonic()
    assert await supervisor.check() == "it failed 3 times in a row"
    await asyncio.sleep(0.06)
    assert await supervisor.check() is None


async def test_a_name_that_is_taken_and_a_loop_that_is_called_already_are_refused(
    settings: ChassisSettings,
) -> None:
    async def work(stop: Stop) -> None: ...

    called: Any = work(Stop())
    with pytest.raises(TypeError, match="pass the function without calling it"):
        async with started(service(settings, called)):
            pass
    called.close()
    with pytest.raises(TypeError, match="name a loop"):
        await run_until_stopped(settings)
    app = service(settings, work)
    add_readiness_check(app, "sender", lambda: True)
    with pytest.raises(ValueError, match="there is a readiness check named 'sender' already"):
        async with started(app):
            pass


async def test_it_runs_again_when_the_application_does(settings: ChassisSettings) -> None:
    told: list[bool] = []

    async def work(stop: Stop) -> None:
        told.append(await stop.wait(20))

    app = service(settings, work)
    for _ in range(2):
        async with started(app):
            await asyncio.sleep(0)
    assert told == [True, True]


async def test_the_lines_of_a_loop_name_it(settings: ChassisSettings) -> None:
    found: asyncio.Future[object] = asyncio.Future()

    async def work(stop: Stop) -> None:
        found.set_result(current_log_fields())
        await stop.wait()

    async with started(service(settings, work)):
        assert await found == {"task": "sender"}


def messages_of(log: Path) -> list[str]:
    lines = log.read_text().splitlines()
    return [json.loads(line)["message"] for line in lines if line.startswith("{")]


def test_sigterm_tells_a_loop_while_the_server_still_drains() -> None:
    with serving("serve", module=MODULE, APP_SERVER_DRAIN_SECONDS="2") as running:
        until(lambda: "the loop has begun" in running.log.read_text())
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        until(lambda: "the loop has ended" in running.log.read_text())
        assert time.monotonic() - began < 1.5
        assert running.client.get("/livez").status_code == 200
        assert running.process.wait(20) == 0
    messages = messages_of(running.log)
    assert messages.index("the loop has ended") < messages.index("Shutting down")
    assert "ERROR" not in running.log.read_text()


def test_a_loop_that_goes_on_gets_the_grace_and_is_cancelled_then() -> None:
    with serving(
        "serve", module=MODULE, APP_SERVER_GRACEFUL_TIMEOUT_SECONDS="2", APP_LINGER_SECONDS="60"
    ) as running:
        until(lambda: "the loop has begun" in running.log.read_text())
        began = time.monotonic()
        assert running.stop() == 0
        assert 2 <= time.monotonic() - began < 6
    messages = messages_of(running.log)
    late = messages.index("the task beside has not ended at the stop and is cancelled")
    assert late < messages.index("the loop was left") < messages.index("the lifespan has ended")
    assert "the loop has ended" not in messages


@contextmanager
def in_thread(**settings: Any) -> Iterator[tuple[Server, Thread]]:
    chosen = chassis_beside.Settings(server_port=free_port(), **settings)
    server = Server(f"{MODULE}:create_service", chosen)
    sockets = open_sockets(chosen.server_host, chosen.server_port)
    thread = Thread(target=server.run, args=(sockets,))
    thread.start()
    try:
        until(lambda: server.started)
        yield server, thread
    finally:
        server.should_exit = True
        thread.join(30)


def test_the_time_of_a_loop_is_the_grace_and_not_that_of_the_lifespan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setenv("APP_LINGER_SECONDS", "1.5")
    monkeypatch.setattr(server_middleware, "LIFESPAN_END_SECONDS", 0.5)
    with in_thread() as (server, thread):
        server.handle_exit(signal.SIGTERM, None)
        thread.join(20)
    assert "the loop has ended" in caplog.text
    assert "the lifespan has ended" in caplog.text
    assert "cancelled" not in caplog.text


@pytest.mark.parametrize("drain", ["0", "1"])
def test_an_open_stream_ends_when_the_drain_does(drain: str) -> None:
    with serving("serve", module=MODULE, APP_SERVER_DRAIN_SECONDS=drain) as running:
        with running.client.stream("GET", "/stream") as answer:
            lines = (line for line in answer.iter_lines() if line)
            assert next(lines) == "data: 1"
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            *_, last = lines
        assert last == "data: -1"
        assert float(drain) <= time.monotonic() - began < float(drain) + 1.5
        assert running.process.wait(20) == 0
        assert time.monotonic() - began < float(drain) + 3
    log = running.log.read_text()
    assert '"ERROR"' not in log
    assert '"WARNING"' not in log


def test_another_server_tells_a_loop_when_the_lifespan_ends() -> None:
    arguments = (f"{MODULE}:create_service", "--factory", f"--port={free_port()}")
    environment = environment_of_sample({"APP_LINGER_SECONDS": "0.5"})
    log = Path("uvicorn.log")
    with Fork("uvicorn", *arguments, environment=environment, output=log) as process:
        until(lambda: "Uvicorn running" in log.read_text())
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert "Application shutdown complete" in log.read_text()
    assert "cancelled" not in log.read_text()


@contextmanager
def working(**variables: str) -> Iterator[tuple[Fork, Path]]:
    log = Path("work.log")
    with Fork(MODULE, "loop", environment=environment_of_sample(variables), output=log) as process:
        until(lambda: log.read_text().count("the loop has begun") == 2)
        yield process, log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_ends_what_it_is_at_and_exits_with_0(number: signal.Signals) -> None:
    with working(APP_LINGER_SECONDS="0.5") as (process, log):
        process.send_signal(number)
        assert process.wait(20) == 0
    told, ended, left = "the loop was told", "the loop has ended", "the loop was left"
    assert sorted(messages_of(log)[3:-1]) == sorted([told, ended, left] * 2)
    assert messages_of(log)[-1] == "the command has ended"


@pytest.mark.parametrize(("seconds", "signals"), [("1", 1), ("60", 2)])
def test_a_worker_that_does_not_end_is_cancelled_and_exits_with_143(
    seconds: str, signals: int
) -> None:
    variables = {"APP_SERVER_GRACEFUL_TIMEOUT_SECONDS": seconds, "APP_LINGER_SECONDS": "60"}
    with working(**variables) as (process, log):
        began = time.monotonic()
        for count in range(1, signals + 1):
            process.send_signal(signal.SIGTERM)
            until(lambda: log.read_text().count("the loop was told") == 2 or count > 1)  # noqa: B023
        assert process.wait(20) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 5
    messages = messages_of(log)
    assert "the task one has not ended at the stop and is cancelled" in messages
    assert "the task two has not ended at the stop and is cancelled" not in messages
    assert messages[-1] == "the loop was left"


async def test_a_worker_may_be_stopped_by_a_time_limit(settings: ChassisSettings) -> None:
    ended: list[str] = []

    async def work(name: str, stop: Stop) -> None:
        await stop.wait()
        ended.append(name)

    async with asyncio.timeout(0.1):
        await run_until_stopped(settings, one=partial(work, "one"), two=partial(work, "two"))
    assert sorted(ended) == ["one", "two"]


async def test_a_websocket_and_a_mounted_application_are_told_too(
    settings: ChassisSettings,
) -> None:
    app = create_app(settings, package="sample")
    mounted = FastAPI()
    app.mount("/mounted", mounted)

    @app.websocket("/socket")
    async def watch(websocket: WebSocket, stop: ServerStop) -> None:
        await websocket.accept()
        await websocket.send_json(await stop.wait(20))

    @mounted.get("/stop")
    async def ask(stop: ServerStop) -> bool:
        return stop.is_set()

    def begin() -> None:
        app.state.shutdown.for_requests.set()

    with TestClient(app) as client, client.websocket_connect("/socket") as socket:
        assert client.get("/mounted/stop").json() is False
        assert client.portal is not None
        client.portal.call(begin)
        assert socket.receive_json() is True
        assert client.get("/mounted/stop").json() is True
