"""Limits of single routes and routers, beside those of the settings."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from chassis_stock import changed, create_stock, only_on, started
from fastapi import APIRouter, Depends, FastAPI, Request, UploadFile, WebSocket
from httpx2 import Response
from sqlalchemy import text
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from chassis import ChassisSettings, add_readiness_check, create_app, request_limits
from chassis.db import DbSession
from chassis.http.problems import MEDIA_TYPE
from chassis.http.request import RequestRecord
from chassis.http.routes import RouteError

pytestmark = pytest.mark.anyio

# The default is 1,000 bytes here, and the time that a test waits for is a multiple of this.
DEFAULT = 1000
MOMENT = 0.1
LARGE = [request_limits(max_body_bytes=5000)]


async def measure(request: Request) -> int:
    """Return the size of a body."""
    return len(await request.body())


async def measure_file(file: UploadFile) -> int:
    """Return the size of a file."""
    return len(await file.read())


async def wait(seconds: float) -> None:
    """Answer after some time."""
    await asyncio.sleep(seconds)


def on_a_route() -> APIRouter:
    router = APIRouter(prefix="/large")
    router.post("", dependencies=LARGE)(measure)
    return router


def on_a_router() -> APIRouter:
    router = APIRouter(prefix="/large", dependencies=LARGE)
    router.post("")(measure)
    return router


def where_a_router_is_included() -> APIRouter:
    inner, outer = APIRouter(), APIRouter()
    inner.post("/large")(measure)
    outer.include_router(inner, dependencies=LARGE)
    return outer


def inside_of_another_limit() -> APIRouter:
    inner = APIRouter(dependencies=LARGE)
    outer = APIRouter(dependencies=[request_limits(max_body_bytes=10, timeout_seconds=5)])
    inner.post("/large")(measure)
    outer.include_router(inner)
    return outer


def in_a_dependency() -> APIRouter:
    async def check(_: None = LARGE[0]) -> None: ...  # type: ignore[assignment]

    router = APIRouter(prefix="/large")
    router.post("", dependencies=[Depends(check)])(measure)
    return router


def by_fastapi_on_a_route() -> APIRouter:
    router = APIRouter(prefix="/large")
    router.post("", max_body_size=5000)(measure)
    return router


def by_fastapi_on_a_router() -> APIRouter:
    router = APIRouter(prefix="/large", max_body_size=5000)
    router.post("")(measure)
    return router


def by_fastapi_inside_of_another_limit() -> APIRouter:
    inner, outer = APIRouter(), APIRouter(dependencies=[request_limits(max_body_bytes=8000)])
    inner.post("/large", max_body_size=5000)(measure)
    outer.include_router(inner)
    return outer


def around_one_of_fastapi() -> APIRouter:
    router = APIRouter(prefix="/large", max_body_size=8000)
    router.post("", dependencies=LARGE)(measure)
    return router


needs_max_body_size = pytest.mark.skipif(
    "max_body_size" not in inspect.signature(APIRouter.post).parameters,
    reason="this FastAPI has no max_body_size",
)
PLACES = [
    on_a_route,
    on_a_router,
    where_a_router_is_included,
    inside_of_another_limit,
    in_a_dependency,
    pytest.param(by_fastapi_on_a_route, marks=needs_max_body_size),
    pytest.param(by_fastapi_on_a_router, marks=needs_max_body_size),
    pytest.param(by_fastapi_inside_of_another_limit, marks=needs_max_body_size),
    pytest.param(around_one_of_fastapi, marks=needs_max_body_size),
]


def others() -> APIRouter:
    """Return routes without limits of their own, before and after those that have some."""
    router = APIRouter()
    router.post("/other")(measure)
    router.post("/{name}/other")(measure)
    return router


async def in_chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 100):
        yield b"x" * 100


def small(settings: ChassisSettings, **changes: object) -> ChassisSettings:
    return changed(settings, http_max_body_bytes=DEFAULT, **changes)


def check_refused(answer: Response, limit: int) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (413, MEDIA_TYPE)
    assert answer.json()["detail"] == f"A body may have {limit} bytes."
    assert answer.json()["request_id"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("way", [bytes, in_chunks])
async def test_a_route_takes_what_it_says_and_another_what_the_settings_say(
    settings: ChassisSettings, place: Callable[[], APIRouter], way: Callable[[int], Any]
) -> None:
    async with started(create_stock(small(settings), place(), others())) as client:
        for path, limit in (("/large", 5000), ("/other", DEFAULT), ("/some/other", DEFAULT)):
            assert (await client.post(path, content=way(limit))).json() == limit
            check_refused(await client.post(path, content=way(limit + 100)), limit)


@pytest.mark.parametrize("way", [bytes, in_chunks])
async def test_a_limit_may_be_smaller_or_none(
    settings: ChassisSettings, way: Callable[[int], Any]
) -> None:
    router = APIRouter()
    router.post("/small", dependencies=[request_limits(max_body_bytes=200)])(measure)
    router.post("/any", dependencies=[request_limits(max_body_bytes=0)])(measure)
    async with started(create_stock(small(settings), router, others())) as client:
        assert (await client.post("/small", content=way(200))).json() == 200
        check_refused(await client.post("/small", content=way(300)), 200)
        assert (await client.post("/other", content=way(DEFAULT))).json() == DEFAULT
        check_refused(await client.post("/other", content=way(DEFAULT + 100)), DEFAULT)
        assert (await client.post("/any", content=way(20 * DEFAULT))).json() == 20 * DEFAULT


@needs_max_body_size
@pytest.mark.parametrize("way", [bytes, in_chunks])
async def test_0_of_fastapis_own_limit_is_no_body(
    settings: ChassisSettings, way: Callable[[int], Any]
) -> None:
    router = APIRouter()
    router.post("/none", max_body_size=0)(measure)
    async with started(create_stock(small(settings), router)) as client:
        assert (await client.post("/none")).json() == 0
        check_refused(await client.post("/none", content=way(100)), 0)


async def test_a_limit_counts_where_the_settings_have_none(settings: ChassisSettings) -> None:
    unlimited = changed(settings, http_max_body_bytes=0, http_request_timeout_seconds=0)
    router = APIRouter()
    own = [request_limits(max_body_bytes=200, timeout_seconds=MOMENT)]
    router.post("/small", dependencies=own)(measure)
    router.get("/wait", dependencies=own)(wait)
    router.get("/other")(wait)
    async with started(create_stock(unlimited, router, others())) as client:
        check_refused(await client.post("/small", content=bytes(300)), 200)
        assert (await client.post("/other", content=bytes(3000))).json() == 3000
        late, in_time = await asyncio.gather(
            client.get("/wait?seconds=30"), client.get(f"/other?seconds={2 * MOMENT}")
        )
    assert (late.status_code, in_time.status_code) == (504, 200)


async def test_each_limit_is_inherited_by_itself(settings: ChassisSettings) -> None:
    router = APIRouter(dependencies=[request_limits(timeout_seconds=MOMENT)])
    router.post("/large", dependencies=LARGE)(measure)
    router.get("/wait", dependencies=LARGE)(wait)
    async with started(create_stock(small(settings), router)) as client:
        assert (await client.post("/large", content=bytes(5000))).json() == 5000
        assert (await client.get("/wait?seconds=30")).status_code == 504


async def test_a_handler_has_the_limits_of_the_route_that_led_to_it(
    settings: ChassisSettings,
) -> None:
    router, large, put = APIRouter(), APIRouter(), APIRouter()
    large.post("/measure")(measure)
    put.put("/measure", dependencies=LARGE)(measure)
    router.include_router(large, prefix="/large", dependencies=LARGE)
    router.include_router(large, prefix="/default")
    router.include_router(put, prefix="/default")
    async with started(create_stock(small(settings), router)) as client:
        assert (await client.post("/large/measure", content=bytes(5000))).json() == 5000
        assert (await client.put("/default/measure", content=bytes(5000))).json() == 5000
        check_refused(await client.post("/default/measure", content=bytes(5000)), DEFAULT)


async def test_a_mounted_application_may_have_limits(settings: ChassisSettings) -> None:
    app, mounted = create_stock(small(settings), others()), FastAPI()
    mounted.post("/large/{name}", dependencies=LARGE)(measure)
    mounted.post("/other")(measure)
    mounted.get("/wait", dependencies=[request_limits(timeout_seconds=MOMENT)])(wait)
    app.mount("/mounted/{name}", mounted)
    async with started(app) as client:
        path = "/mounted/some"
        assert (await client.post(f"{path}/large/a", content=in_chunks(5000))).json() == 5000
        check_refused(await client.post(f"{path}/large/a", content=in_chunks(6000)), 5000)
        check_refused(await client.post(f"{path}/other", content=in_chunks(6000)), DEFAULT)
        assert (await client.get(f"{path}/wait?seconds=30")).status_code == 504


async def test_a_path_below_a_root_path_leads_to_its_route(settings: ChassisSettings) -> None:
    app = create_stock(small(settings), on_a_route())
    app.root_path = "/below"
    async with started(app) as client:
        for path in ("/large", "/below/large"):
            assert (await client.post(path, content=in_chunks(5000))).json() == 5000
            assert (await client.post(path, content=bytes(5000))).json() == 5000


@pytest.mark.parametrize("way", [bytes, in_chunks])
async def test_a_middleware_may_read_the_body_before_the_route_is_known(
    settings: ChassisSettings, way: Callable[[int], Any]
) -> None:
    async def read(request: Request, call_next: RequestResponseEndpoint) -> Any:
        await request.body()
        return await call_next(request)

    app = create_stock(small(settings), on_a_route(), others())
    app.add_middleware(BaseHTTPMiddleware, dispatch=read)
    async with started(app) as client:
        assert (await client.post("/large", content=way(5000))).json() == 5000
        check_refused(await client.post("/large", content=way(6000)), 5000)
        check_refused(await client.post("/other", content=way(5000)), DEFAULT)


async def test_a_form_with_a_file_has_a_limit(settings: ChassisSettings) -> None:
    pytest.importorskip("python_multipart", reason="FastAPI reads forms with it")
    router = APIRouter()
    router.post("/file", dependencies=LARGE)(measure_file)
    async with started(create_stock(small(settings), router)) as client:
        assert (await client.post("/file", files={"file": bytes(4000)})).json() == 4000
        check_refused(await client.post("/file", files={"file": bytes(5000)}), 5000)


@pytest.mark.parametrize(
    ("path", "seconds", "status"),
    [
        ("/default", 3 * MOMENT, 200),
        ("/default", 30, 504),
        ("/short", 0, 200),
        ("/short", 30, 504),
        ("/long", 8 * MOMENT, 200),
        ("/long", 30, 504),
        ("/any", 12 * MOMENT, 200),
    ],
)
async def test_a_request_has_the_time_of_its_route(
    settings: ChassisSettings, path: str, seconds: float, status: int
) -> None:
    router = APIRouter()
    router.get("/default")(wait)
    for name, limit in (("/short", MOMENT), ("/long", 10 * MOMENT), ("/any", 0)):
        router.get(name, dependencies=[request_limits(timeout_seconds=limit)])(wait)
    limited = changed(settings, http_request_timeout_seconds=6 * MOMENT)
    async with started(create_stock(limited, router)) as client:
        others = [client.get("/livez") for _ in range(3)]
        answer, *_ = await asyncio.gather(client.get(f"{path}?seconds={seconds}"), *others)
    assert answer.status_code == status


async def test_a_request_beyond_the_shortest_limit_leaves_nothing(
    settings: ChassisSettings,
) -> None:
    router = APIRouter()
    router.get("/default")(wait)
    router.get("/short", dependencies=[request_limits(timeout_seconds=MOMENT)])(wait)
    async with started(create_stock(settings, router)) as client:
        gc.collect()
        before = sum(isinstance(each, RequestRecord) for each in gc.get_objects())
        await asyncio.create_task(client.get(f"/default?seconds={2 * MOMENT}"))
        await asyncio.sleep(0)
        gc.collect()
        assert sum(isinstance(each, RequestRecord) for each in gc.get_objects()) == before


async def test_a_route_that_is_added_while_the_service_starts_has_its_limits(
    settings: ChassisSettings,
) -> None:
    app = create_stock(small(settings), others())
    app.router.on_startup.append(lambda: app.include_router(on_a_route()))
    async with started(app) as client:
        assert (await client.post("/large", content=bytes(5000))).json() == 5000


async def test_probes_have_none_of_the_limits_of_the_services_own_routes(
    settings: ChassisSettings,
) -> None:
    tight = [request_limits(max_body_bytes=1, timeout_seconds=MOMENT)]

    async def check() -> None:
        await asyncio.sleep(2 * MOMENT)

    router = APIRouter()
    router.get("/wait")(wait)
    app = create_app(settings, package=__name__, routers=[router], dependencies=tight)
    add_readiness_check(app, "slow", check)
    async with started(app) as client:
        assert (await client.get("/readyz")).status_code != 504
        assert (await client.get("/wait?seconds=30")).status_code == 504


@pytest.mark.parametrize(("limit", "status"), [("5s", 200), ("50ms", 504)])
async def test_a_statement_may_have_a_limit_of_its_own_as_the_guide_says(
    settings: ChassisSettings, limit: str, status: int
) -> None:
    only_on("postgres", settings)
    router = APIRouter()

    @router.get("/report")
    async def report(session: DbSession) -> None:
        await session.execute(text(f"SET LOCAL statement_timeout = '{limit}'"))
        await session.execute(text("SELECT pg_sleep(0.4)"))

    short = changed(settings, database_statement_timeout_seconds=0.2)
    async with started(create_stock(short, router)) as client:
        assert (await client.get("/report")).status_code == status


async def test_a_websocket_is_refused(settings: ChassisSettings) -> None:
    async def accept(socket: WebSocket) -> None:
        await socket.accept()

    router = APIRouter(dependencies=LARGE)
    router.websocket("/socket")(accept)
    with pytest.raises(RouteError, match="the websocket /socket has no body"):
        async with started(create_stock(settings, router)):
            pass


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "give max_body_bytes, timeout_seconds, or both"),
        ({"max_body_bytes": -1}, "max_body_bytes=-1 must be a number, 0 for no limit"),
        ({"timeout_seconds": -0.5}, "timeout_seconds=-0.5 must"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds=nan must"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds=inf must"),
        ({"max_body_bytes": "1MB"}, "max_body_bytes='1MB' must"),
    ],
)
def test_what_is_no_limit_is_refused_where_it_is_written(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        request_limits(**values)


@pytest.mark.parametrize("seconds", [0, 30])
def test_the_document_lists_a_timeout_where_there_is_one(
    settings: ChassisSettings, seconds: float
) -> None:
    router = APIRouter()
    for name, limits in (("/default", []), ("/own", [5]), ("/any", [0])):
        own = [request_limits(timeout_seconds=limit) for limit in limits]
        router.get(name, dependencies=own, name=name)(wait)
    app = create_stock(changed(settings, http_request_timeout_seconds=seconds), router)
    paths = app.openapi()["paths"]
    with_timeout = [path for path in paths if "504" in paths[path]["get"]["responses"]]
    assert [path for path in ("/default", "/own", "/any") if path in with_timeout] == (
        ["/default", "/own"] if seconds else ["/own"]
    )
