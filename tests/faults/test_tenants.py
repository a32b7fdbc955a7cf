"""Row-level security behind PgBouncer in transaction mode: nobody is served another's rows."""

import asyncio
import random

import pytest
from chassis import ChassisSettings
from chassis.db import NAMING_CONVENTION, Base, Sessions, open_sessions, session_scope
from chassis.db.migrations.connect import open_connection
from chassis.db.tenants import RowSecured, check_row_security, current_tenant, tenant_scope
from sqlalchemy import MetaData, String, select, text
from sqlalchemy.orm import Mapped, mapped_column

from tests.postgres import USER

from .conftest import ReadSettings
from .servers import Cluster, Pooler

TENANTS = [f"tenant {number}" for number in range(8)]
# What a session checks sees a condition here, and the server's is the only one that counts.
UNCHECKED = text("SELECT tenant FROM letters WHERE letters.tenant = :tenant OR true")


class Apart(Base):
    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Letter(RowSecured, Apart):
    __tablename__ = "letters"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(20))


@pytest.fixture
def settings(
    plain_server: Cluster, transaction_pooler: Pooler, read_settings: ReadSettings
) -> ChassisSettings:
    """Settings of a service behind the pooler, whose role owns no table."""
    name = plain_server.create_database()
    url = f"postgresql://postgres@/{name}?host={plain_server.folder}&port={plain_server.port}"
    with open_connection(read_settings(APP_DATABASE_URL=url)) as connection:
        Apart.metadata.create_all(connection)
        for statement in (
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {USER}",
            "ALTER TABLE letters ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY tenant ON letters "
            "USING (current_setting('app.tenant', true) IN (tenant, '*'))",
        ):
            connection.execute(text(statement))
        connection.commit()
    return read_settings(
        APP_DATABASE_URL=transaction_pooler.url(name), APP_DATABASE_PGBOUNCER="true"
    )


async def serve(sessions: Sessions, tenant: str) -> None:
    """Write and read as requests of a tenant do."""
    for _ in range(10):
        with tenant_scope(tenant):
            async with session_scope(sessions.write) as session:
                session.add(Letter(text="x"))
                await session.commit()
                assert {*await session.scalars(UNCHECKED, {"tenant": tenant})} == {tenant}
            await asyncio.sleep(random.uniform(0, 0.01))
            async with session_scope(sessions.read) as session:
                assert {*await session.scalars(UNCHECKED, {"tenant": tenant})} == {tenant}
                assert {*await session.scalars(select(Letter.tenant))} == {current_tenant()}


def test_tenants_that_share_connections_see_their_own_rows(settings: ChassisSettings) -> None:
    async def serve_all() -> None:
        async with open_sessions(settings) as sessions:
            await check_row_security(sessions)
            await asyncio.gather(*(serve(sessions, tenant) for tenant in TENANTS))
            engine = sessions.write.kw["bind"]
            async with engine.connect() as connection:
                assert (await connection.execute(text("SELECT id FROM letters"))).all() == []

    asyncio.run(serve_all())
