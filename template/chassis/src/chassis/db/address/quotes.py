"""Quotation marks around a whole value, as `docker --env-file` and word processors leave them."""

QUOTES = ('""', "''")
TYPOGRAPHIC_QUOTES = ("\u201c\u201d", "\u201d\u201d", "\u201e\u201c", "\u2018\u2019", "``")


def is_quoted(text: str, pairs: tuple[str, ...] = QUOTES) -> bool:
    """Return whether quotation marks stand around a whole text."""
    return len(text) > 1 and text[0] + text[-1] in pairs
