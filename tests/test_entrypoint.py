"""The image's entrypoint as a process: what a signal does while the schema is migrated."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.repository import ROOT

ENTRYPOINT = ROOT / "template/chassis/docker/entrypoint.sh"
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

# A migration that takes its time to stop, as one that rolls back; `$1` is migrate or serve.
SERVICE = """\
#!/bin/sh
echo "$1 began" >> log
[ "$1" = migrate ] || exit 0
trap 'sleep 0.5; echo "$1 stopped" >> log; exit 7' TERM
touch running
while [ -e running ]; do sleep 0.05; done
exit "$(cat code)"
"""


@contextmanager
def migrating(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the entrypoint until its migration has begun; kill all of it at the end."""
    service = folder / "service"
    service.write_text(SERVICE)
    service.chmod(0o755)
    with subprocess.Popen(
        ["sh", str(ENTRYPOINT), str(service), "serve"],
        cwd=folder,
        env=os.environ | {"RUN_DB_MIGRATIONS": "true"},
        start_new_session=True,
        # Who runs the tests in the background may ignore some, and a shell can't trap those.
        preexec_fn=heed_signals,
    ) as process:
        try:
            until_exists(folder / "running")
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def heed_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def until_exists(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"there is no {path.name}"
        time.sleep(0.02)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_reaches_the_migration_and_the_container_ends_after_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    with migrating(tmp_path) as process:
        process.send_signal(number)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert (tmp_path / "log").read_text() == "migrate began\nmigrate stopped\n"


def test_a_second_signal_does_not_end_the_wait(tmp_path: Path) -> None:
    with migrating(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
        assert "migrate stopped" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_nothing_is_served_after_a_migration_that_failed(code: int, tmp_path: Path) -> None:
    with migrating(tmp_path) as process:
        (tmp_path / "code").write_text(str(code))
        (tmp_path / "running").unlink()
        assert process.wait(10) == code
        served = "" if code else "serve began\n"
        assert (tmp_path / "log").read_text() == f"migrate began\n{served}"
