"""Rows that belong to tenants: a session reads and writes those of one, however it asks."""

from .models import RowSecured, Tenanted
from .scope import TenantError, all_tenants, current_tenant, tenant_scope
from .sessions import check_row_security

__all__ = [
    "RowSecured",
    "TenantError",
    "Tenanted",
    "all_tenants",
    "check_row_security",
    "current_tenant",
    "tenant_scope",
]
