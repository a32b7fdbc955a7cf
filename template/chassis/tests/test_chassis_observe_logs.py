"""Logs: what a line holds, for machines and for people, and what no line shows."""

import asyncio
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stderr
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import pytest
import uvicorn
from chassis_stock import changed, create_stock, only_on, started
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from httpx2 import AsyncClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from chassis import ChassisSettings, add_log_fields
from chassis.db import DbReadSession, DbSession
from chassis.http.request import LINE_FIELDS
from chassis.observe.logs import LogOptions, configure_logging

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = {"X-Request-ID": "abc-1", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
SECRET = "s3cret-Pa55"
TIMES = {"timestamp", "duration_ms", "database_ms"}
DEFAULTS = LogOptions()
HOSTILE_VALUES = (
    *('{"level": "ERROR"}', "a\nb\r\x1b[31m\x85\u2028", "\ud800", {"a\n": ["\n", {1: "\x7f"}]}),
    *(float("nan"), 10**30, b"\n", Path("/a b"), date(2026, 1, 2), True, {("a", 1): {2}}),
)

logger = logging.getLogger("sample")
router = APIRouter(prefix="/items")


@router.get("/{item_id}")
async def read_item(item_id: int, session: DbReadSession) -> None:
    """Run two statements."""
    await session.execute(text("SELECT 1"))
    await session.execute(text("SELECT 2"))
    logger.info("read %s", item_id, extra={"item": item_id})


@router.post("/{item_id}")
async def write_item(item_id: int, session: DbSession) -> None:
    """Run one statement in a transaction."""
    await session.execute(text("SELECT 1"))
    await session.commit()


@router.get("/{item_id}/owner")
async def read_owner(item_id: int, name: str, session: DbReadSession) -> None:
    """Run a statement that has a value."""
    await session.execute(text("SELECT CAST(:name AS VARCHAR(100))"), {"name": name})


@router.delete("/{item_id}")
async def delete_item(item_id: int) -> None:
    """Have a bug."""
    raise RuntimeError(f"no password={SECRET}")


class Settings(ChassisSettings):
    """A service's, with a secret of its own."""

    upstream_key: SecretStr = SecretStr("")


class Log(io.StringIO):
    """What went to standard error."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Read it as one JSON object a line."""
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def of(self, name: str) -> list[dict[str, Any]]:
        """Read the lines of one logger."""
        return [line for line in self.lines if line["logger"] == name]


@contextmanager
def logged(options: LogOptions = DEFAULTS) -> Iterator[Log]:
    """Log as a process would where nobody looks at a terminal, and not by pytest's handlers."""
    root, log = logging.root, Log()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        with redirect_stderr(log):
            configure_logging(options)
            yield log
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def another_listener() -> Iterator[None]:
    """Make access lines go through `logging`, where they are otherwise written at once."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    yield
    logging.root.removeHandler(handler)


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """Serve an application by uvicorn, whose own lines are logged, too."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    server.should_exit = True
    await serving


@asynccontextmanager
async def logging_service(
    settings: ChassisSettings, **changes: object
) -> AsyncIterator[tuple[AsyncClient, Log]]:
    """Start an application that logs; give its client, and what it logs."""
    chosen = changed(settings, **changes)
    with logged(LogOptions.from_settings(chosen)) as log:
        async with started(create_stock(chosen, router)) as client:
            yield client, log


@pytest.mark.parametrize(
    "url", ["sqlite:///app.db", "postgresql://ann@db.internal:5432/shop", "postgresql://db:5432/a"]
)
def test_a_database_is_named_in_lines_though_its_url_is_a_secret(url: str) -> None:
    settings = ChassisSettings(database_url=SecretStr(url))
    with logged(LogOptions.from_settings(settings)) as log:
        logging.getLogger("chassis").info(settings.describe_database())
    assert f"database {url} " in log.lines[0]["message"]


class TestLines:
    """One JSON object a line."""

    async def test_a_line_of_a_request_has_its_ids_and_what_was_added(
        self, settings: ChassisSettings
    ) -> None:
        async with logging_service(settings) as (client, log):
            await client.get("/items/7", headers=SENT)

        (line,) = log.of("sample")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
        assert line == {
            "level": "INFO",
            "logger": "sample",
            "message": "read 7",
            "request_id": "abc-1",
            "trace_id": TRACE,
            "item": 7,
        }

    def test_a_line_outside_of_requests_has_no_ids(self) -> None:
        with logged() as log:
            logger.warning("started")

        (line,) = log.lines
        assert line.keys() == {"timestamp", "level", "logger", "message"}

    def test_what_json_does_not_know_is_written_as_text(self) -> None:
        with logged() as log:
            logger.info("sent", extra={"to": Path("/a"), "on": date(2026, 1, 2), "tags": {"x"}})

        (line,) = log.lines
        assert (line["to"], line["on"], line["tags"]) == (str(Path("/a")), "2026-01-02", ["x"])

    def test_every_line_is_json_whatever_was_added(self) -> None:
        with logged() as log:
            logger.info("sent", extra={"ratio": float("nan"), "pairs": {(1, 2): "x"}})

        (line,) = log.lines
        assert (line["ratio"], line["pairs"]) == ("nan", {"(1, 2)": "x"})

    def test_what_was_added_takes_no_name_of_the_line_itself(self) -> None:
        with logged() as log:
            logger.warning("sold", extra={"level": "gold", "logger": "x"})

        (line,) = log.lines
        assert (line["level"], line["logger"]) == ("WARNING", "sample")

    @pytest.mark.parametrize("mark", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"])
    def test_no_value_begins_another_line(self, mark: str) -> None:
        forged = f'a{mark}{{"level": "ERROR"}}'
        with logged() as log:
            logger.info("got %s", forged, extra={"sent": forged})

        (line,) = log.lines
        assert (line["level"], line["sent"]) == ("INFO", forged)

    def test_a_traceback_is_part_of_its_line(self) -> None:
        with logged() as log:
            try:
                raise LookupError("no such item")
            except LookupError:
                logger.exception("failed")

        (line,) = log.lines
        assert line["message"] == "failed"
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("LookupError: no such item")

    def test_nothing_below_the_level_is_written(self) -> None:
        with logged(LogOptions(level="WARNING")) as log:
            logger.info("not seen")
            logger.warning("seen")

        assert [line["message"] for line in log.lines] == ["seen"]

    async def test_a_call_to_another_service_is_not_written_with_its_url(
        self, settings: ChassisSettings
    ) -> None:
        for name in ("httpx", "httpx2"):
            logging.getLogger(name).setLevel(logging.NOTSET)
        with logged(LogOptions(level="INFO")) as log:
            async with served(create_stock(settings, router)) as client:
                await client.get("/items/7", params={"signature": "4f2a"})
            logging.getLogger("httpx").info("HTTP Request: GET %s", "/items/7?signature=4f2a")

        assert log.of("sample")
        assert "4f2a" not in log.getvalue()

    async def test_the_server_writes_such_lines_too_and_says_nothing_twice(
        self, settings: ChassisSettings
    ) -> None:
        with logged() as log:
            async with served(create_stock(settings, router)) as client:
                await client.delete("/items/7", headers=SENT)

        lines = log.of("uvicorn.error")
        (failure,) = [line for line in lines if line["level"] == "ERROR"]
        assert failure["request_id"] == "abc-1"
        assert failure["exception"].endswith("RuntimeError: no password=***")
        assert any("Uvicorn running on" in line["message"] for line in lines)
        assert not [line for line in lines if "color_message" in line]


class TestTextLines:
    """Lines for people, into which nobody writes lines of his own."""

    def test_control_characters_of_a_message_are_escaped(self) -> None:
        with logged(LogOptions(format="text")) as log:
            logger.warning("got %s\n", "a\nb\r\x1b[31m\x85\u2028\tc")

        [line] = log.getvalue().splitlines()
        assert line.endswith(r"WARNING got a\nb\r\x1b[31m\x85\u2028\tc")

    def test_a_traceback_has_lines_and_no_other_control_characters(self) -> None:
        with logged(LogOptions(format="text")) as log:
            try:
                raise LookupError("a\x1b[31m\rb")
            except LookupError:
                logger.exception("failed")

        first, second, *_, last = log.getvalue().split("\n")[:-1]
        assert first.endswith("ERROR failed")
        assert second == "Traceback (most recent call last):"
        assert last == r"LookupError: a\x1b[31m\rb"

    def test_the_path_of_a_websocket_is_not_written(self) -> None:
        with logged(LogOptions(format="text")) as log:
            server = logging.getLogger("uvicorn.error")
            server.info('%s - "WebSocket %s" [accepted]', "127.0.0.1:1", f"/ws?key={SECRET}")
            server.info("connection open")

        assert SECRET not in log.getvalue()
        assert "connection open" in log.getvalue()


class TestAccessLine:
    """One line for each request."""

    async def test_it_tells_what_was_asked_and_what_it_took(
        self, settings: ChassisSettings
    ) -> None:
        async with logging_service(settings) as (client, log):
            # The first connection to PostgreSQL asks for its version and more.
            await client.get("/items/7")
            await client.get("/items/8?token=x", headers=SENT)

        _, line = log.of("chassis.access")
        assert line["duration_ms"] >= line["database_ms"] > 0
        assert without_times(line) == {
            "level": "INFO",
            "logger": "chassis.access",
            "message": "GET /items/{item_id} 200",
            "method": "GET",
            "route": "/items/{item_id}",
            "status": 200,
            "statements": 2,
            "request_id": "abc-1",
            "trace_id": TRACE,
        }

    async def test_a_path_that_leads_nowhere_is_not_named(self, settings: ChassisSettings) -> None:
        async with logging_service(settings) as (client, log):
            await client.get("/nowhere/7")

        (line,) = log.of("chassis.access")
        assert (line["message"], line["route"]) == ("GET (no route) 404", None)
        assert "nowhere" not in log.getvalue()

    async def test_a_body_that_is_too_large_is_logged_with_its_route(
        self, settings: ChassisSettings
    ) -> None:
        async with logging_service(settings, http_max_body_bytes=10) as (client, log):
            await client.post("/items/7", content=b"x" * 11)

        (line,) = log.of("chassis.access")
        assert line["message"] == "POST /items/{item_id} 413"

    async def test_a_transaction_adds_no_statement(self, settings: ChassisSettings) -> None:
        async with logging_service(settings) as (client, log):
            await client.post("/items/7")
            await client.post("/items/8")

        _, line = log.of("chassis.access")
        assert line["statements"] == 1

    @pytest.mark.parametrize(
        ("method", "path", "message", "route"),
        [
            ("GET", "/nowhere/7", "GET (no route) 404", None),
            ("GET", "/items/x", "GET /items/{item_id} 422", "/items/{item_id}"),
            ("DELETE", "/items/7", "DELETE /items/{item_id} 500", "/items/{item_id}"),
            ("GET", "/livez", "GET /livez 200", "/livez"),
        ],
    )
    async def test_both_ways_of_writing_it_say_the_same(
        self, settings: ChassisSettings, method: str, path: str, message: str, route: str | None
    ) -> None:
        async with logging_service(settings) as (client, log):
            await client.request(method, path, headers=SENT)
            with another_listener():
                await client.request(method, path, headers=SENT)

        at_once, through_logging = log.of("chassis.access")
        assert (at_once["message"], at_once["route"]) == (message, route)
        assert through_logging.keys() == at_once.keys()
        assert without_times(through_logging) == without_times(at_once)

    async def test_it_has_no_ids_where_there_are_none(self, settings: ChassisSettings) -> None:
        async with logging_service(settings, http_request_id=False) as (client, log):
            await client.get("/livez")
            with another_listener():
                await client.get("/livez")

        at_once, through_logging = log.of("chassis.access")
        assert at_once.keys() == through_logging.keys()
        assert at_once.keys().isdisjoint({"request_id", "trace_id"})

    @pytest.mark.parametrize("changes", [{"log_access": False}, {"log_level": "WARNING"}])
    async def test_it_can_be_switched_off(
        self, settings: ChassisSettings, changes: dict[str, Any]
    ) -> None:
        async with logging_service(settings, **changes) as (client, log):
            await client.get("/livez")

        assert log.of("chassis.access") == []

    async def test_a_filter_of_the_service_is_obeyed(self, settings: ChassisSettings) -> None:
        access = logging.getLogger("chassis.access")
        async with logging_service(settings) as (client, log):
            access.addFilter(is_no_probe)
            await client.get("/livez")
            await client.get("/items/7")
            access.removeFilter(is_no_probe)

        assert [line["route"] for line in log.of("chassis.access")] == ["/items/{item_id}"]

    async def test_a_log_that_nobody_takes_does_not_fail_the_request(
        self, settings: ChassisSettings
    ) -> None:
        async with logging_service(settings) as (client, log):
            log.close()
            answer = await client.get("/livez")

        assert answer.json() == {"status": "ok"}

    async def test_people_read_it_in_one_line(self, settings: ChassisSettings) -> None:
        async with logging_service(settings, log_format="text") as (client, log):
            await client.get("/items/7", headers=SENT)
            await client.get("/items/7", headers=SENT)
            await client.get("/nowhere", headers=SENT)

        *_, read, found, lost = log.getvalue().splitlines()
        time, took = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"in [\d.]+ ms \({} statements, [\d.]+ ms\)"
        assert re.fullmatch(rf"{time} INFO read 7 \[abc-1\]", read)
        what = rf"{time} INFO GET /items/\{{item_id\}} 200 {took.format(2)} \[abc-1\]"
        assert re.fullmatch(what, found)
        what = rf"{time} INFO GET \(no route\) 404 {took.format(0)} \[abc-1\]"
        assert re.fullmatch(what, lost)


class TestOwnFields:
    """What a service adds to the lines of a request, or of a task."""

    async def test_every_line_from_there_on_has_them(self, settings: ChassisSettings) -> None:
        async with adding_service(settings) as (client, log):
            await client.get("/orders/7", headers=SENT)

        before, after, in_background = log.of("sample")
        assert before.keys().isdisjoint({"order_id", "tenant"})
        for line in (after, in_background):
            assert (line["order_id"], line["tenant"], line["request_id"]) == (7, "acme", "abc-1")

    async def test_both_ways_of_writing_an_access_line_have_them(
        self, settings: ChassisSettings
    ) -> None:
        fields = {"api_token": SECRET, "items": [1, "ä"]}
        async with adding_service(settings, fields) as (client, log):
            await client.get("/orders/7", headers=SENT)
            await client.get("/livez")
            with another_listener():
                await client.get("/orders/7", headers=SENT)

        at_once, probe, through_logging = log.of("chassis.access")
        assert without_times(at_once) == without_times(through_logging)
        added = {"order_id": 7, "tenant": "acme", "api_token": "***", "items": [1, "ä"]}
        assert added.items() <= at_once.items()
        assert probe.keys().isdisjoint(added)

    async def test_people_read_them_after_the_message(self, settings: ChassisSettings) -> None:
        fields = {"note": 'so "called"', "none": None}
        async with adding_service(settings, fields, log_format="text") as (client, log):
            await client.get("/orders/7", headers=SENT)

        added = r' order_id=7 tenant=acme note="so \"called\"" none=null [abc-1]'
        found, access, _ = log.getvalue().splitlines()[-3:]
        assert found.endswith(f"INFO found{added}")
        assert access.endswith(f" ms){added}")

    async def test_each_request_has_its_own(self, settings: ChassisSettings) -> None:
        async with adding_service(settings) as (client, log):
            await asyncio.gather(*(client.get(f"/orders/{number}") for number in range(20)))

        found = [line["order_id"] for line in log.of("sample") if line["message"] == "found"]
        assert sorted(found) == list(range(20))
        assert sorted(line["order_id"] for line in log.of("chassis.access")) == list(range(20))

    async def test_outside_of_requests_they_are_those_of_the_task(self) -> None:
        with logged() as log:
            await asyncio.create_task(log_with_fields(job=1))
            await asyncio.create_task(log_with_fields(job=2))
            logger.info("none")

        assert [line.get("job") for line in log.lines] == [1, 2, None]

    async def test_a_line_may_say_otherwise(self) -> None:
        with logged() as log:
            await asyncio.create_task(log_with_fields(done="no", job=2))

        (line,) = log.lines
        assert (line["done"], line["job"]) == (True, 2)

    def test_a_websocket_has_them(self, settings: ChassisSettings) -> None:
        app = create_stock(settings, adding_router({}))
        with logged() as log, TestClient(app).websocket_connect("/orders/7/socket") as socket:
            socket.receive_text()

        before, after = log.of("sample")
        assert (before.get("tenant"), after["tenant"]) == (None, "acme")

    @pytest.mark.parametrize("form", ["json", "text"])
    @pytest.mark.parametrize("value", HOSTILE_VALUES, ids=ascii)
    async def test_no_value_breaks_a_line(
        self, settings: ChassisSettings, form: Literal["json", "text"], value: object
    ) -> None:
        async with adding_service(settings, {"value": value}, log_format=form) as (client, log):
            await client.get("/orders/7", headers=SENT)
            with another_listener():
                await client.get("/orders/7", headers=SENT)

        lines = [line for line in log.getvalue().splitlines() if "acme" in line]
        assert [line.count("value") for line in lines] == [1] * 6
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]", log.getvalue())
        for line in lines if form == "json" else ():
            assert json.loads(line)["level"] == "INFO"

    async def test_a_value_is_taken_as_it_is_then(self) -> None:
        team = {"names": ["ada"]}
        with logged() as log:
            add_log_fields(team=team)
            team["names"].append("bob")
            team["size"] = ["2"]
            logger.info("seen")

        (line,) = log.lines
        assert line["team"] == {"names": ["ada"]}

    async def test_no_name_of_a_line_itself_is_taken(self, settings: ChassisSettings) -> None:
        async with logging_service(settings) as (client, log):
            await client.get("/items/7", headers=SENT)
            logger.error("failed", exc_info=LookupError())

        names = {name for line in log.lines for name in line} - {"item"}
        assert names == LINE_FIELDS
        for name in names:
            with pytest.raises(ValueError, match=f"{name} is in each line already"):
                add_log_fields(**{name: 1})

    @pytest.mark.parametrize("name", ["", "a b", "a\nb", 'a"', "a=", "ä"])
    def test_a_name_is_one_word(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"must be letters, digits, _, \. and -"):
            add_log_fields(**{name: 1})

    def test_a_value_without_a_text_is_an_error_where_it_is_added(self) -> None:
        with pytest.raises(LookupError):
            add_log_fields(value=Broken())
        with pytest.raises(ValueError, match="4300 digits"):
            add_log_fields(value=10**5000)


class Broken:
    """A value that has no text."""

    def __str__(self) -> str:
        raise LookupError


@asynccontextmanager
async def adding_service(
    settings: ChassisSettings, fields: dict[str, Any] | None = None, **changes: object
) -> AsyncIterator[tuple[AsyncClient, Log]]:
    """Start an application that adds fields to its lines; give its client, and what it logs."""
    chosen = changed(settings, **changes)
    with logged(LogOptions.from_settings(chosen)) as log:
        async with started(create_stock(chosen, adding_router(fields or {}))) as client:
            yield client, log


def adding_router(fields: dict[str, Any]) -> APIRouter:
    async def add_order(order_id: int) -> None:
        logger.info("asked for")
        await asyncio.create_task(add_in_another_task(order_id))

    async def add_in_another_task(order_id: int) -> None:
        add_log_fields(order_id=order_id)

    def add_in_a_thread() -> None:
        add_log_fields(tenant="acme", **fields)

    added = [Depends(add_order), Depends(add_in_a_thread)]
    router = APIRouter(prefix="/orders", dependencies=added)

    @router.get("/{order_id}")
    async def read_order(tasks: BackgroundTasks) -> None:
        await asyncio.sleep(0)
        logger.info("found")
        tasks.add_task(logger.info, "in the background")

    @router.websocket("/{order_id}/socket")
    async def speak(socket: WebSocket) -> None:
        await socket.accept()
        logger.info("accepted")
        await socket.send_text("")

    return router


async def log_with_fields(**fields: Any) -> None:
    add_log_fields(**fields)
    logger.info("done", extra={"done": True})


def is_no_probe(record: logging.LogRecord) -> bool:
    return bool(vars(record)["route"] != "/livez")


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in TIMES}


@pytest.mark.parametrize("form", ["json", "text"])
class TestSecrets:
    """What looks like a secret, and what is known to be one."""

    @pytest.mark.parametrize(
        ("message", "written"),
        [
            ("at postgresql://app:{}@db/app", "at postgresql://app:***@db/app"),
            ("at redis://:{}@cache:6379", "at redis://:***@cache:6379"),
            ("password={}", "password=***"),
            ("?user=app&sslpassword={}&x=1", "?user=app&sslpassword=***&x=1"),
            ("{{'DB_PASSWORD': '{}', 'a': 1}}", "{'DB_PASSWORD': '***', 'a': 1}"),
            ('{{"api-key": "{}"}}', '{"api-key": "***"}'),
            ("Authorization: Bearer {}", "Authorization: ***"),
            ("sent Bearer {} to it", "sent Bearer *** to it"),
            ("Cookie: theme=dark; session={}; a=b", "Cookie: ***"),
            ("{{'password': 'of words {}'}}", "{'password': '***'}"),
            ("DETAIL:  Row (1,\ntext\n{}).\nHINT:  Try.", "DETAIL: ***\nHINT:  Try."),
            ("invalid input for query argument $1: '{}' (it is)", "query argument $1: ***"),
            ('invalid input syntax for type integer: "{}"', "for type integer: ***"),
            ("DETAIL:  Key (name)=({}) already exists.", "DETAIL: ***"),
        ],
    )
    def test_what_looks_like_one_is_hidden(
        self, form: Literal["json", "text"], message: str, written: str
    ) -> None:
        with logged(LogOptions(format=form)) as log:
            logger.info("%s", message.format(SECRET))

        line = log.lines[0]["message"] if form == "json" else log.getvalue().rstrip()
        assert line.endswith(written if form == "json" else written.replace("\n", r"\n"))
        assert SECRET not in line

    def test_the_secrets_of_the_settings_are_hidden_wherever_they_stand(
        self, form: Literal["json", "text"]
    ) -> None:
        settings = Settings(
            database_url=SecretStr("postgresql://app:p%40ss-w0rd@db/app"),
            upstream_key=SecretStr(SECRET),
        )
        with logged(LogOptions.from_settings(settings)._replace(format=form)) as log:
            logger.info("<%s>, p%%40ss-w0rd, p@ss-w0rd", SECRET)

        assert "<***>, ***, ***" in log.getvalue()

    def test_a_plain_word_is_no_secret(self, form: Literal["json", "text"]) -> None:
        settings = Settings(upstream_key=SecretStr("postgres"))
        with logged(LogOptions.from_settings(settings)._replace(format=form)) as log:
            logger.info("connects to postgres")

        assert "connects to postgres" in log.getvalue()

    def test_a_traceback_shows_none(self, form: Literal["json", "text"]) -> None:
        with logged(LogOptions(format=form)) as log:
            try:
                raise ConnectionError(f"no answer of postgresql://app:{SECRET}@db/app")
            except ConnectionError:
                logger.exception("failed")

        assert "ConnectionError: no answer of postgresql://app:***@db/app" in log.getvalue()
        assert SECRET not in log.getvalue()

    async def test_the_row_that_postgresql_refused_is_not_shown(
        self, form: Literal["json", "text"], settings: ChassisSettings, engine: AsyncEngine
    ) -> None:
        only_on("postgres", settings)
        add = text("INSERT INTO person (name) VALUES (:name)")
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE person (name text UNIQUE)"))
            await connection.execute(add, {"name": SECRET})
        with logged(LogOptions(format=form)) as log:
            try:
                async with engine.begin() as connection:
                    await connection.execute(add, {"name": SECRET})
            except IntegrityError:
                logger.exception("failed")

        assert "DETAIL: ***" in log.getvalue()
        assert SECRET not in log.getvalue()


def test_what_is_added_to_a_line_is_searched_to_its_depths() -> None:
    headers = {"Authorization": f"Bearer {SECRET}", "Accept": "text/html"}
    answer = {"links": [f"postgresql://app:{SECRET}@db"], "tokens": [SECRET]}
    with logged() as log:
        logger.info(
            "sent", extra={"call": {"headers": headers, "answer": answer}, "cookie": SECRET}
        )

    (line,) = log.lines
    assert line["call"] == {
        "headers": {"Authorization": "***", "Accept": "text/html"},
        "answer": {"links": ["postgresql://app:***@db"], "tokens": "***"},
    }
    assert line["cookie"] == "***"


class TestSlowStatements:
    """A warning for each statement that took too long."""

    async def test_one_is_logged_without_its_values_and_with_its_request(
        self, settings: ChassisSettings
    ) -> None:
        async with logging_service(settings, database_slow_query_seconds=1e-9) as (client, log):
            await client.get("/items/7/owner", params={"name": SECRET}, headers=SENT)

        (line,) = [line for line in log.of("chassis.db.statements") if "CAST" in line["message"]]
        assert re.match(r"slow statement, \d+ ms: SELECT CAST\(", line["message"])
        assert (line["level"], line["request_id"]) == ("WARNING", "abc-1")
        assert SECRET not in log.getvalue()

    @pytest.mark.parametrize("seconds", [60, 0])
    async def test_none_is_logged_below_the_threshold_or_without_one(
        self, settings: ChassisSettings, seconds: float
    ) -> None:
        async with logging_service(settings, database_slow_query_seconds=seconds) as (client, log):
            await client.get("/items/7/owner", params={"name": SECRET})

        assert log.of("chassis.db.statements") == []


@pytest.mark.parametrize(
    "part", ["a-", "token", "password ", "://a:", "DETAIL:", "cookie:", "basic "]
)
def test_a_long_text_is_searched_in_a_moment(part: str) -> None:
    started = perf_counter()
    with logged():
        logger.info("%s", part * 20_000)

    # Where each place was searched to the end, it took minutes.
    assert perf_counter() - started < 10
