"""The command ``app``: the dashboard of one study, on this machine only."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dosing.cli import options
from dosing.errors import UserError
from dosing.recommendation.audit_log import VARIABLE


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command("app", run, "open the dashboard")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="study folder to show [%(default)s]"
    )
    options.add_scenario(parser, "where a run's scenario is one of a file or module")
    parser.add_argument("--port", type=int, default=8501, help="port on localhost [%(default)s]")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command.

    Raises:
        UserError: there is no such study folder.
    """
    del rest
    if not arguments.out.is_dir():
        raise UserError(f"there is no study folder {arguments.out}; make one with: python -m dosing demo.")
    options.load_scenario(arguments.scenario)
    return serve(arguments.out, arguments.port)


def serve(study: Path, port: int) -> int:
    """Serve the dashboard of a study folder on localhost until it is stopped; returns the exit status.

    Streamlit reads the settings that stand beside the dashboard, ``app/.streamlit/config.toml``. What keeps
    requests on this machine goes as a variable too, which comes before a user's own settings. uvicorn opens
    the socket, not ``streamlit run``, which leaves TCP_NODELAY off: the second part of an answer then waits
    up to 40 ms until the first is acknowledged, for every file and every change of a page.

    Raises:
        UserError: the port is not free, or there is no such port.
    """
    try:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("localhost", port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve on port {port} of localhost: {why}; --port names another.") from error
    home = Path(__file__).resolve().parents[2]
    print(f"dashboard: http://localhost:{port}  (stop with Ctrl-C)", flush=True)
    command = [sys.executable, "-P", "-m", "uvicorn", "app.server:app", "--host", "localhost"]
    command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    command += ["--ws", "websockets-sansio", "--ws-per-message-deflate", "false"]
    command += ["--ws-ping-interval", "30", "--ws-ping-timeout", "30"]
    environment = os.environ | {
        "DOSING_STUDY": str(study.resolve()),
        "STREAMLIT_SERVER_ADDRESS": "localhost",
        "STREAMLIT_SERVER_PORT": str(port),
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        # glibc otherwise keeps a heap of its own for each of the threads that sessions come and go with.
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))
    if log := os.environ.get(VARIABLE):
        environment[VARIABLE] = str(Path(log).resolve())
    try:
        return subprocess.run(command, cwd=home, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0
