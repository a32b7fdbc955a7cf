"""The guide's page of commands and settings of one's own: a service that has its text."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from chassis import ChassisSettings

from tests.conftest import Render
from tests.postgres import Postgres
from tests.pythons import RUNNING, find_python
from tests.repository import ROOT
from tests.service import Finished, Service

PAGE = (ROOT / "template/chassis/docs/commands.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`((?:src|tests)/[\w/]+\.py)`[^\n]*:\n\n```python\n(.*?)^```", re.M | re.S)
TOKEN = "s3cret-token"
MISSING = "APP_API_TOKEN: must be set, it has no default"


@pytest.fixture(scope="module")
def installed(rendered: Render, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A render with the files of the page."""
    folder = tmp_path_factory.mktemp("commands") / "service"
    shutil.copytree(rendered(), folder)
    files = dict(FILE.findall(PAGE))
    assert len(files) == len(re.findall("^ *```python", PAGE, re.M))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return Service(folder, find_python(RUNNING)).install()


@pytest.fixture
def service(installed: Service, tmp_path: Path) -> Service:
    """The service with a SQLite file of the test's own, and no token."""
    return installed.with_environment(APP_DATABASE_SQLITE_PATH=str(tmp_path / "app.db"))


def test_it_is_formatted_linted_and_typed(service: Service) -> None:
    for check in (["ruff", "format", "--check"], ["ruff", "check"], ["mypy"]):
        service.run(*check).check()


def test_its_tests_pass_without_the_setting(service: Service, postgres: Postgres) -> None:
    for database in ("sqlite", postgres.url(postgres.create_database())):
        service.run("pytest", "--quiet", "--database", database).check()


def test_its_commands_name_the_setting_but_migrate(service: Service) -> None:
    service.cli("migrate").check()
    for command in ("cleanup", "doctor", "serve", "dev"):
        finished = service.cli(command)
        assert finished.code == 2, finished.output
        assert MISSING in finished.output


def test_it_works_with_the_setting_and_shows_it_to_nobody(service: Service) -> None:
    service = service.with_environment(APP_API_TOKEN=TOKEN)
    said = [service.cli(command).check() for command in ("migrate", "cleanup", "doctor")]
    assert "0 items deleted" in said[1]
    document = f"from {service.package}.main import create_service as c; c().openapi()"
    said.append(service.run("python", "-c", document).check())
    assert TOKEN not in "".join(said)
    with service.serve() as client:
        assert client.get("/readyz").status_code == 200


def test_compose_asks_for_the_setting(service: Service) -> None:
    """The line of `compose.yaml` that shows how, with the setting's name."""
    file = service.folder / "compose.yaml"
    shown = file.read_text(encoding="utf-8")
    file.write_text(
        re.sub(r"# .*(APP_NAME: .*)", r"\1", shown).replace("APP_NAME", "APP_API_TOKEN")
    )
    config = [sys.executable, "-m", "podman_compose", "--file", str(file), "config"]
    variables = service.variables()
    missing = Finished.of(config, service.folder, variables)
    assert missing.code != 0
    assert "required variable APP_API_TOKEN is missing a value" in missing.output
    given = Finished.of(config, service.folder, variables | {"APP_API_TOKEN": TOKEN})
    assert f"APP_API_TOKEN: {TOKEN}" in given.check()


def test_compose_runs_the_worker_that_the_page_shows(service: Service) -> None:
    (shown,) = re.findall("^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    files = [service.folder / name for name in ("compose.yaml", "compose.postgres.yaml")]
    text = files[1].read_text(encoding="utf-8")
    files[1].write_text(text.replace("\n  database:\n", f"\n{shown}\n  database:\n", 1))
    chosen = [part for file in files for part in ("--file", str(file))]
    config = [sys.executable, "-m", "podman_compose", *chosen, "config"]
    variables = service.variables() | {"APP_API_TOKEN": TOKEN}
    said = Finished.of(config, service.folder, variables).check()
    worker = yaml.safe_load(said)["services"]["worker"]
    assert worker["healthcheck"] == {"disable": True}
    assert worker["environment"]["APP_DATABASE_BACKEND"] == "postgres"
    assert worker["environment"]["APP_DATABASE_POOL_SIZE"] == "2"
    service_of_the_template = yaml.safe_load(said)["services"]["service"]
    for hardened in ("read_only", "tmpfs", "cap_drop", "security_opt", "restart"):
        assert worker[hardened] == service_of_the_template[hardened]
    grace = ChassisSettings().server_graceful_timeout_seconds
    assert int(worker["stop_grace_period"].removesuffix("s")) > grace


def test_uv_adds_nothing_to_what_a_command_says_where_it_is_told_to(service: Service) -> None:
    next(service.folder.glob("src/*/main.py")).touch()
    service = service.with_environment(VIRTUAL_ENV=sys.prefix)
    said = service.uv("run", "--quiet", service.name, "--version").check()
    assert re.fullmatch(r"my-service [\d.]+, chassis [\d.]+\n", said)


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("compose.yaml", "APP_NAME: ${APP_NAME:?}"),
        (".github/workflows/ci.yml", "--env APP_NAME=for-ci"),
        ("tests/conftest.py", 'partial(Settings, api_token="for-tests")'),
        ("src/my_service/settings.py", "chassis/docs/commands.md"),
    ],
)
def test_each_file_that_needs_a_value_shows_how(rendered: Render, file: str, place: str) -> None:
    text = (rendered() / file).read_text(encoding="utf-8")
    assert place in text
