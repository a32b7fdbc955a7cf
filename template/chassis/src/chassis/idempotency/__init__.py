"""Requests that may be sent again: the header Idempotency-Key, and the answers that are kept."""

from .dependency import Idempotency, idempotency
from .model import IdempotencyKey
from .requests import IdempotencyError

__all__ = ["Idempotency", "IdempotencyError", "IdempotencyKey", "idempotency"]
