"""What an examination found, written for people and for programs."""

import json
import textwrap
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to set where it is not in order."""

    level: Level
    subject: str
    says: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """What an examination found: the settings in effect, with their source, and the findings."""

    settings: list[dict[str, str]]
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Return whether nothing needs to be put right; a warning does not count."""
        return all(finding.level != "problem" for finding in self.findings)

    def as_json(self) -> str:
        """Write it for programs: every setting, every finding."""
        return json.dumps({"healthy": self.healthy, **asdict(self)}, indent=2)

    def as_text(self, width: int) -> str:
        """Write it for people: the settings that are set, every finding."""
        given = [one for one in self.settings if one["source"] != "default"]
        defaults = len(self.settings) - len(given)
        lines = _wrapped(f"settings ({defaults} others have their defaults)", width, "", "  ")
        for one in given:
            lines += _wrapped("{name}={value} ({source})".format(**one), width, "  ", "    ")
        lines += ["", "findings"]
        for finding in self.findings:
            label = f"  {finding.level:<8} "
            said = f"{finding.subject}: {finding.says}"
            lines += _wrapped(said, width, label, " " * len(label))
            if finding.advice:
                lines += _wrapped(finding.advice, width, "        -> ", " " * len(label))
        levels = [finding.level for finding in self.findings]
        lines += ["", f"problems: {levels.count('problem')}, warnings: {levels.count('warning')}"]
        return "\n".join(lines)


def _wrapped(words: str, width: int, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        words, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
