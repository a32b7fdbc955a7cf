"""Conflicts: a unique rule says which field of the request it is about, on both databases alike."""

from collections.abc import Callable
from typing import Any

import pytest
from chassis_stock import create_stock, create_tables, executing, only_on, started
from fastapi import APIRouter
from sqlalchemy import (
    CheckConstraint,
    Column,
    Executable,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import INT4RANGE, ExcludeConstraint, Range
from sqlalchemy.dialects.postgresql import insert as upsert_postgres
from sqlalchemy.dialects.sqlite import insert as upsert_sqlite
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chassis import ChassisSettings, ProblemError
from chassis.db import NAMING_CONVENTION, Base, Conflict, DbSession, conflict, find_conflict
from chassis.db.migrations.options import create_environment

SECRET = "s3cret"


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Club(Apart):
    """A row with every kind of unique rule."""

    __tablename__ = "club"

    id: Mapped[int] = mapped_column(primary_key=True)
    town: Mapped[int] = mapped_column(default=1)
    name: Mapped[str | None]
    email: Mapped[str | None] = mapped_column(unique=True, info=conflict("email", "It is taken."))
    phone: Mapped[str | None] = mapped_column(
        index=True, unique=True, info={"about": "phones"} | conflict("phone", "It is taken.")
    )
    badge: Mapped[str | None] = mapped_column(unique=True)
    slug: Mapped[str | None]
    gone: Mapped[bool] = mapped_column(default=False)
    nick: Mapped[str | None]
    rank: Mapped[int | None]
    seat: Mapped[str | None] = mapped_column(String(9))
    __table_args__ = (
        UniqueConstraint("town", "name", info=conflict("name", "The town has one.")),
        Index(
            "ix_club_slug",
            "slug",
            unique=True,
            postgresql_where=text("NOT gone"),
            sqlite_where=text("NOT gone"),
            info=conflict("slug", "The address is used."),
        ),
        # Which of them is broken, SQLite does not say.
        Index(
            "ix_club_seat",
            "seat",
            unique=True,
            postgresql_where=text("town = 1"),
            sqlite_where=text("town = 1"),
            info=conflict("seat", "In the first town."),
        ),
        Index(
            "ix_club_seat_2",
            "seat",
            unique=True,
            postgresql_where=text("town = 2"),
            sqlite_where=text("town = 2"),
            info=conflict("seat", "In the second town."),
        ),
    )


CLUB = Club.metadata.tables["club"]
NICK = func.lower(CLUB.c.nick)
Index("ix_club_nick", NICK, unique=True, info=conflict("nick", "Say another."))
Index("ix_club_rank", CLUB.c.rank.desc(), unique=True, info=conflict("rank", "One of each."))


class Country(Apart):
    __tablename__ = "country"

    code: Mapped[str] = mapped_column(primary_key=True, info=conflict("code", "There is one."))


class Visit(Apart):
    __tablename__ = "visit"

    club_id: Mapped[int] = mapped_column(ForeignKey("club.id"))
    country: Mapped[str] = mapped_column(ForeignKey("country.code"))
    # What breaks a foreign key breaks no unique rule of the same column.
    guide_id: Mapped[int | None] = mapped_column(
        ForeignKey("club.id"), unique=True, info=conflict("guide_id", "That one is away.")
    )
    __table_args__ = (
        PrimaryKeyConstraint("club_id", "country", info=conflict("country", "Been there.")),
    )


class Foreign(DeclarativeBase):
    """A base that is none of the chassis's, whose constraints have no names."""


class Plain(Foreign):
    __tablename__ = "plain"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True, info=conflict("name", "It is taken."))


@pytest.fixture
def settings(settings: ChassisSettings) -> ChassisSettings:
    """Give settings on a database with the tables."""
    create_tables(settings, Apart.metadata)
    create_tables(settings, Foreign.metadata)
    return settings


async def break_rule(session: AsyncSession, statement: Executable, rows: Any = None) -> Any:
    """Execute a statement that fails; return what is known of the rule that it breaks."""
    with pytest.raises(IntegrityError) as caught:
        await session.execute(statement, rows)
    await session.rollback()
    return find_conflict(caught.value)


FIRST = {
    "id": 1,
    "town": 1,
    "name": SECRET,
    "email": SECRET,
    "phone": SECRET,
    "badge": SECRET,
    "slug": SECRET,
    "gone": False,
    "nick": SECRET.upper(),
    "rank": 1,
    "seat": "1",
}
FIELDS = ("name", "email", "phone", "badge", "slug", "nick", "rank", "seat")
OTHER = {"id": 8, "town": 8} | dict.fromkeys(FIELDS)
KNOWN: list[tuple[dict[str, Any], Conflict | None]] = [
    ({"town": 1, "name": SECRET}, Conflict("name", "The town has one.")),
    ({"email": SECRET}, Conflict("email", "It is taken.")),
    ({"phone": SECRET}, Conflict("phone", "It is taken.")),
    ({"slug": SECRET}, Conflict("slug", "The address is used.")),
    ({"nick": SECRET}, Conflict("nick", "Say another.")),
    ({"rank": 1}, Conflict("rank", "One of each.")),
    # Nothing is said of these.
    ({"badge": SECRET}, None),
    ({"town": 1, "seat": "1"}, None),
    ({"id": 1}, None),
]
WAYS: dict[str, Callable[[dict[str, Any]], tuple[Executable, Any]]] = {
    "a model": lambda values: (insert(Club).values({"id": 9} | values), None),
    "a table": lambda values: (insert(CLUB).returning(CLUB), {"id": 9} | values),
    "many rows": lambda values: (insert(CLUB), [OTHER, OTHER | {"id": 9, "town": 9} | values]),
    "an update": lambda values: (update(CLUB).where(CLUB.c.id == 2).values(**values), None),
    "text": lambda values: (
        text(f"UPDATE club SET {', '.join(f'{name} = :{name}' for name in values)} WHERE id = 2"),
        values,
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_rule_says_which_field_it_is_about(session: AsyncSession, way: str) -> None:
    await session.execute(insert(CLUB), FIRST)
    await session.execute(insert(CLUB), {"id": 2, "town": 1})
    await session.commit()
    for values, known in KNOWN:
        assert await break_rule(session, *WAYS[way](values)) == known, values


async def test_a_rule_is_named_by_a_flush(session: AsyncSession) -> None:
    session.add_all([Club(id=1, email=SECRET), Club(id=2, email=SECRET)])
    with pytest.raises(IntegrityError) as caught:
        await session.flush()
    assert find_conflict(caught.value) == Conflict("email", "It is taken.")


async def test_an_upsert_is_about_the_rule_that_it_does_not_handle(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    await session.execute(insert(CLUB), FIRST)
    await session.commit()
    sqlite = settings.database_target.backend == "sqlite"
    statement: Any = (upsert_sqlite if sqlite else upsert_postgres)(CLUB)
    statement = statement.values(id=2, email=SECRET, phone=SECRET)
    await session.execute(statement.on_conflict_do_nothing())
    statement = statement.on_conflict_do_update(index_elements=["email"], set_={"town": 9})
    await session.execute(statement)
    await session.rollback()

    statement = statement.values(email="another")
    assert await break_rule(session, statement) == Conflict("phone", "It is taken.")


async def test_a_partial_index_lets_the_others_be(session: AsyncSession) -> None:
    await session.execute(insert(CLUB), FIRST)
    await session.execute(insert(CLUB), {"id": 2, "slug": SECRET, "gone": True})


async def test_a_primary_key_says_which_field_it_is_about(session: AsyncSession) -> None:
    country, visit = Country.metadata.tables["country"], Visit.metadata.tables["visit"]
    await session.execute(insert(CLUB), [{"id": 1}, {"id": 2}])
    await session.execute(insert(country), {"code": "at"})
    await session.execute(insert(visit), {"club_id": 1, "country": "at", "guide_id": 2})
    await session.commit()

    known = await break_rule(session, insert(country), {"code": "at"})
    assert known == Conflict("code", "There is one.")
    known = await break_rule(session, insert(visit), {"club_id": 1, "country": "at"})
    assert known == Conflict("country", "Been there.")
    row = {"club_id": 2, "country": "at", "guide_id": 2}
    known = await break_rule(session, insert(visit), row)
    assert known == Conflict("guide_id", "That one is away.")


class Owner(Apart):
    __tablename__ = "owner"

    id: Mapped[int] = mapped_column(primary_key=True)
    town: Mapped[int] = mapped_column(unique=True)
    boss_id: Mapped[int | None] = mapped_column(
        ForeignKey("owner.id", info=conflict("boss_id", "There is no such boss."))
    )


class Pet(Apart):
    __tablename__ = "pet"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(
        ForeignKey("owner.id", info=conflict("owner_id", "There is no such owner."))
    )
    kind_id: Mapped[int | None] = mapped_column(
        ForeignKey("kind.id", info=conflict("kind_id", "There is no such kind."))
    )
    mother_id: Mapped[int | None] = mapped_column(
        ForeignKey("pet.id", info=conflict("mother_id", "There is no such pet."))
    )
    part: Mapped[int | None]
    of: Mapped[int | None]
    silent_id: Mapped[int | None] = mapped_column(ForeignKey("kind.id"))
    legs: Mapped[int] = mapped_column(default=4)
    arms: Mapped[int] = mapped_column(CheckConstraint("arms < 9", name="arms"), default=0)
    __table_args__ = (
        CheckConstraint("legs >= 0", name="legs", info=conflict("legs", "It has not so many.")),
        ForeignKeyConstraint(
            ["part", "of"], ["kind_part.a", "kind_part.b"], info=conflict("part", "No such part.")
        ),
    )


class Kind(Apart):
    __tablename__ = "kind"

    id: Mapped[int] = mapped_column(primary_key=True)


class KindPart(Apart):
    __tablename__ = "kind_part"

    a: Mapped[int] = mapped_column(primary_key=True)
    b: Mapped[int] = mapped_column(primary_key=True)


PET = Pet.metadata.tables["pet"]
NO_OWNER, NO_KIND = (
    Conflict("owner_id", "There is no such owner."),
    Conflict("kind_id", "There is no such kind."),
)
ORPHANS: list[tuple[dict[str, Any], Conflict | None]] = [
    ({"owner_id": 7}, NO_OWNER),
    ({"kind_id": 7}, NO_KIND),
    ({"part": 1, "of": 7}, Conflict("part", "No such part.")),
    ({"silent_id": 7}, None),
]


@pytest.fixture
async def pets(session: AsyncSession) -> None:
    session.add_all([Owner(id=1, town=1), Kind(id=1), KindPart(a=1, b=1)])
    await session.flush()
    session.add(Pet(id=1, owner_id=1, kind_id=1, part=1, of=1))
    await session.commit()


@pytest.mark.usefixtures("pets")
@pytest.mark.parametrize(("values", "known"), ORPHANS)
async def test_a_foreign_key_that_leads_nowhere_says_which_field_it_is_about(
    session: AsyncSession, values: dict[str, Any], known: Conflict | None
) -> None:
    row = {"id": 2, "owner_id": 1} | values
    for statement, rows in (
        (insert(Pet).values(row), None),
        (insert(PET).returning(PET), row),
        (insert(PET), [{"id": 3, "owner_id": 1} | dict.fromkeys(values, 1), row]),
        (insert(Pet).returning(Pet.id), [row | {"id": 3} | dict.fromkeys(values, 1), row]),
        (update(PET).where(PET.c.id == 1).values(values), None),
        (update(Pet).where(Pet.kind_id == 1), values),
    ):
        assert await break_rule(session, statement, rows) == known, statement
    session.add(Pet(**row))
    with pytest.raises(IntegrityError) as caught:
        await session.flush()
    assert find_conflict(caught.value) == known


@pytest.mark.usefixtures("pets")
async def test_a_row_that_is_referred_to_names_no_field(session: AsyncSession) -> None:
    assert await break_rule(session, delete(Owner)) is None
    assert await break_rule(session, update(Owner).values(id=9)) is None
    assert await break_rule(session, delete(Kind).where(Kind.id == 1)) is None


@pytest.mark.usefixtures("pets")
async def test_a_row_may_refer_to_its_own_table(session: AsyncSession) -> None:
    known = Conflict("boss_id", "There is no such boss.")
    assert await break_rule(session, insert(Owner).values(id=2, town=2, boss_id=9)) == known
    rows = [{"id": 2, "town": 2, "boss_id": 1}, {"id": 3, "town": 3, "boss_id": 2}]
    await session.execute(insert(Owner), rows)
    assert await break_rule(session, update(Owner).values(boss_id=9)) == known

    family = [
        {"id": 2, "owner_id": 1, "mother_id": 1, "kind_id": 1},
        {"id": 3, "owner_id": 7, "mother_id": 2, "kind_id": 1},
    ]
    assert await break_rule(session, insert(Pet).returning(Pet.id), family) == NO_OWNER


@pytest.mark.usefixtures("pets")
async def test_a_check_says_which_field_it_is_about(session: AsyncSession) -> None:
    known = Conflict("legs", "It has not so many.")
    assert await break_rule(session, update(Pet).values(legs=Pet.legs - 5)) == known
    assert await break_rule(session, insert(PET).values(owner_id=1, legs=-1)) == known
    assert await break_rule(session, text("UPDATE pet SET legs = -1")) == known
    assert await break_rule(session, update(Pet).values(arms=9)) is None


async def test_a_check_that_names_no_field_is_a_bug(
    settings: ChassisSettings, pets: None, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.post("/pets")
    async def change(session: DbSession, field: str, to: int) -> None:
        await session.execute(update(PET).values({field: to}))

    async with started(create_stock(settings, router)) as client:
        legs = await client.post("/pets", params={"field": "legs", "to": -7777777})
        arms = await client.post("/pets", params={"field": "arms", "to": 7777777})
        owner = await client.post("/pets", params={"field": "owner_id", "to": 7777777})
    assert (legs.status_code, arms.status_code, owner.status_code) == (409, 500, 409)
    assert legs.json()["errors"] == [
        {"type": "conflict", "loc": ["body", "legs"], "msg": "It has not so many."}
    ]
    assert owner.json()["errors"][0]["loc"] == ["body", "owner_id"]
    assert "777777" not in legs.text + owner.text


async def test_what_is_missing_is_no_conflict(session: AsyncSession) -> None:
    row = {"id": 1, "name": None}
    assert await break_rule(session, insert(Plain.metadata.tables["plain"]), row) is None


async def test_the_models_of_another_base_are_known(session: AsyncSession) -> None:
    session.add(Plain(id=1, name=SECRET))
    await session.commit()
    # Alembic makes such copies, whose columns are not unique.
    copy = Table("plain", MetaData(), Column("name", String, info=conflict("name", "It is not.")))
    known = await break_rule(session, insert(Plain).values(id=2, name=SECRET))
    assert copy.metadata.tables
    assert known == Conflict("name", "It is taken.")


async def test_a_table_that_was_renamed_keeps_its_conflicts(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    """Its constraints have the old names on PostgreSQL, unless a migration renames them, too."""
    guild = Table(
        "guild",
        MetaData(naming_convention=NAMING_CONVENTION),
        Column("id", Integer, primary_key=True),
        Column("town", Integer),
        Column("Name", String(9)),
        UniqueConstraint("town", "Name", info=conflict("name", "The town has one.")),
    )
    before = Table(
        "_alembic_tmp_guild",
        MetaData(naming_convention=NAMING_CONVENTION),
        Column("id", Integer, primary_key=True),
        Column("town", Integer),
        Column("Name", String(9)),
        UniqueConstraint("town", "Name"),
    )
    create_tables(settings, before.metadata)
    with executing(settings) as connection:
        connection.execute(text("ALTER TABLE _alembic_tmp_guild RENAME TO guild"))
    await session.execute(insert(guild), {"id": 1, "town": 1, "Name": SECRET})
    await session.commit()

    row = {"id": 2, "town": 1, "Name": SECRET}
    assert await break_rule(session, insert(guild), row) == Conflict("name", "The town has one.")


async def test_a_name_that_postgresql_cuts_off_is_known(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    columns = [f"a_column_with_a_long_name_{number}" for number in range(3)]
    table = Table(
        "subscription",
        metadata,
        Column("id", Integer, primary_key=True),
        *(Column(name, Integer) for name in columns),
        UniqueConstraint(*columns, info=conflict("plan", "There is one.")),
    )
    create_tables(settings, metadata)
    row = dict.fromkeys(columns, 1)
    await session.execute(insert(table), {"id": 1} | row)
    await session.commit()
    known = await break_rule(session, insert(table), {"id": 2} | row)
    assert known == Conflict("plan", "There is one.")


async def test_an_exclusion_says_which_field_it_is_about(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    metadata = MetaData()
    table = Table(
        "stay",
        metadata,
        Column("days", INT4RANGE),
        ExcludeConstraint(("days", "&&"), name="stay_days", info=conflict("days", "It is let.")),
    )
    create_tables(settings, metadata)
    await session.execute(insert(table), {"days": Range(1, 5)})
    await session.commit()
    known = await break_rule(session, insert(table), {"days": Range(4, 9)})
    assert known == Conflict("days", "It is let.")


async def test_a_rule_that_is_checked_at_the_commit_is_known(
    session: AsyncSession, settings: ChassisSettings
) -> None:
    only_on("postgres", settings)
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    place = UniqueConstraint(
        "place", deferrable=True, initially="DEFERRED", info=conflict("place", "It is let.")
    )
    table = Table("line", metadata, Column("place", Integer), place)
    create_tables(settings, metadata)
    await session.execute(insert(table), [{"place": 1}, {"place": 1}])
    with pytest.raises(IntegrityError) as caught:
        await session.commit()
    assert find_conflict(caught.value) == Conflict("place", "It is let.")


ABOUT = conflict("name", "It is taken.")


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (lambda: CheckConstraint("name > ''", info=ABOUT), r"CheckConstraint\(…, name"),
        (lambda: Index("ix_t_name", "name", info=ABOUT), r"Index\(…, unique=True\)"),
        (lambda: Column("o", Integer, CheckConstraint("o > 1", info=ABOUT)), "name"),
    ],
)
def test_what_is_no_unique_rule_is_refused(part: Callable[[], Any], says: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"conflict\('name', …\).*{says}"):
        Table("t", MetaData(), Column("name", String), part())


def test_a_column_that_is_not_unique_is_refused() -> None:
    class Own(DeclarativeBase): ...

    with pytest.raises(InvalidRequestError, match=r"at a Column: it is not unique"):

        class Loose(Own):
            __tablename__ = "loose"

            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str] = mapped_column(info=ABOUT)


def test_a_column_of_a_table_that_is_not_unique_is_refused_by_its_migrations(
    settings: ChassisSettings,
) -> None:
    metadata = MetaData()
    Table("t", metadata, Column("name", String, info=ABOUT))
    with pytest.raises(InvalidRequestError, match=r"t: conflict\('name', …\).*it is not unique"):
        create_environment(metadata, settings, {})
    metadata = MetaData()
    Table("t", metadata, Column("name", String, info=ABOUT), UniqueConstraint("name"))
    create_environment(metadata, settings, {})


def test_a_class_may_be_mapped_to_a_query() -> None:
    class Loud(Foreign):
        __table__ = select(Plain.id, func.upper(Plain.name).label("name")).subquery()
        __mapper_args__ = {"primary_key": [__table__.c.id]}  # noqa: RUF012

    assert Loud.__mapper__


async def test_a_route_may_say_it_in_its_own_words(settings: ChassisSettings, pets: None) -> None:
    router = APIRouter()

    @router.post("/pets")
    async def add(session: DbSession, owner: int) -> None:
        session.add(Pet(id=2, owner_id=owner))
        try:
            await session.commit()
        except IntegrityError as error:
            if find_conflict(error) == NO_OWNER:
                raise ProblemError(422, "Adopt it first.") from error
            raise

    async with started(create_stock(settings, router)) as client:
        response = await client.post("/pets", params={"owner": 9})
    assert (response.status_code, response.json()["detail"]) == (422, "Adopt it first.")


async def test_a_conflict_names_the_field_and_never_the_value(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter()

    @router.post("/clubs")
    async def add(session: DbSession, name: str, badge: str | None = None) -> None:
        session.add(Club(town=1, name=name, badge=badge))
        await session.commit()

    async with started(create_stock(settings, router)) as client:
        params = {"name": SECRET, "badge": SECRET}
        assert (await client.post("/clubs", params=params)).status_code == 200
        response = await client.post("/clubs", params={"name": SECRET})
        unnamed = await client.post("/clubs", params={"name": "another", "badge": SECRET})

    assert response.status_code == unnamed.status_code == 409
    assert response.json()["errors"] == [
        {"type": "conflict", "loc": ["body", "name"], "msg": "The town has one."}
    ]
    assert "errors" not in unnamed.json()
    assert SECRET not in response.text + caplog.text
