"""No secret in any output: every error is provoked, at debug level, with a marked password."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.postgres import HOST, free_port
from tests.scale import FULL

from .bank import Bank, Serving
from .embedded import embedded, start_again
from .servers import Cluster

MARK = "hush4711"
# Characters that end a part of a URL where they are not encoded.
PASSWORD = f"{MARK}@/:?#%41 &=x"
ENCODED = quote(PASSWORD, safe="")
ROW = "row4711"
COMMANDS = ("migrate", "doctor", "serve") if FULL else ("migrate",)
WRONG = ("unique", "not-null", "statement", "type", "timeout", "lazy", "uncommitted", "bug")


@dataclass
class Everything:
    """What was said by anyone, and what it was said about."""

    said: dict[str, str] = field(default_factory=dict)

    def run(self, what: str, bank: Bank, *arguments: str, code: int) -> None:
        """Run a command, which must end as expected."""
        done = bank.run(*arguments)
        assert done.returncode == code, f"{what}: {done.returncode}\n{done.stdout}"
        self.said[what] = done.stdout

    def with_the_mark(self) -> list[str]:
        """Name what printed it."""
        return [what for what, output in self.said.items() if MARK in output]


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """A server with a role of the marked password, which this test stops."""
    with embedded() as made:
        made.execute(f"CREATE ROLE marked LOGIN PASSWORD '{PASSWORD}'")
        yield made


@pytest.fixture
def marked(server: Cluster, tmp_path: Path) -> Bank:
    """The bank of that role; everything that can be said is said."""
    name = server.create_database()
    server.execute(f"ALTER DATABASE {name} OWNER TO marked")
    return Bank(f"postgresql://marked:{ENCODED}@{HOST}:{server.port}/{name}", tmp_path).set(
        APP_DATABASE_ECHO="true",
        APP_DATABASE_CONNECT_TIMEOUT_SECONDS="2",
        APP_DATABASE_POOL_SIZE="1",
        APP_DATABASE_POOL_TIMEOUT="1",
        APP_DATABASE_STATEMENT_TIMEOUT_SECONDS="1",
        APP_DATABASE_WAIT_SECONDS="1",
        APP_LOG_LEVEL="DEBUG",
        APP_MAIL_API_KEY=MARK,
    )


def test_no_command_prints_the_password(marked: Bank, server: Cluster) -> None:
    everything = Everything()
    url = marked.url
    run = everything.run
    run("migrate", marked, "migrate", code=0)
    run("doctor", marked, "doctor", code=0)
    run("doctor, for programs", marked, "doctor", "--json", code=0)
    run("a rehearsal that may not be", marked, "migrate", "--check", code=2)
    broken = marked.copied()
    broken.add_revision("2", f"op.execute(\"SELECT '{ROW}' FROM nowhere\")")
    run("a revision that fails", broken, "migrate", code=1)
    for what, wrong in {
        "another database": url + "x",
        "a wrong password": url.replace(":hush", ":no-hush"),
        "a server that is away": url.replace(f":{server.port}", f":{free_port()}"),
    }.items():
        bank = Bank(wrong, marked.folder, marked.environment)
        run(what, bank, "migrate", code=1)
        run(f"{what}, waiting", bank, "migrate", "--wait", code=1)
        run(f"{what}, the doctor", bank, "doctor", code=1)
    assert everything.with_the_mark() == []


def test_no_refused_setting_prints_the_password(marked: Bank, server: Cluster) -> None:
    everything = Everything()
    url = marked.url
    fields = {"APP_DATABASE_URL": "", "APP_DATABASE_BACKEND": "postgres"}
    password = {"APP_DATABASE_POSTGRES_PASSWORD": PASSWORD}
    refused = {
        "not encoded": {"APP_DATABASE_URL": url.replace(ENCODED, PASSWORD)},
        "an unknown option": {"APP_DATABASE_URL": f"{url}?passwrd={ENCODED}"},
        "an option without a value": {"APP_DATABASE_URL": f"{url}?{ENCODED}"},
        "a bad port": {"APP_DATABASE_URL": url.replace(f":{server.port}", ":none")},
        "no scheme": {"APP_DATABASE_URL": url.removeprefix("postgresql://")},
        "another dialect": {"APP_DATABASE_URL": url.replace("postgresql", "mysql+nothing")},
        "another driver": {"APP_DATABASE_URL": url.replace("postgresql", "postgresql+x")},
        "a bad mode": {"APP_DATABASE_URL": f"{url}?sslmode={MARK}"},
        "as the backend": {"APP_DATABASE_BACKEND": MARK},
        "as the port": fields | password | {"APP_DATABASE_POSTGRES_PORT": MARK},
        "twice": fields | password | {"APP_DATABASE_POSTGRES_PASSWORD_FILE": "/dev/null"},
        "a replica elsewhere": {"APP_DATABASE_READ_URL": f"mysql://a:{ENCODED}@b/c"},
        "as a number": {"APP_DATABASE_POOL_SIZE": MARK},
        "as a provider": {"APP_DATABASE_PASSWORD_PROVIDER": f"{MARK} x"},
    }
    for what, variables in refused.items():
        for command in COMMANDS:
            everything.run(f"{what}, {command}", marked.set(**variables), command, code=2)
    assert everything.with_the_mark() == []


def test_no_error_of_a_request_prints_the_password(marked: Bank, server: Cluster) -> None:
    everything = Everything()

    async def provoke(service: Serving) -> None:
        async def ask(what: str, path: str, status: int) -> None:
            # By a connection of its own: the server closes one after a bug.
            response = await service.get(path)
            everything.said[what] = response.text
            assert response.status_code == status, f"{what}: {response.status_code}"
            assert ROW not in response.text

        expected = {"unique": 409, "timeout": 504, "uncommitted": 200}
        for what in WRONG:
            await ask(what, f"/wrong/{what}?secret={ROW}", expected.get(what, 500))
        await ask("a write by a read session", f"/refused?secret={ROW}", 500)
        held = asyncio.create_task(service.get("/slow?seconds=3"))
        await asyncio.sleep(0.5)
        await ask("no connection is free", "/slow?seconds=0", 503)
        await held
        await asyncio.to_thread(server.stop)
        await ask("the server is away", "/count", 503)
        await ask("the server is away, readiness", "/readyz", 503)
        await asyncio.to_thread(start_again, server)

    assert marked.run("migrate").returncode == 0
    with marked.serving() as service:
        asyncio.run(provoke(service))
    log = service.log.read_text()
    everything.said["the log"] = log

    assert everything.with_the_mark() == []
    # That there was something to hide it in.
    assert "SELECT" in log
    assert "Traceback" in log
    assert "ended without committing" in log
    assert "was not loaded with its object" in log
    assert "the database does not answer" in log
