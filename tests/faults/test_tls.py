"""TLS: mode, host and authority decide the same on both drivers, as pg_stat_ssl tells."""

import asyncio
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from chassis.db import create_database_engine
from chassis.db.address.parameters import SSLMode
from chassis.db.errors import DatabaseSettingsError, DatabaseUnavailableError

from tests.postgres import PASSWORD, USER

from .certificates import Certificates
from .conftest import ReadSettings
from .logins import Login, Outcome, outcomes
from .servers import OTHER_HOST, Cluster

SSL_MODES = get_args(SSLMode)
NAMED = "localhost"
AUTHORITIES = (None, "ca", "stranger")
FAILS = DatabaseUnavailableError
REFUSED = "refused"

# What libpq documents, and where it does not fail in the open, a refusal.
# https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION
EXPECTED: dict[tuple[str, str, str | None], object] = {
    **{("disable", host, ca): False for host in (NAMED, OTHER_HOST) for ca in AUTHORITIES},
    **{("allow", host, None): False for host in (NAMED, OTHER_HOST)},
    **{("prefer", host, None): True for host in (NAMED, OTHER_HOST)},
    **{
        (mode, host, ca): REFUSED
        for mode in ("allow", "prefer")
        for host in (NAMED, OTHER_HOST)
        for ca in ("ca", "stranger")
    },
    **{("require", host, None): True for host in (NAMED, OTHER_HOST)},
    **{
        (mode, host, "ca"): True
        for mode in ("require", "verify-ca")
        for host in (NAMED, OTHER_HOST)
    },
    **{(mode, host, None): REFUSED for mode in SSL_MODES[4:] for host in (NAMED, OTHER_HOST)},
    **{(mode, host, "stranger"): FAILS for mode in SSL_MODES[3:] for host in (NAMED, OTHER_HOST)},
    ("verify-full", NAMED, "ca"): True,
    ("verify-full", OTHER_HOST, "ca"): FAILS,
}


def fields(server: Cluster, host: str, **tls: Path | str | None) -> dict[str, str]:
    """Write an address and its TLS as variables, one for each part."""
    named = {f"APP_DATABASE_POSTGRES_{name.upper()}": str(tls[name]) for name in tls if tls[name]}
    return {
        "APP_DATABASE_BACKEND": "postgres",
        "APP_DATABASE_POSTGRES_HOST": host,
        "APP_DATABASE_POSTGRES_PORT": str(server.port),
        "APP_DATABASE_POSTGRES_USER": USER,
        "APP_DATABASE_POSTGRES_PASSWORD": PASSWORD,
        "APP_DATABASE_POSTGRES_NAME": "app",
        **named,
    }


def one_outcome(found: dict[str, Outcome]) -> Outcome:
    """Give what all ways to log in agree on."""
    (outcome,) = set(found.values())
    return outcome


@pytest.mark.parametrize("by", ["url", "fields"])
@pytest.mark.parametrize(
    ("mode", "host", "authority"),
    list(product(SSL_MODES, (NAMED, OTHER_HOST), AUTHORITIES)),
)
def test_mode_host_and_authority_decide_the_same_on_both_drivers(
    tls_server: Cluster,
    certificates: Certificates,
    read_settings: ReadSettings,
    by: str,
    mode: str,
    host: str,
    authority: str | None,
) -> None:
    ca = certificates.certificate(authority) if authority else None
    query = f"?sslmode={mode}" + (f"&sslrootcert={ca}" if ca else "")
    url = {"APP_DATABASE_URL": tls_server.url("app", host) + query}
    given = url if by == "url" else fields(tls_server, host, sslmode=mode, sslrootcert=ca)
    variable = "APP_DATABASE_URL" if by == "url" else "APP_DATABASE_POSTGRES_SSLMODE"

    outcome: object
    try:
        outcome = one_outcome(outcomes(read_settings(**given)))
    except ValueError as error:
        outcome = str(error)

    match EXPECTED[mode, host, authority], outcome:
        case bool() as tls, Login() as login:
            assert login.tls == tls
        case "refused", str() as message:
            assert f"{variable}: ssl" in message
        case expected, _:
            assert outcome == expected


@pytest.mark.parametrize("host", [NAMED, OTHER_HOST])
def test_the_systems_authorities_are_the_same_for_both_drivers(
    tls_server: Cluster,
    certificates: Certificates,
    read_settings: ReadSettings,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.certificate("ca")))
    url = f"{tls_server.url('app', host)}?sslrootcert=system"

    outcome = one_outcome(outcomes(read_settings(APP_DATABASE_URL=url)))

    if host == NAMED:
        assert isinstance(outcome, Login)
        assert outcome.tls
    else:
        assert outcome is FAILS


def test_a_machine_without_authorities_is_told_so(
    read_settings: ReadSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    monkeypatch.setattr("chassis.db.address.tls._SYSTEM_CA_FILES", ("/nowhere/ca.pem",))
    settings = read_settings(APP_DATABASE_URL="postgres://h/app?sslrootcert=system")

    with pytest.raises(DatabaseSettingsError, match="install ca-certificates"):
        create_database_engine(settings)


def test_a_parameter_in_the_url_wins_over_the_settings_beside_it(
    tls_server: Cluster, certificates: Certificates, read_settings: ReadSettings
) -> None:
    settings = read_settings(
        APP_DATABASE_URL=f"{tls_server.url('app', NAMED)}?sslmode=verify-full",
        APP_DATABASE_POSTGRES_SSLMODE="disable",
        APP_DATABASE_POSTGRES_SSLROOTCERT=str(certificates.certificate("ca")),
    )

    outcome = one_outcome(outcomes(settings))

    assert isinstance(outcome, Login)
    assert outcome.tls


def test_a_client_certificate_beside_the_url_logs_in(
    tls_server: Cluster, certificates: Certificates, read_settings: ReadSettings
) -> None:
    settings = read_settings(
        APP_DATABASE_URL=f"postgres://certified@{NAMED}:{tls_server.port}/app",
        APP_DATABASE_POSTGRES_SSLMODE="verify-full",
        APP_DATABASE_POSTGRES_SSLROOTCERT=str(certificates.certificate("ca")),
        APP_DATABASE_POSTGRES_SSLCERT=str(certificates.certificate("client")),
        APP_DATABASE_POSTGRES_SSLKEY=str(certificates.key("client")),
    )

    assert one_outcome(outcomes(settings)) == Login("certified", "app", True, "")


def test_a_mode_that_does_not_exist_names_its_variable(read_settings: ReadSettings) -> None:
    with pytest.raises(ValueError, match=r"database_postgres_sslmode\n.*'verify-full'"):
        read_settings(APP_DATABASE_BACKEND="postgres", APP_DATABASE_POSTGRES_SSLMODE="strict")


def test_a_failure_says_what_the_certificate_lacks_and_no_secret(
    tls_server: Cluster, certificates: Certificates, read_settings: ReadSettings
) -> None:
    ca = certificates.certificate("ca")
    url = f"{tls_server.url('app', OTHER_HOST)}?sslmode=verify-full&sslrootcert={ca}"
    engine = create_database_engine(read_settings(APP_DATABASE_URL=url))

    async def connect() -> None:
        try:
            await engine.connect()
        finally:
            await engine.dispose()

    with pytest.raises(DatabaseUnavailableError, match="certificate verify failed: IP") as failed:
        asyncio.run(connect())
    assert PASSWORD not in str(failed.value)
    assert f"{USER}@{OTHER_HOST}" in str(failed.value)
