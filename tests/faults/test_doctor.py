"""The command `doctor`: what it finds on each kind of set-up, and what it says to set."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.postgres import HOST, PASSWORD, free_port

from .bank import Bank
from .certificates import Certificates
from .servers import Cluster, Pooler

on_sqlite = pytest.mark.parametrize("bank", ["sqlite"], indirect=True)


@dataclass(frozen=True)
class Examined:
    """What the command answered."""

    code: int
    report: dict[str, Any]

    def of(self, subject: str, level: str = "") -> list[str]:
        """Return the messages on a subject, with the advice."""
        return [
            f"{finding['message']} -> {finding['advice']}"
            for finding in self.report["findings"]
            if finding["subject"] == subject and level in ("", finding["level"])
        ]

    @property
    def problems(self) -> list[str]:
        """Name the subjects of all problems."""
        return [one["subject"] for one in self.report["findings"] if one["level"] == "problem"]

    @property
    def settings(self) -> dict[str, tuple[str, str]]:
        """Return the value and the source of each setting."""
        return {one["name"]: (one["value"], one["source"]) for one in self.report["settings"]}


def examine(bank: Bank) -> Examined:
    """Run the command for programs; nothing that it says may hold a password."""
    done = bank.run("doctor", "--json")
    assert PASSWORD not in done.stdout
    assert quote(PASSWORD, safe="") not in done.stdout
    return Examined(done.returncode, json.loads(done.stdout))


@on_sqlite
def test_a_healthy_file(bank: Bank) -> None:
    found = examine(bank)

    assert (found.code, found.report["healthy"], found.problems) == (0, True, [])
    (database,) = found.of("database", "ok")[1:]
    assert "aiosqlite connects to sqlite:///" in database
    assert "pysqlite connects" in found.of("migrations", "ok")[0]
    assert "at 1, as the code needs it" in found.of("schema", "ok")[0]
    assert "its folder writable" in found.of("file", "ok")[0]
    assert sqlite3.sqlite_version in found.of("SQLite", "ok")[0]


@on_sqlite
def test_what_is_wrong_with_a_file(bank: Bank) -> None:
    found = examine(
        bank.set(
            APP_SERVER_WORKERS="4",
            APP_DATABASE_PATH="nowhere",
        )
    )

    assert "APP_DATABASE_PATH is not a setting" in found.of("settings", "warning")[0]
    if sqlite3.sqlite_version_info < (3, 51, 3):
        assert "4 processes write" in found.of("SQLite", "warning")[0]
    # Nothing that stops the service.
    assert (found.code, found.problems) == (0, [])


def test_a_file_that_is_not_there_stays_away(tmp_path: Path) -> None:
    found = examine(Bank(f"sqlite:///{tmp_path}/new/folder/bank.db", tmp_path))

    assert (found.code, found.problems) == (1, ["file"])
    assert "run the command migrate" in found.of("file")[0]
    assert not (tmp_path / "new").exists()


def test_a_server_without_tls(plain_server: Cluster, tmp_path: Path) -> None:
    bank = Bank(plain_server.url(plain_server.create_database()), tmp_path).migrate()

    found = examine(bank)

    assert (found.code, found.problems) == (0, [])
    assert "asyncpg connects to postgresql://" in found.of("database", "ok")[1]
    assert found.of("database", "ok")[2].startswith("PostgreSQL 1")
    assert "psycopg connects to postgresql://" in found.of("migrations", "ok")[0]
    assert "none is needed within one machine" in found.of("database, TLS", "ok")[0]
    assert found.of("database, pooler", "ok") == ["none -> "]
    assert (
        "up to 18 connections of 97 that the server allows" in found.of("database, pool", "ok")[0]
    )
    assert found.of("schema", "ok")
    assert found.settings["APP_DATABASE_URL"] == ("********", "environment")
    assert found.settings["APP_DATABASE_POOL_SIZE"] == ("5", "default")


def test_a_pool_that_the_server_can_not_serve(plain_server: Cluster, tmp_path: Path) -> None:
    bank = Bank(plain_server.url(plain_server.create_database()), tmp_path).migrate()

    found = examine(bank.set(APP_DATABASE_POOL_SIZE="50", APP_SERVER_WORKERS="2"))

    assert found.code == 0
    (said,) = found.of("database, pool", "warning")
    assert said.startswith(
        "up to 124 connections of 97 that the server allows -> lower APP_DATABASE_POOL"
    )


@pytest.mark.parametrize(
    ("query", "level", "says"),
    [
        ("", "warning", "the server's certificate is not verified"),
        ("?sslmode=verify-ca&sslrootcert={ca}", "warning", "the server's name is not verified"),
        ("?sslmode=verify-full&sslrootcert={ca}", "ok", "the server's certificate is verified"),
    ],
    ids=["encrypted", "verify-ca", "verify-full"],
)
def test_a_server_with_tls(
    tls_server: Cluster,
    certificates: Certificates,
    tmp_path: Path,
    query: str,
    level: str,
    says: str,
) -> None:
    url = tls_server.url(tls_server.create_database(), host="localhost")
    bank = Bank(url + query.format(ca=certificates.certificate("ca")), tmp_path).migrate()

    found = examine(bank)

    assert (found.code, found.problems) == (0, [])
    (tls,) = found.of("database, TLS", level)
    assert tls.startswith("TLSv1.")
    assert says in tls
    assert ("APP_DATABASE_POSTGRES_SSLMODE=verify-full" in tls) == (level == "warning")


def test_a_transaction_pooler(
    plain_server: Cluster, transaction_pooler: Pooler, tmp_path: Path
) -> None:
    name = plain_server.create_database()
    direct = Bank(plain_server.url(name), tmp_path).migrate()
    pooled = Bank(transaction_pooler.url(name), tmp_path)

    unaware = examine(pooled)
    incomplete = examine(pooled.set(APP_DATABASE_PGBOUNCER="true"))
    complete = examine(
        pooled.set(APP_DATABASE_PGBOUNCER="true", APP_ALEMBIC_DATABASE_URL=direct.url)
    )
    needless = examine(direct.set(APP_DATABASE_PGBOUNCER="true"))

    assert unaware.code == 1
    assert any("set APP_DATABASE_PGBOUNCER=true" in said for said in unaware.of("database"))
    assert (incomplete.code, incomplete.problems) == (1, ["migrations"])
    assert "APP_ALEMBIC_DATABASE_URL" in incomplete.of("migrations")[0]
    assert incomplete.of("database, pooler", "ok") == ["in transaction mode, as set -> "]
    assert (complete.code, complete.problems) == (0, [])
    assert "unset APP_DATABASE_PGBOUNCER" in needless.of("database, pooler", "warning")[0]


def test_a_database_that_is_down(tmp_path: Path) -> None:
    url = f"postgresql://team:{quote(PASSWORD, safe='')}@{HOST}:{free_port()}/app"
    bank = Bank(url, tmp_path)

    found = examine(bank)
    text = bank.run("doctor")

    assert (found.code, found.problems) == (1, ["database", "migrations"])
    for subject in found.problems:
        (said,) = found.of(subject, "problem")
        assert said.startswith(f"can't connect to postgresql://team@{HOST}:")
        assert "check that it runs" in said
    assert found.of("schema") == []
    assert text.returncode == 1
    assert "problems: 2" in text.stdout
    assert "Traceback" not in text.stdout


def test_a_schema_that_is_behind_or_ahead(bank: Bank) -> None:
    newer = bank.copied()
    newer.add_revision("2", "pass")

    behind = examine(newer)
    newer.migrate()
    ahead = examine(bank)

    assert (behind.code, behind.problems) == (1, ["schema"])
    assert behind.of("schema") == ["at 1, and the code needs 2 -> run the command migrate"]
    assert (ahead.code, ahead.problems) == (0, [])
    assert ahead.of("schema", "ok") == ["at 2, which is newer than the code -> "]


@on_sqlite
def test_a_database_without_a_schema(bank: Bank) -> None:
    with closing(sqlite3.connect(bank.url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DROP TABLE alembic_version")

    found = examine(bank)

    assert found.of("schema") == ["at no revision, and the code needs 1 -> run the command migrate"]


@on_sqlite
def test_values_have_their_source_and_no_secret(bank: Bank) -> None:
    secrets = bank.folder / "secrets"
    secrets.mkdir()
    (secrets / "APP_MAIL_API_KEY").write_text("hush")
    (bank.folder / ".env").write_text("APP_LOG_LEVEL=warning\nAPP_SERVER_PORT=8123\n")
    bank = bank.set(APP_SECRETS_DIR=str(secrets), APP_SERVER_PORT="8124")

    found = examine(bank).settings
    text = bank.run("doctor").stdout

    assert found["APP_MAIL_API_KEY"] == ("********", f"a file in {secrets}")
    assert found["APP_LOG_LEVEL"] == ("WARNING", ".env")
    assert found["APP_SERVER_PORT"] == ("8124", "environment")
    assert found["APP_SERVER_HOST"] == ("127.0.0.1", "default")
    assert "APP_SERVER_PORT=8124 (environment)" in text
    assert "APP_SERVER_HOST" not in text
    assert "hush" not in text


@on_sqlite
def test_it_has_no_colour_and_ends_with_the_sum(bank: Bank) -> None:
    text = bank.set(APP_SERVER_WORKERS="2").run("doctor").stdout

    assert "\x1b" not in text
    assert "problems: 0" in text
