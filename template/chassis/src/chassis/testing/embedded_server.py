"""The PostgreSQL server that `--database postgres` starts, and stops at the end of the run."""

import tempfile
from pathlib import Path

import pytest

from .databases import start_server
from .environment import isolated

WORKER_INPUT = "chassis_database_url"
_SERVER_URL = pytest.StashKey[str]()


def find_embedded_server(config: pytest.Config) -> str:
    """Return the URL of this run's server: the first call starts it, the end of pytest stops it."""
    if url := getattr(config, "workerinput", {}).get(WORKER_INPUT):
        return str(url)
    if _SERVER_URL not in config.stash:
        # Not below pytest's own folder, which another run closes to the server's user.
        folder = Path(tempfile.mkdtemp(prefix="chassis-postgres-"))
        with isolated(folder):
            config.stash[_SERVER_URL], stop = start_server(folder)
        config.add_cleanup(stop)
    return config.stash[_SERVER_URL]
