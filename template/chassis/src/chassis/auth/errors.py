"""What is wrong with an access token, or with finding that out."""


class InvalidTokenError(Exception):
    """A token that does not count.

    Its text is the exact reason, for the log; `description` is what a client may know (RFC 6750).
    Neither has a part of the token.
    """

    def __init__(self, reason: str, description: str = "The access token is not valid") -> None:
        super().__init__(reason)
        self.description = description


class KeysUnavailableError(Exception):
    """A token that can't be checked now, as the issuer's keys are not known."""

    def __init__(self, reason: str, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds
