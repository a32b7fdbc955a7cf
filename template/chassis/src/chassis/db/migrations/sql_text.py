"""The text of SQL: names and literals quoted, literals and comments blanked, casts stripped."""

import re

NAME = r'("(?:[^"]|"")+"|\w+)'
LITERAL = r"'(?:[^']|'')*'"

_COMMENT = r"--[^\n]*|/\*.*?\*/"
_OPAQUE = re.compile(rf"{LITERAL}|{_COMMENT}", re.DOTALL)
_OPAQUE_OR_NAME = re.compile(rf'{LITERAL}|"(?:[^"]|"")*"|{_COMMENT}', re.DOTALL)
_ADDED_CAST = re.compile(r"::[a-z]+(?: [a-z]+)*(?:\(\d+(?:, ?\d+)?\))?(?:\[\])?")
_ANY = re.compile(r"= ANY \(+ARRAY\[([^]]*)\]\)+")
# But not what a function is called with.
_NAME_IN_PARENTHESES = re.compile(r"(?<=\()\((\w+)\)")


def quote_name(name: str) -> str:
    """Return a name in quotation marks."""
    return '"' + name.replace('"', '""') + '"'


def unquote_name(name: str) -> str:
    """Return a name without quotation marks, if it has them."""
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def quote_literal(text: str) -> str:
    """Return a text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def unquote_literal(literal: str) -> str:
    """Return the text of a literal."""
    return literal[1:-1].replace("''", "'")


def blank_literals(sql: str, *, names: bool = False) -> str:
    """Return SQL with a space for each literal and comment, and for quoted `names` too."""
    return (_OPAQUE_OR_NAME if names else _OPAQUE).sub(" ", sql)


def strip_casts(sql: str) -> str:
    """Return an expression without the casts that PostgreSQL adds, which SQLite can't read."""
    return _NAME_IN_PARENTHESES.sub(r"\1", _ANY.sub(r"IN (\1)", _ADDED_CAST.sub("", sql)))


def strip_parentheses(sql: str) -> str:
    """Return an expression without the parentheses around the whole of it."""
    while sql.startswith("(") and _find_closing(sql) == len(sql) - 1:
        sql = sql[1:-1].strip()
    return sql


def _find_closing(sql: str) -> int:
    """Return where the first parenthesis is closed, without looking into literals."""
    depth, is_literal = 0, False
    for index, character in enumerate(sql):
        if character == "'":
            is_literal = not is_literal
        elif not is_literal:
            depth += (character == "(") - (character == ")")
            if depth == 0:
                return index
    return -1
