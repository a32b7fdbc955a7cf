"""FastAPI's options: each has its effect in a service, or is refused with what to use instead."""

import inspect
from collections.abc import Awaitable, Callable
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pytest
from chassis_stock import changed, create_stock, started
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from httpx2 import AsyncClient
from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, Tracer, TracerProvider
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from chassis import ChassisSettings, create_app
from chassis.versions import find_version

pytestmark = [
    pytest.mark.anyio,
    # FastAPI would rather have it of the server, as APP_SERVER_ROOT_PATH is.
    pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated"),
    # Of one callback in the document of several routes.
    pytest.mark.filterwarnings("ignore:Duplicate Operation ID"),
]

Check = Callable[[AsyncClient], Awaitable[bool]]

PARAMETERS = inspect.signature(FastAPI).parameters.keys()
router = APIRouter()
noted: list[str] = []


class Thing(BaseModel):
    name: str = "bolt"
    # Of another form in a body than in an answer.
    price: Decimal = Decimal(1)


@router.get("/things")
async def read() -> Thing:
    return Thing()


@router.post("/things")
async def write(thing: Thing) -> Thing:
    return thing


@router.get("/text", response_model=None)
async def read_text() -> str:
    return "x" * 1000


@router.get("/form-limits")
async def read_form_limits(request: Request) -> object:
    return request.app.router.form_limits


@router.get("/zero")
async def divide() -> float:
    return 1 / 0


@router.get("/noted")
async def read_noted() -> list[str]:
    return noted


async def refuse() -> None:
    raise HTTPException(401)


async def answer(request: Request, error: Exception | None = None) -> Response:
    return PlainTextResponse("as wanted", 418)


def name_operation(route: APIRoute) -> str:
    return f"{route.name}_of_a_thing"


class Provider(TracerProvider):
    def get_tracer(self, *args: Any, **more: Any) -> Tracer:
        noted.append("traced")
        return NoOpTracer()


sold = APIRouter()
sold.add_api_route("/sold", read, methods=["POST"])


def documented(*keys: str, expected: object = ...) -> Check:
    """Return whether the OpenAPI document has a place, with the value that is expected."""

    async def check(client: AsyncClient) -> bool:
        found: Any = (await client.get("/openapi.json")).json()
        for key in keys:
            found = (found or {}).get(key)
        return bool(found if expected is ... else found == expected)

    return check


def answered(
    path: str, status: int, holding: str = "", *, method: str = "GET", **more: Any
) -> Check:
    """Return whether a path is answered with a status and holds a text, in its headers or body."""

    async def check(client: AsyncClient) -> bool:
        found = await client.request(method, path, **more)
        return found.status_code == status and holding in f"{found.headers} {found.text}"

    return check


READ = ("paths", "/things", "get")
# How one sees that an option has its effect; where it takes several, they are given by name.
PASSED: dict[str, tuple[Any, Check]] = {
    "callbacks": (sold.routes, documented(*READ, "callbacks")),
    "contact": ({"name": "Ada"}, documented("info", "contact", "name", expected="Ada")),
    "default_response_class": (HTMLResponse, answered("/text", 200, "text/html")),
    "dependencies": ([Depends(refuse)], answered("/things", 401)),
    "deprecated": (True, documented(*READ, "deprecated")),
    "description": ("Long.", documented("info", "description", expected="Long.")),
    "docs_url": ("/ui", answered("/ui", 200, "Swagger UI")),
    "exception_handlers": ({ZeroDivisionError: answer}, answered("/zero", 418)),
    "form_limits": ({"max_fields": 1}, answered("/form-limits", 200, '{"max_fields":1}')),
    "generate_unique_id_function": (
        name_operation,
        documented(*READ, "operationId", expected="read_of_a_thing"),
    ),
    "include_in_schema": (False, documented("paths", "/things", expected=None)),
    "license_info": ({"name": "MIT"}, documented("info", "license", "name", expected="MIT")),
    "middleware": (
        [Middleware(GZipMiddleware)],
        answered("/text", 200, "gzip", headers={"accept-encoding": "gzip"}),
    ),
    "on_shutdown": ([lambda: noted.append("stopped")], answered("/noted", 200, "[]")),
    "on_startup": ([lambda: noted.append("begun")], answered("/noted", 200, '["begun"]')),
    "openapi_external_docs": ({"url": "http://a/"}, documented("externalDocs")),
    "openapi_tags": ([{"name": "a"}], documented("tags", expected=[{"name": "a"}])),
    "openapi_url": ("/schema.json", answered("/schema.json", 200, "openapi")),
    "redirect_slashes": (False, answered("/things/", 404)),
    "redoc_url": ("/redoc", answered("/redoc", 200, "ReDoc")),
    "responses": ({418: {"description": "Tea."}}, documented(*READ, "responses", "418")),
    "root_path": ("/shop", documented("servers", expected=[{"url": "/shop"}])),
    "root_path_in_servers": (
        {"root_path": "/shop", "root_path_in_servers": False},
        documented("servers", expected=None),
    ),
    "routes": ([Route("/plain", answer)], answered("/plain", 418, "as wanted")),
    "separate_input_output_schemas": (False, documented("components", "schemas", "Thing")),
    "servers": ([{"url": "http://a/"}], documented("servers", expected=[{"url": "http://a/"}])),
    "strict_content_type": (
        False,
        answered("/things", 200, method="POST", content='{"name": "nut"}'),
    ),
    "summary": ("Short.", documented("info", "summary", expected="Short.")),
    "swagger_ui_init_oauth": ({"clientId": "shop"}, answered("/docs", 200, "clientId")),
    "swagger_ui_oauth2_redirect_url": ("/back", answered("/back", 200)),
    "swagger_ui_parameters": ({"persistAuthorization": True}, answered("/docs", 200, "persistA")),
    "telemetry": ({"tracer_provider": Provider()}, answered("/noted", 200, "traced")),
    "terms_of_service": ("http://a/", documented("info", "termsOfService", expected="http://a/")),
    "title": ("Shop", documented("info", "title", expected="Shop")),
    "version": ("2.1", documented("info", "version", expected="2.1")),
    "webhooks": (sold, documented("webhooks")),
}
REFUSED = {
    "debug": "APP_LOG_LEVEL=DEBUG",
    "max_body_size": "APP_HTTP_MAX_BODY_BYTES",
}


def test_every_option_is_passed_or_refused() -> None:
    # Tested in test_chassis_app.py.
    ours = {"lifespan"}
    assert PARAMETERS - PASSED.keys() - REFUSED.keys() == ours


@pytest.mark.parametrize("option", PASSED)
async def test_an_option_has_its_effect(settings: ChassisSettings, option: str) -> None:
    if option not in PARAMETERS:
        pytest.skip("this FastAPI does not have it")
    noted.clear()
    value, check = PASSED[option]
    options = value if isinstance(value, dict) and option in value else {option: value}
    async with started(create_stock(settings, router)) as client:
        assert not await check(client) or option in ("on_shutdown", "root_path_in_servers")
    async with started(create_stock(settings, router, **options)) as client:
        assert await check(client)
        assert (await client.get("/livez")).json() == {"status": "ok"}
    if option == "on_shutdown":
        assert noted == ["stopped"]


async def test_while_tracing_is_off_no_provider_makes_spans(
    settings: ChassisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", Provider)
    noted.clear()
    async with started(create_stock(settings, router)) as client:
        assert (await client.get("/noted")).json() == []
    async with started(create_stock(settings, router, telemetry={})) as client:
        assert (await client.get("/noted")).json() == ["traced"]


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_the_chassis_owns_is_refused(settings: ChassisSettings, option: str) -> None:
    with pytest.raises(TypeError, match=rf"create_app\({option}=…\): {option} .*{REFUSED[option]}"):
        create_stock(settings, **{option: 1})


def test_an_unknown_option_is_no_option(settings: ChassisSettings) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'titel'"):
        create_stock(settings, titel="Shop")


async def test_a_middleware_that_the_chassis_has_further_outside_is_warned_of(
    settings: ChassisSettings, caplog: pytest.LogCaptureFixture
) -> None:
    for kind, count in ((GZipMiddleware, 0), (CORSMiddleware, 1)):
        app = create_stock(settings, middleware=[Middleware(kind)])
        async with started(app) as client:
            await client.get("/livez")
            await client.get("/livez")
        assert caplog.text.count("set APP_HTTP_CORS_ORIGINS") == count


@pytest.mark.parametrize("status", [500, Exception])
async def test_a_handler_for_bugs_is_the_one_that_answers(
    settings: ChassisSettings, status: int | type[Exception]
) -> None:
    app = create_stock(settings, router, exception_handlers={status: answer})
    async with started(app) as client:
        assert (await client.get("/zero")).text == "as wanted"


async def test_the_documents_pages_are_switched_off_wherever_they_are(
    settings: ChassisSettings,
) -> None:
    off = changed(settings, docs_enabled=False)
    places = {"openapi_url": "/schema.json", "docs_url": "/ui", "redoc_url": "/redoc"}
    async with started(create_stock(off, router, **places)) as client:
        for place in places.values():
            assert (await client.get(place)).status_code == 404


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dependencies", [Depends(refuse)]),
        ("default_response_class", HTMLResponse),
        ("include_in_schema", False),
        ("routes", [Route("/livez", answer)]),
    ],
)
async def test_the_chassis_own_routes_take_no_option(
    settings: ChassisSettings, option: str, value: object
) -> None:
    measured = find_spec("prometheus_client") is not None
    app = create_stock(changed(settings, metrics_enabled=measured), router, **{option: value})
    async with started(app) as client:
        assert (await client.get("/livez")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).status_code in (200, 503)
        assert not measured or "http_requests_total" in (await client.get("/metrics")).text
        paths = (await client.get("/openapi.json")).json()["paths"]
        assert {"/livez", "/readyz"} <= paths.keys()


async def test_the_version_is_that_of_the_services_distribution(
    settings: ChassisSettings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_version("chassis_without_distribution") is None
    folder = tmp_path / "a_shop-3.4.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.4\nName: a-shop\nVersion: 3.4.5\n")
    (folder / "entry_points.txt").write_text("[console_scripts]\nshop = chassis_shop.cli:run\n")
    monkeypatch.syspath_prepend(tmp_path)
    app = create_app(settings, package="chassis_shop.main")
    assert (app.title, app.version) == ("Chassis Shop", "3.4.5")
