"""Fail a test whose request ran the same SELECT again and again, once for each row of another.

What counts is the text without its values, by way of the same lines of the service's code. Only
what runs before the answer begins counts: a stream that polls, or a task after the answer, may.
"""

import inspect
import linecache
import os
import sysconfig
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple

import pytest
import sqlalchemy
from greenlet import getcurrent  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext, ExecutionContext

from ..http.request import RequestRecord, current_request
from .statements import is_select

# A request may run a SELECT so often from the same lines.
MAX_REPEATS = 2
# One that has so many values reads a batch of rows, and the next run reads the next batch.
BATCH_VALUES = 20
# What is asked again after a pause, with the same values, is a poll.
POLL_SECONDS = 0.01

MARK = "repeated_selects"
MARK_HELP = f"{MARK}(reason): requests of this test may run the same SELECT again and again."

# `selectinload` reads the rows of many objects at once, in batches, and level by level of a tree.
_EAGER_LOAD = "POSTCOMPILE_primary_keys"
_CHASSIS = Path(__file__).parents[1]
_MIDDLEWARE = str(_CHASSIS / "http" / "middleware.py")
_PACKAGE_FOLDERS = (
    *(sysconfig.get_path(name) for name in ("purelib", "platlib", "platstdlib", "stdlib")),
    Path(sqlalchemy.__file__).parents[1],
    _CHASSIS,
)
# The longest first: the folder of the standard library may hold that of packages.
_LIBRARIES = sorted({f"{folder}{os.sep}" for folder in _PACKAGE_FOLDERS}, key=len, reverse=True)


_Request = tuple[float, int]


class Line(NamedTuple):
    """A line of the service's code."""

    file: str
    number: int

    def describe(self, root: Path) -> str:
        """Return where the line is, seen from the project's folder, and its text."""
        file = os.path.relpath(self.file, root)
        return f"{file}:{self.number}: {linecache.getline(self.file, self.number).strip()}"


@dataclass
class Repeat:
    """A SELECT that a request runs by way of the same lines; the request itself is not kept."""

    statement: str
    lines: tuple[Line, ...]
    count: int = 0
    route: str = ""
    parameters: Any = None
    # Of the last run: when it began, and the time that the database had taken until then.
    began: float = 0.0
    database_seconds: float = 0.0

    def add(self, parameters: Any, database_seconds: float) -> None:
        """Count a run; what is a poll, and was not found to be more, begins anew."""
        now = perf_counter()
        paused = now - self.began - (database_seconds - self.database_seconds)
        is_poll = paused >= POLL_SECONDS and parameters == self.parameters and not self.route
        self.count = 1 if is_poll else self.count + 1
        self.parameters, self.began, self.database_seconds = parameters, now, database_seconds

    def describe(self, root: Path) -> str:
        """Return the route, the count, the statement and the lines that led to it."""
        first, *callers = (line.describe(root) for line in self.lines)
        return "\n  ".join(
            [
                f"{self.route} ran the same SELECT {self.count} times:",
                " ".join(self.statement.split())[:1000],
                first,
                *(f"called from {line}" for line in callers),
            ]
        )


class RepeatedSelects:
    """The plugin of pytest that counts, and fails a test after its end."""

    def __init__(self) -> None:
        self._repeats: dict[_Request, dict[tuple[Any, ...], Repeat]] = {}
        self._found: list[Repeat] = []

    def pytest_sessionstart(self) -> None:
        """Listen to every engine that is made from here on."""
        event.listen(Engine, "before_cursor_execute", self.count_select)
        event.listen(Engine, "handle_error", self.forget_failed)

    def pytest_unconfigure(self) -> None:
        """Leave engines to whoever runs pytest inside of another program."""
        if event.contains(Engine, "before_cursor_execute", self.count_select):
            event.remove(Engine, "before_cursor_execute", self.count_select)
            event.remove(Engine, "handle_error", self.forget_failed)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Begin to count for a test."""
        self._repeats, self._found = {}, []
        for mark in item.iter_markers(MARK):
            reason = mark.args[0] if mark.args else mark.kwargs.get("reason")
            if not isinstance(reason, str) or not reason.strip():
                pytest.fail(f'write the reason: @pytest.mark.{MARK}("…")', pytrace=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose requests repeated a SELECT without a mark that allows it."""
        try:
            result = yield
        except Exception:
            if report := self._report(item):
                item.add_report_section("call", "repeated SELECTs", report)
            raise
        if report := self._report(item):
            pytest.fail(report, pytrace=False)
        return result

    def count_select(
        self,
        connection: Connection,
        cursor: object,
        statement: str,
        parameters: Any,
        context: ExecutionContext | None,
        executemany: bool,
    ) -> None:
        """Count a SELECT of a request whose answer has not begun."""
        request = current_request()
        if request is None or request.status or executemany or len(parameters) >= BATCH_VALUES:
            return
        if not is_select(statement):
            return
        # As it was compiled, `IN` has no values yet, however many there are.
        if context is not None and context.compiled is not None:
            statement = str(context.compiled)
        if _EAGER_LOAD in statement or not (lines := tuple(find_lines(request.app.state.package))):
            return
        # A websocket reads anew for each message, in a session of its own.
        session = connection if request.scope["type"] == "websocket" else None
        repeats, key = self._repeats.setdefault(_key_of(request), {}), (statement, lines, session)
        repeat = repeats.setdefault(key, Repeat(statement, lines))
        repeat.add(parameters, request.seconds)
        if repeat.count == MAX_REPEATS + 1:
            repeat.route = request.name
            self._found.append(repeat)

    def forget_failed(self, context: ExceptionContext) -> None:
        """Count anew after an error: what comes now may be the next try."""
        if (request := current_request()) is not None:
            self._repeats.pop(_key_of(request), None)

    def _report(self, item: pytest.Item) -> str:
        if not self._found or item.get_closest_marker(MARK) is not None:
            return ""
        found = (repeat.describe(item.config.rootpath) for repeat in self._found)
        return "\n".join([*dict.fromkeys(found), _ADVICE])


_ADVICE = (
    "Read all rows with one statement: selectinload, joinedload, IN, a join. If they have to be "
    f'read one by one, give the test the reason: @pytest.mark.{MARK}("…")'
)


def _key_of(request: RequestRecord) -> _Request:
    """Return what tells a request from those before it, and does not keep it."""
    return request.started, id(request)


def find_lines(package: str) -> Iterator[Line]:
    """Yield the lines of the service that run here in its request, each once, innermost first."""
    seen: set[Line] = set()
    for frame in _iter_frames():
        if frame.f_code.co_filename == _MIDDLEWARE:
            return
        if is_own(frame.f_code.co_filename, package):
            line = Line(frame.f_code.co_filename, frame.f_lineno)
            if line not in seen:
                seen.add(line)
                yield line


def _iter_frames() -> Iterator[FrameType]:
    """Yield the frames of this greenlet, which is SQLAlchemy's, and of those that wait for it."""
    greenlet, frame = getcurrent(), inspect.currentframe()
    while greenlet is not None:
        while frame is not None:
            yield frame
            frame = frame.f_back
        greenlet = greenlet.parent
        frame = None if greenlet is None else greenlet.gr_frame


@cache
def is_own(file: str, package: str) -> bool:
    """Return whether a file is no other package's, or one of the service's own where it is
    installed."""
    for folder in _LIBRARIES:
        if file.startswith(folder):
            return file.removeprefix(folder).startswith(f"{package}{os.sep}")
    return not file.startswith("<")
