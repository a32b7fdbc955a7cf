"""Requests that no decent client sends, as bytes, each made by chance from a seed."""

import gzip
import json
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from .attacked import ITEM

BODY = json.dumps(ITEM).encode()
PATHS = (b"/livez", b"/readyz", b"/items", b"/items/1", b"/items/1/adjustments", b"/nowhere")
HUGE = 2**20
END = b"\r\n\r\n"


class Attack(NamedTuple):
    """What is sent by one connection, and whether the server knows when it has all of it."""

    kind: str
    data: bytes
    is_complete: bool = True


def make_attack(seed: str, number: int) -> Attack:
    """Make one attack of a run; the kinds take turns."""
    make = KINDS[number % len(KINDS)]
    random = Random(f"{seed}-{number}")
    made = make(random)
    return made if isinstance(made, Attack) else Attack(make.__name__, made)


def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """Write a request by the connection's only client, who asks for its end."""
    return b"\r\n".join((line, b"Host: localhost", *headers, b"Connection: close")) + END + body


def post(body: bytes, *headers: bytes, path: bytes = b"/items", sized: bool = True) -> bytes:
    """Write a request with a body, and its length unless it is told not to."""
    kind = () if any(b"content-type" in one.lower() for one in headers) else (JSON,)
    length = (b"Content-Length: %d" % len(body),) if sized else ()
    return request(b"POST %b HTTP/1.1" % path, *kind, *headers, *length, body=body)


JSON = b"Content-Type: application/json"


def request_line(random: Random) -> bytes:
    """Write a first line that is none, or hardly one."""
    path = random.choice(PATHS)
    lines = (
        b"",
        b"GET",
        b"GET %b" % path,
        b"GET  %b  HTTP/1.1" % path,
        b"get %b HTTP/1.1" % path,
        b"GET %b HTTP/9.9" % path,
        b"GET %b HTTP/1.0" % path,
        b"GET %b http/1.1" % path,
        b"GET %b HTTP/1.1 more" % path,
        b"GET\t%b\tHTTP/1.1" % path,
        b" GET %b HTTP/1.1" % path,
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET livez HTTP/1.1",
        b"GET http://localhost%b HTTP/1.1" % path,
        b"GET http://[::1%b HTTP/1.1" % path,
        b"GET http://a@b:c%b HTTP/1.1" % path,
        b"CONNECT localhost:80 HTTP/1.1",
        b"HTTP/1.1 200 OK",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(64),
        b"GET /%b HTTP/1.1" % (b"a" * random.choice((10_000, 100_000))),
        b"GET %b?%b HTTP/1.1" % (path, b"&".join([b"a=b"] * 20_000)),
        random.randbytes(random.randrange(1, 200)),
    )
    return request(random.choice(lines))


def path_bytes(random: Random) -> bytes:
    """Write a path of bytes and escapes that are no text."""
    parts = (
        *(b"\x00", b"\x7f", b"\xff\xfe", b"\xc3\x28", "é".encode(), "é".encode("latin-1")),
        *(b"%00", b"%zz", b"%", b"%c3%28", b"%ed%a0%80", b"%2f..%2f", b"%u1234", b"%0d%0aX:y"),
        *(b"..", b"//", b";", b"#", b"?", b"\\", b"%25%32%65", b"{item_id}", b"'", b"9" * 5000),
    )
    odd = b"".join(random.choices(parts, k=random.randrange(1, 5)))
    start = random.choice((b"/", b"/items/", b"/items?after=", b"/items?limit=1&", b"/livez/"))
    method = random.choice((b"GET", b"DELETE", b"HEAD"))
    return request(b"%b %b%b HTTP/1.1" % (method, start, odd))


def method(random: Random) -> bytes:
    """Write a method that is unknown, of another protocol, or too long."""
    names = (b"FOO", b"TRACE", b"PROPFIND", b"M-SEARCH", b"SOURCE", b"QUERY", b"G\x00T", b"GE T")
    name = random.choice((*names, b"PUT", b"OPTIONS", b"A" * random.choice((30, 3000)), b"G\xe9T"))
    return request(b"%b %b HTTP/1.1" % (name, random.choice(PATHS)))


def header(random: Random) -> bytes:
    """Write a header that is none, odd in its name or its value, too large, or not alone."""
    names = (b"", b" X", b"X Y", b"X\x00Y", b"X\xff", b"(x)", b"X\r", b"X\n", b"\x7f", b"X" * 9000)
    values = (
        *(b"\x00", b"a\rb", b"a\nb", b"a\r\n b", b"\xe9\xff", b"\x1b[31m", "\u202e".encode()),
        *(b"a" * 70_000, b"a" * HUGE, b"", b"  ", b"\t", random.randbytes(50)),
    )
    known = (
        *(b"Host", b"X-Request-ID", b"traceparent", b"Cookie", b"Accept", b"Authorization"),
        *(b"Content-Type", b"Accept-Encoding", b"Range", b"Expect", b"Upgrade", b"Origin"),
        *(b"X-Forwarded-For", b"X-Forwarded-Proto", b"Forwarded", b"Access-Control-Request-Method"),
    )
    headers = (
        b"%b: a" % random.choice(names),
        b"%b: %b" % (random.choice(known), random.choice(values)),
        b"%b: %b\r\n%b: b" % ((name := random.choice(known)), random.choice(values), name),
        b"no colon",
        b": no name",
        b"\r\n".join(b"X-%d: %d" % (n, n) for n in range(random.randrange(100, 1000))),
        b"\r\n".join([b"Cookie: a=b"] * random.randrange(100, 1000)),
    )
    line = b"%b %b HTTP/1.1" % (random.choice((b"GET", b"DELETE")), random.choice(PATHS))
    return request(line, random.choice(headers))


def length(random: Random) -> Attack:
    """Write lengths that are none, too large, several, or beside chunks."""
    values = (b"-1", b"+5", b"1e3", b"0x5", b"5, 5", b"5 5", b"", b"a", b"9" * 30, b"5\x00", b"4.0")
    one, other = random.choices(values, k=2)
    headers = (
        (b"Content-Length: %b" % one,),
        (b"Content-Length: %d" % len(BODY), b"Content-Length: %b" % one),
        (b"Content-Length: %b" % one, b"Content-Length: %b" % other),
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Content-Length: %b" % one),
        (b"Transfer-Encoding: chunked, gzip",),
        (b"Transfer-Encoding: gzip", b"Content-Length: %d" % len(BODY)),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
        (b"Transfer-Encoding : chunked",),
    )
    return Attack("length", post(BODY, *random.choice(headers), sized=False), is_complete=False)


def chunks(random: Random) -> Attack:
    """Write chunks of a wrong size, without an end, or with more than chunks have."""
    whole = b"%x\r\n%b\r\n" % (len(BODY), BODY)
    bodies = (
        *(b"zz\r\n", b"-1\r\n", b"\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n"),
        *(b"F" * 17 + b"\r\n", b"7fffffff\r\nabc", b"F" * 16 + b"\r\nabc", b"5\r\nhel", b"5"),
        *(b"5\r\nhelloXX0\r\n\r\n", b"5\nhello\n0\n\n", b"3\r\nhello\r\n0\r\n\r\n", whole),
        whole + b"0\r\nTrailer\r\n\r\n",
        whole + b"0\r\nContent-Length: 5\r\nX: \x00\r\n\r\n",
        whole + b"0\r\n",
        whole + b"0\r\n\r\n",
        b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * random.choice((10, 100_000))),
        b'5;a="\x00\r\nhello\r\n0\r\n\r\n',
        b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n",
        b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n",
        (b"10000\r\n" + b"a" * 0x10000 + b"\r\n") * 20,
        b"%b\r\n" % random.randbytes(100),
    )
    encoding = b"Transfer-Encoding: chunked"
    return Attack("chunks", post(random.choice(bodies), encoding, sized=False), is_complete=False)


def encoding(random: Random) -> bytes:
    """Write a body that is not encoded as it should be, or says another encoding."""
    text = BODY.decode()
    bodies = (
        *(b"\xff\xfe\x00", b"\xc3\x28", b"\xed\xa0\x80", b'{"name": "\xff", "price": 1}'),
        *(text.encode("utf-16"), text.encode("utf-32"), b"\xef\xbb\xbf" + BODY, b"\x00" * 100),
        *(gzip.compress(BODY), gzip.compress(BODY)[:20], b"\x1f\x8b" + random.randbytes(40)),
        *(gzip.compress(b" " * HUGE), random.randbytes(random.randrange(500))),
    )
    headers = (
        *(b"Content-Encoding: gzip", b"Content-Encoding: br, gzip", b"Content-Encoding: \xff"),
        *(JSON + b"; charset=utf-16", JSON + b"; charset=none", b"Content-Type: text/plain"),
        *(b"Content-Type: multipart/form-data", b"Content-Type: multipart/form-data; boundary="),
        *(b"Content-Type: application/x-www-form-urlencoded", b"Content-Type: \xe9/\xff;;;=", JSON),
    )
    path = random.choice((b"/items", b"/items/1/adjustments"))
    return post(random.choice(bodies), random.choice(headers), path=path)


def truncated(random: Random) -> Attack:
    """Break off anywhere, in the body more often than before it."""
    whole = post(BODY)
    first = random.choice((1, whole.index(END) + len(END)))
    return Attack("truncated", whole[: random.randrange(first, len(whole))], is_complete=False)


def json_bomb(random: Random) -> bytes:
    """Write JSON that is deep, large, no JSON, or of values that nobody thought of."""
    depth = random.choice((100, 1_000, 100_000))
    values = (
        *(b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"-0.0", b"-0"),
        *(
            b"9" * 19,
            b"9" * 400,
            b"9" * 5_000,
            b"0." + b"9" * 5_000,
            b"1E+99999",
            b"1e99",
            b"5e-324",
        ),
        *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\\x00"', b'"a\x00b"', b'"a\nb"'),
        *(b'"%b"' % (b"a" * 500_000), "\U0001f600".encode().join((b'"', b'"')), b"null", b"true"),
        *(b"[]", b"{}", b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth, b"'a'", b""),
        *(b'"\xef\xbf\xbf"', b'"1e99999"', b'"NaN"', b'"sNaN"', b'"1_0"', b'"\xd9\xa3"', b'"-0"'),
    )
    value = random.choice(values)
    field = random.choice((b"name", b"quantity", b"price", b"by", b"__proto__", b""))
    bodies = (
        value,
        b'{"name": "a", "price": 1, "quantity": 1, "by": 1, "%b": %b}' % (field, value),
        b'{"%b": 1, "%b": %b, "name": "a", "price": 1}' % (field, field, value),
        b'{"%b": %b,}' % (field, value),
        b"{%b}" % b",".join(b'"%d": 1' % n for n in range(10_000)),
        b"// comment\n" + BODY,
        BODY + value,
    )
    path = random.choice((b"/items", b"/items/1/adjustments"))
    # What is well-formed gets further than the parser.
    return post(random.choice((*bodies, *bodies[1:2] * 10)), path=path)


def pipelined(random: Random) -> Attack:
    """Write several requests at once, some of them garbage, or ask for another protocol."""
    good = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % random.choice(PATHS)
    garbage = (random.randbytes(100), b"\r\n" * 50, b"\x00" * 1000, b"GET / HTTP/1.1\r\n", BODY)
    websocket = (b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13")
    key = random.choice((b"Sec-WebSocket-Key: \xff", b"Sec-WebSocket-Key: a", b"X: y"))
    attacks = (
        good * random.randrange(2, 100) + request(b"GET /livez HTTP/1.1"),
        good + random.choice(garbage) + good,
        request(b"GET /livez HTTP/1.1", body=random.choice(garbage)),
        post(BODY) + random.choice(garbage),
        request(b"GET /livez HTTP/1.1", *websocket, key, body=random.choice(garbage)),
        request(b"GET /livez HTTP/1.1", b"Upgrade: h2c", b"HTTP2-Settings: \xff"),
        post(BODY, b"Expect: %b" % random.choice((b"100-continue", b"200-ok", b"\xff"))),
    )
    return Attack("pipelined", random.choice(attacks), is_complete=False)


def mutated(random: Random) -> Attack:
    """Change, take away and add some bytes of a good request."""
    data = bytearray(random.choice((post(BODY), request(b"GET /items?limit=5 HTTP/1.1"))))
    for _ in range(random.randrange(1, 6)):
        place = random.randrange(len(data))
        new = random.choice(
            (b"", random.randbytes(1), b"\r\n", b"\x00", data[place : place + 9] * 2)
        )
        data[place : place + random.randrange(3)] = new
    return Attack("mutated", bytes(data), is_complete=False)


KINDS: tuple[Callable[[Random], Attack | bytes], ...] = (
    request_line,
    path_bytes,
    method,
    header,
    length,
    chunks,
    encoding,
    truncated,
    json_bomb,
    pipelined,
    mutated,
)
