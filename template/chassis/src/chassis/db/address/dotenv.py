"""`.env`: assignments, read strictly; what is none of them is an error that names its line.

The rules are python-dotenv's, which warns and goes on where this refuses, and which replaces
`${x}` inside single quotes too.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic_settings import SettingsError

DOTENV = Path(".env")
MAX_BYTES = 256 * 1024

_SPACE = r"[^\S\n]*"
_REST = rf"{_SPACE}(?:#[^\n]*)?(?:\n|\Z)"
_BLANK = re.compile(_REST)
_START = re.compile(
    rf"{_SPACE}(?:export[^\S\n]+)?(?P<name>[A-Z_a-z][\w.-]*){_SPACE}=(?P<space>{_SPACE})", re.ASCII
)
_QUOTED = re.compile(rf"(['\"])(?P<inside>(?:\\.|(?!\1)[^\\])*)\1{_REST}", re.DOTALL)
_COMMENT = re.compile(r"\s#.*")
# A quote that is closed by the next value's has a setting inside.
_SWALLOWED = re.compile(rf"\n{_SPACE}(?:export\s+)?(?:APP_\w*|DATABASE_URL){_SPACE}=", re.I)
_ESCAPED = {"'": re.compile(r"\\([\\'])"), '"': re.compile(r"\\([\\'\"abfnrtv])")}
_CONTROLS = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_FORM = re.compile(r"(\w+)(?::-((?:(?!\$\{).)*))?", re.DOTALL)
_UNBRACED = re.compile(r"\$([A-Za-z_]\w+)")

_LITERAL = "put the value into single quotes if it is meant as it stands"


class Assignment(NamedTuple):
    """One assignment: the name as it was written, and the text without quotes."""

    name: str
    text: str


def read_dotenv(file: Path = DOTENV) -> list[Assignment]:
    """Return the assignments of a file, in order; none if there is no file.

    Raise pydantic_settings.SettingsError that names the line, and never shows a value.
    """
    return parse_dotenv(_read_text(file), file.name)


def parse_dotenv(text: str, name: str = DOTENV.name) -> list[Assignment]:
    """Return the assignments of a text, as read_dotenv does."""
    found: list[Assignment] = []
    known = dict(os.environ)
    position = 0
    while position < len(text):
        if blank := _BLANK.match(text, position):
            position = blank.end()
            continue
        try:
            key, value, end = _parse_assignment(text, position, known)
        except ValueError as error:
            line = text.count("\n", 0, position) + 1
            raise SettingsError(f"{name}, line {line}: {error}") from None
        found.append(Assignment(key, value))
        known[key] = value
        position = end
    return found


def _parse_assignment(text: str, position: int, known: Mapping[str, str]) -> tuple[str, str, int]:
    """Return name and value, and where they end. Raise ValueError with what to write instead."""
    start = _START.match(text, position)
    if start is None:
        raise ValueError("is no assignment; write NAME=value, or # before a comment")
    name, quote = start["name"], text[start.end() : start.end() + 1]
    if quote in _ESCAPED:
        value, end = _parse_quoted(text, start.end(), quote, name)
        return name, value if quote == "'" else _expand_references(value, name, known), end
    end = text.find("\n", start.end()) % (len(text) + 1)
    value = _COMMENT.sub("", start["space"] + text[start.end() : end]).strip()
    if value and value[-1] in _ESCAPED and value.count(value[-1]) % 2:
        raise ValueError(
            f"the value of {name} ends in a quotation mark that was not opened; remove it, or "
            "put the whole value into quotes of the other kind"
        )
    return name, _expand_references(value, name, known), end + 1


def _parse_quoted(text: str, position: int, quote: str, name: str) -> tuple[str, int]:
    found = _QUOTED.match(text, position)
    if found is None or _SWALLOWED.search(found["inside"]):
        raise ValueError(
            f"the quotation mark before the value of {name} is not closed, or something stands "
            f"behind the closing one; close it at the value's end, with \\{quote} for one inside"
        )
    value = _ESCAPED[quote].sub(lambda escape: _CONTROLS.get(escape[1], escape[1]), found["inside"])
    return value, found.end()


def _expand_references(value: str, name: str, known: Mapping[str, str]) -> str:
    """Replace `${x}` and `${x:-default}`; the names in them may be parts of a password."""

    def replace(reference: re.Match[str]) -> str:
        form = _FORM.fullmatch(reference[1])
        if form is None:
            raise ValueError(
                f"the value of {name} has a ${{…}} that is neither ${{NAME}} nor "
                f"${{NAME:-default}}; write one of them, or {_LITERAL}"
            )
        if form[1] not in known and form[2] is None:
            raise ValueError(
                f"the value of {name} has a ${{…}} whose variable is not set; set it in a line "
                f"above or in the environment, or {_LITERAL}"
            )
        return known.get(form[1], form[2] or "")

    if any(found[1] in known for found in _UNBRACED.finditer(value)):
        raise ValueError(
            f"the value of {name} has a variable without braces, which is not replaced; "
            f"write ${{NAME}}, or {_LITERAL}"
        )
    return _REFERENCE.sub(replace, value)


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        if not file.is_symlink():
            return ""
        problem = "is a link to a file that does not exist; mend it or remove it"
    except IsADirectoryError:
        problem = (
            "is a folder, as Docker makes one for a mount without a file; make it a text file, "
            "or remove it"
        )
    except OSError:
        problem = "can't be read; make it a text file that this user may read"
    else:
        if len(data) <= MAX_BYTES:
            return _decode_file(data, file.name)
        problem = (
            f"has more than {MAX_BYTES // 1024} KiB; is it another kind of file? "
            "Keep settings there, and long texts in files of their own"
        )
    raise SettingsError(f"{file.name} {problem}")


def _decode_file(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.start
    else:
        wrong = data.find(b"\0")
    if wrong >= 0:
        line = data.count(b"\n", 0, wrong) + 1
        raise SettingsError(f"{name}, line {line}: is not UTF-8 text; save the file as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
