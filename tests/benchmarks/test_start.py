"""Every benchmark starts from the root of the repository as its first lines say, installed or not."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"dosing", "simulator", "agents", "app", "benchmarks"}
SCRIPTS = sorted(
    path
    for folder in ("speed", "experiments")
    for path in (ROOT / "benchmarks" / folder).glob("*.py")
    if "sys.path.insert" in path.read_text(encoding="utf-8")
)
named = pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 10


@named
def test_nothing_of_ours_is_imported_before_the_root_is_on_the_path(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    first = next(i for i, node in enumerate(body) if "sys.path.insert" in ast.unparse(node))
    early = [node for node in body[:first] if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [
        name
        for node in early
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    ]
    assert [name for name in modules if name.split(".")[0] in OURS] == []


@named
def test_the_command_in_the_docstring_is_its_own(path: Path) -> None:
    commands = re.findall(
        r"python (benchmarks/\S+\.py)", ast.get_docstring(ast.parse(path.read_text())) or ""
    )
    assert commands
    assert commands[0] == path.relative_to(ROOT).as_posix()


@pytest.mark.long
@named
def test_it_starts(path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, path.relative_to(ROOT).as_posix(), "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "usage:" in done.stdout
