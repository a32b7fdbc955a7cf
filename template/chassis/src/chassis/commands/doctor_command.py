"""The command `doctor`: it prints what an examination found, and what is open to everybody."""

from collections.abc import Iterator
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import click

from ..settings import ChassisSettings
from .service import ServiceReference, read_settings

if TYPE_CHECKING:
    from .report import Finding

SUBJECTS = ("docs", "hosts", "cors", "database", "authentication", "metrics", "proxies")


@click.command(short_help="Examine settings, database and schema.")
@click.option("--json", "as_json", is_flag=True, help="Write it for programs.")
@click.option(
    "--production", is_flag=True, help="Count what is open to everybody as a problem, anywhere."
)
@click.option(
    "--accept",
    "accepted",
    multiple=True,
    type=click.Choice(SUBJECTS),
    help="What is meant to be open; once for each.",
)
@click.pass_obj
def doctor(
    service: ServiceReference, as_json: bool, production: bool, accepted: tuple[str, ...]
) -> None:
    """Examine settings, database and schema, and say what to change.

    Exits with 0 if nothing needs to be put right, with 1 if something does.
    """
    from .doctor import examine

    settings = read_settings(service.settings)
    report = examine(settings, service.package)
    report.findings.extend(
        _examine_exposure(settings, service.app, accepted, production=production)
    )
    click.echo(report.as_json() if as_json else report.as_text())
    if not report.healthy:
        raise SystemExit(1)


def _examine_exposure(
    settings: ChassisSettings, factory: str, accepted: tuple[str, ...], *, production: bool
) -> Iterator["Finding"]:
    from .exposure import find_exposures, is_local
    from .report import Finding

    try:
        app = resolve_name(factory)()
    except Exception as error:
        # Not its text, which may hold a secret: the log's would be taken out.
        reason = f"{factory} fails: {type(error).__name__}"
        yield Finding("problem", "application", reason, "run the command serve, which says where")
        return
    if is_local(settings.server_host) and not production:
        return
    for subject, message, advice in find_exposures(settings, app):
        if subject in accepted:
            yield Finding("ok", f"open, {subject}", f"{message}, as is accepted")
        else:
            yield Finding(
                "problem" if production else "warning", f"open, {subject}", message, advice
            )
