"""Requests and answers: what surrounds them, problems and health."""
