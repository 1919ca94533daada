"""The catalogue of faults (44) and of behaviours that the product owes (20): every one has a named test.

``test_fault_NN_...`` and ``test_behaviour_NN_...`` in the files of this folder. What has none yet is listed
here with the reason.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
SIZES = {"fault": 44, "behaviour": 20}
CLINICAL = "with the clinical scenarios"

WAITING: dict[tuple[str, int], tuple[str, str]] = {
    ("fault", 14): (CLINICAL, "a frozen sensor: one state holds no run of readings in which to see one"),
}
"""What has nothing to apply to, with when it comes and why it waits."""


def found() -> dict[tuple[str, int], list[str]]:
    """Tests of this folder by what they test."""
    tests: dict[tuple[str, int], list[str]] = {}
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (
                match := re.match(r"test_(fault|behaviour)_(\d+)_\w+", node.name)
            ):
                tests.setdefault((match[1], int(match[2])), []).append(f"{path.name}::{node.name}")
    return tests


def test_every_fault_and_behaviour_has_a_test_or_says_why_it_waits() -> None:
    every = {(kind, number) for kind, size in SIZES.items() for number in range(1, size + 1)}
    assert len(every) == 44 + 20
    assert set(found()) | set(WAITING) == every


def test_nothing_waits_that_is_tested() -> None:
    assert not set(found()) & set(WAITING)


def test_what_waits_says_for_what() -> None:
    for when, why in WAITING.values():
        assert when == CLINICAL
        assert len(why.split()) > 3
