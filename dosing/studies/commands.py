"""The command that wrote the result of a study, kept beside it: how a reader of its report makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from dosing.errors import UserError
from dosing.runs.files import read_json, sha256, write_json

COMMANDS = "commands.json"


def note_command(result: Path, argv: Sequence[str]) -> None:
    """Note that a command line wrote a file of a study, in ``commands.json`` beside it.

    Args:
        result: the file, as it is now.
        argv: words of the command after ``python -m dosing``.

    Raises:
        UserError: the folder cannot be written.
    """
    file = result.parent / COMMANDS
    noted = read_json(file) if file.is_file() else {}
    command = shlex.join(["python", "-m", "dosing", *argv])
    told = noted | {result.name: {"command": command, "sha256": sha256(result)}}
    if told != noted:
        write_json(file, told)


def command_of(result: Path) -> str | None:
    """The command that wrote a file of a study; None where none is noted, or for a file as it was before."""
    file = result.parent / COMMANDS
    if not file.is_file() or not result.is_file():
        return None
    noted = read_json(file).get(result.name)
    if not isinstance(noted, dict) or not isinstance(noted.get("command"), str):
        raise UserError(f"{file} does not say by which command {result.name} was written; remove it.")
    return str(noted["command"]) if noted.get("sha256") == sha256(result) else None
