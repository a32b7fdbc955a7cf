"""The database's settings, and the one place in which they become a target."""

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ..errors import DatabaseSettingsError
from .hosts import DEFAULT_PORT, parse_hosts
from .near_misses import DATABASE_CHOICES, NearMissGuard, find_unread_fields
from .parameters import SSLMode
from .sources import (
    DEFAULT_SECRETS_DIR,
    SecretFiles,
    SecretStore,
    VariableSource,
    is_secret,
    read_dotenv_texts,
    read_environment,
    read_password,
    refuse_other_sources,
)
from .urls import Backend, DatabaseTarget, parse_url, postgres_target, sqlite_target

Seconds = Annotated[float, Field(ge=0)]
CAPITALS = BeforeValidator(lambda text: text.upper() if isinstance(text, str) else text)


class DatabaseSettings(BaseSettings):
    """Everything that migrations and the wait for the database need to know.

    Read from `APP_*` variables, then `.env`, then secret files, then the store of secrets that
    `APP_SECRETS_SOURCE` names; an empty variable counts as unset.
    Raise pydantic.ValidationError, whose messages name the variable and never hold a value, or
    pydantic_settings.SettingsError if a source can't be read.
    """

    model_config = SettingsConfigDict(
        env_prefix="APP_",
        # chassis.db.address.dotenv reads it, and more strictly.
        env_file=(),
        defer_build=True,  # A service uses its own class, and none of those above it.
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )
    # Fields filled from variables that platforms set; from the environment only, never from .env.
    platform_variables: ClassVar[dict[str, str]] = {"database_platform_url": "DATABASE_URL"}

    database_url: SecretStr | None = None
    database_platform_url: SecretStr | None = None
    database_backend: Backend | None = None
    database_read_url: SecretStr | None = None
    alembic_database_url: SecretStr | None = None
    database_copy_target_url: SecretStr | None = None
    alembic_version_table: str | None = None
    alembic_version_table_schema: str | None = None
    database_read_fallback: bool = False
    database_password_provider: str | None = None
    secrets_dir: Path = DEFAULT_SECRETS_DIR
    secrets_source: str | None = None

    database_postgres_host: str = "localhost"
    database_postgres_port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    database_postgres_user: str = "postgres"
    database_postgres_password: SecretStr | None = None
    database_postgres_password_file: Path | None = None
    database_postgres_name: str = "app"
    database_postgres_sslmode: SSLMode | None = None
    database_postgres_sslrootcert: str | None = None
    database_postgres_sslcert: str | None = None
    database_postgres_sslkey: str | None = None

    database_pool_size: Annotated[int, Field(ge=1)] = 5
    database_read_pool_size: Annotated[int, Field(ge=1)] | None = None
    database_max_overflow: Annotated[int, Field(ge=0)] = 0
    database_pool_timeout: Seconds = 5
    database_pool_recycle: Annotated[int, Field(ge=-1)] = 300
    database_pool_pre_ping: bool = True
    database_ping_idle_seconds: Seconds = 30
    database_pgbouncer: bool = False
    database_connect_timeout_seconds: Annotated[float, Field(gt=0)] = 5
    database_statement_timeout_seconds: Seconds = 30
    database_lock_timeout_seconds: Seconds = 5
    database_idle_in_transaction_timeout_seconds: Seconds = 60
    database_slow_query_seconds: Seconds = 0.5
    database_application_name: str | None = None
    database_wait_seconds: Seconds = 60
    database_echo: bool = False

    database_sqlite_path: Path = Path("data/app.db")
    database_sqlite_journal_mode: Annotated[
        Literal["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"], CAPITALS
    ] = "WAL"
    database_sqlite_synchronous: Annotated[Literal["OFF", "NORMAL", "FULL", "EXTRA"], CAPITALS] = (
        "NORMAL"
    )
    database_sqlite_busy_timeout: Annotated[int, Field(ge=0)] = 5000
    database_sqlite_foreign_keys: bool = True
    database_sqlite_cache_size: int | None = None
    database_sqlite_mmap_size: Annotated[int, Field(ge=0)] | None = None
    database_sqlite_backup_before_migrate: bool = False

    @cached_property
    def database_target(self) -> DatabaseTarget:
        """The database that write sessions use."""
        if self.database_url is not None:
            return self._parse_url(self.database_url, "APP_DATABASE_URL")
        match self.database_backend:
            case "postgres":
                return self._resolve_postgres_fields()
            case "custom":
                raise DatabaseSettingsError(
                    "APP_DATABASE_URL: APP_DATABASE_BACKEND=custom needs it; "
                    "set it to a SQLAlchemy URL with an asynchronous driver"
                )
            case None if self.database_platform_url is not None:
                return self._parse_url(self.database_platform_url, "DATABASE_URL")
            case "sqlite" | None:
                return sqlite_target(str(self.database_sqlite_path), "APP_DATABASE_SQLITE_PATH")

    @cached_property
    def database_read_target(self) -> DatabaseTarget:
        """The database that read sessions use: the replica, if one is named."""
        if self.database_read_url is None:
            return self.database_target
        # Of several replicas any will do.
        target = self._parse_url(
            self.database_read_url, "APP_DATABASE_READ_URL", target_session_attrs="any"
        )
        if target.backend != "postgres" or self.database_target.backend != "postgres":
            raise DatabaseSettingsError(
                "APP_DATABASE_READ_URL: only PostgreSQL has replicas; "
                "set it to a postgresql:// URL beside a PostgreSQL database, or leave it unset"
            )
        return target

    @cached_property
    def database_migration_target(self) -> DatabaseTarget:
        """The database that Alembic uses: the direct address, if one is named beside a pooler's."""
        if self.alembic_database_url is not None:
            return self._parse_url(self.alembic_database_url, "APP_ALEMBIC_DATABASE_URL")
        target = self.database_target
        if target.backend == "custom":
            raise DatabaseSettingsError(
                "APP_ALEMBIC_DATABASE_URL: a custom database needs it, and "
                f"{target.chosen_by} names one ({target.url.get_backend_name()}); "
                "set it to the same database with a synchronous driver"
            )
        return target

    def tls_parameters(self) -> dict[str, str]:
        """Return the TLS options of the fields, for URLs that name none."""
        names = ("sslmode", "sslrootcert", "sslcert", "sslkey")
        given = {name: getattr(self, f"database_postgres_{name}") for name in names}
        return {name: value for name, value in given.items() if value is not None}

    def with_migration_target(self, target: DatabaseTarget) -> Self:
        """Return a copy whose migrations run on another database."""
        return self.model_copy(update={"database_migration_target": target})

    @property
    def database_warnings(self) -> tuple[str, ...]:
        """What is set and can't be honoured, a line each."""
        targets = (self.database_target, self.database_read_target, self.database_migration_target)
        ignored = [line for target in targets for line in target.warnings]
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        return tuple(dict.fromkeys([*ignored, *find_unread_fields(given, self.database_target)]))

    @property
    def read_pool_size(self) -> int:
        """How many read connections: as set, else 10; on SQLite 2, beside which writers do well."""
        default = 2 if self.database_target.backend == "sqlite" else 10
        return self.database_read_pool_size or default

    def describe_database(self) -> str:
        """Return a line for the log: target, the variable that chose it, pool sizes; no secret."""
        target = self.database_target
        reads = self.database_read_target
        replica = "" if reads is target else f"reads from {reads.masked}, "
        write, note = f"{self.database_pool_size} + {self.database_max_overflow}", ""
        chosen = f"chosen by {target.chosen_by}"
        if target.backend == "sqlite":
            write = "1"
            if self.model_fields_set.isdisjoint(DATABASE_CHOICES):
                chosen = "by default"
            ignored = {"database_pool_size", "database_max_overflow"} & self.model_fields_set
            names = ", ".join(f"APP_{name.upper()}" for name in sorted(ignored))
            note = f"; {names} does not apply to SQLite" if names else ""
        return (
            f"database {target.masked} ({target.backend}, {chosen}), "
            f"{replica}connections: {write} write, {self.read_pool_size} read{note}"
        )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Raise TypeError for a class that would read other variables than these."""
        super().__pydantic_init_subclass__(**kwargs)
        refuse_other_sources(cls, DatabaseSettings)

    @field_validator("database_password_provider")
    @classmethod
    def _check_provider(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.]+:\w+", value):
            raise ValueError("is written module:function, such as my_service.passwords:fetch")
        return value

    @model_validator(mode="after")
    def _check_targets(self) -> Self:
        target = self.database_target
        if self.database_password_provider and target.url.password is not None:
            raise DatabaseSettingsError(
                "APP_DATABASE_PASSWORD_PROVIDER: "
                f"{target.chosen_by} has a password as well; keep one of them"
            )
        # Each is resolved once, here: what is wrong with it stops the start.
        _ = self.database_read_target, self.database_migration_target
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _as_secret(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep secrets out of the input that `ValidationError.errors()` shows."""
        if isinstance(given, dict):
            given = {
                name: SecretStr(value) if isinstance(value, str) and is_secret(cls, name) else value
                for name, value in given.items()
            }
        return handler(given)

    def _parse_url(self, url: SecretStr, variable: str, **defaults: str) -> DatabaseTarget:
        return parse_url(url.get_secret_value(), variable, defaults | self.tls_parameters())

    def _resolve_postgres_fields(self) -> DatabaseTarget:
        variable = "APP_DATABASE_POSTGRES_HOST"
        hosts = parse_hosts(self.database_postgres_host, variable, [self.database_postgres_port])
        password = self._read_password()
        provided = self.database_password_provider is not None
        if password is None and not provided and not any(host.startswith("/") for host, _ in hosts):
            raise DatabaseSettingsError(
                "APP_DATABASE_POSTGRES_PASSWORD: PostgreSQL needs a password; set it, "
                "or APP_DATABASE_POSTGRES_PASSWORD_FILE, or APP_DATABASE_PASSWORD_PROVIDER, "
                "or a socket folder as the host"
            )
        target = postgres_target(
            "APP_DATABASE_BACKEND",
            hosts=hosts,
            username=self.database_postgres_user,
            password=password,
            database=self.database_postgres_name,
            parameters=self.tls_parameters(),
            parameters_variable="APP_DATABASE_POSTGRES_SSLMODE",
        )
        return replace(target, password_file=self.database_postgres_password_file)

    def _read_password(self) -> str | None:
        given, file = self.database_postgres_password, self.database_postgres_password_file
        if file is None:
            return None if given is None else given.get_secret_value()
        if given is not None:
            raise DatabaseSettingsError(
                "APP_DATABASE_POSTGRES_PASSWORD_FILE: the password is set as well; keep one of them"
            )
        return read_password(file)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *args: PydanticBaseSettingsSource,
        **library: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        environment = read_environment(settings_cls)
        # What Settings(_env_file=…) names.
        files = getattr(library["dotenv_settings"], "env_file", ())
        dotenv = read_dotenv_texts(settings_cls, files)
        platforms = cls.platform_variables.values()
        stored = {name: text for name, text in dotenv.items() if name not in platforms}
        return (
            init_settings,
            VariableSource(settings_cls, environment),
            VariableSource(settings_cls, stored),
            SecretFiles(settings_cls),
            SecretStore(settings_cls),
            NearMissGuard(settings_cls, dotenv | environment),
        )
