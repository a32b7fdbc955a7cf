"""The page /docs in a real browser that reaches nothing but the service."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import uvicorn
from chassis import ChassisSettings, create_app
from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer, OAuth2AuthorizationCodeBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from starlette.types import Receive, Scope, Send

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What Swagger UI leaves for the page that the issuer sends a user back to.
WAITING = """() => {
    window.swaggerUIRedirectOauth2 = {
        state: "state", redirectUrl: "", errCb: error => { window.came = error.message },
        auth: {schema: new Map([["flow", "authorizationCode"]]), name: "shop"},
        callback: result => { window.came = result.auth.code },
    }
    window.open(new URL("docs/oauth2-redirect?code=42&state=state", location.href))
}"""

bearer = HTTPBearer(description="A token of the shop.")
issuer = OAuth2AuthorizationCodeBearer("https://login.example.com/a", "https://login.example.com/t")
router = APIRouter(prefix="/orders", tags=["orders"])


@router.get("/{order_id}", dependencies=[Depends(issuer)])
async def read_order(order_id: int) -> int:
    """Read an order."""
    return order_id


@router.post("")
async def place_order(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)],
) -> str:
    """Return the token that was sent."""
    return credentials.credentials


@dataclass
class Proxied:
    """An application as it is behind a proxy with a prefix; it has nothing outside of that."""

    app: FastAPI
    prefix: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(f"{self.prefix}/"):
            scope["path"] = f"{self.prefix}/nowhere"
        await self.app({**scope, "root_path": self.prefix}, receive, send)


@dataclass
class Visit:
    """A page that is open, what it asked for and what it complained about."""

    page: Page
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self) -> None:
        """Open /docs and wait until the operations are there."""
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", self._note_complaint)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(f"{self.url}/docs")
        expect(self.page.locator(".opblock")).to_have_count(4)

    def _note_complaint(self, line: ConsoleMessage) -> None:
        if line.type in {"warning", "error"}:
            self.complaints.append(line.text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("needs a browser: chromium")
    with sync_playwright() as playwright:
        closed = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=program, args=closed)
        yield browser
        browser.close()


@pytest.fixture(params=["", "/shop"], ids=["", "behind a proxy"])
def visit(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    prefix: str = request.param
    settings = ChassisSettings(database_sqlite_path=tmp_path / "app.db")
    app = create_app(
        settings,
        package="shop",
        routers=[router],
        swagger_ui_init_oauth={"clientId": "shop-docs"},
    )
    with serving(Proxied(app, prefix)) as url, browser.new_context() as context:
        yield Visit(context.new_page(), f"{url}{prefix}")


@contextmanager
def serving(app: Proxied) -> Iterator[str]:
    """Serve an application in a thread; yield its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def test_the_page_shows_operations_and_the_authorize_dialog_and_asks_nobody_else(
    visit: Visit,
) -> None:
    visit.open()
    visit.page.get_by_role("button", name="Authorize").click()
    dialog = visit.page.locator(".modal-ux")
    expect(dialog).to_contain_text("A token of the shop.")
    expect(dialog.get_by_label("client_id:")).to_have_value("shop-docs")

    assert {
        url for url in visit.requests if not url.startswith((f"{visit.url}/", "data:"))
    } == set()
    assert {url.removeprefix(visit.url) for url in visit.requests} >= {
        "/docs",
        "/docs/assets/swagger-ui-bundle.js",
        "/docs/assets/swagger-ui.css",
        "/openapi.json",
    }
    assert visit.complaints == []


def test_try_it_out_sends_the_token_that_was_typed(visit: Visit) -> None:
    visit.open()
    page = visit.page
    page.get_by_role("button", name="Authorize").click()
    page.get_by_label("auth-bearer-value").fill("a-token")
    page.get_by_role("button", name="Apply credentials").click()
    page.get_by_role("button", name="Close").first.click()
    page.locator(".opblock-post .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table td.response-col_description").last).to_contain_text(
        '"a-token"'
    )
    assert visit.complaints == []


def test_the_issuer_sends_the_user_back_to_a_page_that_may_run(visit: Visit) -> None:
    visit.open()
    visit.page.evaluate(WAITING)
    # A predicate that waits in the page would be evaluated there, which its policy forbids.
    for _ in range(200):
        if visit.page.evaluate("window.came"):
            break
        visit.page.wait_for_timeout(50)
    assert visit.page.evaluate("window.came") == "42"


def test_no_script_that_is_put_into_the_page_runs(visit: Visit) -> None:
    visit.open()
    visit.page.evaluate(
        """() => {
            const script = document.createElement("script")
            script.textContent = "window.stranger = true"
            document.body.append(script)
        }"""
    )
    assert visit.page.evaluate("window.stranger") is None
    assert "Content Security Policy" in " ".join(visit.complaints)
