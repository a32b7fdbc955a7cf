"""Pages of a list: each begins after the last row of the one before, by the keys of its order."""

from .keyset import Keyset, keyset
from .query import Page, PageQuery, PageRequest, page_query

__all__ = ["Keyset", "Page", "PageQuery", "PageRequest", "keyset", "page_query"]
