"""What a service's half may rely on, as the chassis has it now: `python -m tests.api` records it.

What is recorded stays, within a major version: a half that an older release rendered must work
with a newer chassis. So recording only ever adds.
"""

import importlib
import re
import tomllib
from pathlib import Path

import click
import yaml
from chassis import ChassisSettings, create_app, create_cli
from fastapi.routing import iter_route_contexts

from tests.repository import ROOT

Api = dict[str, list[str]]

CHASSIS = ROOT / "template" / "chassis"
RECORDED = Path(__file__).parent / "recorded" / "api.yml"
MODULES = ("chassis", "chassis.db", "chassis.fields", "chassis.testing")
HEADER = """\
# What the user's half of a released service may rely on. `python -m tests.api` adds to it; nothing
# is ever removed within a major version.
"""


def api() -> Api:
    """Read the API off the code."""
    project = tomllib.loads((CHASSIS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {name: sorted(importlib.import_module(name).__all__) for name in MODULES}
    return {
        **names,
        # Rendered routers import the first, the guide names the others.
        "chassis.errors": ["problem_responses"],
        "chassis.context": ["outgoing_headers"],
        "chassis.health": ["add_readiness_check"],
        "distribution": [f"{project['name']}=={project['version']}"],
        "requires-python": [project["requires-python"]],
        "extras": sorted(project["optional-dependencies"]),
        "commands": sorted(_commands(create_cli("none:none", settings=ChassisSettings), "")),
        "variables": sorted([*_settings(), *_entrypoint()]),
        "paths": sorted(_paths()),
        "files": [
            path
            for path in ("docker/entrypoint.sh", "docker/healthcheck.py")
            if (CHASSIS / path).is_file()
        ],
    }


def recorded() -> Api:
    """Read what was recorded."""
    if not RECORDED.exists():
        return {}
    content: Api = yaml.safe_load(RECORDED.read_text(encoding="utf-8"))
    return content


def record() -> None:
    """Add what is new."""
    known, found = recorded(), api()
    kinds = {kind: sorted({*known.get(kind, []), *found.get(kind, [])}) for kind in known | found}
    RECORDED.write_text(HEADER + yaml.safe_dump(kinds, sort_keys=False), encoding="utf-8")


def _commands(command: click.Command, path: str) -> list[str]:
    options = [name for parameter in command.params for name in parameter.opts]
    found = [f"{path} {option}".strip() for option in options]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            found += [f"{path} {name}".strip(), *_commands(inner, f"{path} {name}".strip())]
    return found


def _settings() -> list[str]:
    platform = ChassisSettings.platform_variables
    return [platform.get(name, f"APP_{name.upper()}") for name in ChassisSettings.model_fields]


def _entrypoint() -> set[str]:
    script = (CHASSIS / "docker" / "entrypoint.sh").read_text(encoding="utf-8")
    return set(re.findall(r"\bRUN_[A-Z_]+", script))


def _paths() -> list[str]:
    app = create_app(ChassisSettings(), package="none")
    paths = [context.path for context in iter_route_contexts(app.routes)]
    return [path for path in paths if path is not None]


if __name__ == "__main__":
    record()
