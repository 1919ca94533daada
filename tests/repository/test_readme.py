"""README and the documentation tell the truth: commands, options, files and promises exist, Python runs."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import AGENTS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]+)?\)")
pages = pytest.mark.parametrize("name", PAGES)


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run this Python with the arguments, our packages on its path."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def commands(text: str) -> list[str]:
    """Every line of code of a page, fenced or inline: no comments, continued lines joined."""
    blocks = [code for _, language, code in FENCE.findall(text) if language != "python"]
    lines = "\n".join(blocks + INLINE.findall(FENCE.sub("", text))).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines]


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    assert len(PAGES["README.md"].split()) <= 1000
    assert {"make demo", "make test"} <= set(commands(PAGES["README.md"]))


@pages
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {target for line in commands(PAGES[name]) for target in re.findall(r"\bmake ([a-z-]+)", line)}
    assert named <= targets


@functools.cache
def help_text(module: str, *words: str) -> str:
    result = run("-m", module, *words, "--help")
    assert result.returncode == 0, f"python -m {module} {' '.join(words)} --help: {result.stderr[-1000:]}"
    return result.stdout


PRODUCT = re.compile(r"(?:python -m (dosing|simulator)\b|^(dosing)(?= ))(.*)")


def check_command(line: str, module: str, words: list[str]) -> None:
    """A command of ours and its options are what the help says."""
    if not words or words[0].startswith("-"):
        shown = help_text(module)
    else:
        assert re.search(rf"\b{re.escape(words[0])}\b", help_text(module)), line
        shown = help_text(module, words[0])
        if len(words) > 1 and words[0] == "train" and words[1] in AGENTS:
            shown += help_text(module, *words[:2])
    for flag in (word.split("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", shown), f"{flag} in '{line}' is unknown"


@pytest.mark.long
@pages
def test_commands_and_options_exist(name: str) -> None:
    for line in commands(PAGES[name]):
        if found := PRODUCT.search(line):
            check_command(line, found[1] or found[2], found[3].split())


def test_an_unknown_command_or_option_is_noticed() -> None:
    assert sum(bool(PRODUCT.search(line)) for text in PAGES.values() for line in commands(text)) > 20
    for words in (["cure"], ["recommend", "--cure"]):
        with pytest.raises(AssertionError):
            check_command(" ".join(words), "dosing", words)


def test_scripts_exist() -> None:
    scripts = {
        script
        for text in PAGES.values()
        for line in commands(text)
        for script in re.findall(r"\bpython (\S+\.py)", line)
    }
    assert scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


@pages
def test_linked_files_exist_within_the_repository(name: str) -> None:
    folder = (ROOT / name).parent
    targets = [(folder / target).resolve() for target, _ in LINK.findall(PAGES[name])]
    assert [path for path in targets if not path.exists() or ROOT not in path.parents] == []


def test_every_picture_is_shown_somewhere() -> None:
    shown = {
        (ROOT / name).parent.joinpath(target).resolve()
        for name, text in PAGES.items()
        for target, _ in LINK.findall(text)
    }
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if path.resolve() not in shown] == []


def rows() -> Iterator[tuple[str, str]]:
    """Test and file of every promise."""
    yield from re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", PAGES["docs/safety.md"])


@pytest.mark.long
def test_every_promise_is_held_by_a_test() -> None:
    promises = [
        line for line in PAGES["docs/safety.md"].split("## Promises")[1].splitlines() if line.startswith("| ")
    ]
    promises = [line for line in promises if not line.startswith(("| promise", "| ---"))]
    held = list(rows())
    assert len(held) == len(promises) > 30
    for test, path in held:
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        assert test in {node.name for node in body if isinstance(node, ast.FunctionDef)}, f"{path}::{test}"


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_stands_in_the_table(name: str) -> None:
    (row,) = (line for line in PAGES["docs/agents.md"].splitlines() if f"`{name}` |" in line)
    entry = AGENTS[name]
    assert f"[{entry.title}](../{entry.module.replace('.', '/')}.py)" in row
    assert entry.about.paper in row
    assert f"| {entry.about.family} |" in row


PYTHON = {
    name: blocks
    for name, text in PAGES.items()
    if (blocks := [code for _, language, code in FENCE.findall(text) if language == "python"])
}


def test_there_is_python_in_readme_and_documentation() -> None:
    assert "README.md" in PYTHON
    assert len(PYTHON) >= 5


@pytest.mark.long
@pytest.mark.parametrize("name", PYTHON)
def test_python_runs(name: str, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, as somebody would who reads it."""
    (tmp_path / "page.py").write_text("\n".join(PYTHON[name]), encoding="utf-8")
    result = run("page.py", folder=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert not result.stderr or "Error" not in result.stderr, result.stderr[-3000:]
