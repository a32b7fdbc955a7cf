"""The dependency by which a route serves a request once, and the commit of its handler."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.params import Depends
from sqlalchemy import BigInteger, bindparam, delete, event, func, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ..db.errors import is_missing_table
from ..db.request_sessions import DbSession, DbSessions
from ..db.sessions import Sessions
from ..db.transaction import run_transaction
from ..http.responses import EarlyResponse
from .answers import describe_response, make_response, replay_response
from .model import IdempotencyKey
from .requests import (
    HEADER,
    IdempotencyError,
    KeyedRequest,
    KeyHeader,
    identify_request,
    refuse_concurrent_request,
    refuse_key,
)

FindCaller = Callable[..., object]

# Of each database, the requests that this process serves: a second one need not ask the database.
_RUNNING: set[tuple[object, str | None]] = set()

_TABLE = IdempotencyKey.metadata.tables["idempotency_keys"]
_FIND = select(_TABLE).where(_TABLE.c.digest == bindparam("digest"))
_DELETE = delete(_TABLE).where(_TABLE.c.digest == bindparam("digest"))
_LOCK = select(func.pg_try_advisory_xact_lock(bindparam("lock", type_=BigInteger)))
# As many as keep the table from growing, and few enough for a request to do; never waits.
_OUTDATED = (
    select(_TABLE.c.digest)
    .where(_TABLE.c.created_at < bindparam("oldest"))
    .order_by(_TABLE.c.created_at)
    .limit(10)
    .with_for_update(skip_locked=True)
    .cte("outdated")
)
_DELETE_OUTDATED = delete(_TABLE).where(_TABLE.c.digest.in_(select(_OUTDATED.c.digest)))


class Idempotency:
    """A request that is served once: its handler ends with `return await once.commit(answer)`."""

    def __init__(self, session: AsyncSession, keyed: KeyedRequest) -> None:
        self._session = session
        self._keyed = keyed
        self._chassis = keyed.request.scope["chassis"]
        self._may_commit = False

    async def commit(self, answer: Any = None) -> Response:
        """Commit what was written and the answer to it, at once; return its response.

        The answer is what a handler returns otherwise, or a response of its own below 500. Raise
        IdempotencyError for one that can't be kept: nothing is committed then.
        """
        response = await self.keep(answer)
        try:
            await self._session.commit()
        finally:
            self._may_commit = False
        return response

    async def keep(self, answer: Any) -> Response:
        """Write the answer beside what was written, without the commit; return its response."""
        await self._session.flush()
        keyed = self._keyed
        response = make_response(answer, keyed.request, keyed.response)
        if keyed.digest is not None:
            row = {"digest": keyed.digest, "fingerprint": keyed.fingerprint, "created_at": _now()}
            try:
                await self._session.execute(insert(_TABLE), row | describe_response(response))
            except IntegrityError as error:
                # Another process was faster: there is no lock, or a rollback has released it.
                raise refuse_concurrent_request() from error
            await self._session.execute(_DELETE_OUTDATED, {"oldest": self._oldest})
        self._may_commit = True
        return response

    async def begin(self) -> Response | None:
        """Return the answer that is kept, if there is one; else refuse to commit without one.

        Raise ProblemError if the key was sent with another request, or is in use.
        """
        keyed = self._keyed
        if keyed.digest is None:
            return None
        event.listen(self._session.sync_session, "before_commit", self._refuse_commit)
        if self._session.get_bind().dialect.name == "postgresql":
            lock = int.from_bytes(bytes.fromhex(keyed.digest[:16]), signed=True)
            if not await self._session.scalar(_LOCK, {"lock": lock}):
                raise refuse_concurrent_request()
        # After the lock: a statement sees what was committed before it began.
        digest = {"digest": keyed.digest}
        kept = (await self._session.execute(_FIND, digest)).mappings().one_or_none()
        if kept is None:
            return None
        if kept["created_at"] < self._oldest:
            await self._session.execute(_DELETE, digest)
            return None
        if kept["fingerprint"] != keyed.fingerprint:
            message = f"This {HEADER} was sent with another request: use a new one for this."
            raise refuse_key(422, "idempotency_key_reused", message)
        self._may_commit = True
        return replay_response(kept)

    @property
    def _oldest(self) -> datetime:
        return _now() - timedelta(hours=self._chassis.settings.http_idempotency_hours)

    def _refuse_commit(self, session: Session) -> None:
        if not self._may_commit and not session.in_nested_transaction():
            raise IdempotencyError(
                f"{self._chassis.name} commits without its answer, and would do its work again "
                "when it is sent again: return await once.commit(answer)"
            )


class IdempotentTransaction:
    """A request that is served once, in a transaction that may have to run again."""

    def __init__(self, sessions: Sessions, keyed: KeyedRequest) -> None:
        self._sessions = sessions
        self._keyed = keyed

    async def run(
        self, work: Callable[[AsyncSession], Awaitable[Any]], *, serializable: bool = False
    ) -> Response:
        """Run `work` as `run_transaction` does, and commit with it what it returns, the answer."""

        async def answer_once(session: AsyncSession) -> Response:
            once = Idempotency(session, self._keyed)
            return await once.begin() or await once.keep(await work(session))

        return await run_transaction(self._sessions.write, answer_once, serializable=serializable)


def idempotency(*, caller: FindCaller | None, required: bool = True) -> Depends:
    """Return the dependency of a handler: `Once = Annotated[Idempotency, idempotency(caller=…)]`.

    `caller` is a dependency that returns the id of who sends the request, a str, int or UUID: the
    keys of one have nothing to do with those of another. With None all share theirs. A request
    without a key is a 400, or if none is required, served like any other.
    """
    identify = _create_identification(caller, required=required)

    async def open_idempotency(
        keyed: Annotated[KeyedRequest, Depends(identify)], session: DbSession
    ) -> AsyncIterator[Idempotency]:
        once = Idempotency(session, keyed)
        with _serving(session.get_bind(), keyed):
            if (kept := await once.begin()) is not None:
                raise EarlyResponse(kept)
            yield once

    return Depends(open_idempotency, scope="function")


def idempotent_transaction(*, caller: FindCaller | None, required: bool = True) -> Depends:
    """Return the dependency of a handler that ends with `return await once.run(work)`.

    Its type is IdempotentTransaction, its arguments are those of `idempotency`.
    """
    identify = _create_identification(caller, required=required)

    async def open_transaction(
        keyed: Annotated[KeyedRequest, Depends(identify)], sessions: DbSessions
    ) -> AsyncIterator[IdempotentTransaction]:
        with _serving(sessions.engines["write"], keyed):
            yield IdempotentTransaction(sessions, keyed)

    return Depends(open_transaction, scope="function")


def _create_identification(
    caller: FindCaller | None, *, required: bool
) -> Callable[..., Awaitable[KeyedRequest]]:
    async def identify(
        request: Request,
        response: Response,
        caller_id: Annotated[object, Depends(caller or _name_everyone)],
        key: Annotated[str | None, Depends(KeyHeader(required=required))],
    ) -> KeyedRequest:
        if key is None:
            return KeyedRequest(request, response)
        return await identify_request(request, response, caller_id, key)

    return identify


async def _name_everyone() -> str:
    return "everyone"


@contextmanager
def _serving(engine: object, keyed: KeyedRequest) -> Iterator[None]:
    """Refuse a second request of the same key meanwhile; say what to do if there is no table."""
    running = (engine, keyed.digest)
    if keyed.digest is not None and running in _RUNNING:
        raise refuse_concurrent_request()
    _RUNNING.add(running)
    try:
        yield
    except DBAPIError as error:
        if is_missing_table(error) and _TABLE.name in str(error.orig):
            raise IdempotencyError(
                f"there is no table {_TABLE.name}: import IdempotencyKey of chassis.idempotency in "
                "models/__init__.py, autogenerate a revision and migrate"
            ) from error
        raise
    finally:
        _RUNNING.discard(running)


def _now() -> datetime:
    return datetime.now(UTC)
