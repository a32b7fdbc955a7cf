"""Problems: what a service may say in one, what it can't, and how the document says so."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from chassis_stock import create_stock, started
from fastapi import APIRouter, FastAPI, HTTPException
from httpx2 import AsyncClient, Response
from pydantic import BaseModel
from starlette.responses import PlainTextResponse

from chassis import (
    ChassisSettings,
    Problem,
    ProblemError,
    problem_response,
    problem_responses,
)

SOLD_OUT = "https://errors.example.com/sold-out"


class SoldOut(Problem):
    """A problem of the service's own."""

    left: int


@asynccontextmanager
async def raising(settings: ChassisSettings, error: Exception) -> AsyncIterator[AsyncClient]:
    """Start an application with one route, which raises an error."""
    router = APIRouter()

    @router.get("/raise")
    async def fail() -> None:
        raise error

    async with started(create_stock(settings, router)) as client:
        yield client


async def answer_to(settings: ChassisSettings, error: Exception) -> Response:
    async with raising(settings, error) as client:
        return await client.get("/raise")


async def read_problem(settings: ChassisSettings, error: Exception) -> dict[str, Any]:
    """Return the problem that an error is answered with, but for the request's id."""
    response = await answer_to(settings, error)
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem.pop("request_id") == response.headers["x-request-id"]
    assert problem["status"] == response.status_code
    Problem.model_validate(problem)
    return problem


async def test_a_problem_has_a_type_and_members_of_its_own(settings: ChassisSettings) -> None:
    error = ProblemError(
        409,
        "Only 3 are left.",
        type=SOLD_OUT,
        title="Sold out",
        headers={"Retry-After": "60"},
        left=3,
        price=Decimal("1.50"),
        until=datetime(2024, 2, 29, tzinfo=UTC),
    )
    assert isinstance(error, HTTPException)
    assert (error.status_code, error.detail) == (409, "Only 3 are left.")

    assert await read_problem(settings, error) == {
        "type": SOLD_OUT,
        "title": "Sold out",
        "status": 409,
        "detail": "Only 3 are left.",
        "left": 3,
        "price": "1.50",
        "until": "2024-02-29T00:00:00Z",
    }
    assert (await answer_to(settings, error)).headers["retry-after"] == "60"


async def test_a_problem_may_be_a_status_alone(settings: ChassisSettings) -> None:
    for status, title in {404: "Not Found", 499: "Status 499"}.items():
        problem = await read_problem(settings, ProblemError(status))
        assert problem == {"type": "about:blank", "title": title, "status": status}


async def test_a_problem_names_what_is_wrong_with_the_input(settings: ChassisSettings) -> None:
    wrong = {
        "type": "past",
        "loc": ("body", "due"),
        "msg": "Choose a later day.",
        "input": "s3cret",
    }
    problem = await read_problem(settings, ProblemError(422, "Too late.", errors=[wrong]))
    assert problem["errors"] == [
        {"type": "past", "loc": ["body", "due"], "msg": "Choose a later day."}
    ]


async def test_a_response_is_a_problem_as_an_error_is(settings: ChassisSettings) -> None:
    response = problem_response(503, "Later.", type=SOLD_OUT, headers={"X-Shop": "1"}, left=0)
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-shop"] == "1"
    error = ProblemError(503, "Later.", type=SOLD_OUT, left=0)
    assert json.loads(bytes(response.body)) == await read_problem(settings, error)


async def test_a_handler_of_http_exceptions_has_problems_too(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.get("/raise")
    async def fail() -> None:
        raise ProblemError(404, "Nobody knows it.", left=1)

    app = create_stock(settings, router)

    @app.exception_handler(HTTPException)
    async def say(_: object, error: HTTPException) -> PlainTextResponse:
        return PlainTextResponse(f"{error.status_code} {error.detail}")

    async with started(app) as client:
        assert (await client.get("/raise")).text == "404 Nobody knows it."


async def test_a_problem_of_a_middleware_is_answered_as_one_of_a_handler(
    settings: ChassisSettings,
) -> None:
    app = create_stock(settings)

    @app.middleware("http")
    async def refuse(*_: object) -> Response:
        raise ProblemError(402, "Pay first.", type=SOLD_OUT, price=3)

    async with started(app) as client:
        response = await client.get("/livez")
    problem = response.json()
    assert (response.status_code, problem["type"], problem["price"]) == (402, SOLD_OUT, 3)
    assert problem["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"status": 200}, "400 to 599, not 200"),
        ({"status": 600}, "400 to 599, not 600"),
        ({"status": "404"}, "400 to 599, not '404'"),
        ({"detail": {"left": 3}}, "the detail of a problem is text"),
        ({"title": 3}, "the title of a problem is text"),
        ({"type": "sold out"}, "the type of a problem is a URI, not 'sold out'"),
        ({"type": None}, "the type of a problem is a URI"),
        ({"instance": "/orders/1"}, "instance can't be a member"),
        ({"request_id": "1"}, "request_id can't be a member"),
        ({"errors": [{"loc": ["body"]}]}, "msg"),
        ({"left": len}, "Unable to serialize"),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [ProblemError, problem_response])
def test_what_no_problem_can_have_is_refused(
    make: Any, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make(**{"status": 409} | arguments)


def test_a_member_has_no_name_of_the_problems_own() -> None:
    members: dict[str, Any] = {"status": 3}
    with pytest.raises(TypeError, match="multiple values"):
        ProblemError(409, **members)


class Left(BaseModel):
    left: int


WRONG = {"type": "past", "loc": ["body", "due"], "msg": "Choose a later day."}


@pytest.mark.parametrize(
    ("detail", "members"),
    [
        ({"code": "sold-out", "left": 3}, {"code": "sold-out", "left": 3}),
        ({"type": SOLD_OUT, "detail": "All gone."}, {"type": SOLD_OUT, "detail": "All gone."}),
        (Left(left=3), {"left": 3}),
        ({"status": "error", "left": 3}, {"details": {"status": "error", "left": 3}}),
        ({"instance": "/1"}, {"details": {"instance": "/1"}}),
        ({"type": "sold out"}, {"details": {"type": "sold out"}}),
        ({"errors": ["all"]}, {"details": {"errors": ["all"]}}),
        ([WRONG | {"input": "s3cret"}], {"errors": [WRONG]}),
        (["name", 3], {"details": ["name", 3]}),
        (3, {"details": 3}),
        ({"left": float("nan")}, {"left": None}),
    ],
    ids=str,
)
async def test_a_detail_that_is_no_text_fits_the_schema(
    settings: ChassisSettings, detail: Any, members: dict[str, Any]
) -> None:
    problem = await read_problem(settings, HTTPException(409, detail=detail))
    assert problem == {"type": "about:blank", "title": "Conflict", "status": 409} | members


async def test_a_detail_that_json_cannot_hold_is_a_bug(settings: ChassisSettings) -> None:
    response = await answer_to(settings, HTTPException(409, detail=object()))
    assert response.status_code == 500


def describe(settings: ChassisSettings, responses: dict[int | str, Any], **options: Any) -> Any:
    """Return what the document says of the answers of one route, and its schemas."""
    router = APIRouter()

    @router.get("/sold", responses=responses, **options)
    async def sold() -> None: ...

    document = create_stock(settings, router).openapi()
    return document["paths"]["/sold"]["get"]["responses"], document["components"]["schemas"]


@pytest.mark.parametrize(
    ("status", "description"),
    [
        (499, "Status 499"),
        ("404", "Not Found"),
        ("4XX", "Client Error"),
        ("5XX", "Server Error"),
        ("default", "Problem"),
    ],
)
def test_a_status_of_a_problem_is_documented(
    settings: ChassisSettings, status: int | str, description: str
) -> None:
    responses, _ = describe(settings, problem_responses(status))
    assert responses[str(status)]["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }
    assert responses[str(status)]["description"] == description


def test_every_status_of_a_problem_is_documented(settings: ChassisSettings) -> None:
    responses, _ = describe(settings, problem_responses(*range(400, 600)))
    assert {int(status) for status in responses} >= {*range(400, 600)}


@pytest.mark.parametrize("status", [200, 304, 399, 600, "200", "3XX", "4xx", "Default", "", 4.04])
def test_a_status_that_no_problem_has_is_refused(status: Any) -> None:
    with pytest.raises(ValueError, match=r"number of 400 to 599, \"4XX\", \"5XX\" or \"default\""):
        problem_responses(404, status)


@pytest.mark.parametrize("options", [{}, {"response_class": PlainTextResponse}], ids=str)
def test_a_problem_of_the_services_own_is_documented(
    settings: ChassisSettings, options: dict[str, Any]
) -> None:
    responses, schemas = describe(settings, {410: {"model": SoldOut}}, **options)
    assert responses["410"]["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/SoldOut"}}
    }
    assert schemas["SoldOut"]["properties"].keys() > {"left", "type", "errors"}


def test_a_schema_says_that_a_problem_may_have_members(settings: ChassisSettings) -> None:
    _, schemas = describe(settings, {})
    assert schemas["Problem"]["additionalProperties"] is True
    assert "details" in schemas["Problem"]["properties"]


def test_two_routes_of_one_path_are_documented(settings: ChassisSettings) -> None:
    router = APIRouter()

    @router.get("/twice", responses=problem_responses(404))
    async def first() -> None: ...

    @router.get("/twice", responses=problem_responses(410))
    async def second() -> None: ...

    app: FastAPI = create_stock(settings, router)
    assert app.openapi()["paths"]["/twice"]["get"]["responses"].keys() >= {"410"}
