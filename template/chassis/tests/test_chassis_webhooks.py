"""Webhooks: what is sent, and what becomes of each answer."""

import base64
import hashlib
import hmac
import socket
from contextlib import suppress
from threading import Thread
from time import sleep

import pytest

from chassis.jobs import NonRetryableError, RetryableError
from chassis.testing import Receiver
from chassis.webhooks import ReceiverGoneError, post_webhook, sign_webhook

# The example of the specification of Standard Webhooks.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
OTHER = "whsec_" + base64.b64encode(b"another secret of 24 byt").decode()
LOOPBACK = ("127.0.0.0/8",)


async def post(url: str, *, allowed: tuple[str, ...] = LOOPBACK, seconds: float = 20) -> None:
    await post_webhook(
        f"{url}/hooks?token=hidden",
        "{}",
        event_id=EVENT_ID,
        secret=SECRET,
        allowed=allowed,
        timeout_seconds=seconds,
    )


async def test_it_is_signed_over_its_id_time_and_body(receiver: Receiver) -> None:
    await post(receiver.url)
    [sent] = receiver.requests
    assert (sent.method, sent.path, sent.body) == ("POST", "/hooks?token=hidden", b"{}")
    assert sent.headers["content-type"] == "application/json"
    assert sent.headers["webhook-id"] == EVENT_ID
    content = f"{EVENT_ID}.{sent.headers['webhook-timestamp']}.{{}}".encode()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, content, hashlib.sha256).digest()
    assert sent.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


def test_the_signature_is_that_of_the_specification() -> None:
    body = '{"test": 2432232314}'
    signature = sign_webhook(SECRET, EVENT_ID, 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_sign_both() -> None:
    one, two = (sign_webhook(secret, EVENT_ID, 1, "{}") for secret in (SECRET, OTHER))
    assert sign_webhook(f"{SECRET} {OTHER}", EVENT_ID, 1, "{}") == f"{one} {two}"


@pytest.mark.parametrize(
    "secret", ["", " ", "whsec_", "whsec_no base64!", "whsec_MfKQ9r8G!", "whsec_ä"]
)
def test_a_secret_that_is_none_is_refused_without_it(secret: str) -> None:
    with pytest.raises(ValueError, match="is whsec_ and Base64") as refused:
        sign_webhook(secret, EVENT_ID, 1, "{}")
    assert "base64!" not in str(refused.value)


@pytest.mark.parametrize("status", [200, 202, 204])
async def test_2xx_is_taken(receiver: Receiver, status: int) -> None:
    receiver.answer_next(status)
    await post(receiver.url)


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
async def test_another_status_is_tried_again(receiver: Receiver, status: int) -> None:
    receiver.answer_next(status, headers={"Location": receiver.url})
    with pytest.raises(RetryableError, match=f"^it was answered by {status}$"):
        await post(receiver.url)
    assert len(receiver.requests) == 1


async def test_410_is_the_last_one(receiver: Receiver) -> None:
    receiver.answer_next(410)
    with pytest.raises(ReceiverGoneError):
        await post(receiver.url)


async def test_a_slow_receiver_has_its_time_in_all(receiver: Receiver) -> None:
    receiver.answer_next(200, delay_seconds=1)
    with pytest.raises(RetryableError, match="not answered"):
        await post(receiver.url, seconds=0.2)


async def test_a_receiver_that_drips_has_no_more_time_than_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for _ in range(100):
                    sleep(0.05)
                    connection.sendall(b"x: y\r\n")

        thread = Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(RetryableError, match=r"^it was not answered in 0\.3 s$"):
            await post(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.3)
        thread.join()


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(RetryableError, match="ConnectError") as refused:
        await post(f"http://127.0.0.1:{port}")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://127.0.0.1", "the URL can't be called"),
        ("no-scheme", "the URL can't be called"),
        ("http://", "the URL can't be called"),
        ("http://[::1", "the URL can't be called"),
        ("http://169.254.169.254", "the host's address is not public"),
    ],
)
async def test_what_can_not_be_called_is_not_tried_again(url: str, reason: str) -> None:
    with pytest.raises(NonRetryableError, match=f"^{reason}$"):
        await post(url)


async def test_own_networks_are_private_unless_allowed(receiver: Receiver) -> None:
    with pytest.raises(NonRetryableError, match="not public"):
        await post(receiver.url, allowed=())
    assert receiver.requests == []
