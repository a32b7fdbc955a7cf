"""What an examination found, written for people and for programs."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was examined; `advice` says what to set if it is not in order."""

    level: Level
    subject: str
    message: str
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
        """Write the report for programs: every setting, every finding."""
        return json.dumps({"healthy": self.healthy, **asdict(self)}, indent=2)

    def as_text(self) -> str:
        """Write the report for people: the settings that are set, every finding."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        given = [one for one in self.settings if one["source"] != "default"]
        yield f"settings ({len(self.settings) - len(given)} others have their defaults)"
        yield from ("  {name}={value} ({source})".format(**one) for one in given)
        yield "\nfindings"
        for finding in self.findings:
            yield f"  {finding.level:<8} {finding.subject}: {finding.message}"
            if finding.advice:
                yield f"        -> {finding.advice}"
        levels = [finding.level for finding in self.findings]
        yield f"\nproblems: {levels.count('problem')}, warnings: {levels.count('warning')}"
