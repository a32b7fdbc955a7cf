"""What surrounds every request: ids, headers, limits, timeouts, and what each refusal says."""

import asyncio
import gc
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Request, WebSocket
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import text
from starlette.middleware.base import BaseHTTPMiddleware

from chassis import ChassisSettings, create_app, request_id
from chassis.db import DbReadSession
from chassis.http.request import RequestRecord, outgoing_headers

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.example.com"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SWITCHED_OFF = (
    "alembic",
    "asgiref",
    "azure.keyvault",
    "boto3",
    "botocore",
    "google.cloud.secretmanager",
    "jwt",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "prometheus_client",
    "psycopg",
    "starlette.middleware.cors",
)
PROGRAM = """
import asyncio, sys
from httpx2 import ASGITransport, AsyncClient
from chassis import ChassisSettings, create_app

async def show_imports(**switches):
    app = create_app(ChassisSettings(**switches), package="sample")
    async with app.router.lifespan_context(app):
        transport = ASGITransport(app)
        async with AsyncClient(transport=transport, base_url="http://testserver") as client:
            await client.get("/livez")
    print(*[name for name in {names} if name in sys.modules])

asyncio.run(show_imports())
asyncio.run(show_imports(**{switches}))
"""
EXTRAS = {"metrics": "prometheus_client", "tracing": "opentelemetry.exporter.otlp.proto.http"}

router = APIRouter()


@router.post("/echo")
async def echo(request: Request) -> int:
    """Read the body."""
    return len(await request.body())


@router.get("/sleep")
async def sleep() -> None:
    """Take too long."""
    await asyncio.sleep(30)


@router.get("/outgoing")
async def outgoing() -> dict[str, str]:
    """Show what a call to another service would carry."""
    return outgoing_headers()


SEEN_AFTERWARDS: list[str | None] = []


@router.websocket("/id")
async def send_id(websocket: WebSocket) -> None:
    """Send the id of the handshake."""
    await websocket.accept()
    await websocket.send_json(request_id())
    await websocket.close()


@router.get("/id")
async def tell_id(tasks: BackgroundTasks) -> str | None:
    """Read the id, and once more after the answer."""
    tasks.add_task(lambda: SEEN_AFTERWARDS.append(request_id()))
    return request_id()


@router.get("/bug")
async def bug() -> None:
    """Have a bug."""
    raise RuntimeError("a bug")


@router.get("/one")
async def one(session: DbReadSession) -> int:
    """Ask the database."""
    return int(await session.scalar(text("SELECT 1")))


@asynccontextmanager
async def client_of(settings: ChassisSettings, **changes: Any) -> AsyncIterator[AsyncClient]:
    app = create_app(settings.model_copy(update=changes), package="sample", routers=[router])
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


async def test_a_well_formed_id_is_kept_and_any_other_is_replaced(
    settings: ChassisSettings,
) -> None:
    async with client_of(settings) as client:
        kept = await client.get("/livez", headers={"X-Request-ID": "abc-1"})
        made = await client.get("/livez", headers={"X-Request-ID": 'a"b'})
    assert kept.headers["x-request-id"] == "abc-1"
    assert len(made.headers["x-request-id"]) == 32


async def test_an_id_of_the_client_is_not_taken_where_it_is_not_trusted(
    settings: ChassisSettings,
) -> None:
    async with client_of(settings, http_request_id_trusted=False) as client:
        answer = await client.get("/livez", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["x-request-id"] != "abc-1"


@pytest.mark.parametrize("header", ["X-Request-ID", "X-Correlation-ID"])
async def test_ids_are_passed_on(settings: ChassisSettings, header: str) -> None:
    sent = {header: "abc-1", "traceparent": TRACEPARENT}
    async with client_of(settings, http_request_id_header=header) as client:
        assert (await client.get("/outgoing", headers=sent)).json() == sent


async def test_a_websocket_has_the_id_of_its_handshake(settings: ChassisSettings) -> None:
    app = create_app(settings, package="sample", routers=[router])
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"x-request-id", b"abc-1")]
    scope = {"type": "websocket", "path": "/id", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    assert sent[1]["text"] == '"abc-1"'


async def test_the_id_is_a_value_in_a_handler_and_in_what_it_leaves_to_do(
    settings: ChassisSettings,
) -> None:
    async with client_of(settings) as client:
        answer = await client.get("/id", headers={"X-Request-ID": "abc-1"})
    assert answer.json() == "abc-1"
    assert SEEN_AFTERWARDS.pop() == "abc-1"


def test_there_is_no_id_where_no_request_is_served() -> None:
    assert request_id() is None


@pytest.mark.parametrize("path", ["/bug", "/nowhere"])
async def test_a_problem_names_its_request_and_has_every_header(
    settings: ChassisSettings, path: str
) -> None:
    async with client_of(settings) as client:
        answer = await client.get(path)
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("a.example.com", 200),
        ("A.example.com:8000", 200),
        ("b.a.example.org", 200),
        ("example.org", 400),
        ("evil.com", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
async def test_another_host_is_refused(settings: ChassisSettings, host: str, status: int) -> None:
    allowed = ("a.example.com", "*.example.org")
    async with client_of(settings, http_allowed_hosts=allowed) as client:
        assert (await client.get("/outgoing", headers={"Host": host})).status_code == status
        assert (await client.get("/livez", headers={"Host": host})).status_code == 200


async def test_a_large_body_is_refused_by_its_announced_length_and_by_its_parts(
    settings: ChassisSettings,
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 50

    async with client_of(settings, http_max_body_bytes=100) as client:
        fits = await client.post("/echo", content=b"x" * 100)
        announced = await client.post("/echo", content=b"x" * 101)
        in_parts = await client.post("/echo", content=parts())
    assert fits.json() == 100
    for refused in (announced, in_parts):
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("length", "ends"), [(b"0", [False]), (b"1", [True, False])], ids=["none", "a body"]
)
async def test_an_answer_waits_for_a_body_that_nobody_read_if_there_is_one(
    settings: ChassisSettings, length: bytes, ends: list[bool]
) -> None:
    app = create_app(settings, package="sample", routers=[router])
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/livez", "scheme": "http"}
    headers = [(b"content-length", length)]
    await app({**scope, "query_string": b"", "headers": headers}, receive, send)
    assert [message.get("more_body", False) for message in sent[1:]] == ends


async def test_a_request_that_takes_too_long_is_answered(settings: ChassisSettings) -> None:
    async with client_of(settings, http_request_timeout_seconds=0.05) as client:
        late = await client.get("/sleep")
        in_time = await client.get("/livez")
    assert (late.status_code, in_time.status_code) == (504, 200)


async def test_a_body_that_never_comes_is_answered(settings: ChassisSettings) -> None:
    changes: dict[str, Any] = {"http_request_timeout_seconds": 0.05}
    app = create_app(settings.model_copy(update=changes), package="sample", routers=[router])
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(30)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"5")]
    scope = {"type": "http", "method": "POST", "path": "/echo", "headers": headers}
    await app({**scope, "scheme": "http", "query_string": b""}, receive, send)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_request_leaves_nothing_to_the_garbage_collector(
    settings: ChassisSettings,
) -> None:
    app = create_app(settings, package="sample", routers=[router])
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://testserver") as client,
    ):
        await client.get("/one")  # What opens a connection may keep the context that it was in.
        gc.collect()
        gc.disable()
        try:
            before = sum(isinstance(each, RequestRecord) for each in gc.get_objects())
            for path in ("/one", "/outgoing", "/nowhere"):
                # In a context of its own, for the middleware leaves the record there.
                await asyncio.create_task(client.get(path))
            await asyncio.sleep(0)
            after = sum(isinstance(each, RequestRecord) for each in gc.get_objects())
        finally:
            gc.enable()
    assert after == before


def stack(app: Any) -> list[object]:
    """Return the layers around an application, and those of FastAPI inside."""
    found: list[object] = []
    for outermost in (app.surround(), app.build_middleware_stack()):
        layer: object = outermost
        while layer is not None:
            found.append(layer)
            layer = getattr(layer, "app", None)
    return found


@pytest.mark.parametrize("extras", [(), ("metrics",), ("tracing",), ("metrics", "tracing")])
async def test_no_layer_is_a_base_http_middleware(
    settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch, extras: tuple[str, ...]
) -> None:
    for extra in extras:
        pytest.importorskip(EXTRAS[extra], reason=f"needs the extra `{extra}`")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    switches = {f"{extra}_enabled": True for extra in extras}
    everything = settings.model_copy(update={"http_cors_origins": (ORIGIN,), **switches})
    layers = stack(create_app(everything, package="sample"))
    assert {"RequestMiddleware", "CORSMiddleware"} < {type(layer).__name__ for layer in layers}
    assert not [layer for layer in layers if isinstance(layer, BaseHTTPMiddleware)]


async def test_a_base_http_middleware_would_be_found(settings: ChassisSettings) -> None:
    app = create_app(settings, package="sample")
    app.add_middleware(BaseHTTPMiddleware)
    assert [layer for layer in stack(app) if isinstance(layer, BaseHTTPMiddleware)]


def test_what_is_switched_off_is_not_imported_and_what_is_switched_on_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    installed = [extra for extra, module in EXTRAS.items() if is_installed(module)]
    switches: dict[str, Any] = {f"{extra}_enabled": True for extra in installed}
    switches |= {"http_cors_origins": (ORIGIN,)}
    if is_installed("jwt"):
        # Nobody answers there, which stops no start.
        switches |= {"auth_issuer": "http://localhost:9", "auth_audience": "sample"}
    program = PROGRAM.format(names=SWITCHED_OFF, switches=switches)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    off, on = done.stdout.splitlines()
    assert off == ""
    expected = {"starlette.middleware.cors"}
    expected |= {"jwt"} if is_installed("jwt") else set()
    expected |= {"prometheus_client"} if "metrics" in installed else set()
    expected |= {"opentelemetry.exporter", "opentelemetry.sdk"} if "tracing" in installed else set()
    assert set(on.split()) == expected


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


async def test_cors_answers_for_the_origins_that_are_named(settings: ChassisSettings) -> None:
    async with client_of(settings, http_cors_origins=(ORIGIN,)) as client:
        ours = await client.get("/livez", headers={"Origin": ORIGIN})
        theirs = await client.get("/livez", headers={"Origin": "https://evil.com"})
    assert ours.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in theirs.headers


async def test_cors_answers_for_what_is_refused_outside_of_everything(
    settings: ChassisSettings,
) -> None:
    limits = {"http_max_body_bytes": 10, "http_request_timeout_seconds": 0.05}
    origins = {"http_cors_origins": (ORIGIN,), "http_allowed_hosts": ("testserver",)}
    async with client_of(settings, **limits, **origins) as client:
        client.headers["Origin"] = ORIGIN
        refused = [
            await client.post("/livez", content=b"x" * 11),
            await client.get("/sleep", headers={"Host": "evil.example.com"}),
            await client.get("/sleep"),
        ]
    assert [answer.status_code for answer in refused] == [413, 400, 504]
    for answer in refused:
        assert answer.headers.get_list("access-control-allow-origin") == [ORIGIN]
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("id_header", ["X-Request-ID", "X-Trace"])
async def test_cors_lets_through_what_the_chassis_itself_uses(
    settings: ChassisSettings, id_header: str
) -> None:
    options = {"http_cors_headers": ("Authorization",), "http_request_id_header": id_header}
    async with client_of(settings, http_cors_origins=(ORIGIN,), **options) as client:
        asked = f"authorization, if-match, traceparent, {id_header.lower()}"
        headers = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": asked,
        }
        preflight = await client.options("/livez", headers=headers)
        answer = await client.get("/livez", headers={"Origin": ORIGIN})
        headers["Access-Control-Request-Headers"] = "x-other"
        assert (await client.options("/livez", headers=headers)).status_code == 400

    assert preflight.status_code == 200
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert exposed == [
        id_header,
        "ETag",
        "Idempotent-Replayed",
        "Link",
        "Retry-After",
        "WWW-Authenticate",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"http_cors_origins": "*", "http_cors_credentials": "true"},
        {"http_cors_origins": "https://app.example.com/path"},
        {"http_cors_origins": "null"},
    ],
)
def test_unsafe_cors_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ChassisSettings(**values)
