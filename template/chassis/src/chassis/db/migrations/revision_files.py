"""The files of revisions, read as text: who only wants to know which there are imports none."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

NAMES = ("revision", "down_revision")


def read_revision_files(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return each revision in a folder and those below it, with those before it.

    Raise ValueError, KeyError or SyntaxError for what only Alembic can judge: a file whose
    revisions are no literals, two files of one revision, a revision that is missing, a circle.
    """
    files = [file for file in folder.rglob("*.py") if not file.name.startswith(("__init__", ".#"))]
    parents = dict(map(_read_revision_file, files))
    earlier = {name for names in parents.values() for name in names}
    if len(parents) < len(files) or not earlier <= parents.keys():
        raise ValueError("two files have one revision, or a revision is missing")
    TopologicalSorter(parents).prepare()
    return parents


def _read_revision_file(file: Path) -> tuple[str, tuple[str, ...]]:
    found = {}
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and target.id in NAMES:
                    if target.id in found:
                        raise ValueError(f"{file.name} has {target.id} twice")
                    found[target.id] = ast.literal_eval(node.value)
    revision, down = (found[name] for name in NAMES)
    before = (down,) if isinstance(down, str) else tuple(down or ())
    if not all(isinstance(name, str) for name in (revision, *before)):
        raise ValueError(f"{file.name} has revisions that are no texts")
    return revision, before
