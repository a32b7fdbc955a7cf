"""The table of `.env` files and environments: each is read as meant, or says why it is not."""

import pytest

from tests.env_table import MEANT, SHAPES, Shape, outcome_of

READ = [shape for shape in SHAPES if not shape.says]
REFUSED = [shape for shape in SHAPES if shape.says]


def titled(shapes: list[Shape]) -> list[object]:
    return [pytest.param(shape, id=shape.title) for shape in shapes]


@pytest.mark.parametrize("shape", titled(READ))
def test_what_can_be_read_is_read_as_it_is_meant(shape: Shape) -> None:
    found = outcome_of(shape)
    assert found.settings is not None, found.line
    assert {name: getattr(found.settings, name) for name in shape.reads} == shape.reads
    target = found.settings.database_target
    assert (target.masked, target.url.password) == (MEANT, shape.password)


@pytest.mark.parametrize("shape", titled(READ))
def test_a_warning_is_given_where_something_is_ignored_and_nowhere_else(shape: Shape) -> None:
    warnings = outcome_of(shape).warnings
    assert len(warnings) == bool(shape.warns)
    assert all(shape.warns in warning and "pa55" not in warning for warning in warnings)


@pytest.mark.parametrize("shape", titled(REFUSED))
def test_what_cant_be_read_is_one_line_and_shows_no_value(shape: Shape) -> None:
    found = outcome_of(shape)
    assert found.settings is None
    assert found.line.startswith(shape.says)
    assert "\n" not in found.line
    assert "pa55" not in found.line


def test_there_are_shapes_of_each_kind() -> None:
    assert len(SHAPES) >= 40
    assert len({shape.title for shape in SHAPES}) == len(SHAPES)
    assert len(REFUSED) >= 20
