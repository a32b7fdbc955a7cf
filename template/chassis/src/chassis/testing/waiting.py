"""Wait in a test for what happens elsewhere: in another process, in a task, in a thread."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from time import monotonic
from typing import Any, TypeVar, overload

import pytest

T = TypeVar("T")

PAUSE_SECONDS = 0.02


@overload
async def eventually(condition: Callable[[], Awaitable[T]], *, seconds: float = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, seconds: float = ...) -> T: ...
async def eventually(condition: Callable[[], Any], *, seconds: float = 10) -> Any:
    """Return what a condition, `async` or not, returns as soon as that is true.

    Fail the test if it is not within so many seconds.
    """
    deadline = monotonic() + seconds
    while True:
        value = condition()
        if isawaitable(value):
            value = await value
        if value:
            return value
        if monotonic() > deadline:
            pytest.fail(f"after {seconds:g} s it was still {value!r}")
        await asyncio.sleep(PAUSE_SECONDS)
