"""The commands of a service."""
