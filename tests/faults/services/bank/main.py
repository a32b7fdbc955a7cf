"""The application: routes that do right, and some that go wrong in a way of their own."""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from chassis import ChassisSettings, create_app
from chassis.db import DbReadSession, DbSession, session_scope
from chassis.idempotency import Idempotency, idempotency
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request, Response
from sqlalchemy import func, insert, select, text, update

from .models import Account, Entry

# How long the commit of a route that answers too early takes to come.
LATE_SECONDS = 0.05


class Settings(ChassisSettings):
    """A setting of the service's own, which a team did not mark as a secret."""

    mail_api_key: str = ""


Once = Annotated[Idempotency, idempotency(caller=None)]
router = APIRouter()


@router.post("/entries/{name}", status_code=201)
async def write_entry(name: str, session: DbSession) -> None:
    """Keep an entry; the answer is its acknowledgement."""
    session.add(Entry(name=name))
    await session.commit()


@router.post("/early/{name}", status_code=201)
async def answer_early(name: str, request: Request, tasks: BackgroundTasks) -> None:
    """Answer before the commit, as code after a plain `yield` does."""

    async def commit() -> None:
        async with session_scope(request.app.state.sessions.write) as session:
            session.add(Entry(name=name))
            await asyncio.sleep(LATE_SECONDS)
            await session.commit()

    tasks.add_task(commit)


@router.post("/orders/{name}", status_code=201)
async def place_order(name: str, crash: Path, session: DbSession, once: Once) -> Response:
    """Keep an order and its answer; die between the commit and the answer, if that was asked."""
    entry = Entry(name=f"{name}-{uuid4().hex}")
    session.add(entry)
    answer = await once.commit({"name": entry.name})
    die_if_asked(crash)
    return answer


@router.post("/apart/{name}", status_code=201)
async def keep_the_key_apart(name: str, crash: Path, request: Request, once: Once) -> Response:
    """Keep the key by a commit of its own, and the order after it."""
    entry = Entry(name=f"{name}-{uuid4().hex}")
    answer = await once.commit({"name": entry.name})
    die_if_asked(crash)

    async def commit() -> None:
        async with session_scope(request.app.state.sessions.write) as session:
            session.add(entry)
            await session.commit()

    # On SQLite a task has one session that writes.
    await asyncio.create_task(commit())
    return answer


def die_if_asked(crash: Path) -> None:
    """End this process as nothing can prevent, the first time."""
    with suppress(FileNotFoundError):
        crash.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


@router.get("/entries")
async def read_names(session: DbReadSession) -> Sequence[str]:
    """List the names that are kept."""
    return (await session.scalars(select(Entry.name))).all()


@router.get("/page")
async def read_page(session: DbReadSession) -> Sequence[str]:
    """List the first fifty names."""
    return (await session.scalars(select(Entry.name).order_by(Entry.id).limit(50))).all()


@router.get("/count")
async def count(session: DbReadSession) -> int | None:
    """Count the entries."""
    return await session.scalar(select(func.count()).select_from(Entry))


@router.post("/accounts/{account_id}/increments")
async def increment(account_id: int, session: DbSession) -> int | None:
    """Add one to a balance."""
    statement = update(Account).where(Account.id == account_id).returning(Account.balance)
    balance = await session.scalar(statement.values(balance=Account.balance + 1))
    await session.commit()
    return balance


@router.post("/accounts/{account_id}/careless-increments")
async def increment_carelessly(account_id: int, session: DbSession) -> int:
    """Add one to a balance by reading it first; SQLite's write transactions make it safe there."""
    account = await session.get_one(Account, account_id)
    account.balance += 1
    await session.commit()
    return account.balance


@router.get("/slow")
async def hold_a_connection(seconds: float, session: DbSession) -> None:
    """Hold a connection for a while."""
    await session.execute(text("SELECT 1"))
    await asyncio.sleep(seconds)


@router.get("/pools")
async def read_pools(request: Request) -> dict[str, int]:
    """Count the connections that are lent."""
    sessions = request.app.state.sessions
    pools = {"write": sessions.write.kw["bind"].pool, "read": sessions.read.kw["bind"].pool}
    return {name: pool.checkedout() for name, pool in pools.items()}


@router.get("/wrong/{what}")
async def go_wrong(what: str, secret: str, session: DbSession) -> Any:
    """Let the database refuse something, with a secret among the values."""
    match what:
        case "unique":
            await session.execute(insert(Entry), [{"name": secret}, {"name": secret}])
        case "not-null":
            await session.execute(insert(Entry).values(id=1, name=None))
        case "statement":
            await session.execute(text("SELECT :secret FROM nowhere"), {"secret": secret})
        case "type":
            await session.execute(
                text("INSERT INTO entries (id, name) VALUES (:n, 'x')"), {"n": secret}
            )
        case "timeout":
            await session.execute(text("SELECT pg_sleep(10), :secret"), {"secret": secret})
        case "lazy":
            session.add(Entry(name=secret, account=Account()))
            await session.commit()
            session.expunge_all()
            return (await session.scalars(select(Entry))).all()[-1].account
        case "uncommitted":
            session.add(Entry(name=secret))
        case "bug":
            raise RuntimeError("a bug")


@router.get("/refused")
async def write_by_reading(secret: str, session: DbReadSession) -> None:
    """Write through a read session."""
    await session.execute(text("INSERT INTO entries (name) VALUES (:name)"), {"name": secret})


def create_service(settings: Settings | None = None) -> FastAPI:
    """Build the application."""
    return create_app(settings or Settings(), package=__name__, routers=[router])
