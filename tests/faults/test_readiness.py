"""A database that is replaced under a service that was ready: how soon nobody is sent to it."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.postgres import USER

from .bank import Bank
from .servers import Cluster

LATER = 'op.create_table("later", sa.Column("id", sa.Integer))'
NOTICED_WITHIN_SECONDS = 3


@pytest.mark.parametrize("becomes", ["empty", "an old dump"])
def test_a_replaced_database_is_noticed_and_no_request_is_sent_to_it(
    bank: Bank, request: pytest.FixtureRequest, becomes: str
) -> None:
    bank = bank.copied()
    bank.add_revision("2", LATER)
    bank.migrate()
    with bank.serving() as service, httpx2.Client(base_url=service.url, trust_env=False) as client:
        assert client.get("/readyz").status_code == 200

        replace(bank, request, becomes)
        noticed = ready_within(client, 503)
        answers = [client.get("/readyz") for _ in range(50)]
        bank.migrate()
        ready_again = ready_within(client, 200)

    print(f"{becomes}: not ready after {noticed:.1f} s, ready {ready_again:.1f} s after migrating")
    assert {answer.status_code for answer in answers} == {503}
    assert "behind the code" in answers[-1].json()["detail"]
    assert noticed < NOTICED_WITHIN_SECONDS


def replace(bank: Bank, request: pytest.FixtureRequest, becomes: str) -> None:
    """Make the database anew, or what it was before the second revision."""
    if bank.url.startswith("sqlite"):
        source = Path(request.getfixturevalue("migrated_file"))
        old = shutil.copyfile(source, bank.folder / "old.db")
        if becomes == "empty":
            old = bank.folder / "empty.db"
        # Into the same file: readers of it notice, as those of a server do.
        with closing(sqlite3.connect(old)) as dump, closing(sqlite3.connect(file_of(bank))) as made:
            dump.backup(made)
        return
    server: Cluster = request.getfixturevalue("embedded_server")
    name = bank.url.rpartition("/")[2]
    template = request.getfixturevalue("migrated_database")
    if becomes == "empty":
        template = "template1"
    server.execute(
        f"DROP DATABASE {name} WITH (FORCE)",
        f"CREATE DATABASE {name} OWNER {USER} TEMPLATE {template}",
    )


def file_of(bank: Bank) -> str:
    """Return the path of the bank's file."""
    return bank.url.removeprefix("sqlite:///")


def ready_within(client: httpx2.Client, status: int) -> float:
    """Wait until the probe answers so; return how long it took."""
    begun = time.monotonic()
    while client.get("/readyz").status_code != status:
        assert time.monotonic() - begun < 30
        time.sleep(0.1)
    return time.monotonic() - begun
