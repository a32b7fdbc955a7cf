"""The names in a revision's text: each is imported or defined, or nothing is written."""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator

import sqlalchemy
from alembic.util import CommandError
from sqlalchemy import dialects
from sqlalchemy.dialects import postgresql

_DEFINED = {"sa", "op", *dir(builtins)}


def complete_names(text: str, imports: set[str]) -> str:
    """Return the text with its names qualified, and add what it needs to the imports.

    Raise alembic.util.CommandError for a name that no import can define.
    """
    tree = ast.parse(text)
    defined = _DEFINED | set(_find_defined_names([tree, *map(ast.parse, imports)]))
    insertions = list(_flag_enums(tree))
    for node, path in _find_used_names(tree):
        if node.id in defined:
            continue
        if hasattr(sqlalchemy, node.id):
            insertions.append((node.lineno, node.col_offset, "sa."))
        elif node.id in dialects.__all__:
            imports.add(f"from sqlalchemy.dialects import {node.id}")
        elif hasattr(postgresql, node.id):
            imports.add("from sqlalchemy.dialects import postgresql")
            insertions.append((node.lineno, node.col_offset, "postgresql."))
        else:
            imports.add(f"import {_find_module(path)}")
    return _insert_words(text, insertions)


def _find_module(path: list[str]) -> str:
    """Return the module that a dotted name is in."""
    for length in range(len(path) - 1, 0, -1):
        if (module := ".".join(path[:length])) in sys.modules:
            return module
    raise CommandError(
        f"the revision would name {'.'.join(path)}, which nothing defines, so it was not written: "
        "give the model a type that can be imported, or render it with render_item"
    )


def _find_defined_names(trees: Iterable[ast.AST]) -> Iterator[str]:
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


def _find_used_names(tree: ast.AST) -> Iterator[tuple[ast.Name, list[str]]]:
    """Yield each name that is read, with the attributes that follow."""
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):
        path, part = [], node
        while isinstance(part, ast.Attribute):
            inner.add(part.value)
            path.append(part.attr)
            part = part.value
        if node not in inner and isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load):
            yield part, [part.id, *reversed(path)]


def _flag_enums(tree: ast.AST) -> Iterator[tuple[int, int, str]]:
    """Yield insertions for native enums, whose types the revision makes by other statements."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].lower() == "enum":
            given = {keyword.arg for keyword in node.keywords}
            if not given & {"native_enum", "create_type"} and "name" in given:
                assert node.end_lineno is not None
                assert node.end_col_offset is not None
                yield node.end_lineno, node.end_col_offset - 1, ", create_type=False"


def _insert_words(text: str, insertions: Iterable[tuple[int, int, str]]) -> str:
    """Insert words; ast counts columns in bytes of UTF-8."""
    lines = [line.encode() for line in text.splitlines()]
    for number, column, word in sorted(insertions, reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:column] + word.encode() + line[column:]
    return b"\n".join(lines).decode()
