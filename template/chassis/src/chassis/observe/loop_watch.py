"""A watch on the event loop: code that blocks it stops every request, and is named in the log."""

import asyncio
import logging
import sys
import threading
import traceback
from time import monotonic

logger = logging.getLogger(__name__)

BLOCKED_SECONDS = 1.0


class LoopWatch:
    """Logs a warning while the running loop is blocked.

    The loop notes the time again and again; a thread sees when it does not any more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._note_time()
        self._thread = threading.Thread(target=self._report_blocks, name="loop-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the watch, and its thread."""
        self._timer.cancel()
        self._ended.set()
        self._thread.join()

    def _note_time(self) -> None:
        self._noted = monotonic()
        self._timer = self._loop.call_later(BLOCKED_SECONDS / 4, self._note_time)

    def _report_blocks(self) -> None:
        reported = 0.0
        while not self._ended.wait(BLOCKED_SECONDS / 2):
            noted = self._noted
            if noted != reported and monotonic() - noted > BLOCKED_SECONDS:
                reported = noted
                logger.warning(
                    "the event loop is blocked, and every request with it, at %s: await something "
                    "asynchronous instead, or run it by asyncio.to_thread",
                    self._find_place(),
                )

    def _find_place(self) -> str:
        """Return the innermost lines of the loop's thread."""
        stack = traceback.extract_stack(sys._current_frames()[self._watched])
        lines = (f"{frame.filename}:{frame.lineno} ({frame.name})" for frame in stack[:-5:-1])
        return ", called by ".join(lines)
