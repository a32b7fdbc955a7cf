"""Shapes of models: each the text of a `models.py` with the rows that are stored and read."""

from dataclasses import dataclass

PRELUDE = '''"""Models of one shape."""

import enum
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, MetaData, Table, UniqueConstraint
from sqlalchemy import func, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Mapped, declared_attr, mapped_column, relationship

import chassis.db
from chassis.db.base import NAMING_CONVENTION

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Base(chassis.db.Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)

'''


@dataclass(frozen=True)
class Shape:
    """Models, and rows of theirs: `rows` is a Python expression, a list of objects."""

    name: str
    models: str
    rows: str
    engines: tuple[str, ...] = ("sqlite", "postgres")

    @property
    def source(self) -> str:
        """Return the text of the module."""
        return f"{PRELUDE}\n{self.models}\n\ndef rows() -> list[Any]:\n    return {self.rows}\n"


KIND = """
class Kind(enum.Enum):
    small = "s"
    large = "l"
"""

SHAPES = [
    Shape(
        "plain columns",
        """
class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(sa.String(80))
    body: Mapped[str | None] = mapped_column(sa.Text)
    size: Mapped[int]
""",
        "[Note(title='a', body=None, size=1), Note(title='b', body='text', size=2)]",
    ),
    Shape(
        "times that the server fills",
        """
class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    made_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_at: Mapped[datetime] = mapped_column(
        server_default=func.current_timestamp(), onupdate=func.now()
    )
    text_at: Mapped[datetime] = mapped_column(server_default=text("CURRENT_TIMESTAMP"))
    old_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
    held_at: Mapped[datetime] = mapped_column(server_default=text("(CURRENT_TIMESTAMP)"))
""",
        "[Note(), Note()]",
    ),
    Shape(
        "dates, times and intervals",
        """
class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(server_default=text("'2026-01-31'"))
    made_on: Mapped[date] = mapped_column(server_default=func.current_date())
    hour: Mapped[time] = mapped_column(server_default=text("'08:30:00'"))
    lasts: Mapped[timedelta]
""",
        "[Event(lasts=timedelta(hours=1)), Event(lasts=timedelta(days=400))]",
    ),
    Shape(
        "aware and naive times by hand",
        """
class Event(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    aware: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True))
    stamp: Mapped[datetime] = mapped_column(sa.TIMESTAMP(timezone=True), server_default=func.now())
    naive: Mapped[datetime] = mapped_column(sa.DateTime())
""",
        "[Event(aware=NOON, naive=NOON.replace(tzinfo=None))]",
    ),
    Shape(
        "numbers",
        """
class Price(Base):
    __tablename__ = "prices"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(10, 2), server_default=text("0"))
    rate: Mapped[float] = mapped_column(server_default="1.5")
    exact: Mapped[float] = mapped_column(sa.Double)
    small: Mapped[int] = mapped_column(sa.SmallInteger, server_default="0")
    big: Mapped[int] = mapped_column(sa.BigInteger, server_default=text("-1"))
""",
        "[Price(exact=0.1), Price(amount=Decimal('12.30'), exact=2.5)]",
    ),
    Shape(
        "booleans that the server fills",
        """
class Flag(Base):
    __tablename__ = "flags"
    id: Mapped[int] = mapped_column(primary_key=True)
    on: Mapped[bool] = mapped_column(server_default=sa.true())
    off: Mapped[bool] = mapped_column(server_default=sa.false())
    word: Mapped[bool] = mapped_column(server_default=text("true"))
    string: Mapped[bool] = mapped_column(server_default="false")
    digit: Mapped[bool] = mapped_column(server_default="1")
    number: Mapped[bool] = mapped_column(server_default=text("0"))
""",
        "[Flag(), Flag(on=False)]",
    ),
    Shape(
        "strings that need quoting",
        r"""
class Word(Base):
    __tablename__ = "words"
    id: Mapped[int] = mapped_column(primary_key=True)
    plain: Mapped[str] = mapped_column(server_default="draft")
    empty: Mapped[str] = mapped_column(server_default="")
    quote: Mapped[str] = mapped_column(server_default="it's")
    inside: Mapped[str] = mapped_column(server_default="'quoted'")
    percent: Mapped[str] = mapped_column(server_default="100%")
    colon: Mapped[str] = mapped_column(server_default="a:b")
    back: Mapped[str] = mapped_column(server_default="a\\b")
    sql: Mapped[str] = mapped_column(server_default=text("'in ''sql'''"))
    bound: Mapped[str] = mapped_column(server_default=sa.literal("li'teral"))
""",
        "[Word()]",
    ),
    Shape(
        "JSON",
        """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    meta: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    more: Mapped[dict[str, Any]] = mapped_column(server_default='{"a": 1}')
    plain: Mapped[list[int]] = mapped_column(sa.JSON)
""",
        "[Doc(plain=[1]), Doc(meta={'a': {'b': 1}}, plain=[])]",
    ),
    Shape(
        "JSONB by hand",
        """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    meta: Mapped[dict[str, Any]] = mapped_column(
        postgresql.JSONB().with_variant(sa.JSON(), "sqlite")
    )
    other: Mapped[list[str]] = mapped_column(
        sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    )
""",
        "[Doc(meta={'a': 1}, other=['b'])]",
    ),
    Shape(
        "UUID keys",
        """
class Parent(Base):
    __tablename__ = "parents"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Child(Base):
    __tablename__ = "children"
    id: Mapped[uuid.UUID] = mapped_column(sa.Uuid(), primary_key=True, default=uuid.uuid4)
    parent_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("parents.id"), index=True)
    parent: Mapped[Parent] = relationship()
""",
        "[Child(parent=Parent())]",
    ),
    Shape(
        "bytes and texts",
        """
class Blob(Base):
    __tablename__ = "blobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    raw: Mapped[bytes]
    picture: Mapped[bytes | None] = mapped_column(sa.LargeBinary(length=100))
    label: Mapped[str] = mapped_column(sa.Unicode(20))
    long: Mapped[str] = mapped_column(sa.UnicodeText)
    code: Mapped[str] = mapped_column(sa.CHAR(2))
    pickled: Mapped[Any] = mapped_column(sa.PickleType)
""",
        "[Blob(raw=b'1', picture=None, label='ä', long='l', code='de', pickled=[1])]",
    ),
    Shape(
        "arrays",
        """
class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[list[str]] = mapped_column(
        sa.ARRAY(sa.String(20)).with_variant(sa.JSON(), "sqlite")
    )
    codes: Mapped[list[int]] = mapped_column(
        sa.JSON().with_variant(postgresql.ARRAY(sa.Integer), "postgresql")
    )
""",
        "[Post(tags=['a'], codes=[1, 2])]",
    ),
    Shape(
        "types of a single engine with a variant",
        """
class Host(Base):
    __tablename__ = "hosts"
    id: Mapped[int] = mapped_column(primary_key=True)
    address: Mapped[str] = mapped_column(
        sa.String(43).with_variant(postgresql.CIDR(), "postgresql")
    )
    words: Mapped[str | None] = mapped_column(
        postgresql.TSVECTOR().with_variant(sa.Text(), "sqlite")
    )
    name: Mapped[str] = mapped_column(
        sa.String(40, collation="C").with_variant(sa.String(40), "sqlite")
    )
""",
        "[Host(address='10.0.0.0/8', words=None, name='n')]",
    ),
    Shape(
        "a type of the service",
        """
class Lower(sa.types.TypeDecorator[str]):
    impl = sa.String(64)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value.lower()


class Wide(sa.types.TypeDecorator[str]):
    impl = sa.String
    cache_ok = True


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(Lower(), unique=True)
    name: Mapped[str] = mapped_column(Wide(30))
    other: Mapped[str | None] = mapped_column(Wide)
""",
        "[Account(email='a@b', name='n')]",
    ),
    Shape(
        "a type of the service that differs by engine",
        """
class Money(sa.types.TypeDecorator[Decimal]):
    impl = sa.Numeric(12, 2)
    cache_ok = True

    def load_dialect_impl(self, dialect: Any) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.String(20))
        return dialect.type_descriptor(sa.Numeric(12, 2))

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return str(value) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return Decimal(value)


class Bill(Base):
    __tablename__ = "bills"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[Decimal] = mapped_column(Money())
""",
        "[Bill(total=Decimal('1.20'))]",
    ),
    Shape(
        "a type of the service inside another",
        """
class Lower(sa.types.TypeDecorator[str]):
    impl = sa.String(64)
    cache_ok = True


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[list[str]] = mapped_column(sa.ARRAY(Lower()).with_variant(sa.JSON(), "sqlite"))
    more: Mapped[list[str]] = mapped_column(
        sa.JSON().with_variant(postgresql.ARRAY(Lower()), "postgresql")
    )
    one: Mapped[str] = mapped_column(Lower().with_variant(sa.String(99), "postgresql"))
""",
        "[Post(tags=['a'], more=['b'], one='c')]",
    ),
    Shape(
        "an enum",
        KIND
        + """
class Shirt(Base):
    __tablename__ = "shirts"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[Kind]
    maybe: Mapped[Kind | None]
    other: Mapped[str] = mapped_column(
        sa.Enum("it's", "b c", name="other kind"), server_default="b c"
    )
""",
        '[Shirt(kind=Kind.small), Shirt(kind=Kind.large, maybe=Kind.small, other="it\'s")]',
    ),
    Shape(
        "two tables with one enum",
        KIND
        + """
class Shirt(Base):
    __tablename__ = "shirts"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[Kind] = mapped_column(server_default="small")


class Coat(Base):
    __tablename__ = "coats"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[Kind] = mapped_column(sa.Enum(Kind))
""",
        "[Shirt(), Coat(kind=Kind.large)]",
    ),
    Shape(
        "enums held by a CHECK, by value, and in lists",
        KIND
        + """
class Shirt(Base):
    __tablename__ = "shirts"
    id: Mapped[int] = mapped_column(primary_key=True)
    checked: Mapped[Kind] = mapped_column(
        sa.Enum(Kind, native_enum=False, create_constraint=True, name="kind_checked", length=20)
    )
    both: Mapped[Kind] = mapped_column(sa.Enum(Kind, name="both", create_constraint=True))
    value: Mapped[Kind] = mapped_column(
        sa.Enum(Kind, name="kind_value", values_callable=lambda kinds: [k.value for k in kinds])
    )
    some: Mapped[list[Kind]] = mapped_column(
        sa.JSON().with_variant(postgresql.ARRAY(sa.Enum(Kind, name="kind_list")), "postgresql")
    )
    pg: Mapped[str] = mapped_column(
        postgresql.ENUM("x", "y", name="kind_pg").with_variant(sa.String(1), "sqlite")
    )
""",
        "[Shirt(checked=Kind.small, both=Kind.large, value=Kind.large, some=[], pg='x')]",
    ),
    Shape(
        "a big integer as key",
        """
class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(sa.BigInteger, ForeignKey("rows.id"))
    number: Mapped[int] = mapped_column(sa.BigInteger)


class Sized(Base):
    __tablename__ = "sized"
    id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True
    )


class Small(Base):
    __tablename__ = "small"
    id: Mapped[int] = mapped_column(sa.SmallInteger, primary_key=True)
""",
        "[Row(number=2**40), Row(number=1), Sized(), Small()]",
    ),
    Shape(
        "identity",
        """
class Row(Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(sa.Identity(always=True, start=5), primary_key=True)
    note: Mapped[str]


class Big(Base):
    __tablename__ = "big"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    note: Mapped[str]
""",
        "[Row(note='a'), Row(note='b'), Big(note='c')]",
    ),
    Shape(
        "composite keys",
        """
class Line(Base):
    __tablename__ = "lines"
    order_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Part(Base):
    __tablename__ = "parts"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int]
    number: Mapped[int]
    __table_args__ = (
        sa.ForeignKeyConstraint(["order_id", "number"], ["lines.order_id", "lines.number"]),
    )
    line: Mapped[Line] = relationship()
""",
        "[Part(line=Line(order_id=1, number=2))]",
    ),
    Shape(
        "an association table",
        """
links = Table(
    "links",
    Base.metadata,
    Column("post_id", ForeignKey("posts.id", ondelete="CASCADE"), primary_key=True),
    Column("tag_id", ForeignKey("tags.id"), primary_key=True),
    Column("made_at", sa.DateTime(timezone=True), server_default=func.now(), nullable=False),
)


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)


class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    tags: Mapped[list[Tag]] = relationship(secondary=links)
""",
        "[Post(tags=[Tag(), Tag()])]",
    ),
    Shape(
        "a reference to itself",
        """
class Node(Base):
    __tablename__ = "nodes"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("nodes.id", ondelete="SET NULL"))
    parent = relationship(lambda: Node, remote_side=[id])
""",
        "[Node(parent=Node())]",
    ),
    Shape(
        "two tables that name each other",
        """
class Team(Base):
    __tablename__ = "teams"
    id: Mapped[int] = mapped_column(primary_key=True)
    lead_id: Mapped[int | None] = mapped_column(ForeignKey("people.id", use_alter=True))


class Person(Base):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id"))
    team: Mapped[Team] = relationship(foreign_keys=team_id)
""",
        "[Person(team=Team())]",
    ),
    Shape(
        "what a foreign key does",
        """
class Parent(Base):
    __tablename__ = "parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(sa.String(5), unique=True)


class Child(Base):
    __tablename__ = "children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(
        ForeignKey("parents.id", ondelete="CASCADE", onupdate="CASCADE")
    )
    late_id: Mapped[int] = mapped_column(
        ForeignKey("parents.id", deferrable=True, initially="DEFERRED")
    )
    code: Mapped[str | None] = mapped_column(ForeignKey("parents.code", name="my_own_name"))
    parent: Mapped[Parent] = relationship(foreign_keys=parent_id)
    late: Mapped[Parent] = relationship(foreign_keys=late_id)
""",
        "(lambda p: [Child(parent=p, late=p)])(Parent(code='a'))",
    ),
    Shape(
        "unique constraints and indexes",
        """
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    login: Mapped[str] = mapped_column(unique=True, index=True)
    tenant: Mapped[int] = mapped_column(index=True)
    name: Mapped[str]
    __table_args__ = (
        UniqueConstraint("tenant", "name"),
        UniqueConstraint("name", "email", name="own_name"),
        Index(None, "tenant", "email", unique=True),
        Index("ix_down", text("name DESC")),
    )
""",
        "[User(email='e', login='l', tenant=1, name='n')]",
    ),
    Shape(
        "a unique index over an expression",
        """
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    __table_args__ = (
        Index("ix_users_tail", func.coalesce(text("name"), text("'none'"))),
        Index("ix_users_text", text("lower(name)"), "email"),
        Index("ix_users_concat", text("(name || email)")),
    )


Index("ix_users_email", func.lower(User.email), unique=True)
Index("ix_users_both", func.lower(User.name), User.email.desc())
""",
        "[User(email='A@b', name='n')]",
    ),
    Shape(
        "partial indexes",
        """
class Task(Base):
    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    done: Mapped[bool] = mapped_column(server_default=sa.false())
    deleted_at: Mapped[datetime | None]
    __table_args__ = (
        Index(
            "uq_tasks_name", "name", unique=True,
            sqlite_where=text("deleted_at IS NULL"), postgresql_where=text("deleted_at IS NULL"),
        ),
    )


Index(
    "ix_tasks_open", Task.name,
    sqlite_where=Task.done.is_(False), postgresql_where=Task.done.is_(False),
)
""",
        "[Task(name='a'), Task(name='b', done=True)]",
    ),
    Shape(
        "indexes of PostgreSQL",
        """
class Doc(Base):
    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    meta: Mapped[dict[str, Any]]
    name: Mapped[str]
    size: Mapped[int]
    __table_args__ = (
        Index("ix_docs_meta", "meta", postgresql_using="gin"),
        Index("ix_docs_path", "meta", postgresql_using="gin",
              postgresql_ops={"meta": "jsonb_path_ops"}),
        Index("ix_docs_name", "name", postgresql_include=["size"]),
        Index("ix_docs_size", "size", postgresql_with={"fillfactor": 50}),
    )
""",
        "[Doc(meta={}, name='n', size=1)]",
    ),
    Shape(
        "CHECK constraints",
        """
class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int]
    code: Mapped[str]
    __table_args__ = (
        CheckConstraint("price >= 0", name="price_not_negative"),
        CheckConstraint("code NOT LIKE '%:x%' AND code <> 'it''s'", name="code_is_right"),
        CheckConstraint(sa.column("price") < 1000, name="price_not_high"),
        CheckConstraint("length(code) IN (1, 2, 3)", name="code_short"),
    )
""",
        "[Item(price=1, code='c')]",
    ),
    Shape(
        "computed columns",
        """
class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[int]
    count: Mapped[int]
    total: Mapped[int] = mapped_column(sa.Computed("price * count", persisted=True))
    name: Mapped[str]
    lower: Mapped[str] = mapped_column(sa.Computed("lower(name)", persisted=True))
""",
        "[Item(price=2, count=3, name='N')]",
    ),
    Shape(
        "comments",
        """
class Item(Base):
    __tablename__ = "items"
    __table_args__ = {"comment": "what is sold, it's 100% here"}
    id: Mapped[int] = mapped_column(primary_key=True, comment="a key")
    price: Mapped[int] = mapped_column(comment='in "cents"')
""",
        "[Item(price=1)]",
    ),
    Shape(
        "a second schema",
        """
class Event(Base):
    __tablename__ = "events"
    __table_args__ = {"schema": "audit"}
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
""",
        "[Event()]",
        engines=("postgres",),
    ),
    Shape(
        "joined inheritance",
        """
class Pet(Base):
    __tablename__ = "pets"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(10))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "pet"}


class Dog(Pet):
    __tablename__ = "dogs"
    id: Mapped[int] = mapped_column(ForeignKey("pets.id", ondelete="CASCADE"), primary_key=True)
    barks: Mapped[bool] = mapped_column(server_default=sa.true())
    __mapper_args__ = {"polymorphic_identity": "dog"}
""",
        "[Dog(), Pet()]",
    ),
    Shape(
        "single-table and concrete inheritance",
        """
class Pet(Base):
    __tablename__ = "pets"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(sa.String(10))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "pet"}


class Cat(Pet):
    lives: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "cat"}


class Car(Base):
    __tablename__ = "cars"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Truck(Car):
    __tablename__ = "trucks"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    load: Mapped[int]
    __mapper_args__ = {"concrete": True}
""",
        "[Cat(lives=9), Pet(), Car(name='c'), Truck(name='t', load=1)]",
    ),
    Shape(
        "mixins",
        """
class Stamped:
    made_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=9)
    changed_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), onupdate=func.now(), sort_order=10
    )


class Owned:
    @declared_attr
    def owner_id(cls) -> Mapped[int | None]:
        return mapped_column(ForeignKey("owners.id"), index=True)


class Owner(Base, Stamped):
    __tablename__ = "owners"
    id: Mapped[int] = mapped_column(primary_key=True)


class Thing(Base, Owned, Stamped):
    __tablename__ = "things"
    id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}
""",
        "[Owner(), Thing()]",
    ),
    Shape(
        "long names",
        """
class Long(Base):
    __tablename__ = "a_table_of_24_characters"
    id: Mapped[int] = mapped_column(primary_key=True)
    a_column_that_makes_63_of_its_names: Mapped[int] = mapped_column(index=True, unique=True)
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("a_table_of_24_characters.id")
    )
    __table_args__ = (
        CheckConstraint("a_column_that_makes_63_of_its_names > 0", name="is_positive"),
    )
""",
        "[Long(a_column_that_makes_63_of_its_names=1)]",
    ),
    Shape(
        "names that need quoting",
        """
class Order(Base):
    __tablename__ = "order"
    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str] = mapped_column("user", index=True)
    group: Mapped[str] = mapped_column("Group By", unique=True)
    from_: Mapped[int] = mapped_column("from", server_default="1")
    percent: Mapped[int] = mapped_column("100%", server_default="1")
    __table_args__ = (
        CheckConstraint('"from" > 0', name="from"),
        Index("Ix Mixed", "user", "Group By"),
    )


class CamelCase(Base):
    __tablename__ = "CamelCase"
    ID: Mapped[int] = mapped_column(primary_key=True)
    orderId: Mapped[int] = mapped_column(ForeignKey("order.id"))
    order: Mapped[Order] = relationship()
""",
        "[CamelCase(order=Order(user='u', group='g'))]",
    ),
    Shape(
        "tables without a class or a key, and other names of attributes",
        """
log = Table(
    "log", Base.metadata,
    Column("at", sa.DateTime(timezone=True), server_default=func.now()),
    Column("line", sa.String(10)),
)


class Entry(Base):
    __tablename__ = "entries"
    id_: Mapped[int] = mapped_column("id", primary_key=True)
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    parent: Mapped[int | None] = mapped_column("parent_id", ForeignKey("entries.id"))
""",
        "[Entry(meta={'a': 1})]",
    ),
]
