"""Changes to models: the text of a `models.py` before and after each."""

from dataclasses import dataclass

from tests.models.shapes import PRELUDE

MODEL = """
class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String({length}){name})
    price: Mapped[int] = mapped_column({price})
    kind: Mapped[str] = mapped_column(sa.Enum({kind}, name="kind"), server_default="a")
    {more}
    __table_args__ = ({arguments})


def rows() -> list[Any]:
    return [Item(name="n", price=5)]
"""
DEFAULTS = {
    "name": "",
    "length": "20",
    "price": 'server_default=text("1")',
    "kind": '"a", "b"',
    "more": "",
    "arguments": "",
}


@dataclass(frozen=True)
class Change:
    """A change, and the parts of the model that it is in: what they were, what they become."""

    name: str
    old: dict[str, str]
    new: dict[str, str]

    @property
    def before(self) -> str:
        """Return the text of the module as it was."""
        return PRELUDE + MODEL.format(**DEFAULTS | self.old)

    @property
    def after(self) -> str:
        """Return the text of the module as it becomes."""
        return PRELUDE + MODEL.format(**DEFAULTS | self.new)


def _arguments(name: str, old: str, new: str) -> Change:
    return Change(name, {"arguments": old}, {"arguments": new})


def _index(arguments: str) -> str:
    return f"Index('ix_items_name', {arguments}),"


PARTIAL = "'name', sqlite_where=text('{0}'), postgresql_where=text('{0}')"
COMPUTED = 'total: Mapped[int] = mapped_column(sa.Computed("price * {}", persisted=True))'
TYPES = """at: Mapped[datetime | None]
    key: Mapped[uuid.UUID | None]
    raw: Mapped[bytes | None]
    exact: Mapped[float | None] = mapped_column(sa.Double)
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), server_default="0")
    on: Mapped[bool] = mapped_column(server_default=sa.true())
    made_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)"""
CHECK = "CheckConstraint('price > {}', name='price_right'),"

CHANGES = [
    Change("a member of an enum added", {}, {"kind": '"a", "b", "longer"'}),
    Change("a member of an enum taken away", {"kind": '"a", "b", "c"'}, {}),
    Change(
        "an enum added later",
        {},
        {
            "more": 'size: Mapped[str] = mapped_column(sa.Enum("s", "l", name="size"), '
            'server_default="s")'
        },
    ),
    Change(
        "a member of a checked list added",
        {
            "more": 'size: Mapped[str] = mapped_column(sa.Enum("s", "l", name="size", '
            'native_enum=False, create_constraint=True), server_default="s")'
        },
        {
            "more": 'size: Mapped[str] = mapped_column(sa.Enum("s", "l", "m", name="size", '
            'native_enum=False, create_constraint=True), server_default="s")'
        },
    ),
    _arguments("a CHECK changed", CHECK.format(0), CHECK.format(1)),
    _arguments("a CHECK added", "", CHECK.format(1)),
    Change("a server default changed", {}, {"price": 'server_default=text("2")'}),
    Change("a server default taken away", {"name": ', server_default="x"'}, {}),
    Change("a computed text changed", {"more": COMPUTED.format(2)}, {"more": COMPUTED.format(3)}),
    _arguments(
        "a partial index's condition changed",
        _index(PARTIAL.format("price > 1")),
        _index(PARTIAL.format("price > 2")),
    ),
    _arguments("an index over an expression added", "", _index("func.lower(text('name'))")),
    _arguments("an index over an expression taken away", _index("func.lower(text('name'))"), ""),
    Change(
        "a column beside a computed one changed",
        {"more": COMPUTED.format(2)},
        {"more": COMPUTED.format(2), "length": "40"},
    ),
    Change("NULL allowed", {}, {"price": 'server_default=text("1"), nullable=True'}),
    Change(
        "a column with a default added",
        {},
        {"more": "on: Mapped[bool] = mapped_column(server_default=sa.true())"},
    ),
    Change("a column taken away", {"more": "meta: Mapped[dict[str, Any] | None]"}, {}),
    Change(
        "an enum taken away",
        {"more": 'size: Mapped[str | None] = mapped_column(sa.Enum("s", "l", name="size"))'},
        {},
    ),
    Change(
        "moments, keys and lists taken away",
        {"more": TYPES},
        {},
    ),
    Change("a type widened", {}, {"length": "40"}),
]
