"""The text of SQLite's CREATE statements, in parts that can be compared."""

import re
from collections.abc import Iterator

Part = tuple[str, str | None, dict[str, str]]

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)|(?P<text>[xX]?'(?:[^']|'')*')"""
    r"""|"(?P<name>(?:[^"]|"")*)"|`(?P<tick>[^`]*)`|\[(?P<bracket>[^]]*)\]"""
    r"""|(?P<word>[\w.$]+|\|\||[<>=!]=|<>|<<|>>|->>?|.)""",
    re.DOTALL,
)
_NUMBER_IN_QUOTES = re.compile(r"'(-?\d+(?:\.\d+)?)'")
_TABLE_CONSTRAINTS = ("constraint", "primary", "unique", "check", "foreign")
_CLAUSES = (
    *("constraint", "primary", "not", "null", "unique", "check", "default", "collate"),
    *("references", "generated", "as"),
)
_WORDS = {"true": "1", "false": "0", "int": "integer", "decimal": "numeric"}


def read_table(sql: str) -> Iterator[Part]:
    """Yield a table, its columns and its constraints: kind, name and facts of each.

    A constraint of a column and the same constraint of the table are read alike.
    """
    tokens = _split_tokens(sql)
    if tokens[1] == "virtual" or "(" not in tokens:
        return
    start = tokens.index("(")
    end = _find_end(tokens, start)
    options = _join(tokens[end + 1 :])
    yield "table", None, {"options": options} if options else {}
    parts = list(_read_definitions(tokens[start + 1 : end]))
    key = next((part[2]["definition"] for part in parts if part[0] == "primary key"), "")
    for kind, name, facts in parts:
        if kind == "column" and facts.get("type") == "integer" and key.startswith(f"({name})"):
            facts["nullability"] = "not null"  # the row's own number
        yield kind, name, facts


def read_index(sql: str) -> str:
    """Return the definition of an index without its name and its table."""
    tokens = _split_tokens(sql)
    unique = "unique " if tokens[1] == "unique" else ""
    return unique + _join(tokens[tokens.index("(") :])


def _read_definitions(tokens: list[str]) -> Iterator[Part]:
    for definition in _split_at_commas(tokens):
        if definition[0] in _TABLE_CONSTRAINTS:
            yield from _read_constraints(definition, "")
            continue
        column, *rest = definition
        type_, *clauses = _split_before(["type", *rest], _CLAUSES)
        facts = {"type": _read_type(type_[1:]), "nullability": "nullable"}
        yield "column", column, facts | _read_facts(clauses)
        yield from _read_constraints([token for clause in clauses for token in clause], column)


def _read_type(tokens: list[str]) -> str:
    """Return a type without the length of a text, which SQLite does not keep to."""
    return tokens[0] if tokens and tokens[0] in ("char", "varchar", "nvarchar") else _join(tokens)


def _read_facts(clauses: list[list[str]]) -> dict[str, str]:
    facts = {}
    for clause in clauses:
        match clause:
            case ["not", "null", *_]:
                facts["nullability"] = "not null"
            case ["default", *value]:
                number = _NUMBER_IN_QUOTES.sub(r"\1", _join(_strip_brackets(value)))
                facts["default"] = re.sub(r"^- ", "-", number)
            case ["collate", name]:
                facts["collation"] = name
            case ["as", *value]:
                kind = " stored" if value[-1] == "stored" else ""
                value = value[: _find_end(value, 0) + 1]
                facts["computed"] = _join(_strip_brackets(value)) + kind
    return facts


def _read_constraints(tokens: list[str], column: str) -> Iterator[Part]:
    name = None
    own = f"({column})" if column else ""
    for clause in _split_before(tokens, _CLAUSES if column else _TABLE_CONSTRAINTS):
        match clause:
            case ["constraint", given]:
                name = given
                continue
            case ["primary", "key", *rest]:
                yield "primary key", name, {"definition": f"{own} {_join(rest)}".strip()}
            case ["unique", *rest]:
                yield (
                    "unique constraint",
                    name,
                    {"definition": f"{own} {_join(rest)}".strip()},
                )
            case ["check", *rest]:
                yield "check", name, {"definition": _join(_strip_brackets(rest))}
            case ["references", *_]:
                yield "foreign key", name, {"definition": f"{own} {_join(clause)}"}
            case ["foreign", "key", *rest]:
                yield "foreign key", name, {"definition": _join(rest)}
        name = None


def _split_tokens(sql: str) -> list[str]:
    return [
        found["text"] or _read_word(found)
        for found in _TOKEN.finditer(sql)
        if found["space"] is None
    ]


def _read_word(found: re.Match[str]) -> str:
    name = found["name"] or found["tick"] or found["bracket"]
    if name:
        name = name.replace('""', '"').lower()
        return f'"{name}"' if name in (*_TABLE_CONSTRAINTS, *_CLAUSES) else name
    word = (found["word"] or "").lower()
    return _WORDS.get(word, word)


def _split_at_commas(tokens: list[str]) -> Iterator[list[str]]:
    """Split at the commas that are outside brackets."""
    part: list[str] = []
    for token, depth in _with_depth(tokens):
        if depth == 0 and token == ",":
            yield part
            part = []
        else:
            part.append(token)
    yield part


def _split_before(tokens: list[str], marks: tuple[str, ...]) -> list[list[str]]:
    """Split before marks outside brackets; `not null`, `on delete set null` and such stay whole."""
    parts: list[list[str]] = []
    for token, depth in _with_depth(tokens):
        after = parts[-1][-1] if parts else ""
        starts = token in marks and after not in ("not", "set", "default", "on", "constraint")
        if token == "not":
            starts = True
        if not parts or (depth == 0 and starts):
            parts.append([])
        parts[-1].append(token)
    return parts


def _with_depth(tokens: list[str]) -> Iterator[tuple[str, int]]:
    depth = 0
    for token in tokens:
        depth -= token == ")"
        yield token, depth
        depth += token == "("


def _find_end(tokens: list[str], start: int) -> int:
    return next(
        place
        for place, (token, depth) in enumerate(_with_depth(tokens))
        if place > start and token == ")" and depth == 0
    )


def _strip_brackets(tokens: list[str]) -> list[str]:
    while tokens and tokens[0] == "(" and _find_end(tokens, 0) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _join(tokens: list[str]) -> str:
    text = " ".join(tokens)
    return re.sub(r"(?<=\() | (?=[),])", "", text)
