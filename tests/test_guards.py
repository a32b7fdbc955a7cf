"""Guards against what would break a later update: each a trap of Copier's, or a rule of ours."""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.releases import Releases
from tests.repository import ROOT

RECORDED = Path(__file__).parent / "recorded" / "questions.yml"
TEMPLATES = ["!/chassis/**", "!/{{ _copier_conf.answers_file }}"]
UPDATE = re.compile(r"{% if _copier_operation == 'update' %}(.*){% endif %}")
# Written apart, so that this file does not hold them.
INDEX_HOSTS = [
    ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))
]
LOCK_FILES = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "package-lock.json"}
IMPURE = re.compile(
    r"now\(|strftime|random|uuid|ans_random|sha|hash|_copier_conf\.(?!answers_file)"
)


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    """The whole of copier.yml."""
    loaded = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def questions(configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The questions that are asked and recorded; computed ones are neither."""
    asked = (name for name in configuration if not name.startswith("_"))
    return {
        name: configuration[name] for name in asked if configuration[name].get("when") is not False
    }


def test_a_service_needs_no_trust_in_the_template(configuration: dict[str, Any]) -> None:
    unsafe = {"_tasks", "_migrations", "_jinja_extensions"}
    assert not unsafe & configuration.keys()


def test_an_update_renders_the_chassis_and_the_answers_only(configuration: dict[str, Any]) -> None:
    conditional = [pattern for pattern in configuration["_exclude"] if "{%" in pattern]
    assert configuration["_exclude"][-3:] == conditional
    assert [match[1] for match in map(UPDATE.fullmatch, conditional) if match] == ["*", *TEMPLATES]


def test_a_recopy_keeps_all_but_the_chassis(configuration: dict[str, Any]) -> None:
    """Not `*`: the oldest Copier hands it to `git apply`, and loses edits inside the chassis."""
    assert configuration["_skip_if_exists"] == ["/**", *TEMPLATES]


def test_patterns_that_take_back_are_anchored(configuration: dict[str, Any]) -> None:
    """Without the slash a pattern means a file of that name in any folder."""
    patterns = chain(configuration["_exclude"], configuration["_skip_if_exists"])
    taken_back = [pattern for pattern in patterns if "!" in pattern]
    assert taken_back
    assert all("!/" in pattern for pattern in taken_back)


def test_older_copiers_are_refused(configuration: dict[str, Any]) -> None:
    assert configuration["_min_copier_version"] == "9.10.3"


def test_every_question_has_a_default_and_says_what_it_asks(
    questions: dict[str, dict[str, Any]],
) -> None:
    for name, question in questions.items():
        assert question.get("default") not in (None, ""), name
        assert question.get("help"), name
        assert not question.get("secret"), name


def test_no_recorded_question_or_choice_is_ever_removed(
    questions: dict[str, dict[str, Any]],
) -> None:
    """A recorded answer to a question that is gone becomes the default, without a word."""
    recorded = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))
    for name, shape in recorded.items():
        assert name in questions, f"the question {name} is gone"
        assert questions[name]["type"] == shape["type"], name
        assert set(shape.get("choices", [])) <= set(questions[name].get("choices", [])), name
    assert questions.keys() == recorded.keys(), f"add each new question to {RECORDED}"


def test_a_template_holds_no_clock_random_value_or_place(template: Releases) -> None:
    for path in sorted(template.repository.template.rglob("*.jinja")):
        expressions = re.findall(r"{{.*?}}|{%.*?%}", path.read_text(encoding="utf-8"), re.DOTALL)
        assert not [found for found in expressions if IMPURE.search(found)], path


def test_the_chassis_holds_no_jinja(template: Releases) -> None:
    for path in sorted((template.repository.template / "chassis").rglob("*")):
        assert path.suffix != ".jinja", path
        assert "{" not in path.name, path


def test_no_template_is_ignored_by_git(template: Releases) -> None:
    """A `.gitignore` that git reads in the template would hide templates from a release."""
    rules = [*template.repository.template.rglob(".gitignore")]
    assert rules == [template.repository.template / "chassis" / ".gitignore"]
    patterns = [line for line in rules[0].read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "!**"


def test_names_of_templates_hold_no_quotes(template: Releases) -> None:
    for path in sorted(template.repository.template.rglob("*")):
        assert not set("'\"") & set(path.name), path


def test_no_lock_file_is_kept(template: Releases) -> None:
    """It holds the address of the index that made it; each service makes its own."""
    kept = (path.name.removesuffix(".jinja") for path in template.repository.path.rglob("*"))
    assert not LOCK_FILES & set(kept)


def test_no_index_or_folder_of_a_machine_is_named(template: Releases) -> None:
    """A team's own index, and its machines, must do as well."""
    words = [*INDEX_HOSTS, str(ROOT)]
    for path in sorted(template.repository.path.rglob("*")):
        if path.is_file() and ".git" not in path.relative_to(template.repository.path).parts:
            text = path.read_text(encoding="utf-8")
            assert not [word for word in words if word in text], path
