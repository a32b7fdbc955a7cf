"""Database URLs in the shapes that platforms hand out: the same outcome on both drivers.

Each is written for a server of the test, on which it is a login with or without TLS, a failure,
or a refusal with advice.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import pytest
from chassis.db.errors import DatabaseUnavailableError
from pydantic import ValidationError

from tests.postgres import PASSWORD, USER

from .certificates import Certificates
from .conftest import ReadSettings
from .logins import Login, outcomes
from .servers import Cluster, Relay, relay

# An address of each worker's own for PostgreSQL's own port: some shapes name none.
DEFAULT_PORT_HOST = f"127.84.69.{83 + int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:])}"
LOGIN = "{user}:{password}@{host}:{port}"
WITHOUT_PORT = "{user}:{password}@{default_host}"
SOCKET = "{user}:{password}@/app?host={folder}&port={port}"

# The login on each server: in TLS or not, or none.
Outcomes = Mapping[str, bool | None]
ENCRYPTED: Outcomes = {"tls": True, "plain": False}
PLAIN: Outcomes = {"tls": False, "plain": False}
NEEDS_TLS: Outcomes = {"tls": True, "plain": None}

SHAPES: dict[str, tuple[str, Outcomes]] = {
    "heroku": (f"postgres://{LOGIN}/app", ENCRYPTED),
    "heroku, for node": (f"postgres://{LOGIN}/app?sslmode=require", NEEDS_TLS),
    "neon": (f"postgresql://{LOGIN}/app?sslmode=require&channel_binding=require", NEEDS_TLS),
    "neon, without a port": (f"postgres://{WITHOUT_PORT}/app?sslmode=require", NEEDS_TLS),
    "neon, endpoint as an option": (
        f"postgresql://{LOGIN}/app?sslmode=require&options=-c%20geqo%3Doff",
        NEEDS_TLS,
    ),
    "supabase": (f"postgresql://{LOGIN}/app", ENCRYPTED),
    "supabase, with its certificate": (
        f"postgresql://{LOGIN}/app?sslmode=verify-full&sslrootcert={{ca}}",
        NEEDS_TLS,
    ),
    "rds": (f"postgresql://{LOGIN}/app?sslmode=verify-full&sslrootcert={{ca}}", NEEDS_TLS),
    "rds, verify-ca": (f"postgres://{LOGIN}/app?sslmode=verify-ca&sslrootcert={{ca}}", NEEDS_TLS),
    "aurora, two endpoints": (
        f"postgresql://{LOGIN},{{host}}:{{port}}/app?target_session_attrs=read-write",
        ENCRYPTED,
    ),
    "railway": (f"postgresql://{LOGIN}/app", ENCRYPTED),
    "railway, no tls": (f"postgresql://{LOGIN}/app?sslmode=disable", PLAIN),
    "render": (f"postgresql://{WITHOUT_PORT}/app", ENCRYPTED),
    "render, external": (f"postgresql://{WITHOUT_PORT}/app?ssl=true", NEEDS_TLS),
    "fly": (f"postgres://{LOGIN}/app?sslmode=disable", PLAIN),
    "prisma": (f"postgresql://{LOGIN}/app?schema=public", ENCRYPTED),
    "prisma, preferring tls": (f"postgresql://{LOGIN}/app?schema=public&sslmode=prefer", ENCRYPTED),
    "digital ocean": (f"postgresql://{LOGIN}/app?sslmode=require", NEEDS_TLS),
    "aiven": (
        f"postgres://{LOGIN}/app?sslmode=require&application_name=aiven&connect_timeout=10",
        NEEDS_TLS,
    ),
    "azure": (f"postgresql://{LOGIN}/app?sslmode=require&target_session_attrs=any", NEEDS_TLS),
    "cloud sql, by a socket": (f"postgresql://{SOCKET}", PLAIN),
    "cloud sql, an encoded socket": (
        "postgresql://{user}:{password}@{encoded_folder}:{port}/app",
        PLAIN,
    ),
    "cloud sql, a socket and tls": (f"postgresql://{SOCKET}&sslmode=require", PLAIN),
    "cockroach style options": (
        f"postgresql://{LOGIN}/app?sslmode=verify-full&sslrootcert={{ca}}&options=-c%20jit%3Doff",
        NEEDS_TLS,
    ),
    "crunchy": (f"postgresql://{LOGIN}/app?sslmode=require&sslnegotiation=postgres", NEEDS_TLS),
    "compose": (f"postgresql+asyncpg://{LOGIN}/app", ENCRYPTED),
    "sqlalchemy, psycopg2": (f"postgresql+psycopg2://{LOGIN}/app?sslmode=allow", PLAIN),
    "sqlalchemy, psycopg": (f"postgresql+psycopg://{LOGIN}/app?sslmode=prefer", ENCRYPTED),
    "sqlalchemy, asyncpg's ssl": (f"postgresql+asyncpg://{LOGIN}/app?ssl=require", NEEDS_TLS),
    "sqlalchemy, hosts in the query": (
        "postgresql://{user}:{password}@/app?host={host}:{port}&host={host}:{port}",
        ENCRYPTED,
    ),
    "libpq, several hosts and ports": (
        "postgresql://{user}:{password}@/app?host={host},{host}&port=1,{port}",
        ENCRYPTED,
    ),
    "libpq, all in the query": (
        "postgresql:///?host={host}&port={port}&user={user}&password={password}&dbname=app",
        ENCRYPTED,
    ),
    "libpq, a name to fall back to": (
        f"postgresql://{LOGIN}/app?fallback_application_name=billing",
        ENCRYPTED,
    ),
    "libpq, keepalives": (
        f"postgresql://{LOGIN}/app?keepalives=1&keepalives_idle=20&keepalives_count=2"
        "&tcp_user_timeout=9000",
        ENCRYPTED,
    ),
    "libpq, tls versions": (
        f"postgresql://{LOGIN}/app?sslmode=require&ssl_min_protocol_version=TLSv1.3",
        NEEDS_TLS,
    ),
    "libpq, gss and encoding": (
        f"postgresql://{LOGIN}/app?gssencmode=disable&client_encoding=UTF8",
        ENCRYPTED,
    ),
    "a client certificate": (
        "postgresql://certified@{host}:{port}/app?sslmode=verify-full&sslrootcert={ca}"
        "&sslcert={client_crt}&sslkey={client_key}",
        NEEDS_TLS,
    ),
    "empty values": (f"postgresql://{LOGIN}/app?sslmode=&application_name=", ENCRYPTED),
    "white space around": (f"  postgresql://{LOGIN}/app\n", ENCRYPTED),
    "capitals": (f"POSTGRESQL://{LOGIN}/app", ENCRYPTED),
    "the wrong password": ("postgresql://{user}:wrong@{host}:{port}/app", {}),
    "another database": (f"postgresql://{LOGIN}/nowhere", {}),
    "the address that is in no certificate": (
        "postgresql://{user}:{password}@127.0.0.2:{port}/app?sslmode=verify-full&sslrootcert={ca}",
        {},
    ),
    "a stranger's authority": (
        f"postgresql://{LOGIN}/app?sslmode=verify-ca&sslrootcert={{stranger}}",
        {},
    ),
    "the system's authorities": (
        f"postgresql://{LOGIN}/app?sslmode=verify-full&sslrootcert=system",
        {},
    ),
    "system, with the mode that it means": (f"postgresql://{LOGIN}/app?sslrootcert=system", {}),
}

REFUSED = {
    "prisma, with a limit": (f"postgresql://{LOGIN}/app?connection_limit=5", "APP_DATABASE_POOL_S"),
    "prisma, sslaccept": (f"postgresql://{LOGIN}/app?sslaccept=strict", "sslmode=verify-full"),
    "prisma, another schema": (f"postgresql://{LOGIN}/app?schema=billing", "search_path"),
    "vercel": (f"postgres://{LOGIN}/app?sslmode=require&supa=base-pooler.x", "unknown option"),
    "asyncpg, its cache": (f"postgresql://{LOGIN}/app?statement_cache_size=0", "PGBOUNCER=true"),
    "asyncpg, its timeout": (f"postgresql://{LOGIN}/app?command_timeout=5", "STATEMENT_TIMEOUT"),
    "node, no-verify": (f"postgresql://{LOGIN}/app?sslmode=no-verify", "sslmode is one of"),
    "jdbc": ("jdbc:postgresql://{host}:{port}/app?user={user}", "SQLAlchemy can't read"),
    "an authority without a mode": (
        f"postgresql://{LOGIN}/app?sslrootcert={{ca}}",
        "add sslmode=verify-full",
    ),
    "an authority that is not checked": (
        f"postgresql://{LOGIN}/app?sslmode=prefer&sslrootcert={{stranger}}",
        "add sslmode=verify-full",
    ),
    "a certificate without its key": (
        f"postgresql://{LOGIN}/app?sslmode=require&sslcert={{client_crt}}",
        "sslcert and sslkey belong together",
    ),
    "system, and require": (
        f"postgresql://{LOGIN}/app?sslmode=require&sslrootcert=system",
        "sslrootcert=system needs sslmode=verify-full",
    ),
    "direct tls, if at all": (
        f"postgresql://{LOGIN}/app?sslnegotiation=direct",
        "sslnegotiation=direct needs",
    ),
    "an unknown tls version": (
        f"postgresql://{LOGIN}/app?ssl_min_protocol_version=SSLv3",
        "ssl_min_protocol_version is one of",
    ),
    "an unknown kind of server": (
        f"postgresql://{LOGIN}/app?target_session_attrs=master",
        "target_session_attrs is one of",
    ),
    "a spelling mistake": (f"postgresql://{LOGIN}/app?sslmod=require", "did you mean sslmode"),
    "two ports for three hosts": (
        "postgresql://{user}@/app?host=a,b,c&port=1,2",
        "as many as there are hosts",
    ),
    "authentication by name": (
        f"postgresql://{LOGIN}/app?require_auth=scram-sha-256",
        "asyncpg can't honour it",
    ),
}
REFUSED_WHEN_OPENED = {
    "no authority to verify by": (
        f"postgresql://{LOGIN}/app?sslmode=verify-full",
        "sslrootcert=system",
    ),
    "an authority that is not there": (
        f"postgresql://{LOGIN}/app?sslmode=verify-full&sslrootcert=/nowhere/ca.crt",
        "the file of sslrootcert can't be read",
    ),
    "a key that others can read": (
        f"postgresql://{LOGIN}/app?sslmode=require&sslcert={{client_crt}}&sslkey={{client_crt}}",
        "chmod 600",
    ),
}


@dataclass(frozen=True)
class Servers:
    """Where the shapes lead to."""

    clusters: dict[str, Cluster]
    certificates: Certificates

    def write(self, shape: str, server: str) -> str:
        """Put a server's address and the service's login into a shape."""
        cluster = self.clusters[server]
        return shape.format(
            user=USER,
            password=quote(PASSWORD, safe=""),
            host="localhost",
            default_host=DEFAULT_PORT_HOST,
            port=cluster.port,
            folder=cluster.folder,
            encoded_folder=quote(str(cluster.folder), safe=""),
            ca=self.certificates.certificate("ca"),
            stranger=self.certificates.certificate("stranger"),
            client_crt=self.certificates.certificate("client"),
            client_key=self.certificates.key("client"),
        )


@pytest.fixture(scope="session")
def servers(tls_server: Cluster, plain_server: Cluster, certificates: Certificates) -> Servers:
    """A server with TLS and one without."""
    return Servers({"tls": tls_server, "plain": plain_server}, certificates)


@pytest.fixture
def default_port(servers: Servers, server: str) -> Iterator[Relay]:
    """The server, also on PostgreSQL's own port of an address that nothing else uses."""
    with relay(servers.clusters[server].port, DEFAULT_PORT_HOST, 5432) as made:
        yield made


@pytest.mark.usefixtures("default_port")
@pytest.mark.parametrize("server", ["tls", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_url_has_one_outcome_on_both_drivers(
    servers: Servers, read_settings: ReadSettings, server: str, shape: str
) -> None:
    url, expected = SHAPES[shape]
    settings = read_settings(APP_DATABASE_URL=servers.write(url, server))

    found = outcomes(settings)

    assert len(set(found.values())) == 1, found
    match found["write"], expected.get(server):
        case Login() as login, bool() as tls:
            assert (login.database, login.tls) == ("app", tls)
            assert login.user == ("certified" if "certified" in url else USER)
        case outcome, _:
            assert expected.get(server) is None, found
            assert outcome is DatabaseUnavailableError


@pytest.mark.parametrize("shape", REFUSED)
def test_a_url_that_a_driver_would_misread_is_refused_for_both(
    servers: Servers, read_settings: ReadSettings, shape: str
) -> None:
    url, advice = REFUSED[shape]
    with pytest.raises(ValidationError) as refused:
        read_settings(APP_DATABASE_URL=servers.write(url, "tls"))

    (error,) = refused.value.errors(include_input=False)
    assert error["msg"].startswith("Value error, APP_DATABASE_URL: ")
    assert advice in error["msg"]
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("shape", REFUSED_WHEN_OPENED)
def test_a_url_whose_files_are_wrong_is_refused_before_anything_connects(
    servers: Servers, read_settings: ReadSettings, shape: str
) -> None:
    url, advice = REFUSED_WHEN_OPENED[shape]
    found = outcomes(read_settings(APP_DATABASE_URL=servers.write(url, "tls")))

    (message,) = set(found.values())
    assert isinstance(message, str)
    assert message.startswith("APP_DATABASE_URL: ")
    assert advice in message


def test_what_no_driver_honours_is_a_warning(servers: Servers, read_settings: ReadSettings) -> None:
    shape, _ = SHAPES["neon"]
    (warning,) = read_settings(APP_DATABASE_URL=servers.write(shape, "tls")).database_warnings

    assert warning.startswith("APP_DATABASE_URL: asyncpg can't do channel_binding=require")
