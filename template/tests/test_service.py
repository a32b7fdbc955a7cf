"""The service as a whole; each test has a started application and a migrated database."""

from httpx2 import AsyncClient


async def test_the_service_is_alive(client: AsyncClient) -> None:
    response = await client.get("/livez")
    assert response.status_code == 200


async def test_the_service_is_ready(client: AsyncClient) -> None:
    response = await client.get("/readyz")
    assert response.status_code == 200


async def test_an_unknown_path_is_a_problem(client: AsyncClient) -> None:
    response = await client.get("/no-such-path")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
