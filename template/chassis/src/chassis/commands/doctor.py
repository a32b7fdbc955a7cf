"""The examination of a service's settings, database and schema: what is wrong, and what to set."""

import asyncio
import os
import re
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from statistics import median

from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from .. import __version__
from ..db.address.sources import variables_of
from ..db.address.urls import DatabaseTarget
from ..db.engines import create_probe_engine, uses_pgbouncer
from ..db.errors import DatabaseSettingsError, DatabaseUnavailableError
from ..db.migrations.connect import check_migration_connections
from ..db.migrations.invalid_indexes import find_invalid_indexes
from ..db.migrations.revisions import (
    OTHER_DATABASE_ADVICE,
    SchemaState,
    read_code_revisions,
)
from ..db.migrations.scripts import alembic_config, find_head
from ..db.postgres.connection_budget import ConnectionBudget, query_budget, required_connections
from ..db.postgres.options import ENCODING_ADVICE, encoding_warning
from ..db.readiness import DatabaseProbe
from ..db.sqlite.pragmas import version_warning
from ..settings import ChassisSettings
from .report import Finding, Level, Report
from .variables import find_warnings, source_of

GIBIBYTE = 1024**3

_TLS = "set APP_DATABASE_POSTGRES_SSLMODE=verify-full and APP_DATABASE_POSTGRES_SSLROOTCERT"
_FEWER = (
    "lower APP_DATABASE_POOL_SIZE, APP_DATABASE_READ_POOL_SIZE or APP_SERVER_WORKERS, raise the "
    "server's max_connections, or put PgBouncer before it"
)
_DRIVERS = {"sqlite": ("aiosqlite",), "postgres": ("asyncpg", "psycopg"), "custom": ()}
_SECRET_NAME = re.compile("password|passwd|secret|token|credential|api_?key|private_?key|dsn")
_IN_URL = re.compile(r"(?<=://)[^/@\s]*@")
_HIDDEN = "********"


def examine(settings: ChassisSettings, package: str) -> Report:
    """Look at everything that can be looked at without changing anything.

    What does not answer is a finding; what depends on it is left out.
    """
    findings = list(_settings_findings(settings))
    file = Path(settings.database_target.url.database or "").resolve()
    is_sqlite = settings.database_target.backend == "sqlite"
    if is_sqlite:
        findings += _file_findings(settings, file)
    if not is_sqlite or file.is_file():
        findings += asyncio.run(_look(settings, package))
    return Report(list(_values(settings)), findings)


def _values(settings: ChassisSettings) -> Iterator[dict[str, str]]:
    for field in type(settings).model_fields:
        value = _shown(field, getattr(settings, field))
        name = variables_of(type(settings), field)[0]
        yield {"name": name, "value": value, "source": source_of(settings, field)}


def _shown(field: str, value: object) -> str:
    """Write a value without a secret, also where a service's own field is a plain string."""
    is_named = field not in ChassisSettings.model_fields and _SECRET_NAME.search(field)
    if value and (isinstance(value, SecretStr) or is_named):
        return _HIDDEN
    return _IN_URL.sub(f"{_HIDDEN}@", "" if value is None else str(value))


def _settings_findings(settings: ChassisSettings) -> Iterator[Finding]:
    packages = ("sqlalchemy", "alembic", "fastapi", *_DRIVERS[settings.database_target.backend])
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    yield Finding("ok", "versions", f"chassis {__version__}, Python {python_version()}, {versions}")
    yield Finding("ok", "database", settings.describe_database())
    for warning in (*settings.database_warnings, *find_warnings(type(settings))):
        yield Finding("warning", "settings", warning)


async def _look(settings: ChassisSettings, package: str) -> list[Finding]:
    found: list[Finding] = []
    target = settings.database_target
    if await _add(found, "database", _connection_findings(settings, target)):
        await _add(found, "schema", _schema_findings(settings, package))
    if settings.database_read_target is not target:
        await _add(found, "replica", _connection_findings(settings, settings.database_read_target))
    await _add(found, "migrations", _migration_findings(settings))
    return found


async def _add(found: list[Finding], subject: str, findings: AsyncIterator[Finding]) -> bool:
    """Add what one examination finds; False where it could not be made."""
    try:
        async for finding in findings:
            found.append(finding)
    except DatabaseUnavailableError as error:
        advice = "check that it runs, that this host may reach it, and the variable above"
        found.append(Finding("problem", subject, str(error), advice))
    except (DatabaseSettingsError, CommandError, SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).partition("\n")[0]
        found.append(Finding("problem", subject, reason))
    else:
        return True
    return False


async def _connection_findings(
    settings: ChassisSettings, target: DatabaseTarget
) -> AsyncIterator[Finding]:
    subject = "database" if target is settings.database_target else "replica"
    engine = create_probe_engine(settings, target)
    try:
        started = time.perf_counter()
        async with engine.connect() as connection:
            opened = time.perf_counter() - started
            answered = await _latency(connection)
            says = f"{engine.dialect.driver} connects to {target.masked}"
            took = f"in {opened * 1000:.1f} ms, and a query takes {answered * 1000:.2f} ms"
            yield Finding("ok", subject, f"{says} {took}")
            if target.backend == "sqlite":
                yield await _integrity_finding(connection)
                async for finding in _pragma_findings(connection):
                    yield finding
            if target.backend == "postgres":
                yield await _server_finding(connection, subject)
                yield await _encoding_finding(connection, f"{subject}, encoding")
                yield await _tls_finding(connection, target, f"{subject}, TLS")
    finally:
        await engine.dispose()
    if target.backend == "postgres":
        processes = settings.server_workers * settings.server_replicas
        needed = [
            n for one, n in required_connections(settings, processes=processes) if one is target
        ]
        budget = await query_budget(settings, target, needed[0])
        for finding in _pool_findings(settings, budget, subject):
            yield finding


async def _latency(connection: AsyncConnection) -> float:
    took = []
    for _ in range(5):
        started = time.perf_counter()
        await connection.execute(text("SELECT 1"))
        took.append(time.perf_counter() - started)
    return median(took)


async def _server_finding(connection: AsyncConnection, subject: str) -> Finding:
    query = text("SELECT current_setting('server_version'), pg_is_in_recovery()")
    server, standby = (await connection.execute(query)).one()
    says = f"PostgreSQL {server}, a {'standby' if standby else 'primary'}"
    if standby and subject == "database":
        advice = "name the primary, or all servers with commas between"
        return Finding("problem", subject, f"{says}, which refuses writes", advice)
    return Finding("ok", subject, says)


async def _encoding_finding(connection: AsyncConnection, subject: str) -> Finding:
    encoding = await connection.scalar(text("SHOW server_encoding"))
    if (warning := encoding_warning(encoding)) is None:
        return Finding("ok", subject, encoding)
    level: Level = "problem" if encoding == "SQL_ASCII" else "warning"
    return Finding(level, subject, warning, ENCODING_ADVICE)


async def _tls_finding(
    connection: AsyncConnection, target: DatabaseTarget, subject: str
) -> Finding:
    """Tell what the server says of the connection, and what `sslmode` makes the driver verify."""
    query = text("SELECT version FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()")
    version = await connection.scalar(query)
    if version is None:
        if all(re.match(r"/|127\.|(localhost|::1)$", host) for host, _ in target.hosts):
            return Finding("ok", subject, "none, and none is needed within one machine")
        return Finding("warning", subject, "none: whoever is in between reads along", _TLS)
    authority = target.parameters.get("sslrootcert")
    mode = target.parameters.get("sslmode", os.environ.get("PGSSLMODE"))
    if mode == "verify-full" or authority == "system":
        return Finding("ok", subject, f"{version}, the server's certificate is verified")
    # With an authority `require` is verify-ca, to both drivers.
    is_signed = mode == "verify-ca" or (mode == "require" and authority is not None)
    what = "the server's name" if is_signed else "the server's certificate"
    return Finding("warning", subject, f"{version}, but {what} is not verified", _TLS)


def _pool_findings(
    settings: ChassisSettings, budget: ConnectionBudget, subject: str
) -> Iterator[Finding]:
    pooler, pool = f"{subject}, pooler", f"{subject}, pool"
    match budget.pooled, uses_pgbouncer(settings, budget.target):
        case True, False:
            says = "a transaction pooler, which breaks prepared statements"
            yield Finding("problem", pooler, says, "set APP_DATABASE_PGBOUNCER=true")
        case False, True:
            says = "none in transaction mode, and no statement is prepared for that reason"
            yield Finding("warning", pooler, says, "unset APP_DATABASE_PGBOUNCER")
        case _:
            yield Finding("ok", pooler, "in transaction mode, as set" if budget.pooled else "none")
    says = f"up to {budget.needed} connections"
    if budget.pooled:
        yield Finding("ok", pool, f"{says}, which the pooler shares")
    else:
        says += f" of {budget.allowed} that the server allows"
        yield Finding("ok" if budget.fits else "warning", pool, says, "" if budget.fits else _FEWER)


def _file_findings(settings: ChassisSettings, file: Path) -> Iterator[Finding]:
    folder = next(parent for parent in file.parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.W_OK)):
        advice = "make both writable, or name another file by APP_DATABASE_SQLITE_PATH"
        yield Finding("problem", "file", f"this user can't write {file} and its folder", advice)
    elif file.is_file():
        yield Finding("ok", "file", f"{file}, {file.stat().st_size:,} bytes, its folder writable")
    else:
        yield Finding("problem", "file", f"there is no {file}", "run the command migrate")
    free, advice = shutil.disk_usage(folder).free, "make room, or move the file"
    level: Level = "ok" if free > GIBIBYTE else "warning"
    yield Finding(level, "disk", f"{free / GIBIBYTE:.1f} GiB free", "" if level == "ok" else advice)
    warning = version_warning(settings.server_workers * settings.server_replicas)
    says = warning or f"version {sqlite3.sqlite_version}"
    yield Finding("warning" if warning else "ok", "SQLite", says)


async def _integrity_finding(connection: AsyncConnection) -> Finding:
    """Read every page of the file once."""
    found = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar_one()
    if found == "ok":
        return Finding("ok", "integrity", "no damage found (PRAGMA quick_check)")
    advice = "stop the service and restore a backup, or save what can be read: sqlite3 .recover"
    return Finding("problem", "integrity", found.partition("\n")[0], advice)


async def _pragma_findings(connection: AsyncConnection) -> AsyncIterator[Finding]:
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    ask = [await connection.exec_driver_sql(f"PRAGMA {name}") for name in names]
    journal, synchronous, foreign_keys, busy = (row.scalar_one() for row in ask)
    shown = f"{journal}, synchronous {synchronous}, foreign keys {foreign_keys}, busy after {busy}"
    yield Finding("ok", "pragmas", f"journal {shown} ms")
    for fine, name, says in (
        (journal == "wal", "JOURNAL_MODE", "readers and the writer wait for each other"),
        (synchronous > 0, "SYNCHRONOUS", "a power failure can damage the file"),
        (foreign_keys, "FOREIGN_KEYS", "references to rows that are not there are accepted"),
        (busy <= 5000, "BUSY_TIMEOUT", "a cancelled write may wait for longer than 5 seconds"),
    ):
        if not fine:
            yield Finding("warning", "pragmas", says, f"unset APP_DATABASE_SQLITE_{name}")


async def _schema_findings(settings: ChassisSettings, package: str) -> AsyncIterator[Finding]:
    head = find_head(alembic_config(package, settings))
    code = await asyncio.to_thread(read_code_revisions, package, settings)
    probe = DatabaseProbe(settings, package)
    try:
        state = await probe.compare(code)
    finally:
        await probe.dispose()
    yield _schema_finding(state, head)


def _schema_finding(state: SchemaState, head: str) -> Finding:
    at = f"at {state.shown}"
    match state.age:
        case "current":
            return Finding("ok", "schema", f"{at}, as the code needs it")
        case "newer":
            return Finding("ok", "schema", f"{at}, which is newer than the code")
        case "behind":
            says = f"{at}, and the code needs {head}"
            return Finding("problem", "schema", says, "run the command migrate")
        case "foreign":
            says = f"{at}, which this code does not have, and none of its tables is there"
            return Finding("problem", "schema", says, OTHER_DATABASE_ADVICE)


async def _migration_findings(settings: ChassisSettings) -> AsyncIterator[Finding]:
    driver = await asyncio.to_thread(check_migration_connections, settings)
    says = f"{driver} connects to {settings.database_migration_target.masked}"
    yield Finding("ok", "migrations", says)
    for fault, cure in await asyncio.to_thread(find_invalid_indexes, settings):
        yield Finding("problem", "index", fault, cure)
