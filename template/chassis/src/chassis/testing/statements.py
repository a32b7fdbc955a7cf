"""What kind of a statement a text is."""

import re

_SELECT = re.compile(
    r"[\s(]*(select|with(?!.*\b(insert|update|delete|merge)\b))\b", re.IGNORECASE | re.DOTALL
)


def is_select(statement: str) -> bool:
    """Return whether a statement only reads, as its words tell."""
    return _SELECT.match(statement) is not None
