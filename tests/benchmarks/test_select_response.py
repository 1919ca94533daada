"""The table of selections of an agent that looks back: coverage, verdicts and regret by hand."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.experiments.select_response import page, summary


def row(seed: int, truth: float, value: float | None, half: float = 0.5) -> dict[str, Any]:
    known: dict[str, Any] = {"patients": 50, "seed": seed, "truth": truth, "refused": [], "seconds": 1.0}
    if value is None:
        return known | {"refused": ["no model"]}
    verdict = "better" if value > half else "not distinguishable"
    return known | {"value": value, "low": value - half, "high": value + half, "verdict": verdict}


def test_the_line_of_a_size_is_that_of_its_rows() -> None:
    rows = [row(0, 1.0, 1.2), row(1, -0.2, 0.6), row(2, 0.4, 0.3), row(3, 0.8, None)]
    size, sets, refused, error, deviation, covered, half, better, true, regret, constant = summary(rows)
    assert (size, sets, refused) == ("50", "4", "1")
    assert error.startswith("0.3 [")  # 0.2, 0.8, -0.1
    assert deviation == "0.46"
    assert (covered, half) == ("2 of 3", "0.50")
    assert (better, true) == ("2 of 4", "1 of 2")
    assert regret.startswith("0.3")  # 0, 0.2, 0.4, 0.8
    assert constant.startswith("0.55 [")  # 1, 0, 0.4, 0.8
    told = page(rows, argparse.Namespace(patients=10_000, sizes=["50:4"], first=0))
    assert "| 50 | 4 | 1 | 0.3 [" in told
    assert "in 4 s of\nprocessor time" in told
