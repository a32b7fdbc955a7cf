"""The page /docs from a package: its policy and its files. Browsers are asked elsewhere."""

from base64 import b64encode
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

import pytest
from chassis_forks import run_code
from chassis_stock import changed, create_stock, started

from chassis import ChassisSettings

pytestmark = pytest.mark.anyio
needs_extra = pytest.mark.skipif(
    find_spec("fastapi_swagger") is None, reason="needs the extra `docs`"
)

SCRIPT, STYLE = "/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css"
WITHOUT_EXTRA = """
import sys
sys.modules["fastapi_swagger"] = None
import chassis, chassis.app
settings = chassis.ChassisSettings()
app = chassis.create_app(settings, package="sample")
print("chassis.http.docs" in sys.modules, *(route.path for route in app.routes))
"""
WITH_EXTRA = WITHOUT_EXTRA.replace('sys.modules["fastapi_swagger"] = None', "")


@needs_extra
async def test_the_page_and_all_it_loads_are_the_services_own(settings: ChassisSettings) -> None:
    async with started(create_stock(settings)) as client:
        page = await client.get("/docs")
        script, style = await client.get(SCRIPT), await client.get(STYLE)
        again = await client.get(SCRIPT, headers={"If-None-Match": script.headers["etag"]})

    assert "https://" not in page.text
    assert SCRIPT in page.text
    assert STYLE in page.text
    assert "SwaggerUIBundle" in script.text
    kinds = [answer.headers["content-type"].partition(";")[0] for answer in (script, style)]
    assert kinds == ["text/javascript", "text/css"]
    assert (again.status_code, again.content) == (304, b"")


@needs_extra
@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect"])
async def test_no_other_script_than_the_pages_own_may_run(
    settings: ChassisSettings, path: str
) -> None:
    async with started(create_stock(settings)) as client:
        page = await client.get(path)

    script = page.text.split("<script>")[1].partition("</script>")[0]
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )
    own = b64encode(sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{own}'"
    assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
    assert len(page.headers.get_list("content-security-policy")) == 1


@needs_extra
async def test_a_service_without_security_headers_has_no_policy(settings: ChassisSettings) -> None:
    async with started(create_stock(changed(settings, http_security_headers=False))) as client:
        for path in ("/docs", "/docs/oauth2-redirect"):
            assert "content-security-policy" not in (await client.get(path)).headers


@needs_extra
@pytest.mark.parametrize(
    ("off", "options"),
    [
        ({"docs_enabled": False}, {}),
        ({}, {"openapi_url": None}),
        ({}, {"docs_url": None}),
    ],
)
async def test_where_the_page_is_off_so_are_its_files(
    settings: ChassisSettings, off: dict[str, Any], options: dict[str, Any]
) -> None:
    async with started(create_stock(changed(settings, **off), **options)) as client:
        for path in ("/docs", "/docs/oauth2-redirect", SCRIPT):
            assert (await client.get(path)).status_code == 404


@needs_extra
@pytest.mark.parametrize("place", ["/ui", "/"])
async def test_the_files_are_below_the_page(settings: ChassisSettings, place: str) -> None:
    options: dict[str, Any] = {"docs_url": place, "swagger_ui_oauth2_redirect_url": None}
    async with started(create_stock(settings, **options)) as client:
        page = await client.get(place)
        script = f"{place.rstrip('/')}/assets/swagger-ui-bundle.js"
        assert f'src="{script}"' in page.text
        assert (await client.get(script)).status_code == 200
        assert "oauth2RedirectUrl" not in page.text
        assert (await client.get("/docs/oauth2-redirect")).status_code == 404


@needs_extra
async def test_a_route_of_the_services_own_wins(settings: ChassisSettings) -> None:
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def answer(request: object) -> PlainTextResponse:
        return PlainTextResponse("ours")

    async with started(create_stock(settings, routes=[Route("/docs", answer)])) as client:
        assert (await client.get("/docs")).text == "ours"


@needs_extra
async def test_the_page_is_there_where_every_route_needs_a_caller(
    settings: ChassisSettings,
) -> None:
    async def refuse(connection: object) -> None: ...

    app = create_stock(changed(settings, auth_required=True), authenticators=[refuse])
    async with started(app) as client:
        for path in ("/docs", "/docs/oauth2-redirect", SCRIPT):
            assert (await client.get(path)).status_code == 200


def run(program: str) -> list[str]:
    finished = run_code(program)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.split()


def test_without_the_extra_the_page_is_fastapis_own() -> None:
    imported, *paths = run(WITHOUT_EXTRA)
    assert imported == "False"
    assert "/docs" in paths
    assert "/docs/assets" not in paths


@needs_extra
def test_none_of_the_packages_code_runs() -> None:
    program = f"{WITH_EXTRA}\nprint(*(name for name in sys.modules if 'fastapi_swagger' in name))"
    imported, *others = run(program)
    assert imported == "True"
    assert "/docs/assets" in others
    assert not [name for name in others if "fastapi_swagger" in name]
