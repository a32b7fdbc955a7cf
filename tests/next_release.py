"""The release after this one, made up: template files edited, some added, some removed.

Each edit is a comment at the first, a middle and the last line, so every file stays valid and a
team's edit near any of them meets it.
"""

import ast
import re
import tomllib
from pathlib import Path

import yaml

from tests import manifest
from tests.repository import NEXT, TemplateRepository

WORDS = "a line of the next release"
COMMENTS = {
    "# {}": {".cfg", ".example", ".ini", ".py", ".sh", ".toml", ".typed", ".yaml", ".yml"}
    | {"Dockerfile", "LICENSE", ".dockerignore", ".gitattributes", ".gitignore"},
    "<!-- {} -->": {".md"},
    "## {}": {".mako"},
}
ADDED_MODULE = "next_release.py"
ADDED_FILE = "NEXT_RELEASE.md"
ADDED_QUESTION = "\nadded_in_the_next_release:\n  type: str\n  default: a new answer\n"


def release_next(repository: TemplateRepository, tag: str = NEXT) -> None:
    """Commit and tag the made-up next release."""
    for path in sorted(repository.template.rglob("*")):
        if path.is_file() and path.name != manifest.NAME and not is_left_alone(path):
            path.write_text(edit(path, path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in removed_files(repository.template):
        path.unlink()
    for path in added_files(repository.template):
        path.write_text(f"{comment(path)}\n", encoding="utf-8")
    with (repository.path / "copier.yml").open("a", encoding="utf-8") as questions:
        questions.write(ADDED_QUESTION)
    manifest.write(repository.template / "chassis")
    repository.release(tag)


def is_left_alone(path: Path) -> bool:
    """Tell whether a file is the same in both releases, as most are: a part of the chassis."""
    return "chassis" in path.parts and re.search(r"(^|_)s\w*\.py$", path.name) is not None


def removed_files(template: Path) -> list[Path]:
    """Name a file of the chassis and one of the user's half that no running service needs."""
    return [
        min(template.glob("chassis/tests/test_*.py")),
        min(template.glob("compose.yaml*")),
    ]


def added_files(template: Path) -> list[Path]:
    """Name files of the chassis and of the user's half that this release does not have."""
    package = min(template.glob("src/*"))
    return [
        template / "chassis" / "src" / "chassis" / ADDED_MODULE,
        package / ADDED_MODULE,
        template / ADDED_FILE,
    ]


def edit(path: Path, text: str) -> str:
    """Add a comment as the first, a middle and the last line, without a change of meaning."""
    line = f"{comment(path)}\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if lines:
        lines.insert(middle(path, lines, line), line)
    lines.insert(after_directives(lines), line)
    return "".join([*lines, line])


def comment(path: Path) -> str:
    """Write the words as a comment of the file's language."""
    for form, kinds in COMMENTS.items():
        if kind(path) in kinds:
            return form.format(WORDS)
    raise NotImplementedError(f"say in {__name__}.COMMENTS how a comment is written in {path}")


def kind(path: Path) -> str:
    """Name the language of a template file: its suffix once rendered, else its name."""
    name = re.sub(r"{%.*?%}", "", path.name).removesuffix(".jinja")
    if "answers_file" in name:
        return ".yml"
    return Path(name).suffix or name


def after_directives(lines: list[str]) -> int:
    """Find the first line that a comment may precede: not a shebang, not a parser directive."""
    directives = ("#!", "# syntax=", "# escape=")
    return next((i for i, line in enumerate(lines) if not line.startswith(directives)), 0)


def middle(path: Path, lines: list[str], line: str) -> int:
    """Find the line nearest to the middle that a comment may precede."""
    half = len(lines) // 2
    for index in sorted(
        range(after_directives(lines), len(lines) + 1), key=lambda i: abs(i - half)
    ):
        if is_harmless(path, lines, line, index):
            return index
    return len(lines)


def is_harmless(path: Path, lines: list[str], line: str, index: int) -> bool:
    """Tell whether a comment before a line leaves the meaning of the file as it is."""
    before, after = "".join(lines[:index]), "".join(lines[index:])
    if before.rstrip("\n").endswith("\\") or before.count("{#") != before.count("#}"):
        return False
    if kind(path) == ".md":
        return before.endswith("\n\n") and before.count("```") % 2 == 0
    try:
        return meaning(path, before + line + after) == meaning(path, before + after)
    except (SyntaxError, ValueError, yaml.YAMLError):
        return False


def meaning(path: Path, text: str) -> object:
    """Parse a file as what it becomes once rendered; of other languages, nothing is known."""
    rendered = re.sub(r"{%.*?%}|{#.*?#}", "", text, flags=re.DOTALL)
    rendered = re.sub(r"{{.*?}}", "answer", rendered)
    match kind(path):
        case ".py":
            return ast.dump(ast.parse(rendered))
        case ".toml":
            return tomllib.loads(rendered)
        case ".yml" | ".yaml":
            return yaml.safe_load(rendered)
        case _:
            return None
