"""Malformed requests over real sockets: each is refused or served, and nothing remains of it."""

import asyncio
import os
import re
import secrets
import struct
from collections import Counter
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET

from tests.postgres import HOST
from tests.scale import FULL

from .attacked import Attacked
from .malformed import Attack, make_attack

ATTACKS = 10_000 if FULL else 500
AT_ONCE = 16
HANGS_AFTER_SECONDS = 60
# For what is incomplete there may never be an answer.
PATIENCE_SECONDS = 0.1
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) [A-Za-z -]+\r\n")
ABORT = struct.pack("ii", 1, 0)


def test_malformed_requests_break_nothing(attacked: Attacked) -> None:
    seed = os.environ.get("CHASSIS_TEST_SEED", secrets.token_hex(4))
    with attacked.serving() as running:
        failures, answers = asyncio.run(attack_often(running.port, seed))
        print(f"{ATTACKS} attacks of CHASSIS_TEST_SEED={seed}: {sorted(answers.items())}")
        assert not failures, f"CHASSIS_TEST_SEED={seed}\n" + "\n".join(failures[:10])
        running.check_that_it_is_whole()
        broken = [
            one for one in running.metrics() if re.match(r'http_requests_total.*"5\d\d"', one)
        ]
        assert not broken, f"CHASSIS_TEST_SEED={seed}: {broken}"


async def attack_often(port: int, seed: str) -> tuple[list[str], Counter[str]]:
    """Send all attacks, some at once; give what went wrong, and how often was answered what."""
    failures: list[str] = []
    answers: Counter[str] = Counter()
    numbers = iter(range(ATTACKS))

    async def attack_on() -> None:
        for number in numbers:
            attack = make_attack(seed, number)
            said = await send(port, attack, abort=number % 3 == 0)
            answers.update(said)
            if any(status.startswith("5") for status in said) or "hangs" in said:
                failures.append(f"{number}, {attack.kind}: {said} to {attack.data[:300]!r}")

    await asyncio.gather(*(attack_on() for _ in range(AT_ONCE)))
    return failures, answers


async def send(port: int, attack: Attack, *, abort: bool) -> list[str]:
    """Send an attack by a connection of its own; give the statuses that come back, or `hangs`."""
    reader, writer = await asyncio.open_connection(HOST, port)
    if abort:
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, ABORT)
    received = bytearray()
    try:
        async with asyncio.timeout(HANGS_AFTER_SECONDS if attack.is_complete else PATIENCE_SECONDS):
            await exchange(reader, writer, attack.data, received)
    except TimeoutError:
        if attack.is_complete:
            return ["hangs"]
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return [found.decode() for found in STATUS.findall(bytes(received))] or ["closed"]


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, received: bytearray
) -> None:
    """Send bytes, and receive until the server closes the connection."""
    with suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    with suppress(ConnectionError):
        while part := await reader.read(65536):
            received += part
