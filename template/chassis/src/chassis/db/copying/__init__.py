"""The copy of a SQLite file to PostgreSQL: checked first, resumable, compared afterwards."""
