"""What the processes of a server agree on: exit code, hang-up, and the end of their supervisor."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

# The exit code of uvicorn, too.
START_FAILED = 3


def handle_hangup(handler: Callable[[int, FrameType | None], object]) -> None:
    """Handle SIGHUP, if the platform has it and it is not ignored, as by nohup."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, handler)


def exit_with_parent() -> bool:
    """Stop this worker when its supervisor is killed. Return False for a process without one."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return False
    if hasattr(signal, "SIGHUP"):
        # The supervisor passes a hang-up on; taken twice, it would end the drain.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    join_parent = parent.join

    def wait_and_stop() -> None:
        join_parent()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_and_stop, daemon=True).start()
    return True


def is_orphan() -> bool:
    """Return whether this process is a worker whose supervisor is gone."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
