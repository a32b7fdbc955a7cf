"""Wait in a test for what happens elsewhere: in another process, in a task, in a thread."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from time import monotonic
from typing import TypeVar

import pytest

T = TypeVar("T")

PAUSE_SECONDS = 0.02


async def eventually(condition: Callable[[], T | Awaitable[T]], *, seconds: float = 10) -> T:
    """Return what a condition, `async` or not, returns as soon as that is true.

    Fail the test if it is not within so many seconds.
    """
    deadline = monotonic() + seconds
    while True:
        answer = condition()
        value = await answer if isawaitable(answer) else answer
        if value:
            return value
        if monotonic() > deadline:
            pytest.fail(f"after {seconds:g} s it was still {value!r}")
        await asyncio.sleep(PAUSE_SECONDS)
