"""The revisions that the code knows: read as text if their files are as Alembic writes them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from chassis_depot import Depot, written

from chassis import ChassisSettings
from chassis.db.migrations.revision_files import read_revision_files
from chassis.db.migrations.revisions import read_code_revisions
from chassis.db.migrations.scripts import alembic_config

TABLE = "metadata = sa.MetaData()\nsa.Table('bin', metadata, sa.Column('id', sa.Integer))"
PROGRAM = """
import sys
from chassis import ChassisSettings
from chassis.db.migrations.revisions import read_code_revisions

sys.path.insert(0, sys.argv[1])
print(sorted(read_code_revisions(sys.argv[2], ChassisSettings()).heads), "alembic" in sys.modules)
"""
FILES = {
    "one after the other": (
        "revision = 'a'\ndown_revision = None",
        "revision = 'b'\ndown_revision = 'a'",
    ),
    "annotated": ("revision: str = 'a'\ndown_revision: str | None = None",),
    "merged": (
        "revision = 'a'\ndown_revision = None",
        "revision = 'b'\ndown_revision = ()",
        "revision = 'c'\ndown_revision = ('a', 'b')",
    ),
    "two heads": ("revision = 'a'\ndown_revision = None", "revision = 'b'\ndown_revision = None"),
    "computed": ("revision = 'A'.lower()\ndown_revision = None",),
    "set twice": ("revision = 'a'\ndown_revision = 'x'\ndown_revision = None",),
    "none": (),
}
AS_TEXT = ("one after the other", "annotated", "merged", "two heads", "none")


@pytest.fixture
def depot(tmp_path: Path) -> Iterator[Depot]:
    with written(tmp_path) as depot:
        yield depot


def write(depot: Depot, files: tuple[str, ...]) -> None:
    depot.configure(TABLE)
    for number, text in enumerate(files):
        (depot.versions / f"revision_{number}.py").write_text(f"{text}\n", encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_the_revisions_are_those_that_alembic_finds(
    depot: Depot, settings: ChassisSettings, name: str
) -> None:
    write(depot, FILES[name])

    code = read_code_revisions(depot.package, settings)

    scripts = ScriptDirectory.from_config(alembic_config(depot.package, settings))
    assert code.heads == set(scripts.get_heads())
    assert code.known == {script.revision for script in scripts.walk_revisions()}
    assert code.environment.tables == {(None, "bin")}
    if name in AS_TEXT:
        assert read_revision_files(depot.versions).keys() == code.known
    else:
        with pytest.raises(ValueError, match=r"malformed node|has down_revision twice"):
            read_revision_files(depot.versions)


def test_revisions_may_be_in_folders(depot: Depot, settings: ChassisSettings) -> None:
    write(depot, FILES["one after the other"])
    (depot.versions / "2025").mkdir()
    (depot.versions / "revision_0.py").rename(depot.versions / "2025" / "revision_0.py")

    code = read_code_revisions(depot.package, settings)

    scripts = ScriptDirectory.from_config(alembic_config(depot.package, settings))
    assert code.heads == set(scripts.get_heads()) == {"b"}
    assert read_revision_files(depot.versions).keys() == code.known == {"a", "b"}


@pytest.mark.parametrize(
    "files",
    [
        ("revision = 'a'\ndown_revision = 'b'", "revision = 'b'\ndown_revision = 'a'"),
        ("revision = 'a'\ndown_revision = 'gone'",),
        ("down_revision = None",),
        ("revision = 'a'\ndown_revision = None\n)",),
    ],
    ids=["a circle", "one that is gone", "one without a name", "no Python"],
)
@pytest.mark.filterwarnings("ignore:Revision gone")
def test_what_is_wrong_with_revisions_is_said_by_alembic(
    depot: Depot, settings: ChassisSettings, files: tuple[str, ...]
) -> None:
    write(depot, files)
    with pytest.raises(Exception, match=r"[Cc]ycle|gone|Could not determine|unmatched"):
        read_code_revisions(depot.package, settings)


def test_alembic_is_not_imported_to_read_them(depot: Depot) -> None:
    write(depot, FILES["one after the other"])
    folder = str(depot.versions.parents[2])
    command = [sys.executable, "-c", PROGRAM, folder, depot.package]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "['b'] False\n"
