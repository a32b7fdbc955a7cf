"""Clients that attack a running service: with odd, malformed, slow and very many requests."""
