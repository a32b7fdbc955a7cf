"""The promise to services that are out there: what they rely on stays."""

import pytest

from tests.api import api, recorded


@pytest.mark.parametrize("kind", recorded())
def test_nothing_that_services_rely_on_is_removed(kind: str) -> None:
    assert set(recorded()[kind]) - set(api().get(kind, [])) == set()


@pytest.mark.parametrize("kind", api())
def test_what_is_new_is_recorded(kind: str) -> None:
    """`python -m tests.api` records it."""
    assert set(api()[kind]) - set(recorded().get(kind, [])) == set()
