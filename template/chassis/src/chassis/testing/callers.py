"""Callers of the service under test: tokens that are signed, and no issuer to ask for keys."""

import json
import time
from collections.abc import Iterable
from copy import copy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
from httpx2 import AsyncClient

from .issuer import AUDIENCE, SigningKey

ISSUER = "https://issuer.test"


class Client(AsyncClient):
    """A client of the application under test; `as_` makes clients of callers."""

    def __init__(self, settings: Any, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings

    def as_(
        self,
        subject: str,
        *,
        scopes: Iterable[str] = (),
        roles: Iterable[str] = (),
        tenant: str | None = None,
        **claims: Any,
    ) -> Self:
        """Return a client of a caller, by a token that counts for an hour; this one stays as it is.

        Other claims are added to the token.
        """
        settings = self._settings
        if getattr(settings, "auth_issuer", None) != ISSUER:
            pytest.fail(
                "client.as_ makes tokens for the settings of the test kit: install the extra, "
                'uv add "service-chassis[auth]==0+template", and leave auth_issuer as the '
                "fixture `settings` has it"
            )
        now = int(time.time())
        token = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + 3600,
            settings.auth_scopes_claim: " ".join(_list_names(scopes)),
            settings.auth_roles_claim: _list_names(roles),
            **({} if tenant is None else {settings.auth_tenant_claim: tenant}),
            **claims,
        }
        caller = copy(self)
        # Both are copied by these.
        caller.cookies = self.cookies
        caller.headers = self.headers
        caller.headers["Authorization"] = f"Bearer {_create_key().sign(token)}"
        return caller


def caller_settings() -> dict[str, Any]:
    """Return the settings of a service that knows the callers of tests, if it can check tokens."""
    if find_spec("jwt") is None:
        return {}
    return {
        "auth_issuer": ISSUER,
        "auth_audience": (AUDIENCE,),
        "auth_jwks_url": _write_keys().as_uri(),
        "auth_algorithms": ("ES256",),
    }


def _list_names(names: Iterable[str]) -> list[str]:
    return sorted(names.split() if isinstance(names, str) else names)


@cache
def _create_key() -> SigningKey:
    """Return the key of this session."""
    return SigningKey()


@cache
def _keep_folder() -> TemporaryDirectory[str]:
    """Return a folder that is there until the process ends."""
    return TemporaryDirectory(prefix="chassis-callers-")


@cache
def _write_keys() -> Path:
    """Return the file of the public key, which also servers in other processes read."""
    file = Path(_keep_folder().name, "keys.json")
    file.write_text(json.dumps({"keys": [_create_key().jwk]}), encoding="utf-8")
    return file
