"""The one error type that reaches a user as a sentence instead of a traceback."""


class UserError(ValueError):
    """Bad input from outside: the message says what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 2; library callers can catch it as a
    ``ValueError``.
    """
