"""What a client asks of a list, and the page that it gets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, create_model

from .cursors import MAX_LENGTH

_PARAMETER = "cursor"

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """A page of a list, and the cursor of the page after it."""

    items: list[Item]
    next: str | None = Field(
        description=f"The `{_PARAMETER}` of the next page, also in the header `Link`; null at "
        "the end."
    )

    def __class_getitem__(cls, item: Any) -> Any:
        """Return the model of such items: in OpenAPI, `Page[OrderRead]` is an OrderReadPage."""
        pages = super().__class_getitem__(item)
        return _create_named(pages, item) if cls is Page and isinstance(item, type) else pages


@cache
def _create_named(pages: type[BaseModel], item: type) -> type[BaseModel]:
    """Return a model under the name that a generated client gives its class."""
    return create_model(f"{item.__name__}Page", __base__=pages, __doc__=Page.__doc__)


@dataclass(frozen=True)
class PageRequest:
    """The page that a request asks for: at most `limit` rows after those that `cursor` ends."""

    cursor: str | None
    limit: int
    request: Request
    response: Response

    def link_next(self, cursor: str) -> None:
        """Set the header `Link` (RFC 8288) to the next page: this request, with another cursor."""
        scope = self.request.scope
        path: str = scope["path"]
        # The server puts its own root path back before the path, FastAPI does not put back its.
        prefix = scope.get("app_root_path", scope.get("root_path", "")).rstrip("/")
        path = path if path.startswith(f"{prefix}/") else prefix + path
        kept = [pair for pair in self.request.query_params.multi_items() if pair[0] != _PARAMETER]
        query = urlencode([*kept, (_PARAMETER, cursor)])
        self.response.headers.append("Link", f'<{quote(path)}?{query}>; rel="next"')

    def refuse_cursor(self) -> RequestValidationError:
        """Return the error of a cursor that is none of the list's: a 422 that names it."""
        message = "this list gave no such cursor: send `next` of its page before, or none"
        return RequestValidationError(
            [{"type": "cursor", "loc": ("query", _PARAMETER), "msg": message}]
        )


def page_query(default: int, maximum: int) -> Callable[..., PageRequest]:
    """Return a dependency like that of `PageQuery`, with pages of another size."""
    if not 1 <= default <= maximum:
        raise ValueError(
            f"page_query({default}, {maximum}): the default is 1 or more, the maximum no less"
        )

    def read_page_query(
        request: Request,
        response: Response,
        cursor: Annotated[
            str | None,
            Query(
                max_length=MAX_LENGTH,
                description="`next` of the page before; the first page has none.",
            ),
        ] = None,
        limit: Annotated[
            int, Query(ge=1, le=maximum, description="How many items a page has at most.")
        ] = default,
    ) -> PageRequest:
        return PageRequest(cursor, limit, request, response)

    return read_page_query


PageQuery = Annotated[PageRequest, Depends(page_query(50, 100))]
"""The parameters `cursor` and `limit` of a list: 50 items a page, or as many as 100."""
