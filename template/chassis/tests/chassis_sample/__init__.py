"""A service that is only large enough to run the commands and the server with."""
