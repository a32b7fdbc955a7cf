"""The Pythons of this machine that services are tested on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from uv import find_uv_bin

VERSIONS = ("3.11", "3.13", "3.14")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


@cache
def find_python(version: str) -> Path:
    """Find an interpreter of a version, or skip the test: uv is not asked to download one."""
    for candidate in candidates(version):
        code = "import sys; print(f'{sys.version_info.major}.{sys.version_info.minor}')"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    pytest.skip(f"Python {version} is not on this machine")


def candidates(version: str) -> Iterator[Path]:
    """Name the places where an interpreter may be: this one, pyenv's, the PATH, those of uv."""
    if version == RUNNING:
        yield Path(sys.executable).resolve()
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python{version}"))
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    ask = [find_uv_bin(), "python", "find", "--no-project", "--no-python-downloads", version]
    if known := subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip():
        yield Path(known)
