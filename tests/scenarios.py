"""What teams do to a service between two releases of the template, each as one commit or more."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from tests import team_code
from tests.next_release import ADDED_FILE, ADDED_MODULE
from tests.project import Answers, Project, create_project, tree
from tests.repository import git

Edit = Callable[[Project], None]


@dataclass(frozen=True)
class Scenario:
    """A team's edits, and the answers before and at the update."""

    name: str
    edit: Edit
    answers: Answers = field(default_factory=dict)
    answers_at_update: Answers = field(default_factory=dict)
    subfolder: str = "."
    runs: bool = True
    important: bool = False

    def play(self, rendered: Path, folder: Path) -> Project:
        """Put a render under git in a folder, edit it as the team did, and commit that."""
        project = create_project(rendered, folder, self.subfolder)
        self.edit(project)
        project.commit(self.name)
        return project


SCENARIOS: list[Scenario] = []
# What a scenario raises on a version that does not have what it edits.
DOES_NOT_APPLY = (FileNotFoundError, LookupError)


def scenario(
    *,
    answers: Mapping[str, str | bool] | None = None,
    answers_at_update: Mapping[str, str | bool] | None = None,
    subfolder: str = ".",
    runs: bool = True,
    important: bool = False,
) -> Callable[[Edit], Edit]:
    """Register an edit under its own name; say where the result is no service that runs."""

    def register(edit: Edit) -> Edit:
        name = edit.__name__.replace("_", " ")
        SCENARIOS.append(
            Scenario(name, edit, answers or {}, answers_at_update or {}, subfolder, runs, important)
        )
        return edit

    return register


@scenario(important=True)
def untouched(project: Project) -> None:
    """Nothing was edited."""


@scenario()
def dependency_added_by_uv(project: Project) -> None:
    uv(project, "add", "itsdangerous>=2")


@scenario()
def dependency_of_the_chassis_pinned(project: Project) -> None:
    uv(project, "add", "click>=8.2,<9")


@scenario()
def dependency_bumped_by_hand(project: Project) -> None:
    project.replace("pyproject.toml", '"mypy"', '"mypy>=1.18"')
    project.replace("pyproject.toml", '"ruff"', '"ruff>=0.14"')


@scenario()
def extra_of_the_chassis_added(project: Project) -> None:
    project.replace(
        "pyproject.toml", "service-chassis==0+template", "service-chassis[metrics]==0+template"
    )


@scenario()
def setting_added(project: Project) -> None:
    project.append("@/settings.py", "\n    order_limit: int = 10\n")
    project.append(".env.example", "#APP_ORDER_LIMIT=10\n")


@scenario()
def request_dependency_added(project: Project) -> None:
    setting_added(project)
    project.append("@/dependencies.py", team_code.ORDER_LIMIT)


@scenario()
def router_added(project: Project) -> None:
    project.write("@/routers/ping.py", team_code.PING)
    project.append("@/routers/__init__.py", "\nfrom . import ping\n\nrouters.append(ping.router)\n")


@scenario()
def model_and_migration_added(project: Project) -> None:
    project.write("@/models/order.py", team_code.ORDER)
    project.append("@/models/__init__.py", '\nfrom .order import Order\n\n__all__ += ["Order"]\n')
    migrate(project, "add orders", team_code.ORDERS, 'op.drop_table("orders")')


@scenario()
def feature_added(project: Project) -> None:
    """A resource of the team's own, with all that belongs to it."""
    request_dependency_added(project)
    model_and_migration_added(project)
    project.write("@/routers/orders.py", team_code.ORDER_ROUTES)
    project.append(
        "@/routers/__init__.py", "\nfrom . import orders\n\nrouters.append(orders.router)\n"
    )
    project.write("tests/test_orders.py", team_code.ORDER_TEST)


@scenario()
def application_extended(project: Project) -> None:
    """Middleware and a handler of the team's own, in the composition root."""
    project.replace("@/main.py", "    return create_app(", "    app = create_app(")
    project.append("@/main.py", team_code.MIDDLEWARE)


@scenario(important=True)
def example_deleted(project: Project) -> None:
    project.delete("@/routers/items.py", "@/models/item.py", "tests/test_items.py")
    project.delete("@/migrations/versions")
    project.write("@/routers/__init__.py", team_code.NO_ROUTERS)
    project.write("@/models/__init__.py", team_code.NO_MODELS)
    migrate(project, "start", "pass", "pass")


@scenario()
def example_renamed(project: Project) -> None:
    names = [("items", "products"), ("item", "product"), ("Item", "Product"), ("ITEM", "PRODUCT")]
    for name in [*project.files()]:
        if name.startswith(("src/", "tests/")) and re.search("item", project.read(name), re.I):
            text = project.read(name)
            for old, new in names:
                text = text.replace(old, new)
            project.delete(name)
            project.write(name.replace("items", "products").replace("item", "product"), text)


@scenario()
def example_rewritten(project: Project) -> None:
    text = project.read("@/routers/items.py")
    half, last = text.split('@router.delete("/{item_id}"')
    project.write("@/routers/items.py", f'"""Our stock."""\n\n{half}')
    # What follows the last handler, which an earlier render names otherwise.
    project.append("@/routers/items.py", last.split("\n\n\n", maxsplit=1)[1])
    project.delete("tests/test_items.py")


@scenario(answers_at_update={"include_example": False})
def example_switched_off_at_the_update(project: Project) -> None:
    project.append("@/routers/items.py", "\n# Ours now.\n")


@scenario(answers={"include_example": False}, answers_at_update={"include_example": True})
def example_switched_on_at_the_update(project: Project) -> None:
    project.append("@/models/__init__.py", "\n# Ours.\n")


@scenario(answers={"include_example": False})
def feature_added_without_the_example(project: Project) -> None:
    feature_added(project)


@scenario(answers_at_update={"description": "Says something else.", "author": "Somebody else"})
def other_answers_at_the_update(project: Project) -> None:
    project.append("README.md", "\nOurs.\n")


@scenario(answers={"project_name": "Acme Billing API", "package_name": "billing"}, important=True)
def names_of_its_own(project: Project) -> None:
    feature_added(project)


@scenario()
def package_renamed_by_hand(project: Project) -> None:
    old = project.package.name
    for name in [*project.files()]:
        if old in project.read(name):
            project.replace(name, old, "shop")
    project.package.rename(project.folder / "src" / "shop")


@scenario()
def files_that_the_next_release_brings(project: Project) -> None:
    """By chance the team chose the names of files that are new in the next release."""
    project.write(ADDED_FILE, "# Our own plans\n")
    project.write(f"@/{ADDED_MODULE}", '"""Our own module."""\n')


@scenario()
def readme_rewritten(project: Project) -> None:
    project.write("README.md", "# Ours\n\nRead the wiki.\n")


@scenario()
def readme_edited_in_three_places(project: Project) -> None:
    edit_first_middle_and_last_line(project, "README.md", "<!-- ours -->")


@scenario()
def dockerfile_rewritten(project: Project) -> None:
    project.write("Dockerfile", "FROM python:3.13-slim\nCOPY . /app\nRUN pip install /app\n")


@scenario()
def dockerfile_edited_in_three_places(project: Project) -> None:
    edit_first_middle_and_last_line(project, "Dockerfile", "# ours")


@scenario()
def compose_extended(project: Project) -> None:
    """A block that looks like another one: the patch of a merge lands in the wrong one."""
    project.replace("compose.yaml", "\nvolumes:\n", team_code.COMPOSE_WORKER)


@scenario()
def variables_rewritten(project: Project) -> None:
    project.write(".env.example", "APP_DATABASE_URL=postgresql://localhost/shop\n")


@scenario()
def ignored_files_rewritten(project: Project) -> None:
    project.append(".gitignore", "/notes/\n*.sqlite\n")
    project.write(".dockerignore", "*\n!src\n!chassis\n!pyproject.toml\n!uv.lock\n")


@scenario()
def ignored_files_kept_at_rendered_places(project: Project) -> None:
    """What git does not know can't be brought back: a `.env`, a database, a private module."""
    project.append(".gitignore", f"/data/\n{ADDED_FILE}\n{ADDED_MODULE}\n")
    project.write(".env", "APP_LOG_LEVEL=DEBUG\n")
    project.write("data/notes.txt", "not a database\n")
    project.write(ADDED_FILE, "private\n")
    project.write(f"@/{ADDED_MODULE}", '"""Private."""\n')


@scenario()
def workflows_deleted(project: Project) -> None:
    project.delete(".github")
    project.write(".gitlab-ci.yml", "test:\n  script: uv run pytest\n")


@scenario()
def container_files_deleted(project: Project) -> None:
    project.delete("Dockerfile", "compose.yaml", "compose.postgres.yaml", ".dockerignore")


@scenario()
def instructions_deleted(project: Project) -> None:
    project.delete("AGENTS.md", "README.md", ".env.example", ".gitattributes")


@scenario()
def tests_rewritten(project: Project) -> None:
    project.delete("tests/test_items.py")
    project.write("tests/test_service.py", team_code.OTHER_TEST)


@scenario()
def tool_settings_changed(project: Project) -> None:
    project.replace("pyproject.toml", "line-length = 100", "line-length = 79")
    project.replace("pyproject.toml", "strict = true", "strict = false")
    project.append("pyproject.toml", "\n[tool.coverage.run]\nbranch = true\n")


@scenario(important=True)
def reformatted_with_another_line_length(project: Project) -> None:
    project.replace("pyproject.toml", "line-length = 100", "line-length = 60")
    reformat(project, "60")


@scenario(runs=False)
def every_file_edited_in_three_places(project: Project) -> None:
    """The very lines that the next release edits."""
    for name in [*project.files()]:
        edit_first_middle_and_last_line(project, name, "# ours")


@scenario()
def line_endings_of_windows(project: Project) -> None:
    for name in [*project.files()]:
        project.write(name, project.read(name).replace("\n", "\r\n"))


@scenario()
def binary_file_and_script_added(project: Project) -> None:
    (project.folder / "logo.png").write_bytes(bytes(range(256)))
    project.write("scripts/run", "#!/bin/sh\nexec uv run pytest\n")
    project.path("scripts/run").chmod(0o755)
    project.path("README.md").chmod(0o755)


@scenario()
def file_added_inside_the_chassis(project: Project) -> None:
    project.write("chassis/NOTES.md", "# What we know about the chassis\n")


@scenario()
def names_of_chassis_files_are_ignored(project: Project) -> None:
    """From before the first commit, by each of the three places that git reads rules from."""
    project.read("chassis/.gitignore")
    project.forget_history()
    project.append(".gitignore", "*secret*\ndocs/\n*.rej\n")
    (project.repository / ".git" / "info" / "exclude").write_text("settings.py\n/chassis/db\n")
    git(project.repository, "config", "core.excludesFile", ".git/global")
    (project.repository / ".git" / "global").write_text("test_*\n*.sha256\n__init__.py\n")
    git(project.repository, "add", "--force", "src", "tests")


@scenario()
def attributes_of_its_own(project: Project) -> None:
    """Windows line endings, and a filter that encrypts what is secret before git has it."""
    project.read("chassis/.gitattributes")
    project.write(".gitattributes", "* text eol=crlf\n*secret* filter=secret\n*.md ident\n")
    git(project.repository, "config", "filter.secret.clean", "base64")
    git(project.repository, "config", "filter.secret.smudge", "base64 --decode")
    for name in tree(project.folder):
        if name.startswith("chassis/"):
            project.write(name, project.read(name).replace("\n", "\r\n"))


@scenario()
def answers_file_of_its_own(project: Project) -> None:
    """Another template's answers have the usual name."""
    project.path(project.answers_file).rename(project.path(".copier-answers.chassis.yml"))
    project.write(project.answers_file, "_commit: v3.0.0\n_src_path: gh:acme/handbook\n")
    project.answers_file = ".copier-answers.chassis.yml"


@scenario(subfolder="services/stock")
def subfolder_of_a_monorepo(project: Project) -> None:
    (project.repository / "chassis").mkdir()
    (project.repository / "chassis" / "README.md").write_text("Another chassis, of a car.\n")
    (project.repository / "pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n")
    feature_added(project)


@scenario(subfolder="our services/stöck & more")
def subfolder_with_spaces_in_its_name(project: Project) -> None:
    router_added(project)


@scenario()
def folder_moved(project: Project) -> None:
    project.commit("Before the move")
    elsewhere = project.repository.with_name(f"{project.repository.name}-moved")
    shutil.move(project.repository, elsewhere)
    project.folder = project.repository = elsewhere


@scenario()
def folder_moved_into_a_monorepo(project: Project) -> None:
    project.commit("Before the move")
    names = [path.name for path in project.repository.iterdir() if path.name != ".git"]
    project.folder = project.repository / "stock"
    project.folder.mkdir()
    for name in names:
        (project.repository / name).rename(project.folder / name)


@scenario()
def history_squashed(project: Project) -> None:
    feature_added(project)
    project.forget_history()


@scenario(subfolder="services/stock", important=True)
def everything_at_once(project: Project) -> None:
    example_deleted(project)
    project.delete("@/migrations/versions")
    feature_added(project)
    application_extended(project)
    dependency_added_by_uv(project)
    dependency_bumped_by_hand(project)
    readme_rewritten(project)
    dockerfile_rewritten(project)
    compose_extended(project)
    variables_rewritten(project)
    ignored_files_rewritten(project)
    workflows_deleted(project)
    reformatted_with_another_line_length(project)
    files_that_the_next_release_brings(project)
    project.delete("AGENTS.md")


def migrate(project: Project, name: str, upgrade: str, downgrade: str) -> None:
    """Write a revision after the newest one."""
    versions = sorted(project.path("@/migrations/versions").glob("*.py"))
    revision = hashlib.sha256(name.encode()).hexdigest()[:12]
    text = team_code.MIGRATION.format(
        name=name,
        revision=revision,
        previous=versions[-1].name.split("_")[0] if versions else None,
        upgrade=upgrade,
        downgrade=downgrade,
    )
    project.write(f"@/migrations/versions/{revision}_{name.replace(' ', '_')}.py", text)


def uv(project: Project, *arguments: str) -> None:
    """Run uv on the project's own pyproject.toml, without a look at the index."""
    subprocess.run(
        [find_uv_bin(), *arguments, "--frozen", "--quiet"],
        cwd=project.folder,
        check=True,
    )


def reformat(project: Project, line_length: str) -> None:
    """Format the team's code by ruff."""
    options = ["format", "--isolated", "--quiet", "--line-length", line_length, "src", "tests"]
    subprocess.run([sys.executable, "-m", "ruff", *options], cwd=project.folder, check=True)


def edit_first_middle_and_last_line(project: Project, name: str, line: str) -> None:
    """Insert a line in three places."""
    lines = project.read(name).splitlines(keepends=True)
    middle = len(lines) // 2
    project.write(
        name, "".join([f"{line}\n", *lines[:middle], f"{line}\n", *lines[middle:], f"{line}\n"])
    )


IMPORTANT = [scenario for scenario in SCENARIOS if scenario.important]
