"""What is rendered: which files, whose they are, and that each is valid and the same every time."""

import ast
import configparser
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import Render
from tests.project import ANSWERS_FILE, tree
from tests.releases import Releases
from tests.repository import ROOT, git

# Whose is it? What stands here as the template's is rewritten by updates, the rest is the team's.
OWNERS = {
    "chassis": "template",
    ANSWERS_FILE: "template",
    ".dockerignore": "team",
    ".env.example": "team",
    ".gitattributes": "team",
    ".github": "team",
    ".gitignore": "team",
    "AGENTS.md": "team",
    "Dockerfile": "team",
    "README.md": "team",
    "alembic.ini": "team",
    "compose.postgres.yaml": "team",
    "compose.yaml": "team",
    "pyproject.toml": "team",
    "src": "team",
    "tests": "team",
}
SERVICE = {
    ANSWERS_FILE,
    ".dockerignore",
    ".env.example",
    ".gitattributes",
    ".github/dependabot.yml",
    ".github/workflows/ci.yml",
    ".github/workflows/template.yml",
    ".gitignore",
    "AGENTS.md",
    "Dockerfile",
    "README.md",
    "alembic.ini",
    "compose.postgres.yaml",
    "compose.yaml",
    "pyproject.toml",
    "src/my_service/__init__.py",
    "src/my_service/__main__.py",
    "src/my_service/asgi.py",
    "src/my_service/cli.py",
    "src/my_service/dependencies.py",
    "src/my_service/main.py",
    "src/my_service/migrations/env.py",
    "src/my_service/migrations/script.py.mako",
    "src/my_service/models/__init__.py",
    "src/my_service/routers/__init__.py",
    "src/my_service/settings.py",
    "tests/conftest.py",
    "tests/test_service.py",
}
EXAMPLE = {
    "src/my_service/migrations/versions/5d1c0a7e93b2_create_items.py",
    "src/my_service/models/item.py",
    "src/my_service/routers/items.py",
    "tests/test_items.py",
}
NO_EXAMPLE = {"src/my_service/migrations/versions/0a7d3e91c4f6_start.py"}
ANSWERS: dict[str, dict[str, str | bool]] = {
    "defaults": {},
    "names": {"project_name": "Acme Billing API", "package_name": "billing"},
    "no-example": {"include_example": False},
}


@pytest.fixture(params=ANSWERS)
def service(request: pytest.FixtureRequest, rendered: Render) -> Path:
    """A render for each kind of answers."""
    return rendered(**ANSWERS[request.param])


def users_half(service: Path) -> set[str]:
    """Name the rendered files that are not the chassis's."""
    return {name for name in tree(service) if not name.startswith("chassis/")}


def test_the_files_of_a_service(rendered: Render) -> None:
    assert users_half(rendered()) == SERVICE | EXAMPLE


def test_the_files_of_a_service_without_the_example(rendered: Render) -> None:
    assert users_half(rendered(include_example=False)) == SERVICE | NO_EXAMPLE


def test_nothing_speaks_of_the_example_where_it_is_left_out(rendered: Render) -> None:
    service = rendered(include_example=False)
    for name in users_half(service) - {ANSWERS_FILE}:
        text = (service / name).read_text(encoding="utf-8")
        assert not re.search(r"/items\b|\bitems\.|create_items|\bItem\b", text), name


def test_every_path_has_an_owner(service: Path) -> None:
    assert {path.name for path in service.iterdir()} == OWNERS.keys()


def test_fastapis_command_is_told_where_the_application_is(service: Path) -> None:
    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = project["tool"]["fastapi"]["entrypoint"].partition(":")
    file = service / "src" / module.replace(".", "/")
    assert f"\n{name} = " in file.with_suffix(".py").read_text(encoding="utf-8")


def test_the_chassis_is_the_same_bytes_for_all_answers(service: Path, template: Releases) -> None:
    assert tree(service / "chassis") == tree(template.repository.template / "chassis")


def test_a_render_is_the_same_bytes_every_time(render_anew: Render, rendered: Render) -> None:
    assert tree(render_anew("another folder")) == tree(rendered())


def test_no_jinja_is_left_over(service: Path) -> None:
    for name in users_half(service):
        assert "{" not in name, name
        assert not name.endswith(".jinja"), name
        text = (service / name).read_text(encoding="utf-8")
        assert not re.search(r"(?<!\$){{|{%|(?<!\$){#", text), name


def test_every_file_parses(service: Path) -> None:
    for name in tree(service):
        text = (service / name).read_text(encoding="utf-8")
        match Path(name).suffix:
            case ".py":
                ast.parse(text, name, feature_version=(3, 11))
            case ".toml":
                tomllib.loads(text)
            case ".yaml" | ".yml":
                yaml.safe_load(text)
            case ".json":
                json.loads(text)
            case ".ini":
                configparser.ConfigParser(interpolation=None).read_string(text)


def test_every_text_ends_in_one_line_end(service: Path) -> None:
    for name, content in tree(service).items():
        text = content[1:]
        assert not text or (text.endswith(b"\n") and not text.endswith(b"\n\n")), name
        assert b"\r" not in text, name


def test_no_rendered_path_is_ignored_by_git(service: Path, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    listing = ["ls-files", "--others", "--ignored", "--exclude-standard"]
    assert git(tmp_path, f"--work-tree={service}", *listing) == ""


def test_what_is_made_on_the_way_is_ignored_by_git(rendered: Render, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_bytes((rendered() / ".gitignore").read_bytes())
    made = [".venv/x", ".env", "data/app.db", "chassis/.venv/x", "chassis/uv.lock"]
    assert git(tmp_path, "check-ignore", "--no-index", *made).split() == made


def test_the_image_is_not_built_without_a_module_of_the_chassis(
    rendered: Render, tmp_path: Path
) -> None:
    """A pattern in `.dockerignore` may fit one by chance: `**/secrets*`, `**/test*`, `**/db`."""
    check = re.search(r"^RUN (cd chassis && .*)$", (rendered() / "Dockerfile").read_text(), re.M)
    assert check
    shutil.copytree(rendered() / "chassis" / "src", tmp_path / "chassis" / "src")
    shutil.copy(rendered() / "chassis" / "MANIFEST.sha256", tmp_path / "chassis")
    command = ["sh", "-c", check[1]]
    subprocess.run(command, cwd=tmp_path, check=True)
    module = "src/chassis/db/base.py"
    (tmp_path / "chassis" / module).unlink()
    done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode
    assert module in done.stderr


def test_the_folder_of_the_chassis_is_no_package(service: Path) -> None:
    """It would hide the package that stands in `chassis/src`."""
    assert not (service / "chassis" / "__init__.py").exists()


def test_templates_of_python_are_python(template: Releases) -> None:
    """The package's name stands in imports and in `create_cli`, and there are no Jinja blocks."""
    for path in sorted(template.repository.template.rglob("*.py.jinja")):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "{%" not in line, path
            assert "{{" not in line or re.match(r"from |import |.*create_cli\(", line), path


def test_a_fork_of_the_template_is_not_in_the_render(service: Path) -> None:
    """Nothing but the answers file names the place that the template came from."""
    for name, content in tree(service).items():
        assert name == ANSWERS_FILE or str(ROOT.parent).encode() + b"/" not in content, name


def test_ci_knows_which_revisions_are_new(rendered: Render) -> None:
    text = (rendered() / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    steps = yaml.safe_load(text)["jobs"]["check"]["steps"]
    assert steps[0]["with"]["fetch-depth"] == 0
    assert any("migrate --check" in step.get("run", "") for step in steps)
