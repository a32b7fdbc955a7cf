"""What Kubernetes sets for each Service of a namespace: APP_SERVER_PORT for app-server."""

import os
import re
from ipaddress import ip_address

_NAME = re.compile(r"(.+)_PORT(?:_\d+_(?:TCP|UDP|SCTP))?")
_TEXT = re.compile(r"(?:tcp|udp|sctp)://\[?([0-9a-f.:]+?)\]?:\d+")


def linked_services() -> set[str]:
    """Return how the variables start that Kubernetes sets for Services: APP_SERVER."""
    found = (_NAME.fullmatch(name) for name in os.environ if is_service_link(name))
    return {match[1] for match in found if match}


def is_service_link(name: str) -> bool:
    """Return whether a variable is, by its shape, one that Kubernetes sets for a Service."""
    found = _TEXT.fullmatch(os.environ.get(name, "").strip()) if _NAME.fullmatch(name) else None
    try:
        address = ip_address(found[1]) if found else None
    except ValueError:
        return False
    return address is not None and not (address.is_loopback or address.is_unspecified)
