"""The connections of clients: an answer leaves in one piece."""

import asyncio

import pytest

from chassis.commands.clients import Client, Clients, Transport

pytestmark = pytest.mark.anyio


class Written(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.parts.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
async def transport(written: Written) -> Transport:
    clients = Clients(limit=1, header_seconds=0)
    return Transport(Client(clients, asyncio.Protocol), written)


async def test_headers_and_body_leave_at_once(transport: Transport, written: Written) -> None:
    for number in (b"1", b"2"):
        transport.begin_answer()
        for part in (b"headers ", b"body ", b"more "):
            transport.write(part + number)
    assert written.parts == [b"headers 1body 1", b"more 1", b"headers 2body 2", b"more 2"]


async def test_headers_wait_for_no_body_that_takes_its_time(
    transport: Transport, written: Written
) -> None:
    transport.begin_answer()
    transport.write(b"headers")
    await asyncio.sleep(0)
    assert written.parts == [b"headers"]
    transport.write(b"event")
    assert written.parts == [b"headers", b"event"]


async def test_what_is_held_back_is_sent_before_the_connection_is_closed(
    transport: Transport, written: Written
) -> None:
    transport.begin_answer()
    transport.write(b"headers")
    transport.close()
    assert written.parts == [b"headers"]
    transport.write(b"too late")
    assert (written.parts, written.is_closed) == ([b"headers"], True)
