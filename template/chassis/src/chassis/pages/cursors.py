"""Cursors: the keys of a page's last row, for the client to send back as they are."""

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from zlib import crc32

from pydantic import Field, FiniteFloat, TypeAdapter
from pydantic_core import to_json

from .keys import Key

# With room for the path and other parameters in a proxy's usual 8 KiB.
MAX_LENGTH = 4096

_Value = Annotated[int, Field(ge=-(2**63), lt=2**63)] | FiniteFloat | str


class Cursors:
    """The cursors of one order: JSON in base64url."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        order = ", ".join(str(key.order_by()) for key in keys)
        # First in a cursor, so that one of another order is refused.
        self._mark = f"{crc32(order.encode()):x}"
        values = [_Value | None if key.is_nullable else _Value for key in keys]
        parts: Any = (Literal[self._mark], *values)
        self._reader: TypeAdapter[tuple[Any, ...]] = TypeAdapter(tuple[parts])

    def dump(self, values: Sequence[Any]) -> str:
        """Return the cursor of a row. Raise ValueError for one that couldn't be sent back."""
        cursor = urlsafe_b64encode(to_json([self._mark, *values])).decode().rstrip("=")
        if len(cursor) > MAX_LENGTH:
            names = ", ".join(str(key.column) for key in self.keys)
            raise ValueError(
                f"the cursor of a page would have {len(cursor)} characters, and {MAX_LENGTH} is "
                f"the most: order by shorter columns than {names}"
            )
        return cursor

    def load(self, cursor: str) -> Sequence[Any]:
        """Return the keys in a cursor. Raise ValueError for what is no cursor of this order."""
        text = b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
        return self._reader.validate_json(text, strict=True)[1:]
