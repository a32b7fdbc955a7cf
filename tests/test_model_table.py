"""Revisions of model shapes that people bring: one text that is right on both engines."""

from collections.abc import Iterator

import pytest

from tests.model_table import open_databases, try_change, try_shape
from tests.models.changes import CHANGES, Change
from tests.models.shapes import SHAPES, Shape
from tests.models.trial import Databases
from tests.postgres import Postgres
from tests.scale import FULL

REPRESENTATIVE = {
    "times that the server fills",
    "booleans that the server fills",
    "strings that need quoting",
    "a type of the service that differs by engine",
    "a type of the service inside another",
    "an enum",
    "enums held by a CHECK, by value, and in lists",
    "a big integer as key",
    "two tables that name each other",
    "a unique index over an expression",
    "partial indexes",
    "names that need quoting",
}


@pytest.fixture(scope="module")
def databases(postgres: Postgres) -> Iterator[Databases]:
    with open_databases(postgres) as databases:
        yield databases


@pytest.mark.parametrize(
    "shape",
    [shape for shape in SHAPES if FULL or shape.name in REPRESENTATIVE],
    ids=lambda shape: shape.name,
)
def test_a_revision_of_a_model_shape_is_right_on_both_engines(
    shape: Shape, databases: Databases
) -> None:
    for row in try_shape(shape, databases):
        assert row.problems == [], row.text


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_is_seen_and_made_on_both_engines(change: Change, databases: Databases) -> None:
    for row in try_change(change, databases):
        assert row.problems == [], row.text
