"""Where the database is: settings, URLs, TLS and secrets."""
