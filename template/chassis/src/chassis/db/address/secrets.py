"""Stores of secrets: where APP_SECRETS_SOURCE points to.

This is imported if a store is named and never otherwise; the clients are extras.
"""

import json
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any

from pydantic_settings import SettingsError

from .sources import Texts

_VARIABLE = "APP_SECRETS_SOURCE"
# The keys of a secret that RDS writes.
_RDS_KEYS = {
    "username": "APP_DATABASE_POSTGRES_USER",
    "password": "APP_DATABASE_POSTGRES_PASSWORD",
    "host": "APP_DATABASE_POSTGRES_HOST",
    "port": "APP_DATABASE_POSTGRES_PORT",
    "dbname": "APP_DATABASE_POSTGRES_NAME",
    "database": "APP_DATABASE_POSTGRES_NAME",
}


def read_store(source: str, wanted: Collection[str]) -> Texts:
    """Return what a store holds for variables. Raise SettingsError if it can't be read."""
    kind, _, name = source.partition(":")
    if kind not in _STORES or not name:
        forms = " or ".join(f"{kind}:{named}" for kind, (named, _, _) in _STORES.items())
        raise SettingsError(f"{_VARIABLE}: is written {forms}")
    _, extra, read = _STORES[kind]
    try:
        held = read(name, wanted)
    except ImportError:
        raise SettingsError(
            f"{_VARIABLE}: {kind} needs the extra service-chassis[{extra}]; "
            f"uv add 'service-chassis[{extra}]'"
        ) from None
    except SettingsError:
        raise
    except Exception as error:
        # The text of a client's error may hold what it read.
        raise SettingsError(
            f"{_VARIABLE}: {kind} can't be read ({type(error).__name__}): check the name, the "
            "region, the credentials of this process, and that they may read it"
        ) from None
    # A part of a nested setting begins with the setting's own name.
    ours = {name: text for name, text in held.items() if name.startswith(tuple(wanted))}
    texts = {name: text.rstrip("\r\n") for name, text in ours.items()}
    if empty := [name for name, text in texts.items() if not text]:
        raise SettingsError(f"{_VARIABLE}: {empty[0]} is empty there; remove it")
    return texts


def read_aws_secrets_manager(name: str, wanted: Collection[str]) -> Texts:
    """Return the texts of one secret: JSON with a key for each variable, or what RDS writes."""
    region = name.split(":")[3] if name.startswith("arn:") else None
    client = import_module("boto3").client("secretsmanager", region_name=region)
    held = json.loads(client.get_secret_value(SecretId=name)["SecretString"])
    texts = {key.upper(): _as_text(value) for key, value in held.items()}
    login = {name: _as_text(held[key]) for key, name in _RDS_KEYS.items() if key in held}
    if not login:
        return texts
    if "postgres" not in held.get("engine", "postgres"):
        raise SettingsError(f"{_VARIABLE}: the secret is of another database than PostgreSQL")
    return {"APP_DATABASE_BACKEND": "postgres", **login, **texts}


def read_aws_parameter_store(path: str, wanted: Collection[str]) -> Texts:
    """Return the parameters below a path, one for each variable."""
    if not path.startswith("/"):
        raise SettingsError(f"{_VARIABLE}: is written aws-parameter-store:/path")
    pages = import_module("boto3").client("ssm").get_paginator("get_parameters_by_path")
    return {
        parameter["Name"].rpartition("/")[2].upper(): parameter["Value"]
        for page in pages.paginate(Path=path, WithDecryption=True)
        for parameter in page["Parameters"]
    }


def read_gcp_secret_manager(project: str, wanted: Collection[str], client: Any = None) -> Texts:
    """Return the secrets of a project, one for each variable."""
    if client is None:
        client = import_module("google.cloud.secretmanager_v1").SecretManagerServiceClient()
    texts = {}
    for secret in client.list_secrets(parent=f"projects/{project}"):
        variable = secret.name.rpartition("/")[2].upper()
        if variable in wanted:
            try:
                held = client.access_secret_version(name=f"{secret.name}/versions/latest")
            except Exception:
                raise SettingsError(f"{_VARIABLE}: {variable} is there and can't be read") from None
            texts[variable] = held.payload.data.decode()
    return texts


def read_azure_key_vault(url: str, wanted: Collection[str], credential: Any = None) -> Texts:
    """Return the secrets of a vault, one for each variable, with hyphens for its underscores."""
    if credential is None:
        credential = import_module("azure.identity").DefaultAzureCredential()
    client = import_module("azure.keyvault.secrets").SecretClient(url, credential)
    texts = {}
    for secret in client.list_properties_of_secrets():
        variable = secret.name.replace("-", "_").upper()
        if secret.enabled and variable in wanted:
            texts[variable] = client.get_secret(secret.name).value
    return texts


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# What stands behind the colon, the extra that has the client, and what reads the store.
_STORES: dict[str, tuple[str, str, Callable[[str, Collection[str]], Texts]]] = {
    "aws-secrets-manager": ("NAME-OR-ARN", "aws", read_aws_secrets_manager),
    "aws-parameter-store": ("/path", "aws", read_aws_parameter_store),
    "gcp-secret-manager": ("PROJECT", "gcp", read_gcp_secret_manager),
    "azure-key-vault": ("https://NAME.vault.azure.net", "azure", read_azure_key_vault),
}
