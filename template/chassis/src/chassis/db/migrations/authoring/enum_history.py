"""The enums that the earlier revisions wrote down: SQLite keeps none."""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import postgresql

from ..sql_text import LITERAL, unquote_literal

Enums = dict[str, tuple[str, ...]]

_QUOTE = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
_LABEL = f"({LITERAL})"
_NAME = r"""((?:"(?:[^"]|"")+"|\w+)(?:\.(?:"(?:[^"]|"")+"|\w+))?)"""
_CREATE = re.compile(rf"CREATE TYPE {_NAME} AS ENUM \((.*)\)", re.IGNORECASE | re.DOTALL)
_ADD = re.compile(
    rf"ALTER TYPE {_NAME} ADD VALUE (?:IF NOT EXISTS )?{_LABEL}(?: (BEFORE|AFTER) {_LABEL})?",
    re.IGNORECASE,
)
_RENAME = re.compile(rf"ALTER TYPE {_NAME} RENAME TO {_NAME}", re.IGNORECASE)
_DROP = re.compile(rf"DROP TYPE (?:IF EXISTS )?{_NAME}", re.IGNORECASE)
_TABLE_OPERATIONS = ("create_table", "add_column", "batch_alter_table", "alter_column")


@dataclass
class EnumHistory:
    """The enum types that revisions leave behind, and the columns that have one by its name."""

    types: Enums = field(default_factory=dict)
    columns: dict[tuple[str, str], str] = field(default_factory=dict)


def replay_enums(files: Iterable[Path]) -> EnumHistory:
    """Read the `upgrade` of each revision, the oldest first."""
    history = EnumHistory()
    for file in files:
        for node in _parse_revision(file, file.stat().st_mtime_ns).body:
            if isinstance(node, ast.FunctionDef) and node.name == "upgrade":
                _replay_node(node, history, "", "")
    return history


def qualify_name(schema: str | None, name: str) -> str:
    """Return a name as SQL has it, with its schema if it has one."""
    return f"{_QUOTE(schema)}.{_QUOTE(name)}" if schema else _QUOTE(name)


@cache
def _parse_revision(file: Path, changed_at: int) -> ast.Module:
    return ast.parse(file.read_bytes())


def _replay_node(node: ast.AST, history: EnumHistory, table: str, column: str) -> None:
    """Note what a step does; `table` and `column` are those that it stands in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        _replay_statement(node.value.strip(), history.types)
    elif isinstance(node, ast.Call):
        name, first = _function_name(node), _first_argument(node)
        if name in _TABLE_OPERATIONS and first and not _is_in_batch(node):
            table = first
        if name == "Column" or name == "alter_column":
            column = first if name == "Column" or _is_in_batch(node) else column
        elif name.lower() == "enum":
            _replay_enum(node, history, (table, column))
    elif isinstance(node, ast.With):
        table = next(filter(None, map(_find_batch_table, node.items)), table)
    for child in ast.iter_child_nodes(node):
        _replay_node(child, history, table, column)


def _function_name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _first_argument(call: ast.Call) -> str:
    match call.args:
        case [ast.Constant(value=str(word)), *_]:
            return word
    return ""


def _is_in_batch(call: ast.Call) -> bool:
    return ast.unparse(call.func).startswith("batch")


def _find_batch_table(item: ast.withitem) -> str:
    call = item.context_expr
    if isinstance(call, ast.Call) and _function_name(call) == "batch_alter_table":
        return _first_argument(call)
    return ""


def _replay_enum(call: ast.Call, history: EnumHistory, place: tuple[str, str]) -> None:
    given: dict[str | None, Any] = {
        keyword.arg: keyword.value.value
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Constant)
    }
    if "name" not in given or given.get("native_enum") is False:
        return
    name = qualify_name(given.get("schema"), given["name"])
    history.columns[place] = name
    if "create_type" not in given:
        # Alembic's own text: the type is made with its table.
        labels = (str(one.value) for one in call.args if isinstance(one, ast.Constant))
        history.types.setdefault(name, tuple(labels))


def _replay_statement(statement: str, types: Enums) -> None:
    if match := _CREATE.match(statement):
        types[match[1]] = tuple(unquote_literal(label) for label in re.findall(_LABEL, match[2]))
    elif match := _ADD.match(statement):
        labels = list(types.get(match[1], ()))
        where = len(labels)
        if match[3] and unquote_literal(match[4]) in labels:
            where = labels.index(unquote_literal(match[4])) + (match[3].upper() == "AFTER")
        if unquote_literal(match[2]) not in labels:
            labels.insert(where, unquote_literal(match[2]))
        types[match[1]] = tuple(labels)
    elif match := _RENAME.match(statement):
        types[match[2]] = types.pop(match[1], ())
    elif match := _DROP.match(statement):
        types.pop(match[1], None)
