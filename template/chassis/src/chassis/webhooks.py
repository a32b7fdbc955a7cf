"""Webhooks: what a job sends to the URL of a customer, signed, and to public addresses alone."""

import asyncio
import hmac
import time
from base64 import b64decode, b64encode

from .jobs import NonRetryableError, RetryableError
from .ssrf import Networks, PrivateAddressError, public_transport

__all__ = ["ReceiverGoneError", "post_webhook", "sign_webhook"]


class ReceiverGoneError(NonRetryableError):
    """A receiver answered 410: it wants no more webhooks."""


async def post_webhook(
    url: str,
    body: str,
    *,
    event_id: str,
    secret: str,
    allowed: Networks = (),
    timeout_seconds: float = 20,
) -> None:
    """POST a JSON document once, signed. Nothing of the answer is read but its status.

    Raise RetryableError unless it is answered by 2xx in time, ReceiverGoneError for 410, and
    NonRetryableError for a URL that can't be called, or whose host has an address that is neither
    public nor in one of the `allowed` networks. No text of these has the URL.
    """
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign_webhook(secret, event_id, timestamp, body),
    }
    status = await _post(url, body, headers, allowed, timeout_seconds)
    if status == 410:
        raise ReceiverGoneError("it was answered by 410")
    if not 200 <= status < 300:
        raise RetryableError(f"it was answered by {status}")


async def _post(
    url: str, body: str, headers: dict[str, str], allowed: Networks, timeout_seconds: float
) -> int:
    """Return the status of the answer."""
    transport = public_transport(allowed=allowed)
    import httpx2

    client = httpx2.AsyncClient(transport=transport, timeout=timeout_seconds)
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            client,
            # The body of an answer may have no end.
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            return answer.status_code
    except PrivateAddressError:
        raise NonRetryableError("the host's address is not public") from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        raise NonRetryableError("the URL can't be called") from None
    except TimeoutError:
        raise RetryableError(f"it was not answered in {timeout_seconds:g} s") from None
    except httpx2.HTTPError as error:
        raise RetryableError(f"it was not answered: {type(error).__name__}") from None


def sign_webhook(secret: str, event_id: str, timestamp: int, body: str) -> str:
    """Return the header `webhook-signature` of the Standard Webhooks; the time is Unix's.

    The secret is `whsec_` and Base64. While it is changed it is the new and the old one, with a
    space between: there is a signature by each. Raise ValueError if it is none, without it.
    """
    content = f"{event_id}.{timestamp}.{body}".encode()
    digests = [hmac.digest(key, content, "sha256") for key in _read_keys(secret)]
    return " ".join(f"v1,{b64encode(digest).decode()}" for digest in digests)


def _read_keys(secret: str) -> list[bytes]:
    try:
        keys = [b64decode(one.removeprefix("whsec_"), validate=True) for one in secret.split()]
    except ValueError:
        keys = []
    if not all(keys) or not keys:
        raise ValueError("the secret of a webhook is whsec_ and Base64 of 24 bytes or more")
    return keys
