"""What ends a command early: a user's error, told in one sentence instead of a traceback, or SIGTERM."""

import atexit
import signal
import sys
from typing import Any

AGAIN = 1.0
"""Seconds after which it is tried again, where a destructor swallowed the exception."""


class UserError(ValueError):
    """Bad input from outside: the message says what was wrong, where, and what would be right.

    The command line prints the message alone and exits with status 2; library callers can catch it as a
    ``ValueError``.
    """


class Terminated(SystemExit):
    """SIGTERM has come; a process that does not catch this ends with status 143."""


def end_on_sigterm() -> None:
    """Raise :class:`Terminated` in the main thread when SIGTERM comes."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: Any) -> None:
    if isinstance(sys.exc_info()[1], Terminated):  # it is on its way
        return
    if number == signal.SIGTERM:
        signal.signal(signal.SIGALRM, _stop)
        atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    raise Terminated(143)
