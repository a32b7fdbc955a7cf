"""The guide's page of authentication: its own text runs in a rendered service, on both engines."""

import importlib
from pathlib import Path

import pytest
from chassis.auth import CallerError
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from tests.models.trial import ENGINES, Databases
from tests.pages.service import run
from tests.repository import ROOT

PAGE = ROOT / "template/chassis/docs/authentication.md"


@pytest.mark.parametrize("engine", ENGINES)
def test_the_page_is_a_service_whose_tests_pass(service: Path, engine: str) -> None:
    run(service, "pytest", "-q", "-n0", "tests", "--database", engine)


@pytest.mark.parametrize("tool", [("ruff", "check"), ("ruff", "format", "--diff"), ("mypy",)])
def test_the_services_own_tools_have_nothing_to_say(service: Path, tool: tuple[str, ...]) -> None:
    run(service, *tool)


def create(databases: Databases, **options: object) -> FastAPI:
    """Make the page's service without an issuer."""
    main = importlib.import_module("my_service.main")
    settings = importlib.import_module("my_service.settings").Settings
    routers = importlib.import_module("my_service.routers").routers
    fields = databases.create("sqlite").model_dump(exclude_unset=True)
    app: FastAPI = main.create_app(
        settings(**fields), package="my_service", routers=routers, **options
    )
    return app


async def ask(app: FastAPI, method: str, headers: dict[str, str]) -> int:
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        answer = await http.request(method, "/reports", headers=headers)
        return answer.status_code


@pytest.mark.anyio
@pytest.mark.usefixtures("service")
async def test_an_authenticator_of_the_page_says_who_is_asking(databases: Databases) -> None:
    ask_the_mesh = importlib.import_module("my_service.authenticators").ask_the_mesh

    def mesh() -> FastAPI:
        return create(databases, authenticators=(ask_the_mesh,))

    assert await ask(mesh(), "POST", {"X-Client-Subject": "billing"}) == 201
    assert await ask(mesh(), "DELETE", {"X-Client-Subject": "billing"}) == 403
    assert await ask(mesh(), "POST", {}) == 401


@pytest.mark.anyio
@pytest.mark.usefixtures("service")
async def test_the_page_does_not_start_without_an_issuer(databases: Databases) -> None:
    with pytest.raises(CallerError, match="APP_AUTH_ISSUER"):
        await ask(create(databases), "POST", {})
