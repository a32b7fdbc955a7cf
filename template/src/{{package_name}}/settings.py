"""The service's own settings, beside those that it inherits."""

from chassis import ChassisSettings


class Settings(ChassisSettings):
    """Each field added here is read from APP_<FIELD>; list it in .env.example too.

    What one without a default needs besides stands in chassis/docs/commands.md.
    """
