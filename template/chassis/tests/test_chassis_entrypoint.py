"""The image's entrypoint: a container that is stopped while it migrates leaves nothing behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
from chassis_forks import PATIENCE_SECONDS
from chassis_processes import FOLDERS, until
from sqlalchemy import inspect

from chassis import ChassisSettings
from chassis.db.migrations.connect import open_connection

ENTRYPOINT = Path(__file__).parents[1] / "docker" / "entrypoint.sh"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the image has a POSIX shell")

SLOW = '''"""Take a while, in the middle."""

import time
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.create_table("first_half", sa.Column("id", sa.Integer, primary_key=True))
    Path("halfway").touch()
    time.sleep(60)
    op.create_table("second_half", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    pass
'''


def test_a_stop_reaches_the_migration_and_undoes_what_it_began(
    settings: ChassisSettings, tmp_path: Path
) -> None:
    sample = copytree(FOLDERS[0] / "chassis_sample", tmp_path / "src" / "chassis_sample")
    (sample / "migrations" / "versions" / "2_slow.py").write_text(SLOW)
    command = tmp_path / "sample"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m chassis_sample "$@"\n')
    command.chmod(0o755)
    with subprocess.Popen(
        ["sh", str(ENTRYPOINT), str(command), "serve"],
        env=variables(settings, sample.parent),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            until(lambda: process.poll() is not None or Path("halfway").exists())
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
        finally:
            process.kill()
        assert process.stderr is not None
        # The pipe's end: nobody has it open any more, so the migration is gone as well.
        assert "startup" not in process.stderr.read()
    with open_connection(settings) as connection:
        assert inspect(connection).get_table_names() == []


def variables(settings: ChassisSettings, folder: Path) -> dict[str, str]:
    """Return the environment of a container that migrates this database before it serves."""
    assert settings.database_url is not None
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(one) for one in (folder, *FOLDERS)),
        "APP_DATABASE_URL": settings.database_url.get_secret_value(),
        "RUN_DB_MIGRATIONS": "true",
    }
