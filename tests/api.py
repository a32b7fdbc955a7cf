"""What a service's half may rely on, as the chassis has it now: `python -m tests.api` records it.

What is recorded stays, within a major version: a half that an older release rendered must work
with a newer chassis. So recording only ever adds lines, and a line says more than a name: whether
a function is awaited, entered or called, each parameter, type and default. A type is named without
its module, which may move.
"""

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from chassis import ChassisSettings, create_app, create_cli
from fastapi.routing import iter_route_contexts

from tests.repository import ROOT
from tests.signatures import describe

Api = dict[str, list[str]]

CHASSIS = ROOT / "template" / "chassis"
RECORDED = Path(__file__).parent / "recorded" / "api.yml"
MODULES = (
    "chassis",
    "chassis.auth",
    "chassis.db",
    "chassis.db.models",
    "chassis.db.tenants",
    "chassis.fields",
    "chassis.idempotency",
    "chassis.jobs",
    "chassis.pages",
    "chassis.resources",
    "chassis.ssrf",
    "chassis.webhooks",
    "chassis.tasks",
    "chassis.testing",
)
HEADER = """\
# What the user's half of a released service may rely on. `python -m tests.api` adds to it; nothing
# is ever removed within a major version.
"""


def api() -> Api:
    """Read the API off the code."""
    project = tomllib.loads((CHASSIS / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {name: importlib.import_module(name).__all__ for name in MODULES}
    return {
        **{module: sorted(_describe(module, names[module])) for module in names},
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


def find_broken(old: list[str], new: list[str]) -> list[str]:
    """Return what breaks a caller: lines that are gone, and parameters that are newly required."""
    known = {re.split(r"[(:]", line)[0] for line in old}
    added = (re.fullmatch(r"(\w+)\((?:\d+\.|\*) [^=]+\)", line) for line in {*new} - {*old})
    return sorted({*old} - {*new} | {match[0] for match in added if match and match[1] in known})


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
    RECORDED.write_text(
        HEADER + yaml.safe_dump(kinds, sort_keys=False, width=1000), encoding="utf-8"
    )


def _describe(module: str, names: list[str]) -> Iterator[str]:
    for name in names:
        yield from describe(name, getattr(importlib.import_module(module), name))


def _commands(command: click.Command, path: str) -> Iterator[str]:
    """Yield each command, and each spelling of its options with what it takes."""
    yield f"{path or '(the service)'}: {'group' if isinstance(command, click.Group) else 'command'}"
    for parameter in command.params:
        for name in [*parameter.opts, *parameter.secondary_opts]:
            yield f"{path} {name}: {_describe_parameter(parameter)}".strip()
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _commands(inner, f"{path} {name}".strip())


def _describe_parameter(parameter: click.Parameter) -> str:
    kind = "flag" if getattr(parameter, "is_flag", False) else _describe_type(parameter.type)
    marks = {"required": parameter.required, "several": parameter.multiple}
    return ", ".join([kind, *(mark for mark, holds in marks.items() if holds)])


def _describe_type(kind: Any) -> str:
    if isinstance(kind, click.Choice):
        return " | ".join(map(str, kind.choices))
    if isinstance(kind, click.IntRange | click.FloatRange):
        return f"{kind.name} {kind.min}..{kind.max}"
    return str(kind.name)


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
