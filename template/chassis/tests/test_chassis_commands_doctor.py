"""The doctor: what it says of a database that is in order, and of one that is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from chassis_depot import Depot, written
from chassis_stock import changed, only_on
from pydantic import SecretStr

from chassis import ChassisSettings
from chassis.commands.doctor import examine
from chassis.commands.report import Finding, Report
from chassis.db.migrations.upgrade import upgrade


class Settings(ChassisSettings):
    """Settings of a service, some of them secrets that nobody marked."""

    mail_api_key: str = ""
    queue: str = ""
    token: SecretStr | None = None


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        depot.add("1", "pass")
        yield depot


def found(report: Report, subject: str) -> Finding:
    """Return the last finding of a subject."""
    return [finding for finding in report.findings if finding.subject == subject][-1]


def test_a_database_in_order(depot: Depot, settings: ChassisSettings) -> None:
    upgrade(depot.package, settings)

    report = examine(settings, depot.package)

    assert report.healthy
    assert found(report, "schema").message == "at 1, as the code needs it"
    assert "connects to" in found(report, "migrations").message
    assert json.loads(report.as_json())["healthy"] is True


def test_a_release_that_the_chassis_was_not_tested_with(
    depot: Depot, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(depot.package, settings)
    monkeypatch.setattr(sqlalchemy, "__version__", "2.2.0")

    report = examine(settings, depot.package)

    assert report.healthy
    assert found(report, "packages").level == "warning"
    assert "sqlalchemy 2.2.0 is not a release" in found(report, "packages").message


def test_a_schema_that_is_behind(depot: Depot, settings: ChassisSettings) -> None:
    upgrade(depot.package, settings)
    depot.add("2", "pass")

    report = examine(settings, depot.package)

    assert not report.healthy
    assert found(report, "schema").message == "at 1, and the code needs 2"
    assert found(report, "schema").advice == "run the command migrate"


def test_a_database_that_is_away(depot: Depot) -> None:
    url = "postgresql://me:hush@127.0.0.1:1/app"

    report = examine(ChassisSettings(database_url=SecretStr(url)), depot.package)

    assert [one.subject for one in report.findings if one.level == "problem"] == [
        "database",
        "migrations",
    ]
    assert "hush" not in report.as_json() + report.as_text()


def test_a_file_that_is_not_there_is_not_made(depot: Depot, tmp_path: Path) -> None:
    settings = ChassisSettings(database_sqlite_path=tmp_path / "new" / "app.db")

    report = examine(settings, depot.package)

    assert found(report, "file").advice == "run the command migrate"
    assert not (tmp_path / "new").exists()


def test_no_secret_is_shown(
    depot: Depot, settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_MAIL_API_KEY", "hush")
    monkeypatch.setenv("APP_QUEUE", "redis://user:hush@queue/0")
    monkeypatch.setenv("APP_TOKEN", "hush")
    own = Settings(database_url=settings.database_url, secrets_dir=settings.secrets_dir)

    report = examine(own, depot.package)

    shown = {one["name"]: (one["value"], one["source"]) for one in report.settings}
    assert shown["APP_MAIL_API_KEY"] == ("********", "environment")
    assert shown["APP_QUEUE"] == ("redis://********@queue/0", "environment")
    assert shown["APP_DATABASE_URL"] == ("********", "code")
    assert shown["APP_SERVER_HOST"] == ("127.0.0.1", "default")
    assert "hush" not in report.as_json() + report.as_text()


def test_a_replica_that_is_away_is_told_though_the_primary_stands_in(
    depot: Depot, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    replica = SecretStr("postgresql://nobody@127.0.0.1:9/none")
    away = changed(settings, database_read_url=replica, database_read_fallback=True)

    finding = found(examine(away, depot.package), "replica")

    assert finding.level == "problem"
    assert "can't connect to postgresql://nobody@127.0.0.1:9/none" in finding.message
