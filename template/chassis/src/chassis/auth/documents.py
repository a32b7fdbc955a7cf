"""Documents of the issuer: fetched within limits, and without blocking the event loop."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import httptools

# A set of keys has a few kilobytes, and an issuer answers in less than a second.
MOST_BYTES = 512 * 1024
LONGEST_SECONDS = 5.0


class DocumentError(Exception):
    """A document that can't be had, and why."""


class Documents:
    """Fetches JSON from https:// URLs, from http:// for localhost, and from files.

    No redirect is followed. The authorities that count for TLS are those of `SSL_CERT_FILE`, or
    the system's.
    """

    def __init__(self) -> None:
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, url: str) -> dict[str, Any]:
        """Return a document. Raise DocumentError if that fails or takes longer than 5 s."""
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                body = await self._read(urlsplit(url))
        except TimeoutError:
            raise DocumentError(f"{url}: no whole answer in {LONGEST_SECONDS:.0f} s") from None
        except (OSError, ValueError, httptools.HttpParserError, DocumentError) as error:
            raise DocumentError(f"{url}: {error or type(error).__name__}") from None
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise DocumentError(f"{url}: is no JSON object")
        return document

    async def _read(self, url: SplitResult) -> bytes:
        if url.scheme == "file":
            return _read_file(Path(unquote(url.path)))
        is_secure = url.scheme == "https"
        if is_secure and self._tls is None:
            # It reads a file of many certificates.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        port, tls = (443, self._tls) if is_secure else (80, None)
        reader, writer = await asyncio.open_connection(url.hostname, url.port or port, ssl=tls)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            headers = "Accept: application/json\r\nAccept-Encoding: identity\r\nConnection: close"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\n{headers}\r\n\r\n".encode())
            return await _Answer().read(reader)
        finally:
            writer.close()


class _Answer:
    """An answer of HTTP while it comes; httptools calls what is named `on_`."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        # Without a length a body ends with its connection.
        self._has_length = self._is_complete = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        self._has_length |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._is_complete = True

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        """Return the body of a 200. Raise DocumentError for any other answer."""
        received = 0
        while not self._is_complete and (data := await reader.read(65536)):
            received += len(data)
            if received > MOST_BYTES:
                raise DocumentError(f"the answer is larger than {MOST_BYTES // 1024} KiB")
            self._parser.feed_data(data)
        if not received or (self._has_length and not self._is_complete):
            raise DocumentError("the answer was cut off")
        if (status := self._parser.get_status_code()) != 200:
            raise DocumentError(f"answered with {status}, and not with 200")
        return self._body


def _read_file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DocumentError(f"the file is larger than {MOST_BYTES // 1024} KiB")
    return content
