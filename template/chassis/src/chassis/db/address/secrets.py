"""Stores of secrets: where APP_SECRETS_SOURCE points to, read as one more source of settings.

The clients are extras of the distribution, imported where a store is named and nowhere else.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    AWSSecretsManagerSettingsSource,
    AWSSystemsManagerSettingsSource,
    AzureKeyVaultSettingsSource,
    BaseSettings,
    EnvSettingsSource,
    GoogleSecretManagerSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

_VARIABLE = "APP_SECRETS_SOURCE"
_EXAMPLES = (
    "aws-secrets-manager:NAME-OR-ARN",
    "aws-parameter-store:/path",
    "gcp-secret-manager:PROJECT",
    "azure-key-vault:https://NAME.vault.azure.net",
)
# The keys of a secret that RDS writes.
_RDS = {
    "username": "database_postgres_user",
    "password": "database_postgres_password",
    "host": "database_postgres_host",
    "port": "database_postgres_port",
    "dbname": "database_postgres_name",
    "database": "database_postgres_name",
}

Settings = type[BaseSettings]
Values = dict[str, Any]


class SecretStore(PydanticBaseSettingsSource):
    """Read secrets named like the variables from the store that `APP_SECRETS_SOURCE` names.

    Raises SettingsError where it can't be read: a default must not step in for a secret.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> Values:
        source = self.current_state.get("secrets_source")
        if not source:
            return {}
        kind, _, name = str(source).partition(":")
        if kind not in _STORES or not name:
            raise SettingsError(f"{_VARIABLE}: is written {' or '.join(_EXAMPLES)}")
        extra, read = _STORES[kind]
        try:
            values = read(self.settings_cls, name)
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
        values = {
            name: value.rstrip("\r\n") if isinstance(value, str) else value
            for name, value in values.items()
        }
        if empty := [name for name, value in values.items() if value == ""]:
            raise SettingsError(f"{_VARIABLE}: APP_{empty[0].upper()} is empty there; remove it")
        return values


def read_aws_secrets_manager(settings: Settings, name: str) -> Values:
    """Read one secret: JSON with a key for each variable, or what RDS writes."""
    region = name.split(":")[3] if name.startswith("arn:") else None
    source = AWSSecretsManagerSettingsSource(
        settings, name, region_name=region, case_sensitive=False
    )
    return _from_rds(source) | source()


def read_aws_parameter_store(settings: Settings, path: str) -> Values:
    """Read the parameters below a path, one for each variable."""
    if not path.startswith("/"):
        raise SettingsError(f"{_VARIABLE}: is written aws-parameter-store:/path")
    return AWSSystemsManagerSettingsSource(settings, path, case_sensitive=False)()


def read_gcp_secret_manager(settings: Settings, project: str, client: Any = None) -> Values:
    """Read the secrets of a project, one for each variable."""
    source = GoogleSecretManagerSettingsSource(
        settings, project_id=project, case_sensitive=False, secret_client=client
    )
    values = source()
    for name in settings.model_fields:
        # It holds None for a secret that is there and that this process may not read.
        if source.env_vars.get(f"{source.env_prefix}{name}".lower(), "") is None:
            raise SettingsError(f"{_VARIABLE}: APP_{name.upper()} is there and can't be read")
    return values


def read_azure_key_vault(settings: Settings, url: str, credential: Any = None) -> Values:
    """Read the secrets of a vault, one for each variable, with hyphens for its underscores."""
    if credential is None:
        credential = import_module("azure.identity").DefaultAzureCredential()
    return AzureKeyVaultSettingsSource(settings, url, credential, dash_to_underscore=True)()


def _from_rds(source: EnvSettingsSource) -> Values:
    found = {field: source.env_vars[key] for key, field in _RDS.items() if key in source.env_vars}
    if not found:
        return {}
    engine = source.env_vars.get("engine")
    if engine is not None and "postgres" not in engine:
        raise SettingsError(f"{_VARIABLE}: the secret is of another database than PostgreSQL")
    return {"database_backend": "postgres", **found}


_STORES: dict[str, tuple[str, Callable[[Settings, str], Values]]] = {
    "aws-secrets-manager": ("aws", read_aws_secrets_manager),
    "aws-parameter-store": ("aws", read_aws_parameter_store),
    "gcp-secret-manager": ("gcp", read_gcp_secret_manager),
    "azure-key-vault": ("azure", read_azure_key_vault),
}
