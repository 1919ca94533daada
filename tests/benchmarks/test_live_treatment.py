"""The benchmark of live treatment: its verdict, its plan, and the page it makes from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.experiments import live_treatment as live
from benchmarks.experiments.live_treatment_page import DISTRIBUTIONS, TrialResult
from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.runs.folder import DONE


def estimate(value: float, half: float = 1.0) -> Estimate:
    return Estimate(value, value - half, value + half, 0.95, 10, 5, "t over seeds")


def result(differences: list[float]) -> TrialResult:
    one = estimate(0.0)
    return TrialResult(
        title="Direct",
        distribution="",
        visits=tuple(1000 * t for t in range(len(differences))),
        band=tuple(estimate(2.0 + d) for d in differences),
        difference=tuple(map(estimate, differences)),
        along=one,
        treated=one,
        cost=one,
        worst_patient=-9.0,
        limited=one,
        coverage=(one, one),
        half_width=None,
        patients=4,
        minutes=0.0,
        by_seed={},
    )


def test_a_method_falls_below_where_a_whole_interval_does() -> None:
    assert result([0.0, -0.9, 1.2]).verdict == "no"
    once = result([0.0, -1.1, 3.0]).verdict.replace("\N{MINUS SIGN}", "-")
    assert once == "yes: -1.10 [-2.10, -0.10] at 1,000 visits; at 1,000"
    fallen = result([0.0, -1.1, 1.0, -2.5, -1.5, 0.5])
    assert fallen.below == [1, 3, 4]
    assert fallen.lowest == 3
    assert fallen.verdict.endswith(
        "-1.50] at 3,000 visits; first at 1,000, last at 4,000".replace("-", "\N{MINUS SIGN}")
    )


def test_offline_runs_have_the_seeds_that_methods_freeze_or_join() -> None:
    methods = ["direct", "pex,members=4", "pex,members=8,others=online", "off2on,members=3", "awac"]
    assert {live.start_for(m) for m in methods} == {"iql", "cql", "awac"}
    assert [live.seeds_for(agent, methods, 5) for agent in ("iql", "cql", "awac")] == [15, 15, 5]
    assert live.seeds_for("iql", ["direct"], 5) == 5


def test_one_seed_and_unknown_methods_are_refused() -> None:
    with pytest.raises(UserError, match="at least two"):
        live.main(["--seeds", "1"])
    with pytest.raises(UserError, match="there is no method 'pax'"):
        live.main(["--methods", "pax"])


@pytest.mark.slow
def test_the_study_runs_and_is_found_done_when_run_again(tmp_path: Path) -> None:
    options = (
        "--methods direct pex,members=4 --seeds 2 --visits 192 --start 32 --evaluate-every 96 --patients 4 "
        "--batch-size 8 --offline-updates 6 --evaluation-patients 6 --workers 1"
    )
    words = [*options.split(), "--study", str(tmp_path / "study"), "--out", str(tmp_path / "out")]
    assert live.main(words) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["live_treatment.json", "live_treatment.md", "live_treatment.svg"]
    stamps = {done: done.stat().st_mtime_ns for done in tmp_path.rglob(DONE)}
    assert len(stamps) == 3 + 2 + 4
    assert live.main(words) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert {done: done.stat().st_mtime_ns for done in tmp_path.rglob(DONE)} == stamps

    trials = {trial["title"]: trial for trial in json.loads(files["live_treatment.json"])["trials"]}
    direct = trials["Direct"]
    assert direct["visits"] == [0, 96, 192]
    assert direct["difference"][0]["value"] == 0.0  # it begins as the offline policy itself
    assert direct["band"][0]["value"] == pytest.approx(direct["start"]["value"])
    sparse, twin = (trials[f"Direct from {name}"] for name in DISTRIBUTIONS.values())
    assert sparse["half_width"][0]["value"] < twin["half_width"][0]["value"]
    page = files["live_treatment.md"].decode()
    assert NOT_FOR_PATIENTS in page
    assert str(tmp_path) not in page + files["live_treatment.json"].decode()
    assert "PEX (members=4)" in page
    picture = ElementTree.fromstring(files["live_treatment.svg"])
    assert len(list(picture.iter("{http://www.w3.org/2000/svg}polyline"))) == 2 + 4
