"""A resolver that can fall silent, and the way to run a process that asks it and no other."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import pytest

# Where nothing else answers; the system asks at port 53 and no other.
ADDRESS = ("127.0.0.53", 53)
# The flags of an answer without recursion; an A record of 127.0.0.1 for the name that was asked.
ANSWERED = b"\x84\x00\x00\x01"
RECORD = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01"
ASK_IT = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


@dataclass
class Resolver:
    """Answers each name with 127.0.0.1, unless it is silent."""

    sock: socket.socket
    silent: Event
    asked: int = 0

    def serve(self) -> None:
        """Answer until the socket is closed."""
        while True:
            try:
                query, client = self.sock.recvfrom(512)
            except TimeoutError:
                continue
            except OSError:
                return
            self.asked += 1
            if not self.silent.is_set():
                self.sock.sendto(_answer(query), client)


@contextmanager
def resolving(folder: Path) -> Iterator[tuple[Resolver, list[str]]]:
    """Answer until the block ends; with it comes what runs a process that asks."""
    file = folder / "resolv.conf"
    file.write_text(f"nameserver {ADDRESS[0]}\n")
    through = ["unshare", "--mount", "sh", "-c", ASK_IT, str(file)]
    if os.getuid() or not shutil.which("unshare") or subprocess.run([*through, "true"]).returncode:
        pytest.skip("needs root and mounts of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(ADDRESS)
        sock.settimeout(0.2)
        resolver = Resolver(sock, Event())
        thread = Thread(target=resolver.serve, daemon=True)
        thread.start()
        yield resolver, through


def _answer(query: bytes) -> bytes:
    question = query[12 : query.index(b"\0", 12) + 5]
    is_ipv4 = question[-4:-2] == b"\x00\x01"
    counts = b"\x00\x01" if is_ipv4 else b"\x00\x00"
    return query[:2] + ANSWERED + counts + bytes(4) + question + (RECORD if is_ipv4 else b"")
