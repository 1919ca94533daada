"""Progress bars with rate and remaining time, where the package tqdm is installed."""

import importlib
import sys
from typing import Any


class NoBar:
    """Stands in for a bar that is not wanted or cannot be shown."""

    def __enter__(self) -> "NoBar":
        """Return the bar."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""

    def update(self, count: int = 1) -> None:
        """Do nothing."""


def progress_bar(show: bool, **settings: Any) -> Any:
    """Return a tqdm bar, silent when not on a terminal; without tqdm say so and show nothing."""
    if not show:
        return NoBar()
    try:
        tqdm = importlib.import_module("tqdm")
    except ImportError:
        print("(no progress bar: the package tqdm is not installed)", file=sys.stderr)
        return NoBar()
    return tqdm.tqdm(disable=None, **settings)
