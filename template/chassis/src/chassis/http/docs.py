"""The page /docs without a third party: its script and style are those of a package."""

import re
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

# Its files, that is; none of its code runs.
PACKAGE = "fastapi_swagger"

# "Try it out" calls the servers that the document names, and Authorize the issuer.
_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; connect-src *; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src 'self'"
)


def create_docs_routes(options: Mapping[str, Any], *, is_secured: bool) -> list[BaseRoute]:
    """Return the routes of the page by FastAPI's options; they are found before FastAPI's own.

    If the page is secured, a browser runs no other script on it and shows it in no frame.
    """
    page: str | None = options.get("docs_url", "/docs")
    redirect: str | None = options.get("swagger_ui_oauth2_redirect_url", "/docs/oauth2-redirect")
    if page is None or options.get("openapi_url", "/openapi.json") is None:
        return []
    assets = f"{page.rstrip('/')}/assets"

    async def answer_page(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        answer = _write_page(request.app, root, assets, redirect)
        return _allow_own_scripts(answer) if is_secured else answer

    async def answer_redirect(request: Request) -> Response:
        answer = get_swagger_ui_oauth2_redirect_html()
        return _allow_own_scripts(answer) if is_secured else answer

    routes = [
        Mount(assets, StaticFiles(packages=[(PACKAGE, "resources")])),
        Route(page, answer_page),
    ]
    return routes if redirect is None else [*routes, Route(redirect, answer_redirect)]


def _write_page(app: FastAPI, root: str, assets: str, redirect: str | None) -> HTMLResponse:
    """Write FastAPI's page, whose links begin with the path that a proxy takes off."""
    return get_swagger_ui_html(
        openapi_url=f"{root}{app.openapi_url}",
        title=f"{app.title} - Swagger UI",
        swagger_js_url=f"{root}{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{assets}/swagger-ui.css",
        swagger_favicon_url=f"{root}{assets}/favicon-32x32.png",
        oauth2_redirect_url=redirect and f"{root}{redirect}",
        init_oauth=app.swagger_ui_init_oauth,
        swagger_ui_parameters=app.swagger_ui_parameters,
    )


def _allow_own_scripts(answer: HTMLResponse) -> HTMLResponse:
    """Name the scripts within a page by their hashes, so that no other runs there."""
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(answer.body), re.DOTALL)
    hashes = [b64encode(sha256(script).digest()).decode() for script in scripts]
    policy = " ".join([_POLICY, *(f"'sha256-{value}'" for value in hashes)])
    answer.headers["content-security-policy"] = policy
    return answer
