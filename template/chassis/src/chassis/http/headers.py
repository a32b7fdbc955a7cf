"""Headers of a request and an answer: which host is asked for, what every answer carries."""

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

# What the chassis reads and writes besides the request id: for scripts of other origins, too.
SENT_HEADERS = ("Idempotency-Key", "If-Match", "traceparent")
ANSWERED_HEADERS = ("ETag", "Idempotent-Replayed", "Link", "Retry-After", "WWW-Authenticate")

# A header that the application sets itself is never replaced. `frame-ancestors` makes
# X-Frame-Options superfluous; every further header costs a microsecond or two.
SECURITY_HEADERS: Headers = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def read_headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers; of those sent twice the first, which is the one that Starlette sees."""
    return dict(reversed(scope["headers"]))


def has_ambiguous_host(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    """Return whether two servers may see two hosts: RFC 9112 demands a 400."""
    if len(headers) != len(scope["headers"]):
        return [name for name, _ in scope["headers"]].count(b"host") > 1
    return b"host" not in headers and scope.get("http_version") == "1.1"


def is_host_allowed(allowed_hosts: tuple[str, ...], header: bytes) -> bool:
    """Return whether a Host header names one of some hosts; `*.` stands for any subdomain."""
    host = header.decode("latin-1").lower()
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return any(
        name == allowed or (allowed.startswith("*.") and name.endswith(allowed[1:]))
        for allowed in allowed_hosts
    )
