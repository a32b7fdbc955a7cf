"""The rendered service as its team meets it: its own checks, its commands, and HTTP."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests import team_code
from tests.conftest import Render
from tests.postgres import PASSWORD, Postgres
from tests.project import Project
from tests.pythons import RUNNING, VERSIONS, find_python
from tests.releases import once
from tests.scale import FULL
from tests.service import UV, Finished, Service

Install = Callable[[str, str], Service]
OTHER = next(version for version in VERSIONS if version != RUNNING)
NEWEST = VERSIONS[-1]
ENGINES = ("sqlite", "postgres")
ANSWERS: dict[str, dict[str, str | bool]] = {
    "defaults": {},
    "names": {"project_name": "Acme Billing API", "package_name": "billing"},
    "no-example": {"include_example": False},
}
ALL = [(answers, version) for answers in ANSWERS for version in VERSIONS]
SOME = [("defaults", RUNNING), ("names", OTHER), ("no-example", RUNNING)]
if NEWEST not in (RUNNING, OTHER):
    SOME.append(("defaults", NEWEST))
# The chassis's own tests: it is the same bytes whatever the answers are, so each has a Python.
CHASSIS_ALL = [
    (*pair, engine) for pair in zip(ANSWERS, VERSIONS, strict=True) for engine in ENGINES
]
CHASSIS_SOME = [("defaults", RUNNING, "postgres"), ("names", OTHER, "sqlite")]
if NEWEST not in (RUNNING, OTHER):
    CHASSIS_SOME += [("defaults", NEWEST, engine) for engine in ENGINES]
IN_ONE_PROCESS = (
    "import sys; from alembic.config import main; [*map(main, map(str.split, sys.argv[1:]))]"
)
ITEM = {"name": "Pencil", "quantity": 3, "price": "1.50"}


@pytest.fixture(scope="session")
def install(rendered: Render, shared: Path) -> Install:
    """Install a render with some answers on a Python, once for the whole run."""

    def install_once(answers: str, version: str) -> Service:
        python = find_python(version)

        def make(folder: Path) -> None:
            shutil.copytree(rendered(**ANSWERS[answers]), folder)
            Service(folder, python).install()

        folder = once(shared / "services" / f"{answers}-{version}", make)
        return Service(folder, python)

    return install_once


@pytest.fixture(params=ALL if FULL else SOME, ids="-".join)
def service(request: pytest.FixtureRequest, install: Install, tmp_path: Path) -> Service:
    """A service for each kind of answers, on a Python, with a SQLite file of the test's own."""
    return install(*request.param).with_environment(
        APP_DATABASE_SQLITE_PATH=str(tmp_path / "app.db")
    )


@pytest.fixture
def default(install: Install, tmp_path: Path) -> Service:
    """The service of the default answers, with a SQLite file of the test's own."""
    return install("defaults", RUNNING).with_environment(
        APP_DATABASE_SQLITE_PATH=str(tmp_path / "data" / "app.db")
    )


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest, postgres: Postgres) -> dict[str, str]:
    """The variables of an empty database: none for SQLite, which needs none."""
    if request.param == "sqlite":
        return {}
    return {"APP_DATABASE_URL": postgres.url(postgres.create_database())}


def test_its_code_is_formatted_linted_and_typed(service: Service) -> None:
    """The chassis too, but for its types: they need every extra, and are checked in place."""
    # What mypy knows of packages is one for each Python: in the small size it learns it once.
    service.run("mypy", *([] if FULL else ["--python-version", RUNNING])).check()
    for folder in (".", "chassis"):
        for check in ("format --check", "check"):
            tool = ["run", "--no-sync", "--project", str(service.folder), "ruff", *check.split()]
            service.uv(*tool, folder=folder).check()


def test_its_tests_pass_on_sqlite(service: Service) -> None:
    service.run("pytest", "--quiet", "--database", "sqlite").check()


def test_its_tests_pass_on_postgres(service: Service, postgres: Postgres) -> None:
    url = postgres.url(postgres.create_database())
    service.run("pytest", "--quiet", "--database", url).check()


def test_its_tests_pass_on_the_embedded_postgres_and_several_workers(default: Service) -> None:
    default.run("pytest", "--quiet", "--database", "postgres", "--numprocesses", "2").check()


@pytest.mark.parametrize(("answers", "version", "database"), CHASSIS_ALL if FULL else CHASSIS_SOME)
def test_the_tests_of_the_chassis_pass(
    install: Install, pytestconfig: pytest.Config, answers: str, version: str, database: str
) -> None:
    # Outlives the service: a run of what failed last runs here what failed of these, too.
    cache = pytestconfig.cache.mkdir(f"chassis-{answers}-{version}-{database}")
    options = ["--quiet", "--database", database, "-o", f"cache_dir={cache}"]
    if pytestconfig.getoption("lf"):
        options.append("--last-failed")
    else:
        # Most of them wait, for a timer or a process.
        options += ["--numprocesses", "2"]
    if database == "postgres" and not FULL:
        # What takes no database has run beside SQLite.
        options += ["-m", "database"]
    install(answers, version).run("pytest", "chassis", *options).check()


def test_its_migrations_go_up_and_down_and_match_its_models(
    service: Service, backend: dict[str, str]
) -> None:
    service = service.with_environment(**backend)
    run_alembic(service, "upgrade head", "check", "downgrade base", "upgrade head", "check")
    assert service.run("alembic", "heads").check().count("(head)") == 1


def run_alembic(service: Service, *commands: str) -> None:
    """Run commands of Alembic, each in a process of its own where everything is run."""
    if FULL:
        for command in commands:
            service.run("alembic", *command.split()).check()
    else:
        service.run("python", "-c", IN_ONE_PROCESS, *commands).check()


def test_it_serves(service: Service, backend: dict[str, str]) -> None:
    service = service.with_environment(**backend)
    service.cli("migrate").check()
    with service.serve() as client:
        for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200, path


@pytest.mark.parametrize("way", ["sqlite", "fields", "url", "platform url"])
def test_its_example_works_on_each_database(default: Service, postgres: Postgres, way: str) -> None:
    """One and the same service: the variables alone decide where its rows are."""
    database = postgres.create_database()
    ways = {
        "sqlite": {},
        "fields": postgres.fields(database),
        "url": {"APP_DATABASE_URL": postgres.url(database, scheme="postgres")},
        "platform url": {"DATABASE_URL": postgres.url(database)},
    }
    service = default.with_environment(**ways[way])
    service.cli("migrate").check()
    with service.serve() as client:
        check_items(client)
    rows = "SELECT name FROM items"
    if way == "sqlite":
        assert Path(service.environment["APP_DATABASE_SQLITE_PATH"]).is_file()
    else:
        assert postgres.execute(rows, database) == "Pencil"


def check_items(client: httpx2.Client) -> None:
    """Create an item and read it back."""
    created = client.post("/items", json=ITEM)
    assert created.status_code == 201, created.text
    assert ITEM.items() <= created.json().items()
    read = client.get(f"/items/{created.json()['id']}")
    assert (read.status_code, read.json()) == (200, created.json())


def test_it_is_not_ready_before_its_migrations(default: Service) -> None:
    with default.serve() as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 503


def test_rows_survive_a_restart(default: Service) -> None:
    default.cli("migrate").check()
    with default.serve() as client:
        check_items(client)
    with default.serve() as client:
        assert [item["name"] for item in client.get("/items").json()] == ["Pencil"]


def test_a_new_model_gets_a_clean_revision_that_applies_on_both(
    rendered: Render, postgres: Postgres, tmp_path: Path
) -> None:
    folder = shutil.copytree(rendered(), tmp_path / "service")
    project = Project(folder, folder)
    project.write("@/models/order.py", team_code.ORDER)
    project.replace(
        "@/models/__init__.py", "import Item\n", "import Item\nfrom .order import Order\n"
    )
    project.replace("@/models/__init__.py", '"Item"]', '"Item", "Order"]')
    service = Service(folder, find_python(RUNNING)).install()
    service.cli("migrate").check()
    service.run("alembic", "revision", "--autogenerate", "-m", "add orders").check()
    for check in (["ruff", "format", "--check"], ["ruff", "check"], ["mypy"]):
        service.run(*check).check()
    url = postgres.url(postgres.create_database())
    for environment in ({}, {"APP_DATABASE_URL": url}):
        commands = ("upgrade head", "check", "downgrade base", "upgrade head")
        run_alembic(service.with_environment(**environment), *commands)


BAD_URLS = {
    "an unknown option": "postgres://team:s3cret@localhost/shop?colour=red",
    "no colon": "postgres//team:s3cret@localhost/shop",
    "a port that is no number": "postgres://team:pass@localhost:s3cret/shop",
    "an unknown dialect": "mongodb://team:s3cret@localhost/shop",
    "a database in memory": "sqlite://",
    "a database in memory, by its name": "sqlite:///:memory:",
}
BAD = {
    "an unknown backend": {"APP_DATABASE_BACKEND": "oracle"},
    "custom without a URL": {"APP_DATABASE_URL": "", "APP_DATABASE_BACKEND": "custom"},
    "postgres without a password": {
        "APP_DATABASE_POSTGRES_PASSWORD": "",
        "APP_DATABASE_BACKEND": "postgres",
    },
    **{f"a URL with {what}": {"APP_DATABASE_URL": url} for what, url in BAD_URLS.items()},
    "a platform's URL with an unknown option": {"DATABASE_URL": BAD_URLS["an unknown option"]},
    "a folder that can't be made": {"APP_DATABASE_SQLITE_PATH": "pyproject.toml/app.db"},
}
BAD_PORTS = {
    "a port that is no number": {"APP_SERVER_PORT": "eighty"},
    "a platform's port that is no number": {"PORT": "eighty"},
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_database_is_one_readable_message(default: Service, what: str) -> None:
    service = default.with_environment(**BAD[what])
    for command in ("migrate", "serve") if FULL else ("migrate",):
        check_that_it_is_refused(service, command, next(iter(BAD[what])))


@pytest.mark.parametrize("what", BAD_PORTS)
def test_a_bad_port_is_one_readable_message(default: Service, what: str) -> None:
    service = default.with_environment(**BAD_PORTS[what])
    check_that_it_is_refused(service, "serve", next(iter(BAD_PORTS[what])))


@pytest.mark.parametrize("command", ["migrate", "serve"])
def test_a_folder_that_can_not_be_written_is_one_readable_message(
    default: Service, command: str
) -> None:
    service = default.with_environment(APP_DATABASE_SQLITE_PATH="/proc/app.db")
    check_that_it_is_refused(service, command, "APP_DATABASE_SQLITE_PATH")


def check_that_it_is_refused(service: Service, command: str, variable: str) -> None:
    """Run a command and see it stop, name the variable, and give nothing away."""
    finished = service.cli(command)
    assert finished.code != 0, finished.output
    assert variable in finished.output
    assert "Traceback" not in finished.output
    assert "s3cret" not in finished.output
    assert len(finished.output.splitlines()) < 10, finished.output


ENTRIES = {
    "migrate": ("{name}", "migrate"),
    "alembic": ("alembic", "-c", "{folder}/alembic.ini", "upgrade", "head"),
    "the factory": ("python", "-c", "from {package}.main import create_service as c; c()"),
    "uvicorn": ("uvicorn", "--factory", "{package}.main:create_service"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_wrong_line_in_dotenv_stops_every_entry_before_anything_opens(
    default: Service, entry: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(
        "APP_LOG_LEVEL=INFO\nAPP_DATABASE_URL: postgres://a:s3cret@h/b\n"
    )
    names = {"name": default.name, "folder": default.folder, "package": default.package}
    command = [part.format(**names) for part in ENTRIES[entry]]
    project = [UV, "run", "--no-sync", "--project", str(default.folder)]
    finished = Finished.of([*project, *command], tmp_path, default.variables())
    assert finished.code == (2 if entry in ("migrate", "alembic") else 1)
    assert ".env, line 2: is no assignment; write NAME=value" in finished.output
    assert "s3cret" not in finished.output
    assert not (tmp_path / "data").exists()


def test_coverage_sees_the_lines_after_an_await(default: Service, tmp_path: Path) -> None:
    report = tmp_path / "coverage.json"
    service = default.with_environment(COVERAGE_FILE=str(tmp_path / "coverage"))
    tests = ("pytest", "--quiet", "--cov", f"--cov-report=json:{report}")
    service.uv("run", "--no-sync", "--with", "pytest-cov", *tests).check()
    files = json.loads(report.read_text())["files"]
    [items] = [file for name, file in files.items() if name.endswith("routers/items.py")]
    handlers = ("create_item", "list_items", "read_item", "change_item", "delete_item")
    missed = {name: items["functions"][name]["missing_lines"] for name in handlers}
    assert not any(missed.values()), missed


def test_an_unknown_variable_is_a_warning(default: Service) -> None:
    said = default.with_environment(APP_DATABSE_URL="x").cli("migrate").check()
    assert "APP_DATABSE_URL" in said
    assert "APP_DATABASE_URL" in said


def test_help_needs_no_good_settings(default: Service) -> None:
    broken = default.with_environment(APP_DATABASE_BACKEND="oracle", APP_SERVER_PORT="x")
    said = broken.cli("--help").check()
    assert all(command in said for command in ("serve", "migrate", "dev"))


def test_its_command_runs_as_a_module_too(service: Service) -> None:
    said = service.run("python", "-m", service.package, "--version").check()
    assert f"python -m {service.package}" in said


def test_no_output_holds_the_password(default: Service, postgres: Postgres) -> None:
    fields = postgres.fields(postgres.create_database())
    service = default.with_environment(**fields, APP_LOG_LEVEL="DEBUG")
    assert PASSWORD not in service.cli("migrate").check()
    wrong = service.with_environment(APP_DATABASE_POSTGRES_PASSWORD="s3cret").cli("migrate")
    assert wrong.code != 0
    assert "s3cret" not in wrong.output
