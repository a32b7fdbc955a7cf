"""What the command `alembic` prints: what it did, or why it failed in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from ..errors import DatabaseSettingsError, DatabaseUnavailableError
from .revisions import UnknownRevisionError, UnversionedDatabaseError

if TYPE_CHECKING:
    from alembic.config import Config

OPERATION_FAILED, SETTINGS_WRONG = 1, 2
_MERGED = (
    "the revision joins several, so that one step back could be any of them: name the one to "
    "go back to, as alembic history shows them"
)


@contextmanager
def end_in_one_line(config: "Config") -> Iterator[None]:
    """End the `alembic` command with one line for an expected failure.

    Exit with 1 if the operation failed, with 2 if settings are wrong, as `migrate` does. Do
    nothing if Alembic was not called from a command line, or with `--raiseerr`.
    """
    from alembic.util import CommandError

    if config.cmd_opts is None or getattr(config.cmd_opts, "raiseerr", False):
        yield
        return
    try:
        yield
    except (ValidationError, SettingsError) as error:
        _exit_with_message(SETTINGS_WRONG, _describe_settings_error(error))
    except DatabaseSettingsError as error:
        _exit_with_message(SETTINGS_WRONG, str(error))
    except (
        DatabaseUnavailableError,
        UnknownRevisionError,
        UnversionedDatabaseError,
        CommandError,
    ) as error:
        merged = f": {_MERGED}" if "Ambiguous walk" in str(error) else ""
        _exit_with_message(OPERATION_FAILED, f"{error}{merged}")


class Progress:
    """The revisions that were applied: `on_version_apply` of Alembic notes them."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.has_migrated = False

    def note(self, *, step: Any, **others: Any) -> None:
        """Note a revision that was applied, taken back or stamped."""
        done = "stamped" if step.is_stamp else "upgraded" if step.is_upgrade else "downgraded"
        source, destination = (
            _format_revisions(step.source_revision_ids),
            _format_revisions(step.destination_revision_ids),
        )
        revision = step.up_revision
        title = f": {revision.doc}" if revision is not None and not step.is_stamp else ""
        self.has_migrated |= not step.is_stamp
        self._lines.append(f"{done} {source} -> {destination}{title}")

    def report(self, context: Any) -> None:
        """Print what was noted; a command that sets a revision says if there was nothing to do."""
        config = context.config
        if config.cmd_opts is None:
            return
        try:
            context.get_revision_argument()
        except KeyError:
            return
        current = _format_revisions(context.get_context().get_current_heads())
        for line in self._lines or [f"nothing to do: the database is at {current}"]:
            config.print_stdout("%s", line)


def _format_revisions(revisions: tuple[str, ...]) -> str:
    return ", ".join(sorted(revisions)) or "base"


def _describe_settings_error(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error.__cause__ or error)
    found = error.errors(include_url=False, include_input=False)
    return "; ".join(_describe_field_error(one["loc"], one["msg"]) for one in found)


def _describe_field_error(place: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"APP_{str(place[0]).upper()}: {message}" if place else message


def _exit_with_message(code: int, message: str) -> None:
    sys.stderr.write(f"Error: {message}\n")
    raise SystemExit(code) from None
