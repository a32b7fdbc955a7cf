"""The questions: their defaults, what follows from an answer, and which answers are refused."""

import keyword
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import Render
from tests.project import ANSWERS_FILE
from tests.releases import Releases
from tests.repository import FIRST, ROOT

DEFAULTS = {
    "project_name": "My Service",
    "package_name": "my_service",
    "description": "A web service with a database.",
    "author": "The My Service team",
    "include_example": True,
}
NAMES = [
    ("Acme Billing API", "acme-billing-api", "acme_billing_api"),
    ("orders", "orders", "orders"),
    ("Shop v2.0", "shop-v2-0", "shop_v2_0"),
    ("a_b - c", "a-b-c", "a_b_c"),
]
REFUSED = [
    ("project_name", "", "for example: My Service"),
    ("project_name", "2 Fast", "Start with a letter"),
    ("project_name", "Zürich", "letters without accents"),
    ("project_name", "Shop!", "for example: My Service"),
    ("project_name", "x" * 41, "40 characters at most"),
    ("project_name", "A\nB", "for example: My Service"),
    ("project_name", "Copier", "for example: Copier Service"),
    ("package_name", "Billing", "small letters"),
    ("package_name", "my-service", "for example: my_service"),
    ("package_name", "2fast", "Start with a small letter"),
    ("package_name", "my_service\n", "for example: my_service"),
    ("package_name", "class", "for example: class_service"),
    ("package_name", "json", "for example: json_service"),
    ("package_name", "chassis", "for example: my_chassis"),
    ("package_name", "tests", "for example: my_tests"),
    ("package_name", "alembic", "for example: my_alembic"),
    ("description", "", "for example"),
    ("description", "two\nlines", "one line"),
    ("description", "x" * 201, "at most 200 characters"),
    ("author", " ", "for example: Ada Lovelace"),
    ("author", "a\tb", "one line"),
    ("author", "x" * 101, "at most 100 characters"),
]
TEXTS = [
    """It's "quoted" \\ and back-slashed""",
    "{{ package_name }} {% raw %} {# note #}",
    "# not a comment: a % and a $HOME and a ${VARIABLE}",
    "Überweisungen für 北京 🚀",
    "<b>&amp;</b> [link](x) `code` | table",
]


@pytest.fixture(scope="session")
def rendered(few: Releases) -> Render:
    """Render with some answers; none of them shows in the chassis, so little of it is there."""

    def render_once(**answers: str | bool) -> Path:
        return few.render(FIRST, answers)

    return render_once


def recorded(service: Path) -> dict[str, object]:
    """Read the answers that were recorded, without those about the template."""
    answers = yaml.safe_load((service / ANSWERS_FILE).read_text(encoding="utf-8"))
    return {name: answers[name] for name in answers if not name.startswith("_")}


def pyproject(service: Path) -> dict[str, object]:
    """Read the project's own part of a service's pyproject.toml."""
    project = tomllib.loads((service / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(project, dict)
    return project


def test_no_question_needs_an_answer(rendered: Render) -> None:
    assert recorded(rendered()) == DEFAULTS


@pytest.mark.parametrize(("project_name", "command", "package"), NAMES)
def test_the_names_follow_from_the_name_of_the_project(
    rendered: Render, project_name: str, command: str, package: str
) -> None:
    service = rendered(project_name=project_name)
    assert pyproject(service)["name"] == command
    assert pyproject(service)["scripts"] == {command: f"{package}.cli:run"}
    assert (service / "src" / package / "main.py").is_file()


def test_the_package_can_have_a_name_of_its_own(rendered: Render) -> None:
    service = rendered(project_name="Acme Billing API", package_name="billing")
    assert pyproject(service)["scripts"] == {"acme-billing-api": "billing.cli:run"}
    assert [folder.name for folder in (service / "src").iterdir()] == ["billing"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_rendered_as_it_was_given(rendered: Render, text: str) -> None:
    service = rendered(description=text, author=text)
    assert pyproject(service)["description"] == text
    assert pyproject(service)["authors"] == [{"name": text}]
    assert {"description": text, "author": text}.items() <= recorded(service).items()


@pytest.mark.parametrize(("question", "answer", "advice"), REFUSED)
def test_a_refused_answer_says_how_to_put_it_right_and_leaves_nothing(
    render_anew: Render, tmp_path: Path, question: str, answer: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=question) as refused:
        render_anew("refused", **{question: answer})
    assert advice in " ".join(str(refused.value).split())
    assert not (tmp_path / "refused").exists()


def test_no_name_of_python_itself_is_a_package_name() -> None:
    questions = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
    modules = {name for name in sys.stdlib_module_names if re.fullmatch("[a-z][a-z0-9_]*", name)}
    assert modules <= set(questions["standard_library"]["default"].split())
    small = {word for word in keyword.kwlist if word.islower()}
    assert small <= set(questions["keywords"]["default"].split())
