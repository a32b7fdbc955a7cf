"""The dependency by which a route serves a request once, and the commit of its handler."""

from collections.abc import AsyncIterator, Callable, Iterator
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
from ..db.request_sessions import DbSession
from ..http.responses import EarlyResponse
from .answers import describe_response, make_response, replay_response
from .model import IdempotencyKey
from .requests import (
    HEADER,
    IdempotencyError,
    KeyHeader,
    RequestIdentity,
    identify_request,
    refuse_concurrent_request,
    refuse_key,
)

# Of each database, the requests that this process serves: a second one need not ask the database.
_RUNNING: set[tuple[Any, str]] = set()

_TABLE = IdempotencyKey.metadata.tables["idempotency_keys"]
_FIND = select(_TABLE).where(_TABLE.c.digest == bindparam("digest"))
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

    def __init__(
        self,
        session: AsyncSession,
        request: Request,
        response: Response,
        identity: RequestIdentity | None,
    ) -> None:
        self._session = session
        self._request = request
        self._response = response
        self._identity = identity
        self._is_committing = False

    async def commit(self, answer: Any = None) -> Response:
        """Commit what was written and the answer to it, at once; return its response.

        The answer is what a handler returns otherwise, or a response of its own below 500. Raise
        IdempotencyError for one that can't be kept: nothing is committed then.
        """
        await self._session.flush()
        response = make_response(answer, self._request, self._response)
        if self._identity is not None:
            await self._keep(self._identity, response)
        self._is_committing = True
        try:
            await self._session.commit()
        finally:
            self._is_committing = False
        return response

    async def find_answer(self, identity: RequestIdentity) -> Response | None:
        """Return the answer that is kept for a request, if there is one that is not too old.

        Raise ProblemError if the key was sent with another request, or is in use.
        """
        if self._session.get_bind().dialect.name == "postgresql":
            lock = int.from_bytes(bytes.fromhex(identity.digest[:16]), signed=True)
            if not await self._session.scalar(_LOCK, {"lock": lock}):
                raise refuse_concurrent_request()
        # After the lock: a statement sees what was committed before it began.
        found = await self._session.execute(_FIND, {"digest": identity.digest})
        kept = found.mappings().one_or_none()
        if kept is None:
            return None
        if kept["created_at"] < self._oldest:
            await self._session.execute(delete(_TABLE).where(_TABLE.c.digest == identity.digest))
            return None
        if kept["fingerprint"] != identity.fingerprint:
            message = f"This {HEADER} was sent with another request: use a new one for this."
            raise refuse_key(422, "idempotency_key_reused", message)
        return replay_response(kept)

    def refuse_other_commits(self) -> None:
        """Raise IdempotencyError for a commit without the answer: a retry would do it again."""

        @event.listens_for(self._session.sync_session, "before_commit")
        def refuse_commit_without_answer(session: Session) -> None:
            if not self._is_committing and not session.in_nested_transaction():
                raise IdempotencyError(
                    f"{self._request.scope['chassis'].name} commits without its answer, and would "
                    "do its work again when it is sent again: await once.commit(answer)"
                )

    @property
    def _oldest(self) -> datetime:
        hours = self._request.scope["chassis"].settings.http_idempotency_hours
        return datetime.now(UTC) - timedelta(hours=hours)

    async def _keep(self, identity: RequestIdentity, response: Response) -> None:
        row = describe_response(response) | identity._asdict() | {"created_at": datetime.now(UTC)}
        try:
            await self._session.execute(insert(_TABLE), row)
        except IntegrityError as error:
            # Another process was faster where there is no lock, or a rollback has released it.
            raise refuse_concurrent_request() from error
        await self._session.execute(_DELETE_OUTDATED, {"oldest": self._oldest})


def idempotency(*, caller: Callable[..., object] | None, required: bool = True) -> Depends:
    """Return the dependency of a handler: `Once = Annotated[Idempotency, idempotency(caller=…)]`.

    `caller` is a dependency that returns the id of who sends the request, a str, int or UUID: the
    keys of one have nothing to do with those of another. With None all share theirs. A request
    without a key is a 400, or if none is required, served like any other.
    """

    async def open_idempotency(
        request: Request,
        response: Response,
        caller_id: Annotated[object, Depends(caller or _name_everyone)],
        key: Annotated[str | None, Depends(KeyHeader(required=required))],
        session: DbSession,
    ) -> AsyncIterator[Idempotency]:
        if key is None:
            yield Idempotency(session, request, response, None)
            return
        identity = await identify_request(request, caller_id, key)
        once = Idempotency(session, request, response, identity)
        with _serving(session.get_bind(), identity), _explaining_missing_table():
            kept = await once.find_answer(identity)
            if kept is not None:
                raise EarlyResponse(kept)
            once.refuse_other_commits()
            yield once

    return Depends(open_idempotency, scope="function")


async def _name_everyone() -> str:
    return "everyone"


@contextmanager
def _serving(engine: Any, identity: RequestIdentity) -> Iterator[None]:
    """Refuse another request of the same key while this one is served."""
    running = (engine, identity.digest)
    if running in _RUNNING:
        raise refuse_concurrent_request()
    _RUNNING.add(running)
    try:
        yield
    finally:
        _RUNNING.discard(running)


@contextmanager
def _explaining_missing_table() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if is_missing_table(error) and _TABLE.name in str(error.orig):
            raise IdempotencyError(
                f"there is no table {_TABLE.name}: import IdempotencyKey of chassis.idempotency in "
                "models/__init__.py, autogenerate a revision and migrate"
            ) from error
        raise
