"""The image's health check: does /livez answer? It is run by its path and imports no package."""

import os
from http.client import HTTPConnection, HTTPException


def read_variable(name: str) -> str:
    """Return a variable as the service reads it: not the address that Kubernetes sets."""
    text = os.environ.get(name, "").rstrip("\r\n")
    return "" if "://" in text else text


host = read_variable("APP_SERVER_HOST") or "127.0.0.1"
port = read_variable("APP_SERVER_PORT") or read_variable("PORT") or "8000"
if host in ("0.0.0.0", "::"):
    host = "localhost"  # tried as IPv4 and as IPv6
try:
    connection = HTTPConnection(host, int(port), timeout=2)
    connection.request("GET", "/livez")
    status = connection.getresponse().status
except (OSError, HTTPException) as error:
    raise SystemExit(f"/livez does not answer: {error}") from None
if status != 200:
    raise SystemExit(f"/livez answered {status}")
