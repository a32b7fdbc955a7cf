"""The manifest of the chassis's files: `python -m tests.manifest` writes it.

The format is sha256sum's, over each file with LF line endings, so that a checkout with CRLF is
not taken for an edit. `my-service chassis status` compares a service with it.
"""

import hashlib
import subprocess
from pathlib import Path

NAME = "MANIFEST.sha256"


def manifest(chassis: Path) -> str:
    """Hash the chassis's files that git tracks or would, in order."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=chassis, check=True, capture_output=True).stdout.decode()
    paths = sorted(path for path in set(listed.split("\0")) if (chassis / path).is_file())
    return "".join(f"{_digest(chassis / path)}  {path}\n" for path in paths if path != NAME)


def write(chassis: Path) -> None:
    """Bring the manifest up to date."""
    (chassis / NAME).write_text(manifest(chassis), encoding="utf-8", newline="\n")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


if __name__ == "__main__":
    write(Path(__file__).parents[1] / "template" / "chassis")
