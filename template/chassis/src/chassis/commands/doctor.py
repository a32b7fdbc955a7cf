"""The examination of a service's settings, database and schema: what is wrong, and what to set."""

import asyncio
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from .. import __version__
from ..db.address.sources import variables_of
from ..db.address.urls import DatabaseTarget
from ..db.borrowed import describe_fallbacks
from ..db.engines import create_probe_engine, uses_pgbouncer
from ..db.errors import DatabaseSettingsError, DatabaseUnavailableError
from ..db.migrations.connect import check_migration_connections
from ..db.migrations.invalid_indexes import find_invalid_indexes
from ..db.migrations.revisions import OTHER_DATABASE_ADVICE, SchemaState, read_code_revisions
from ..db.migrations.scripts import alembic_config, find_head
from ..db.postgres.connection_budget import ConnectionBudget, query_budget, required_connections
from ..db.postgres.options import ENCODING_ADVICE, encoding_warning
from ..db.readiness import DatabaseProbe
from ..db.sqlite.pragmas import version_warning
from ..settings import ChassisSettings
from .exposure import TLS_ADVICE, is_local
from .job_findings import examine_jobs
from .report import Finding, Level, Report
from .variables import find_warnings, source_of

_POOL_ADVICE = (
    "lower APP_DATABASE_POOL_SIZE, APP_DATABASE_READ_POOL_SIZE or APP_SERVER_WORKERS, raise the "
    "server's max_connections, or put PgBouncer before it"
)
_DRIVERS = {"sqlite": ("aiosqlite",), "postgres": ("asyncpg", "psycopg"), "custom": ()}
_SECRET_NAME = re.compile("password|passwd|secret|token|credential|api_?key|private_?key|dsn")
_LOGIN_IN_URL = re.compile(r"(?<=://)[^/@\s]*@")
_MASK = "********"


def examine(settings: ChassisSettings, package: str) -> Report:
    """Examine everything that can be examined without changing anything.

    What does not answer is a finding; what depends on it is left out.
    """
    findings = list(_examine_settings(settings))
    file = Path(settings.database_target.url.database or "").resolve()
    is_sqlite = settings.database_target.backend == "sqlite"
    if is_sqlite:
        findings += _examine_file(settings, file)
    if not is_sqlite or file.is_file():
        findings += asyncio.run(_examine_databases(settings, package))
    findings += [Finding("warning", "packages", sentence) for sentence in describe_fallbacks()]
    return Report(list(_list_settings(settings)), findings)


def _list_settings(settings: ChassisSettings) -> Iterator[dict[str, str]]:
    for field in type(settings).model_fields:
        value = _mask_secrets(field, getattr(settings, field))
        name = variables_of(type(settings), field)[0]
        yield {"name": name, "value": value, "source": source_of(settings, field)}


def _mask_secrets(field: str, value: object) -> str:
    """Write a value without a secret, even if a service's own field is a plain string."""
    is_named = field not in ChassisSettings.model_fields and _SECRET_NAME.search(field)
    if value and (isinstance(value, SecretStr) or is_named):
        return _MASK
    return _LOGIN_IN_URL.sub(f"{_MASK}@", "" if value is None else str(value))


def _examine_settings(settings: ChassisSettings) -> Iterator[Finding]:
    packages = ("sqlalchemy", "alembic", "fastapi", *_DRIVERS[settings.database_target.backend])
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    yield Finding("ok", "versions", f"chassis {__version__}, Python {python_version()}, {versions}")
    yield Finding("ok", "database", settings.describe_database())
    for warning in (*settings.database_warnings, *find_warnings(type(settings))):
        yield Finding("warning", "settings", warning)


def _examine_file(settings: ChassisSettings, file: Path) -> Iterator[Finding]:
    folder = next(parent for parent in file.parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK) or (file.exists() and not os.access(file, os.W_OK)):
        advice = "make both writable, or name another file by APP_DATABASE_SQLITE_PATH"
        yield Finding("problem", "file", f"this user can't write {file} and its folder", advice)
    elif file.is_file():
        yield Finding("ok", "file", f"{file}, {file.stat().st_size:,} bytes, its folder writable")
    else:
        yield Finding("problem", "file", f"there is no {file}", "run the command migrate")
    if warning := version_warning(settings.server_workers * settings.server_replicas):
        yield Finding("warning", "SQLite", warning)
    else:
        yield Finding("ok", "SQLite", f"version {sqlite3.sqlite_version}")


async def _examine_databases(settings: ChassisSettings, package: str) -> list[Finding]:
    found: list[Finding] = []
    target, replica = settings.database_target, settings.database_read_target
    if await _collect(found, "database", _examine_connection(settings, target, "database")):
        await _collect(found, "schema", _examine_schema(settings, package))
        await _collect(found, "jobs", examine_jobs(settings))
    if replica is not target:
        await _collect(found, "replica", _examine_connection(settings, replica, "replica"))
    await _collect(found, "migrations", _examine_migrations(settings))
    return found


async def _collect(found: list[Finding], subject: str, findings: AsyncIterator[Finding]) -> bool:
    """Add the findings of one examination. Return whether it could be made."""
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


async def _examine_connection(
    settings: ChassisSettings, target: DatabaseTarget, subject: str
) -> AsyncIterator[Finding]:
    engine = create_probe_engine(settings, target)
    try:
        async with engine.connect() as connection:
            yield Finding("ok", subject, f"{engine.dialect.driver} connects to {target.masked}")
            if target.backend == "sqlite":
                yield await _examine_integrity(connection)
            if target.backend == "postgres":
                yield await _examine_server(connection, subject)
                yield await _examine_encoding(connection, f"{subject}, encoding")
                yield await _examine_tls(connection, target, f"{subject}, TLS")
    finally:
        await engine.dispose()
    if target.backend == "postgres":
        processes = settings.server_workers * settings.server_replicas
        counted = required_connections(settings, processes=processes)
        needed = next(count for one, count in counted if one is target)
        budget = await query_budget(settings, target, needed)
        yield _examine_pooler(settings, budget, f"{subject}, pooler")
        yield _examine_pool(budget, f"{subject}, pool")


async def _examine_integrity(connection: AsyncConnection) -> Finding:
    """Read every page of the file once."""
    found = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar_one()
    if found == "ok":
        return Finding("ok", "integrity", "no damage found (PRAGMA quick_check)")
    advice = "stop the service and restore a backup, or save what can be read: sqlite3 .recover"
    return Finding("problem", "integrity", found.partition("\n")[0], advice)


async def _examine_server(connection: AsyncConnection, subject: str) -> Finding:
    query = text("SELECT current_setting('server_version'), pg_is_in_recovery()")
    server, is_standby = (await connection.execute(query)).one()
    if is_standby and subject == "database":
        message = f"PostgreSQL {server}, a standby, which refuses writes"
        advice = "name the primary, or all servers with commas between"
        return Finding("problem", subject, message, advice)
    role = "standby" if is_standby else "primary"
    return Finding("ok", subject, f"PostgreSQL {server}, a {role}")


async def _examine_encoding(connection: AsyncConnection, subject: str) -> Finding:
    encoding = await connection.scalar(text("SHOW server_encoding"))
    if (warning := encoding_warning(encoding)) is None:
        return Finding("ok", subject, encoding)
    level: Level = "problem" if encoding == "SQL_ASCII" else "warning"
    return Finding(level, subject, warning, ENCODING_ADVICE)


async def _examine_tls(
    connection: AsyncConnection, target: DatabaseTarget, subject: str
) -> Finding:
    """Ask the server for the protocol; what the driver verifies follows from `sslmode`."""
    query = text("SELECT version FROM pg_stat_ssl WHERE ssl AND pid = pg_backend_pid()")
    if (protocol := await connection.scalar(query)) is None:
        if all(is_local(host) for host, _ in target.hosts):
            return Finding("ok", subject, "none, and none is needed within one machine")
        message = "none: whoever is in between reads along"
        return Finding("warning", subject, message, TLS_ADVICE)
    authority = target.parameters.get("sslrootcert")
    mode = target.parameters.get("sslmode", os.environ.get("PGSSLMODE"))
    if mode == "verify-full" or authority == "system":
        return Finding("ok", subject, f"{protocol}, the server's certificate is verified")
    # With an authority `require` is verify-ca, to both drivers.
    is_signed = mode == "verify-ca" or (mode == "require" and authority is not None)
    unverified = "the server's name" if is_signed else "the server's certificate"
    message = f"{protocol}, but {unverified} is not verified"
    return Finding("warning", subject, message, TLS_ADVICE)


def _examine_pooler(settings: ChassisSettings, budget: ConnectionBudget, subject: str) -> Finding:
    match budget.pooled, uses_pgbouncer(settings, budget.target):
        case True, False:
            message = "a transaction pooler, which breaks prepared statements"
            return Finding("problem", subject, message, "set APP_DATABASE_PGBOUNCER=true")
        case False, True:
            message = "none in transaction mode, and no statement is prepared for that reason"
            return Finding("warning", subject, message, "unset APP_DATABASE_PGBOUNCER")
        case _:
            return Finding(
                "ok", subject, "in transaction mode, as set" if budget.pooled else "none"
            )


def _examine_pool(budget: ConnectionBudget, subject: str) -> Finding:
    message = f"up to {budget.needed} connections"
    if budget.pooled:
        return Finding("ok", subject, f"{message}, which the pooler shares")
    message = f"{message} of {budget.allowed} that the server allows"
    if budget.fits:
        return Finding("ok", subject, message)
    return Finding("warning", subject, message, _POOL_ADVICE)


async def _examine_schema(settings: ChassisSettings, package: str) -> AsyncIterator[Finding]:
    head = find_head(alembic_config(package, settings))
    code = await asyncio.to_thread(read_code_revisions, package, settings)
    probe = DatabaseProbe(settings, package)
    try:
        yield _compare_schema(await probe.compare(code), head)
    finally:
        await probe.dispose()


def _compare_schema(state: SchemaState, head: str) -> Finding:
    at = f"at {state.shown}"
    match state.age:
        case "current":
            return Finding("ok", "schema", f"{at}, as the code needs it")
        case "newer":
            return Finding("ok", "schema", f"{at}, which is newer than the code")
        case "behind":
            message = f"{at}, and the code needs {head}"
            return Finding("problem", "schema", message, "run the command migrate")
        case "foreign":
            message = f"{at}, which this code does not have, and none of its tables is there"
            return Finding("problem", "schema", message, OTHER_DATABASE_ADVICE)


async def _examine_migrations(settings: ChassisSettings) -> AsyncIterator[Finding]:
    driver = await asyncio.to_thread(check_migration_connections, settings)
    message = f"{driver} connects to {settings.database_migration_target.masked}"
    yield Finding("ok", "migrations", message)
    for fault, cure in await asyncio.to_thread(find_invalid_indexes, settings):
        yield Finding("problem", "index", fault, cure)
