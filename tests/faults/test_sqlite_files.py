"""SQLite's file fails: its disk is full, it is read-only, broken, deleted or replaced."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from .bank import Bank, Serving

REQUESTS = 20
# A root that file modes bind, as they bind every other user.
WITHOUT_PRIVILEGES = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)
# More than SQLite keeps in memory, so that a page that was damaged is read.
ROWS = """
    INSERT INTO entries (name)
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
    SELECT 'entry ' || i FROM n
"""

pytestmark = pytest.mark.parametrize("bank", ["sqlite"], indirect=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write(service: Serving, count: int = REQUESTS) -> Counter[int]:
    with httpx2.Client(base_url=service.url, trust_env=False) as client:
        number = time.monotonic_ns()
        return Counter(client.post(f"/entries/{number + one}").status_code for one in range(count))


def ask(service: Serving, path: str) -> httpx2.Response:
    return asyncio.run(service.get(path))


def reason(service: Serving) -> str:
    """Return why the service is not ready, or an empty string."""
    time.sleep(1.1)
    response = ask(service, "/readyz")
    return str(response.json()["detail"]) if response.status_code == 503 else ""


def check_log(service: Serving, *expected: str) -> None:
    """Check that each failure is a line that says what failed, and no traceback."""
    log = service.log.read_text()
    assert "Traceback" not in log
    for words in expected:
        assert words in log


def test_a_full_disk_is_an_outage_until_there_is_room(bank: Bank, small_disk: Path) -> None:
    shutil.copyfile(bank.folder / "bank.db", small_disk / "bank.db")
    bank = bank.set(APP_DATABASE_URL=f"sqlite:///{small_disk}/bank.db")
    with bank.serving() as service:
        assert write(service) == {201: REQUESTS}
        (small_disk / "ballast").write_bytes(bytes(3 * 1024 * 1024))
        answers = write(service, 600)
        print("full disk:", dict(answers))
        assert answers.keys() == {201, 503}
        assert "SQLITE_FULL" in reason(service)
        assert ask(service, "/count").status_code == 200
        assert ask(service, "/livez").status_code == 200
        (small_disk / "ballast").unlink()
        assert reason(service) == ""
        assert write(service) == {201: REQUESTS}
        check_log(service, "database or disk is full")


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
def test_a_read_only_file_is_an_outage_until_it_is_writable(bank: Bank) -> None:
    file = bank.folder / "bank.db"
    file.chmod(0o444)
    under = WITHOUT_PRIVILEGES if os.getuid() == 0 else ()
    with bank.serving(under=under) as service:
        assert write(service) == {503: REQUESTS}
        assert "READONLY" in reason(service)
        file.chmod(0o644)
        for side in bank.folder.glob("bank.db-*"):
            side.chmod(0o644)
        assert reason(service) == ""
        assert write(service) == {201: REQUESTS}
        check_log(service, "readonly database")


@pytest.mark.parametrize("pages", ["some", "all"])
def test_a_broken_file_is_an_outage(bank: Bank, pages: str) -> None:
    file = bank.folder / "bank.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(ROWS)
    size = file.stat().st_size
    with file.open("r+b") as content:
        content.seek(0 if pages == "all" else size // 4)
        content.write(b"\xff" * (size // 2))
    with bank.serving() as service:
        with httpx2.Client(base_url=service.url, trust_env=False) as client:
            answers = Counter(client.get("/entries").status_code for _ in range(REQUESTS))
        assert answers == {503: REQUESTS}
        assert reason(service)
        check_log(service, "not a database" if pages == "all" else "malformed")


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
def test_a_file_that_is_gone_or_another_takes_no_write(
    bank: Bank, migrated_file: Path, how: str
) -> None:
    file = bank.folder / "bank.db"
    with bank.serving() as service:
        assert write(service) == {201: REQUESTS}
        assert reason(service) == ""
        match how:
            case "deleted":
                file.unlink()
            case "replaced":
                shutil.copyfile(migrated_file, bank.folder / "new.db")
                (bank.folder / "new.db").replace(file)
            case _:
                file.rename(bank.folder / "elsewhere.db")
        answers = write(service)
        print(f"{how}: {dict(answers)}")
        assert answers == {503: REQUESTS}
        assert ask(service, "/count").status_code == 503
        assert reason(service)
        check_log(service, "deleted or replaced")
