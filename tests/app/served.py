"""The dashboard as a stranger gets it: the real server on a free port, and a Chromium that looks at it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
)
"""No sandbox, as root in a container has none; nothing that Chromium would ask for on its own."""


@dataclass(frozen=True)
class Server:
    """A dashboard that is being served: where, and by which group of processes."""

    address: str
    group: int


@contextlib.contextmanager
def server(study: Path) -> Iterator[str]:
    """Serve a study folder with the product's own command; yields the address."""
    with serving(study) as running:
        yield running.address


@contextlib.contextmanager
def serving(study: Path) -> Iterator[Server]:
    """As :func:`server`; yields the processes too."""
    with answering([sys.executable, "-m", "dosing", "app", "--out", str(study)], "--port") as running:
        yield running


@contextlib.contextmanager
def answering(command: list[str], port: str) -> Iterator[Server]:
    """A server of Streamlit's that has begun to answer.

    Args:
        command: starts it.
        port: the command's option for its port.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        number = free.getsockname()[1]
    process = subprocess.Popen(
        [*command, port, str(number)],
        cwd=ROOT,
        env=os.environ | {"PYTHONWARNINGS": "default"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://localhost:{number}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/_stcore/health", timeout=2).close()
                break
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            time.sleep(0.25)
        else:
            raise TimeoutError("the server did not answer within a minute")
        yield Server(address, process.pid)
    finally:
        os.killpg(process.pid, 15)
        process.wait(timeout=20)


def settle(page: Any, charts: int = 1) -> None:
    """Wait until the script has run, at least so many charts are drawn, and nothing moves any more."""
    rested(page)
    drawn = (
        "count => !document.querySelector('[data-testid=stStatusWidget], [data-stale=true]')"
        " && (!count || document.querySelectorAll('.js-plotly-plot .main-svg .xtick').length > 0)"
        " && document.querySelectorAll('.js-plotly-plot').length >= count"
    )
    page.wait_for_function(drawn, arg=charts, timeout=60_000)
    still(page)


def rested(page: Any) -> None:
    """Wait until the script has run to its end and all that it sent is drawn."""
    page.wait_for_selector("h1", timeout=120_000)
    page.wait_for_function(
        """() => {
            const app = document.querySelector('[data-testid=stApp]');
            const busy = app.dataset.testScriptState !== 'notRunning' || document.querySelector(
                '[data-stale=true], [data-testid=stSkeleton], [data-testid=stSpinner]');
            const charts = [...document.querySelectorAll('.chart')];
            const drawn = charts.every(e => e.querySelector('.main-svg'));
            window.rested = !busy && drawn ? (window.rested || 0) + 1 : 0;
            return window.rested >= 20;
        }""",
        timeout=120_000,
    )
    still(page)


def still(page: Any) -> None:
    """Wait until nothing has moved for a dozen frames: charts follow their place a progress later."""
    page.wait_for_function(
        """() => {
            const places = [...document.querySelectorAll('[data-testid=stMain], .js-plotly-plot')].map(e => {
                const box = e.getBoundingClientRect();
                return [box.x, box.y, box.width, box.height, e.scrollHeight];
            });
            const now = JSON.stringify([places, document.fonts.status]);
            window.unmoved = window.places === now ? window.unmoved + 1 : 0;
            window.places = now;
            return window.unmoved >= 12;
        }""",
        timeout=30_000,
    )


def full_height(page: Any) -> None:
    """Make the window as high as the page, so that one picture holds all of it."""
    height = "Math.max(...[...document.querySelectorAll('[data-testid=stMain]')].map(e => e.scrollHeight))"
    width = page.viewport_size["width"]
    for _ in range(2):  # a chart below the fold may change the height when it is drawn
        page.set_viewport_size({"width": width, "height": int(page.evaluate(height)) + 10})
        still(page)
