"""The settings that every service has, and the guard on the classes that extend them."""

import inspect
import re
from ipaddress import IPv6Address, ip_network
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from .db.address.settings import CAPITALS, DatabaseSettings, Seconds


def _split_list(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _check_listening_host(host: str) -> str:
    if re.fullmatch(r"[\w.-]+", host):
        return host
    try:
        IPv6Address(host)
    except ValueError:
        raise ValueError(
            "must be an address or a name, without a port, and an IPv6 address without "
            "brackets, such as 0.0.0.0 or ::"
        ) from None
    return host


def _check_allowed_host(host: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*|\[[0-9a-f:.]+\]", host.lower(), re.ASCII):
        raise ValueError(
            "must be hosts with commas between, each without a scheme, a port and a path, "
            "such as app.example.com or *.example.com; or * alone"
        )
    return host.lower()


def _check_origin(origin: str) -> str:
    if origin != "*" and not re.fullmatch(r"https?://[^\s/*?#@]+", origin):
        raise ValueError(
            "must be origins with commas between, each a scheme and a host without a path, "
            "such as https://app.example.com; or * alone"
        )
    return origin


def _check_proxies(value: str) -> str:
    try:
        for network in value.split(",") if value != "*" else ():
            ip_network(network.strip())
    except ValueError:
        raise ValueError(
            "must be addresses or networks with commas between, such as 10.0.0.0/8,::1; "
            "or * alone, which trusts everyone"
        ) from None
    return value


def _check_root_path(path: str) -> str:
    if path and not re.fullmatch(r"(/[\w.~-]+)+", path, re.ASCII):
        raise ValueError("must begin with / and not end with it, such as /orders")
    return path


def _check_issuer(url: str) -> str:
    if not re.fullmatch(f"{_TRUSTED_SERVER}(/[^\\s?#@]*)?", url, re.ASCII):
        raise ValueError(
            "must be the issuer exactly as tokens have it in `iss`, an https:// URL without a query"
            " (http:// for localhost only), such as https://login.example.com/realms/shop"
        )
    return url


def check_server_url(url: str) -> str:
    """Return the URL. Raise ValueError if others could answer for its server."""
    if not re.fullmatch(rf"{_TRUSTED_SERVER}/[^\s#@]*", url, re.ASCII):
        raise ValueError(
            "must be an https:// URL with a path (http:// for localhost only), such as "
            "https://login.example.com/realms/shop/keys"
        )
    return url


def _check_key_url(url: str) -> str:
    return url if url.startswith("file:///") else check_server_url(url)


def _check_algorithms(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or not set(names) <= set(SIGNATURE_ALGORITHMS):
        raise ValueError(
            f"must be of {', '.join(SIGNATURE_ALGORITHMS)}, with commas between; those with a "
            "shared secret (HS256 …) and none are refused: whoever checks such a token can make one"
        )
    return names


# Who can change what they answer can make tokens.
_TRUSTED_SERVER = (
    r"(https://([\w.-]+|\[[0-9a-fA-F:]+\])|http://(localhost|127\.0\.0\.1|\[::1\]))(:\d{1,5})?"
)
SIGNATURE_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


def _split_limits(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [each.partition("=") for each in value.replace(",", " ").split()]
    if any(not (name and limit.isdecimal() and int(limit)) for name, _, limit in pairs):
        raise ValueError(
            "must be queues and how many of their jobs run at once, with commas between, such as "
            "mail=2,reports=1"
        )
    return {name: int(limit) for name, _, limit in pairs}


# Written with commas between: a.example.com,b.example.com
_Separated = (NoDecode, BeforeValidator(_split_list))

Port = Annotated[int, Field(ge=1, le=65535)]
ListeningHost = Annotated[str, AfterValidator(_check_listening_host)]
RootPath = Annotated[str, AfterValidator(_check_root_path)]
Proxies = Annotated[str, AfterValidator(_check_proxies)]
Names = Annotated[tuple[str, ...], *_Separated]
AllowedHosts = Annotated[
    tuple[Annotated[str, AfterValidator(_check_allowed_host)], ...], *_Separated
]
Origins = Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], *_Separated]
Issuer = Annotated[str, AfterValidator(_check_issuer)]
KeyURL = Annotated[str, AfterValidator(_check_key_url)]
Algorithms = Annotated[tuple[str, ...], *_Separated, AfterValidator(_check_algorithms)]
QueueLimits = Annotated[dict[str, int], NoDecode, BeforeValidator(_split_limits)]

# Migrations read DatabaseSettings and not the service's class: a service that changed one of these
# would migrate another database than the one it uses.
_READ_BY_MIGRATIONS = ("database_", "alembic_", "secrets_")


class ChassisSettings(DatabaseSettings):
    """What a service reads from `APP_*` variables; its own `Settings` adds fields to it.

    Raise TypeError when a subclass is made that changes one of these fields.
    """

    platform_variables: ClassVar[dict[str, str]] = {
        **DatabaseSettings.platform_variables,
        "server_platform_port": "PORT",
    }

    server_host: ListeningHost = "127.0.0.1"
    server_platform_port: Annotated[int | None, Field(ge=1, le=65535)] = None
    server_port: Port = Field(default_factory=lambda data: data["server_platform_port"] or 8000)
    server_workers: Annotated[int, Field(ge=1)] = 1
    # How many of this service run, which it can't know; for the budget of connections.
    server_replicas: Annotated[int, Field(ge=1)] = 1
    server_drain_seconds: Seconds = 0
    server_graceful_timeout_seconds: Annotated[int, Field(ge=0)] = 20
    server_header_timeout_seconds: Seconds = 15
    # Longer than load balancers keep theirs, or they send a request to one that was just closed.
    server_keep_alive_seconds: Annotated[int, Field(ge=1)] = 75
    server_max_connections: Annotated[int, Field(ge=1)] = 10_000
    server_trusted_proxies: Proxies = "127.0.0.1"
    # Where a proxy serves this service and takes the prefix off: /orders
    server_root_path: RootPath = ""

    http_allowed_hosts: AllowedHosts = ("*",)
    http_cors_origins: Origins = ()
    http_cors_methods: Names = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    http_cors_headers: Names = ("Authorization", "Content-Type")
    http_cors_credentials: bool = False
    http_hsts_seconds: Annotated[int, Field(ge=0)] = 0
    http_idempotency_hours: Annotated[int, Field(ge=1)] = 24
    http_max_body_bytes: Annotated[int, Field(ge=0)] = 1024 * 1024
    http_max_concurrent_requests: Annotated[int, Field(ge=0)] = 0
    http_request_id: bool = True
    http_request_id_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "X-Request-ID"
    http_request_id_trusted: bool = True
    http_request_timeout_seconds: Seconds = 30
    http_security_headers: bool = True

    # Whether a server runs jobs, too, or leaves them to the command `work`.
    jobs_in_server: bool = True
    # Jobs that each process runs at once; in a server they share its connections with requests.
    jobs_concurrency: Annotated[int, Field(ge=1)] = 4
    # How many of a queue run at once in all processes: mail=2,reports=1
    jobs_queue_limits: QueueLimits = Field(default_factory=dict)
    jobs_poll_seconds: Annotated[float, Field(gt=0)] = 1
    jobs_lease_seconds: Annotated[float, Field(ge=1)] = 60
    jobs_keep_days: Annotated[int, Field(ge=1)] = 7

    log_access: bool = True
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], CAPITALS] = (
        "INFO"
    )
    metrics_enabled: bool = False
    metrics_path: Annotated[str, Field(pattern=r"^/[\w/.-]+$")] = "/metrics"
    metrics_port: Port | None = None
    tracing_enabled: bool = False
    docs_enabled: bool = True

    auth_issuer: Issuer | None = None
    auth_audience: Names = ()
    auth_jwks_url: KeyURL | None = None
    auth_algorithms: Algorithms = ("RS256", "ES256")
    auth_leeway_seconds: Seconds = 30
    auth_scopes_claim: str = "scope"
    auth_roles_claim: str = "roles"
    auth_tenant_claim: str = "tenant"
    auth_required: bool = False

    @model_validator(mode="after")
    def _check_credentials(self) -> Self:
        named = {*self.http_cors_origins, *self.http_cors_methods, *self.http_cors_headers}
        if self.http_cors_credentials and "*" in named:
            raise ValueError(
                "APP_HTTP_CORS_CREDENTIALS: with credentials every origin, method and header must "
                "be named; replace the * in APP_HTTP_CORS_ORIGINS, _METHODS or _HEADERS"
            )
        return self

    @model_validator(mode="after")
    def _check_issuers_settings(self) -> Self:
        if self.auth_issuer is not None and not self.auth_audience:
            raise ValueError(
                "APP_AUTH_AUDIENCE: APP_AUTH_ISSUER needs it, else tokens that the issuer made for "
                "other services count here; set it to the name that it has for this service"
            )
        if self.auth_issuer is None and (self.auth_audience or self.auth_jwks_url):
            name = "APP_AUTH_AUDIENCE" if self.auth_audience else "APP_AUTH_JWKS_URL"
            raise ValueError(
                f"{name}: is not read without APP_AUTH_ISSUER; set that one too, or remove {name}"
            )
        return self

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        _refuse_changed_fields(cls)


def _refuse_changed_fields(settings: type[ChassisSettings]) -> None:
    added = [base for base in settings.__mro__ if base not in ChassisSettings.__mro__]
    redefined = {name for base in added for name in inspect.get_annotations(base)}
    for name in sorted(redefined & ChassisSettings.model_fields.keys()):
        if name.startswith(_READ_BY_MIGRATIONS):
            raise TypeError(
                f"{settings.__name__}.{name} redefines a setting of the chassis, and migrations "
                f"would not see it; remove it and set APP_{name.upper()}"
            )
        ours = ChassisSettings.model_fields[name].annotation
        if settings.model_fields[name].annotation != ours:
            raise TypeError(
                f"{settings.__name__}.{name} gives a setting of the chassis another type; "
                "choose another name for yours"
            )
