"""PostgreSQL: connections, their options and their number."""
