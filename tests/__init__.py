"""Tests of the template: a developer's shell, git and Copier settings can't change them."""

import os
from pathlib import Path

FOREIGN = ("APP_", "COPIER_", "GIT_", "PG", "PYTEST_ADDOPTS", "UV_PROJECT", "VIRTUAL_ENV")
FOREIGN_NAMES = {"DATABASE_URL", "PORT", "PYTHONPATH", "RUN_DB_MIGRATIONS"}
SETTINGS = Path(__file__).parent / "settings"

# Before the first import of Copier, which keeps a copy of the environment of its own.
for name in [*os.environ]:
    if name.startswith(FOREIGN) or name in FOREIGN_NAMES:
        del os.environ[name]
os.environ["COPIER_SETTINGS_PATH"] = str(SETTINGS / "copier.yml")
os.environ["GIT_CONFIG_GLOBAL"] = str(SETTINGS / "gitconfig")
os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
