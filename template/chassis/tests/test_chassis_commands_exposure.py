"""What is open to everybody: the line at the start, and what doctor makes of it."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from chassis_processes import serving
from chassis_sample.__main__ import run
from chassis_stock import create_stock
from click.testing import CliRunner, Result
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import APIKeyHeader
from pydantic import SecretStr

from chassis import ChassisSettings
from chassis.auth import Caller, requires
from chassis.commands.doctor_command import SUBJECTS
from chassis.commands.exposure import describe_exposure, find_exposures

ISSUER = {"auth_issuer": "https://login.example.com/", "auth_audience": ("shop",)}
CLOSED: dict[str, Any] = {
    "docs_enabled": False,
    "http_allowed_hosts": ("shop.example.com",),
    "database_sqlite_path": "app.db",
}
OPEN: dict[str, dict[str, Any]] = {
    "docs": {"docs_enabled": True},
    "hosts": {"http_allowed_hosts": ("*",)},
    "cors": {"http_cors_origins": ("*",)},
    "database": {"database_url": SecretStr("postgresql://me@db.example.com/shop")},
    "metrics": {"metrics_enabled": True},
    "proxies": {"server_trusted_proxies": "*"},
}


def with_callers() -> APIRouter:
    router = APIRouter()

    @router.get("/orders")
    async def read(caller: Annotated[Caller, requires("orders:read")]) -> str:
        return caller.subject

    return router


def with_fastapis_own() -> APIRouter:
    router = APIRouter()

    @router.get("/orders")
    async def read(key: Annotated[str, Security(APIKeyHeader(name="X-Key"))]) -> str:
        return key

    return router


def without() -> APIRouter:
    router = APIRouter()

    @router.get("/orders")
    async def read() -> None: ...

    return router


def build(make: Callable[[], APIRouter], **changes: Any) -> tuple[ChassisSettings, FastAPI]:
    settings = ChassisSettings(**CLOSED | changes)
    # prometheus_client may be missing: the application here is one without metrics.
    return settings, create_stock(settings.model_copy(update={"metrics_enabled": False}), make())


def subjects(settings: ChassisSettings, app: object) -> list[str]:
    return [one.subject for one in find_exposures(settings, app)]


def test_a_closed_service_has_nothing_open() -> None:
    assert subjects(*build(with_callers, **ISSUER)) == []


@pytest.mark.parametrize("subject", OPEN)
def test_each_thing_that_is_open_is_found_and_closed_by_its_advice(subject: str) -> None:
    settings, app = build(with_callers, **ISSUER | OPEN[subject])
    [found] = find_exposures(settings, app)
    assert found.subject == subject
    variables = [f"APP_{name.upper()}" for name in OPEN[subject]]
    assert any(name.rpartition("_")[0] in found.advice for name in variables)


@pytest.mark.parametrize(
    ("make", "changes", "expected"),
    [
        (without, {}, ["authentication"]),
        # An issuer by itself protects no route.
        (without, ISSUER, ["authentication"]),
        (without, ISSUER | {"auth_required": True}, []),
        (with_callers, ISSUER, []),
        (with_fastapis_own, {}, []),
    ],
)
def test_a_service_where_no_route_asks_who_sends_a_request(
    make: Callable[[], APIRouter], changes: dict[str, Any], expected: list[str]
) -> None:
    assert subjects(*build(make, **changes)) == expected


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("postgresql://me@db/shop", True),
        ("postgresql://me@db/shop?sslmode=prefer", True),
        ("postgresql://me@127.0.0.1,db/shop", True),
        ("postgresql://me@db/shop?sslmode=require", False),
        ("postgresql://me@db/shop?sslmode=verify-full&sslrootcert=system", False),
        ("postgresql://me@db/shop?sslrootcert=system", False),
        ("postgresql://me@localhost/shop", False),
        ("postgresql:///shop?host=/run/postgresql", False),
    ],
)
@pytest.mark.parametrize("field", ["database_url", "database_read_url"])
def test_a_database_elsewhere_without_tls(url: str, is_open: bool, field: str) -> None:
    first = {"database_url": SecretStr("postgresql://me@localhost/shop")}
    settings, app = build(with_callers, **ISSUER | first | {field: SecretStr(url)})
    assert subjects(settings, app) == (["database"] if is_open else [])


def test_metrics_on_a_port_of_their_own_are_not_on_the_public_one() -> None:
    assert subjects(*build(with_callers, **ISSUER, metrics_enabled=True, metrics_port=9100)) == []


def test_a_service_whose_own_options_switch_the_document_off() -> None:
    settings = ChassisSettings(**CLOSED | ISSUER | {"docs_enabled": True})
    app = create_stock(settings, with_callers(), openapi_url=None)
    assert subjects(settings, app) == []


def test_a_wrapped_application_is_judged_by_its_settings_alone() -> None:
    settings, _ = build(with_callers, http_allowed_hosts=("*",))
    assert subjects(settings, object()) == ["hosts"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_a_service_on_ones_own_machine_says_nothing(host: str) -> None:
    settings, app = build(without, server_host=host, http_allowed_hosts=("*",))
    assert describe_exposure(settings, app) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example.com"])
def test_a_service_that_others_reach_says_what_is_open_in_one_line(host: str) -> None:
    line = describe_exposure(*build(without, server_host=host, http_allowed_hosts=("*",)))
    assert line == (
        f"open to all who reach {host}: hosts (any Host header is served), "
        "authentication (no route asks who sends a request); doctor says what closes it"
    )
    assert describe_exposure(*build(with_callers, server_host=host, **ISSUER)) is None


def test_the_line_is_in_the_log_of_the_start() -> None:
    # All addresses of the machine: a filter of the network is none of the service's business.
    with serving("serve", "--host", "0.0.0.0") as running:
        log = running.log.read_text()
        assert log.count("open to all who reach 0.0.0.0: docs") == 1
    with serving("serve") as running:
        assert "open to all" not in running.log.read_text()


def doctor(*options: str, **environment: str) -> Result:
    variables = {"APP_DATABASE_SQLITE_PATH": "app.db", **environment}
    runner = CliRunner(env=variables)
    assert runner.invoke(run, ["migrate"]).exit_code == 0
    return runner.invoke(run, ["doctor", *options], prog_name="sample")


def opened(result: Result) -> dict[str, str]:
    findings = json.loads(result.stdout)["findings"]
    return {
        one["subject"].removeprefix("open, "): one["level"]
        for one in findings
        if one["subject"].startswith("open, ")
    }


def test_doctor_says_nothing_of_it_on_ones_own_machine_and_warns_elsewhere() -> None:
    here, elsewhere = doctor("--json"), doctor("--json", APP_SERVER_HOST="0.0.0.0")
    assert (here.exit_code, opened(here)) == (0, {})
    expected = dict.fromkeys(("docs", "hosts", "authentication"), "warning")
    assert (elsewhere.exit_code, opened(elsewhere)) == (0, expected)


def test_doctor_exits_with_1_on_what_is_open_in_production_unless_it_is_accepted() -> None:
    everything = doctor("--json", "--production")
    expected = dict.fromkeys(("docs", "hosts", "authentication"), "problem")
    assert (everything.exit_code, opened(everything)) == (1, expected)
    text = doctor("--production").stdout
    assert "problem  open, hosts: any Host header is served" in text
    assert "-> set APP_HTTP_ALLOWED_HOSTS to the names that clients use" in text

    accepted = ("--accept", "docs", "--accept", "authentication")
    named = doctor("--json", "--production", *accepted, APP_HTTP_ALLOWED_HOSTS="shop.example.com")
    assert named.exit_code == 0
    assert opened(named) == dict.fromkeys(("docs", "authentication"), "ok")
    assert doctor("--accept", "everything").exit_code == 2


def test_what_can_be_accepted_is_what_can_be_open() -> None:
    assert set(SUBJECTS) == {*OPEN, "authentication"}


def test_doctor_reports_an_application_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("no such client: redis://:s3cret@cache")

    monkeypatch.setattr("chassis_sample.main.create_service", fail)
    result = doctor()
    assert result.exit_code == 1
    assert "create_service fails: RuntimeError" in result.stdout
    assert "s3cret" not in result.stdout
    assert "problems: 1" in result.stdout
