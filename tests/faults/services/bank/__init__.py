"""A service that is only large enough to be killed, starved and restarted."""
