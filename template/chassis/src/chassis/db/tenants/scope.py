"""Whose rows the sessions see that are used now: one tenant's, all tenants', nobody's."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy.exc import DontWrapMixin

ALL = "*"
scope: ContextVar[str | None] = ContextVar("tenant_scope", default=None)


class TenantError(DontWrapMixin, RuntimeError):
    """Rows are asked for without a tenant, for another one, or in a way that is kept to none."""


@contextmanager
def tenant_scope(tenant: str) -> Iterator[None]:
    """Let the sessions that are used within read and write the rows of one tenant."""
    if not tenant or tenant == ALL:
        raise TenantError(f"{tenant!r} is the id of no tenant")
    with _enter(tenant):
        yield


@contextmanager
def all_tenants() -> Iterator[None]:
    """Let the sessions that are used within read and write the rows of all tenants."""
    with _enter(ALL):
        yield


def current_tenant() -> str:
    """Return the tenant whose scope this runs in. Raise TenantError if there is none."""
    tenant = scope.get()
    if tenant is None:
        raise TenantError(
            "rows of tenants are asked for without a tenant: do it in `with tenant_scope(…):`, or "
            "in `with all_tenants():` if all of them are meant"
        )
    if tenant == ALL:
        raise TenantError("in `with all_tenants():` a new row names its tenant itself: tenant=…")
    return tenant


def check_tenant(tenant: object) -> None:
    """Raise TenantError, in the scope of a tenant, for the id of another one."""
    if tenant is not None and tenant != (own := scope.get()) and own not in (None, ALL):
        raise TenantError(f"in the scope of {own} a row of another tenant was written, or read")


@contextmanager
def _enter(tenant: str) -> Iterator[None]:
    token = scope.set(tenant)
    try:
        yield
    finally:
        scope.reset(token)
