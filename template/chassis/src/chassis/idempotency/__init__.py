"""Requests that may be sent again: the header Idempotency-Key, and the answers that are kept."""

from .dependency import (
    Idempotency,
    IdempotentTransaction,
    idempotency,
    idempotent_transaction,
)
from .model import IdempotencyKey
from .requests import IdempotencyError

__all__ = [
    "Idempotency",
    "IdempotencyError",
    "IdempotencyKey",
    "IdempotentTransaction",
    "idempotency",
    "idempotent_transaction",
]
