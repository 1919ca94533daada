"""The registry: one line an agent, whose facts stand in its own file; nothing else knows an agent by name."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import agents
from agents import finetuning

ROOT = Path(agents.__file__).resolve().parents[1]
ORACLE_OF = {"pct_bc": "bc", "cal_ql": "cql", "faql": "fan", "nbrac": "fan", "nfql": "fan"}
"""Agents whose equations stand in another agent's oracle."""


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_agent_has_an_oracle(name: str) -> None:
    """Its losses, written out in loops without its code, and a test that asks for them."""
    oracle = ORACLE_OF.get(name, name)
    tree = ast.parse((ROOT / "tests" / "oracles" / f"{oracle}.py").read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.FunctionDef) for node in tree.body)
    tests = (path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "agents").glob("test_*.py"))
    imports = re.compile(rf"^from tests\.oracles import .*\b{oracle}\b", re.MULTILINE)
    assert any(imports.search(text) and name in text for text in tests)


@pytest.mark.parametrize("name", agents.AGENTS)
def test_what_the_registry_reads_is_what_the_class_says(name: str) -> None:
    entry = agents.find(name)
    assert entry.about == entry.agent_class().about
    assert all(vars(entry.about).values())


def words(path: Path) -> set[str]:
    """Words of the strings in a file's code, f-strings included; docstrings and bare strings are prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    return {word for text in texts for word in text.replace("/", " ").replace(",", " ").split()}


@pytest.mark.long
def test_no_file_outside_the_suite_names_an_agent() -> None:
    named = {
        f"{path.relative_to(ROOT)}: {word}"
        for room in ("dosing", "app", "simulator")
        for path in sorted((ROOT / room).rglob("*.py"))
        for word in words(path) & set(agents.AGENTS)
    }
    assert named == set()


def test_the_check_for_names_of_agents_finds_them(tmp_path: Path) -> None:
    path = tmp_path / "page.py"
    path.write_text('"""As iql does."""\nx = f"--agents {y} fttpo"\n', encoding="utf-8")
    assert words(path) & set(agents.AGENTS) == {"fttpo"}


@pytest.mark.parametrize("name", [*agents.DEMO, agents.COLLECTOR, finetuning.STARTS_FROM])
def test_an_agent_that_is_meant_by_default_exists(name: str) -> None:
    assert importlib.util.find_spec(agents.find(name).module) is not None
