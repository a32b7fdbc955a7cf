"""Tests of the chassis on real servers: with TLS, behind a pooler, with a standby, and failing."""
