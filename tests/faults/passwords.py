"""Providers of passwords, as a service would write them."""

import os
import time
from pathlib import Path

PASSWORD = "FAULTS_PASSWORD_FILE"
ASKED = "FAULTS_ASKED_FILE"


def from_file(host: str, port: int, user: str) -> str:
    """Read today's password, and note who asked for it."""
    with Path(os.environ[ASKED]).open("a") as asked:
        asked.write(f"{user}@{host}:{port}\n")
    return Path(os.environ[PASSWORD]).read_text()


def slow(host: str, port: int, user: str) -> str:
    """Take longer than connecting may."""
    time.sleep(1.5)
    return f"{user}@{host}:{port}"


def failing(host: str, port: int, user: str) -> str:
    """Fail, as a client of a secret store does, with something secret in its message."""
    raise RuntimeError(f"s3cret of {user}@{host}:{port}")


def empty(*_: object) -> str:
    """Forget to return a password."""
    return ""


NOT_A_FUNCTION = "s3cret"
