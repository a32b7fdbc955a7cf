"""SQLite: its files, its pragmas and its connection."""
