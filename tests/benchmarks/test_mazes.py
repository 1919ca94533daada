"""The page of the mazes: a row per agent with the success rate, PEX behind IQL."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.experiments import mazes
from dosing.evaluation.statistics import Estimate
from dosing.studies.comparison_table import Row


def row(name: str, rate: float) -> dict[str, Any]:
    estimate = Estimate(rate, rate - 0.1, rate + 0.1, 0.95, 20, 1, "Wilson over patients")
    nothing = dict.fromkeys(
        ("sampled", "difference", "verdict", "half_width", "width_kind", "mass_outside_limits")
    )
    return Row(
        name,
        "point",
        estimate,
        **nothing,
        mass_outside_sparse=None,
        cost=None,
        baseline=None,
        success=estimate,
    ).to_json()


def asked(**more: Any) -> argparse.Namespace:
    lengths = {"updates": 10, "visits": 20, "transitions": 300, "seeds": 1, "episodes": 20, "full": False}
    named = {"mazes": ["a-v0"], "agents": list(mazes.AGENTS), "hidden": [256, 256], "name": "mazes"}
    return argparse.Namespace(**lengths | named | more)


def test_every_rate_is_in_its_place() -> None:
    found = [
        {
            "maze": maze,
            "rows": [row("IQL", 0.5), row("BC", 0.25)],
            "pex": "60.0 [40.0, 80.0] % (n = 20)",
            "recorded": {"episodes": 300, "reached": reached},
        }
        for maze, reached in (("a-v0", 7), ("b-v0", 0))
    ]
    page = mazes.page(found, asked())
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert lines[0] == "| success rate | a-v0 | b-v0 |"
    assert lines[2] == "| the recorded walk itself | 7 of 300 episodes | 0 of 300 episodes |"
    assert lines[3].startswith("| IQL | 50.0 [40.0, 60.0] % (n = 20) |")
    assert lines[4].startswith("| PEX, 20 visits after IQL | 60.0 [40.0, 80.0] % (n = 20) |")
    assert lines[5].startswith("| BC | 25.0")
    assert "10 updates, 1 seed(s)" in page
    assert "--episodes 20 --mazes a-v0 --agents iql spot fan bc --hidden 256 256 --name mazes`" in page


def test_without_iql_there_is_no_pex_and_the_command_says_what_was_asked_for() -> None:
    recorded = {"episodes": 300, "reached": 7}
    found = [{"maze": "a-v0", "rows": [row("FAN", 0.5), row("BC", 0.25)], "recorded": recorded}]
    page = mazes.page(found, asked(agents=["fan", "bc"], hidden=[64, 64], name="mazes_flows"))
    assert "PEX" not in page.partition("| success rate")[2]
    assert "--mazes a-v0 --agents fan bc --hidden 64 64 --name mazes_flows`" in page
    assert "Hidden layers of 64 and 64" in page
    assert "SPOT's first phase" not in page
