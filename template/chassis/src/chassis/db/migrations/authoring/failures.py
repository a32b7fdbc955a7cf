"""Failures of migrations in words: which revision, why, and what to write instead."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import CompileError, DBAPIError

from ...errors import sqlstate
from ..scripts import read_revisions
from ..sql_text import NAME, blank_literals, unquote_name

if TYPE_CHECKING:
    from alembic.config import Config

_LONGEST_NAME = 63  # bytes, PostgreSQL's NAMEDATALEN - 1
_LONGEST_REVISION = 32  # Alembic's version table

_OTHER_ENGINE = (
    "the engines differ here: branch on op.get_bind().dialect.name; --database leaves one out"
)
_UNDEFINED_FUNCTION, _UNDEFINED_OBJECT = "42883", "42704"
_CURES = {
    "42P07": "PostgreSQL keeps the names of constraints, indexes and sequences of a renamed table: "
    'rename them in that revision, op.execute("ALTER TABLE … RENAME CONSTRAINT … TO …")',
    "42710": "drop it in the downgrade, or create it only once: "
    'op.execute("DROP TYPE …") for an enum',
    _UNDEFINED_FUNCTION: _OTHER_ENGINE,
    _UNDEFINED_OBJECT: _OTHER_ENGINE,
    "42601": _OTHER_ENGINE,
    "42804": 'say how what is stored becomes the new type: postgresql_using="column::type" in '
    "alter_column, which SQLite leaves out",
    "22001": "a revision's id may have 32 characters, which SQLite does not count",
}
# What PostgreSQL says if an extension is missing, and which.
_EXTENSIONS = {
    'access method "gist"': "btree_gist",
    'access method "gin"': "btree_gin",
    "gin_trgm_ops": "pg_trgm",
    "gist_trgm_ops": "pg_trgm",
    "similarity(": "pg_trgm",
    'type "citext"': "citext",
    'type "hstore"': "hstore",
    'type "vector"': "vector",
    'type "geometry"': "postgis",
    "uuid_generate_v": "uuid-ossp",
}
_UNAVAILABLE_EXTENSION = (
    "this server has no such extension: install it, or name a server that has it: --database URL, "
    "or APP_ALEMBIC_DATABASE_URL"
)
_SQLITE_LACKS = ("no such function", "syntax error", "no such collation")


def describe_failure(error: Exception, config: "Config") -> str:
    """Return the place, the reason and the cure of a step's error, to follow "fails"."""
    place = _find_revision_line(traceback.extract_tb(error.__traceback__), config)
    return f"{place}: {_describe_reason(error)}" + (
        f": {cure}" if (cure := _find_cure(error)) else ""
    )


def describe_load_failure(error: Exception) -> str:
    """Return why `env.py`, the models or a revision can't be imported, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    files = [frame for frame in frames if not frame.filename.startswith("<")]
    place = f" in {Path(files[-1].filename).name}, line {files[-1].lineno}" if files else ""
    return f"the migrations can't be loaded{place}: {_describe_reason(error)}"


def check_revision_names(config: "Config") -> Iterator[str]:
    """Yield a line for each revision whose id the version table can't hold on PostgreSQL."""
    for path, revision in _read_revision_ids(config).items():
        if len(revision) > _LONGEST_REVISION:
            yield (
                f"{Path(path).name}: its id has {len(revision)} characters, of which PostgreSQL "
                f"takes {_LONGEST_REVISION}: write a shorter one with alembic revision --rev-id"
            )


@contextmanager
def note_long_names(config: "Config") -> Iterator[list[str]]:
    """Yield a list that gets a line for each long name in the statements that run meanwhile."""
    lines: list[str] = []

    def note_names(_: Any, cursor: Any, statement: str, *rest: Any) -> None:
        for line in find_long_names(statement):
            if not any(known.startswith(line) for known in lines):
                lines.append(line + _find_revision_line(traceback.extract_stack(), config))

    event.listen(Engine, "before_cursor_execute", note_names)
    try:
        yield lines
    finally:
        event.remove(Engine, "before_cursor_execute", note_names)


def find_long_names(sql: str) -> Iterator[str]:
    """Yield a line for each name that PostgreSQL would cut short without an error."""
    names = {unquote_name(name) for name in re.findall(NAME, blank_literals(sql))}
    for name in sorted(names):
        if (size := len(name.encode())) > _LONGEST_NAME:
            yield f"{name} has {size} bytes, PostgreSQL cuts names to {_LONGEST_NAME}: shorten it"


def _describe_reason(error: Exception) -> str:
    if not isinstance(error, DBAPIError) or error.orig is None:
        return f"{type(error).__name__}: {_first_line(error)}"
    detail = getattr(getattr(error.orig, "diag", None), "message_detail", None)
    # What depends on a table is in the detail; of other errors it may hold values.
    depends = f" ({_first_line(detail)})" if detail and "depends on" in detail else ""
    statement = " ".join((error.statement or "").split())
    return f"{type(error.orig).__name__}: {_first_line(error.orig)}{depends}, in: {statement:.150}"


def _find_cure(error: Exception) -> str | None:
    if isinstance(error, CompileError) and "can't cast" in str(error):
        return "for another type add a column, fill it in Python, and drop the old one"
    if not isinstance(error, DBAPIError):
        return None
    reason, code = str(error.orig), sqlstate(error)
    if "no such column" in reason and "CREATE TABLE _alembic_tmp_" in (error.statement or ""):
        return (
            "a CHECK of the table names a column that goes: drop it before, "
            'batch_op.drop_constraint("…", type_="check")'
        )
    if any(words in reason for words in _SQLITE_LACKS):
        return _OTHER_ENGINE
    if "extension" in reason and "is not available" in reason:
        return _UNAVAILABLE_EXTENSION
    if code in (_UNDEFINED_OBJECT, _UNDEFINED_FUNCTION):
        missing = next((name for words, name in _EXTENSIONS.items() if words in reason), None)
        if missing:
            return (
                f"the extension {missing} is missing: make it in a revision before, under `if "
                'op.get_bind().dialect.name == "postgresql":`, by '
                f"op.execute('CREATE EXTENSION IF NOT EXISTS \"{missing}\"')"
            )
    return _CURES.get(code)


def _find_revision_line(frames: traceback.StackSummary, config: "Config") -> str:
    revisions = _read_revision_ids(config)
    ours = [frame for frame in frames if frame.filename in revisions]
    return f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""


def _read_revision_ids(config: "Config") -> dict[str, str]:
    return {script.path: script.revision for script in read_revisions(config)}


def _first_line(reason: object) -> str:
    return str(reason).partition("\n")[0]
