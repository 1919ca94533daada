"""SIGTERM ends a command like Ctrl-C: what was being written is whole or gone, locks are free."""

import atexit
import signal
import sys
from typing import Any

AGAIN = 1.0
"""Seconds after which it is tried again, where a destructor swallowed the exception."""


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
