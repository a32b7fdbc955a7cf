"""Certificates for a test session: an authority, a stranger, and what the first one signed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

DAYS = ("-days", "2")


@dataclass(frozen=True)
class Certificates:
    """A folder of `NAME.crt` and `NAME.key`."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """Give the file of a certificate: ca, stranger, server or client."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Give the file of a private key."""
        return self.folder / f"{name}.key"


def make_certificates(folder: Path, *, host: str, user: str) -> Certificates:
    """Sign a certificate for a server at `host` and one for a client that is `user`."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    made = Certificates(folder)
    for name in ("ca", "stranger"):
        itself = ("-x509", *DAYS, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        _openssl(made, name, "req", *itself, "-subj", f"/CN={name}", "-out", f"{name}.crt")
    names = ["-addext", f"subjectAltName=DNS:{host}"]
    _sign(made, "server", "-subj", f"/CN={host}", *names)
    _sign(made, "client", "-subj", f"/CN={user}")
    return made


def _sign(made: Certificates, name: str, *arguments: str) -> None:
    _openssl(made, name, "req", *arguments, "-out", f"{name}.csr")
    by = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy")
    command = ["openssl", "x509", "-req", "-in", f"{name}.csr", *by, *DAYS, "-out", f"{name}.crt"]
    subprocess.run(command, cwd=made.folder, check=True, capture_output=True)


def _openssl(made: Certificates, name: str, *arguments: str) -> None:
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key"]
    subprocess.run(["openssl", *arguments, *key], cwd=made.folder, check=True, capture_output=True)
    made.key(name).chmod(0o600)
