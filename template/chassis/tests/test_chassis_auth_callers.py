"""Who sends a request, as handlers and routes ask for it, whatever tells the service."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
from chassis_stock import changed, create_stock, started
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.openapi.models import APIKey
from fastapi.requests import HTTPConnection
from fastapi.security.base import SecurityBase
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message

from chassis import ChassisSettings, ProblemError
from chassis.auth import (
    Caller,
    CallerApp,
    CallerError,
    CurrentCaller,
    OptionalCaller,
    PublicApp,
    get_caller,
    public,
    requires,
)
from chassis.testing.log_lines import LogLines

ADA = Caller("ada", frozenset({"items:read"}), tenant="acme")
WRITER = Caller("bob", frozenset({"items:read", "items:write"}), frozenset({"admin"}))


async def ask_header(connection: HTTPConnection) -> Caller | None:
    """Tell who sends a request by a header, as a gateway may."""
    name = connection.headers.get("x-user")
    if name == "nobody":
        raise ProblemError(401, "Nobody is not let in.", headers={"WWW-Authenticate": "APIKey"})
    return {"ada": ADA, "bob": WRITER}.get(name or "")


router = APIRouter()


@router.get("/me")
async def read_me(caller: CurrentCaller) -> dict[str, Any]:
    return {"subject": caller.subject, "tenant": caller.tenant, "roles": sorted(caller.roles)}


@router.get("/anyone")
async def read_anyone(caller: OptionalCaller) -> str | None:
    return None if caller is None else caller.subject


@router.post("/items")
async def write_item(caller: Annotated[Caller, requires("items:write")]) -> str:
    return caller.subject


@router.delete("/items", dependencies=[requires("items:write", "items:delete")])
async def delete_items() -> None: ...


@router.get("/open", dependencies=[public])
async def read_open() -> str:
    return "open"


@router.get("/plain")
async def read_plain() -> str:
    return "plain"


def create(settings: ChassisSettings, *routers: APIRouter, **options: Any) -> FastAPI:
    options.setdefault("authenticators", (ask_header,))
    return create_stock(settings, *routers or (router,), **options)


def as_(name: str) -> dict[str, str]:
    return {"X-User": name}


async def test_a_handler_knows_its_caller(settings: ChassisSettings) -> None:
    async with started(create(settings)) as client:
        answer = await client.get("/me", headers=as_("ada"))

    assert answer.json() == {"subject": "ada", "tenant": "acme", "roles": []}


async def test_a_request_without_a_caller_is_a_401_problem(settings: ChassisSettings) -> None:
    async with started(create(settings)) as client:
        answer = await client.get("/me")

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "APIKey"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "does not say who sends it" in answer.json()["detail"]


async def test_an_authenticator_may_refuse(settings: ChassisSettings) -> None:
    async with started(create(settings)) as client:
        answer = await client.get("/anyone", headers=as_("nobody"))

    assert answer.status_code == 401
    assert answer.json()["detail"] == "Nobody is not let in."


async def test_the_first_authenticator_that_knows_the_caller_decides(
    settings: ChassisSettings,
) -> None:
    async def ask_nothing(connection: HTTPConnection) -> Caller | None:
        return None

    async def say_carol(connection: HTTPConnection) -> Caller | None:
        return Caller("carol")

    app = create(settings, authenticators=(ask_nothing, ask_header, say_carol))
    async with started(app) as client:
        assert (await client.get("/anyone", headers=as_("ada"))).json() == "ada"
        assert (await client.get("/anyone")).json() == "carol"


async def test_a_route_may_do_without_a_caller(settings: ChassisSettings) -> None:
    async with started(create(settings)) as client:
        assert (await client.get("/anyone")).json() is None
        assert (await client.get("/anyone", headers=as_("ada"))).json() == "ada"


async def test_a_403_names_the_scope_that_is_missing(settings: ChassisSettings) -> None:
    async with started(create(settings)) as client:
        answer = await client.post("/items", headers=as_("ada"))
        assert (await client.post("/items", headers=as_("bob"))).json() == "bob"
        assert (await client.post("/items")).status_code == 401

    assert answer.status_code == 403
    assert answer.json()["missing_scopes"] == ["items:write"]
    assert "items:write" in answer.json()["detail"]
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer error="insufficient_scope", error_description="This needs')
    assert challenge.endswith('scope="items:write"')


async def test_every_scope_is_needed(settings: ChassisSettings) -> None:
    async with started(create(settings)) as client:
        answer = await client.delete("/items", headers=as_("bob"))

    assert answer.json()["missing_scopes"] == ["items:delete"]


@pytest.mark.parametrize("scope", ["", "items:read items:write", 'items"', "é", "a\nb"])
def test_what_is_no_scope_is_refused(scope: str) -> None:
    with pytest.raises(ValueError, match="a scope has no spaces, such as items:write"):
        requires(scope)


async def test_a_service_may_require_callers_everywhere(settings: ChassisSettings) -> None:
    async with started(create(settings, dependencies=[requires()])) as client:
        assert (await client.get("/plain")).status_code == 401
        assert (await client.get("/plain", headers=as_("ada"))).json() == "plain"
        assert (await client.get("/livez")).status_code == 200


async def test_a_request_is_authenticated_once(settings: ChassisSettings) -> None:
    asked: list[str] = []

    async def ask(connection: HTTPConnection) -> Caller:
        asked.append(connection.url.path)
        return WRITER

    required = changed(settings, auth_required=True)
    app = create(required, dependencies=[requires("items:read")], authenticators=(ask,))
    async with started(app) as client:
        assert (await client.post("/items")).json() == "bob"

    assert asked == ["/items"]


async def test_a_test_may_put_a_caller_in_place(settings: ChassisSettings) -> None:
    app = create(settings)
    app.dependency_overrides[get_caller] = lambda: WRITER
    async with started(app) as client:
        assert (await client.post("/items")).json() == "bob"


async def test_lines_of_a_request_name_subject_and_tenant(
    settings: ChassisSettings, log_lines: LogLines
) -> None:
    async with started(create(settings)) as client:
        await client.get("/me", headers=as_("ada"))
        await client.get("/me", headers=as_("bob"))

    ada, bob = (line for line in log_lines if line["logger"] == "chassis.access")
    assert (ada["subject"], ada["tenant"]) == ("ada", "acme")
    assert bob["subject"] == "bob"
    assert "tenant" not in bob


@pytest.mark.parametrize("path", ["/me", "/anyone", "/items"])
async def test_a_route_that_asks_for_a_caller_stops_a_start_without_any(
    settings: ChassisSettings, path: str
) -> None:
    only = APIRouter()
    only.routes.extend(route for route in router.routes if getattr(route, "path", "") == path)
    app = create(settings, only, authenticators=())

    with pytest.raises(CallerError, match=f"{path} .*APP_AUTH_ISSUER and APP_AUTH_AUDIENCE"):
        async with started(app):
            pass


async def test_a_mounted_route_that_asks_for_a_caller_stops_it_too(
    settings: ChassisSettings,
) -> None:
    app, mounted = create_stock(settings), FastAPI()
    mounted.include_router(router)
    app.mount("/inner", mounted)

    with pytest.raises(CallerError, match="APP_AUTH_ISSUER"):
        async with started(app):
            pass


async def test_a_mounted_application_knows_the_caller(settings: ChassisSettings) -> None:
    app, mounted = create(settings), FastAPI()
    mounted.include_router(router)
    app.mount("/inner", mounted)

    async with started(app) as client:
        assert (await client.get("/inner/me", headers=as_("ada"))).json()["subject"] == "ada"
        assert (await client.get("/inner/me")).status_code == 401


async def test_a_websocket_knows_its_caller_or_is_denied(settings: ChassisSettings) -> None:
    talk = APIRouter()

    @talk.websocket("/talk")
    async def greet(socket: WebSocket, caller: CurrentCaller) -> None:
        await socket.accept()
        await socket.send_text(f"hello {caller.subject}")
        await socket.close()

    app = create(settings, talk)
    async with started(app):
        greeting = await open_websocket(app, "/talk", as_("ada"))
        denied = await open_websocket(app, "/talk", {})

    assert greeting[1]["text"] == "hello ada"
    assert (denied[0]["type"], denied[0]["status"]) == ("websocket.http.response.start", 401)


async def open_websocket(app: ASGIApp, path: str, headers: Mapping[str, str]) -> list[Message]:
    """Return what a client gets that opens a websocket."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "websocket",
        "path": path,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "query_string": b"",
        "extensions": {"websocket.http.response": {}},
        "subprotocols": [],
    }
    await app(scope, receive, send)
    return sent


# APP_AUTH_REQUIRED


@pytest.fixture
def required(settings: ChassisSettings) -> ChassisSettings:
    pytest.importorskip("prometheus_client", reason="needs the extra `metrics`")
    return changed(settings, auth_required=True, metrics_enabled=True)


async def test_every_route_needs_a_caller_but_those_that_are_public(
    required: ChassisSettings,
) -> None:
    async with started(create(required)) as client:
        assert (await client.get("/plain")).status_code == 401
        assert (await client.get("/anyone")).status_code == 401
        assert (await client.get("/plain", headers=as_("ada"))).json() == "plain"
        for path in ("/open", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code in (200, 503), path
        assert (await client.get("/nowhere")).status_code == 404


async def test_a_service_without_an_issuer_can_t_require_callers(
    required: ChassisSettings,
) -> None:
    with pytest.raises(CallerError, match="APP_AUTH_ISSUER"):
        async with started(create(required, authenticators=())):
            pass


async def test_what_is_mounted_says_itself_whether_it_needs_a_caller(
    required: ChassisSettings, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("file")
    files = StaticFiles(directory=tmp_path)
    app = create(required)
    app.mount("/public", PublicApp(files))
    app.mount("/files", CallerApp(files))
    inner = FastAPI(dependencies=[requires()])
    inner.include_router(router)
    app.mount("/inner", inner)

    async with started(app) as client:
        assert (await client.get("/public/a.txt")).text == "file"
        refused = await client.get("/files/a.txt")
        assert refused.status_code == 401
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert (await client.get("/files/a.txt", headers=as_("ada"))).text == "file"
        assert (await client.get("/inner/plain")).status_code == 401
        assert (await client.get("/inner/docs")).status_code == 200


@pytest.mark.parametrize(
    ("mounted", "path"),
    [
        (PlainTextResponse("all"), "/x"),
        (Starlette(routes=[Route("/y", lambda request: PlainTextResponse("all"))]), "/x/y"),
        (FastAPI(routes=router.routes), "/x/anyone"),
    ],
    ids=["response", "starlette", "fastapi"],
)
async def test_what_is_mounted_and_asks_for_no_caller_stops_the_start(
    required: ChassisSettings, mounted: ASGIApp, path: str
) -> None:
    app = create(required)
    app.mount("/x", mounted)

    with pytest.raises(CallerError, match=rf"APP_AUTH_REQUIRED: .* caller at {path}: "):
        async with started(app):
            pass


async def test_a_plain_route_that_asks_for_no_caller_stops_the_start(
    required: ChassisSettings,
) -> None:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("all")

    with pytest.raises(CallerError, match="at /plain-route: "):
        async with started(create(required, routes=[Route("/plain-route", answer)])):
            pass


async def test_a_frontend_needs_a_caller_too(required: ChassisSettings, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>page</p>")
    app = create(required)
    app.frontend("/page", directory=tmp_path)

    async with started(app) as client:
        assert (await client.get("/page/index.html")).status_code == 401
        assert (await client.get("/page/index.html", headers=as_("ada"))).text == "<p>page</p>"


async def test_a_function_is_public_in_all_of_its_routes_or_in_none(
    required: ChassisSettings,
) -> None:
    app = create(required)
    app.include_router(router, prefix="/v2", dependencies=[public])

    with pytest.raises(CallerError, match="in a route that is public and in one that is not"):
        async with started(app):
            pass


# The OpenAPI document


def describe(settings: ChassisSettings, **options: Any) -> dict[str, Any]:
    return create(settings, **options).openapi()


def test_the_document_says_which_operations_need_a_caller(settings: ChassisSettings) -> None:
    document = describe(issued(settings), authenticators=())

    paths = document["paths"]
    assert document["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    }
    assert paths["/me"]["get"]["security"] == [{"bearer": []}]
    assert paths["/anyone"]["get"]["security"] == [{}, {"bearer": []}]
    assert paths["/items"]["post"]["security"] == [{"bearer": ["items:write"]}]
    assert paths["/items"]["delete"]["security"] == [{"bearer": ["items:delete", "items:write"]}]
    assert "security" not in paths["/plain"]["get"]
    assert {"401", "403", "503"} <= paths["/items"]["post"]["responses"].keys()
    assert "403" not in paths["/me"]["get"]["responses"]
    assert "401" not in paths["/plain"]["get"]["responses"]
    assert "application/problem+json" in paths["/me"]["get"]["responses"]["401"]["content"]


def test_the_document_says_so_of_a_service_that_requires_callers(
    required: ChassisSettings,
) -> None:
    paths = describe(issued(required))["paths"]

    assert paths["/plain"]["get"]["security"] == [{"bearer": []}]
    assert "security" not in paths["/open"]["get"]
    assert "401" not in paths["/open"]["get"]["responses"]
    assert "security" not in paths["/livez"]["get"]


class KeyHeader(SecurityBase):
    """An authenticator that the document describes."""

    def __init__(self) -> None:
        self.model = APIKey.model_validate({"in": "header", "name": "X-API-Key"})
        self.scheme_name = "apiKey"

    async def __call__(self, connection: HTTPConnection) -> Caller | None:
        return ADA if connection.headers.get("x-api-key") == "key" else None


def test_the_document_has_the_scheme_of_an_authenticator(settings: ChassisSettings) -> None:
    document = describe(issued(settings), authenticators=(KeyHeader(),))

    assert document["components"]["securitySchemes"]["apiKey"] == {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
    }
    post = document["paths"]["/items"]["post"]
    assert post["security"] == [{"bearer": ["items:write"]}, {"apiKey": []}]


def issued(settings: ChassisSettings) -> ChassisSettings:
    return changed(settings, auth_issuer="https://issuer.test", auth_audience=("items",))
