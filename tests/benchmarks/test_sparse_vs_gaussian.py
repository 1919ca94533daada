"""The page from fat to thin: its numbers are those that were kept, and its figure shows them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.experiments import sparse_vs_gaussian as bench
from benchmarks.experiments import sparse_vs_gaussian_figure as figure
from dosing.evaluation.statistics import Estimate
from dosing.studies.compared import Difference
from dosing.studies.policy_table import Given, PolicyRow

SVG = "{http://www.w3.org/2000/svg}"
KEPT = bench.RESULTS / f"{bench.NAME}.json"


def estimate(value: float, half: float = 0.5) -> Estimate:
    return Estimate(value, value - half, value + half, 0.95, 900, 3, "t over seeds")


def policy(title: str, role: Any, kind: str, lost: float, outside: float, **more: Any) -> PolicyRow:
    given = Given(estimate(1.0), estimate(2.0), None)
    exact = "exact support" if kind in ("interval", "point") else "central 99%"
    masses = (estimate(0.1, 0.0), estimate(outside, 0.0))
    row = PolicyRow(
        title.lower(), title, role, "a family", kind, "visits", given, given, estimate(lost),
        estimate(0.4), exact, *masses, None,
    )  # fmt: skip
    return replace(row, **more)


def content() -> dict[str, Any]:
    """One agent with all three policies, one that is sparse itself, one that looks back."""
    rows = [
        policy("IQL", "own", "infinite_clipped", 6.0, 0.5),
        policy("IQL", "thin", "interval", 1.5, 0.0),
        policy("IQL", "other", "full_box", 4.0, 0.25),
        policy("FtTPO", "own", "interval", 0.5, 0.0, refused="sparse already."),
        policy("FtTPO", "other", "infinite_clipped", 3.0, 0.25, refused="sparse already."),
        policy("DT", "own", "point", 0.0, 0.0, outside_interval=None, refused="looks back."),
    ]
    costs = (estimate(0.0), estimate(-2.25))
    pairs = [
        Difference("IQL", ("thin", "fat"), estimate(0.0), estimate(4.5), "visits", costs),
        Difference("IQL", ("thin", "truncated Gaussian"), estimate(0.0), estimate(0.25), "visits", costs),
        Difference("FtTPO", ("sparse", "Gaussian"), estimate(0.0), estimate(-2.5), "visits", costs),
    ]
    return {
        "set": "dosing/Treatment-v0:50",
        **{"agents": ["all"], "updates": 500, "seeds": 3, "patients": 300},
        "policies": [asdict(row) for row in rows],
        "differences": [asdict(pair) for pair in pairs],
        "rules": [{"name": "no dose", "returns": "0", "cost": "0"}],
        "notes": ["DT has no thin row: looks back.", "BEAR on visits is not in the table: it diverged."],
    }


def test_a_line_goes_from_fat_to_thin_and_tells_the_difference() -> None:
    one = bench.Measured(json.loads(json.dumps(content())))
    assert [(line.fat.title, line.fat.role, line.thin.role) for line in one.lines] == [
        ("IQL", "own", "thin"),
        ("FtTPO", "other", "own"),
    ]
    iql, fttpo = one.lines
    assert iql.truncated is not None
    assert (iql.removed(iql.fat), iql.removed(iql.truncated), iql.removed(iql.thin)) == (0.0, 0.25, 0.5)
    assert (fttpo.truncated, fttpo.beside) == (None, None)
    first, second = bench.summary(one).splitlines()[2:]
    assert "| 6.00 [5.50, 6.50] | 1.50 [1.00, 2.00] | 4.50 [4.00, 5.00] | better | -2.25 [" in first
    assert first.endswith("0.25 [-0.25, 0.75] |")
    assert "| -2.50 [-3.00, -2.00] | worse |" in second
    assert (
        "unbounded density: 1 better, 1 worse. Thin beside the truncated Gaussian: 1 not"
        in bench.verdicts(one)
    )
    told = bench.page([one])
    assert "- DT: looks back." in told
    assert "- FtTPO: sparse already." in told
    assert "- BEAR on visits is not in the table" in told
    assert told.count("has no thin row") == 0
    assert "500 updates, 3 seeds, 300 new patients per seed" in told


def test_the_figure_stands_where_the_numbers_say() -> None:
    one = bench.Measured(content())
    picture = ElementTree.fromstring(figure.picture([one]))
    frame = figure.frame_of(one)
    assert (frame.low < 0.0, frame.high > 6.0, frame.far) == (True, True, 0.5)
    drawn = [
        (float(c.get("cx", "")), float(c.get("cy", "")), c.get("fill")) for c in picture.iter(f"{SVG}circle")
    ]
    at = [
        (frame.x(share), frame.y(lost), fill)
        for share, lost, fill in (
            *((0.0, 6.0, "white"), (0.5, 1.5, figure.BLUE), (0.25, 4.0, "none")),
            *((0.0, 3.0, "white"), (0.25, 0.5, figure.BLUE)),
        )
    ]
    assert [fill for _, _, fill in drawn] == [fill for _, _, fill in at]
    for (x, y, _), (left, top, _) in zip(drawn, at, strict=True):
        assert (x, y) == pytest.approx((left, top), abs=0.06)
    assert frame.y(6.0) < frame.y(1.5) < frame.y(0.0)
    words = [node.text for node in picture.iter(f"{SVG}text")]
    assert words.count("IQL") == words.count("FtTPO") == 1
    assert "DT" not in words


def test_names_are_apart_and_within_the_frame() -> None:
    places = figure.spread([20.0, 20.5, 21.0, 90.0, 99.0, 100.0], 10.0, 100.0, 13.0)
    assert places == sorted(places)
    assert min(b - a for a, b in pairwise(places)) >= 13.0
    assert places[0] == 20.0
    assert places[-1] == 100.0


def test_a_set_that_is_kept_is_not_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []

    def measured(name: str, arguments: Any) -> dict[str, Any]:
        calls.append(name)
        return content() | bench.asked(name, arguments)

    monkeypatch.setattr(bench, "measured", measured)
    for sets, expected in ((["a:1"], ["a:1"]), (["a:1", "b:2"], ["a:1", "b:2"])):
        told = ["x", "--study", str(tmp_path), "--out", str(tmp_path), "--sets", *sets]
        monkeypatch.setattr("sys.argv", told)
        bench.main()
        assert calls == expected
    monkeypatch.setattr("sys.argv", [*told, "--updates", "7"])
    bench.main()
    assert calls == ["a:1", "b:2", "a:1", "b:2"]
    kept = json.loads((tmp_path / f"{bench.NAME}.json").read_text())
    assert [one["updates"] for one in kept["sets"]] == [7, 7]
    page = (tmp_path / f"{bench.NAME}.md").read_text()
    assert page.count("--updates 7 --seeds 3 --patients 300`") == 2
    monkeypatch.setattr(
        "sys.argv", [*told[:-2], "somewhere/c.hdf5", "--agents", "iql", "--task", "Hopper-v5"]
    )
    bench.main()  # the other sets stay as they are, and a file is told by its name
    kept = json.loads((tmp_path / f"{bench.NAME}.json").read_text())
    assert [(one["set"], one["agents"]) for one in kept["sets"]] == [
        ("a:1", ["all"]),
        ("b:2", ["all"]),
        ("c.hdf5", ["iql"]),
    ]
    page = (tmp_path / f"{bench.NAME}.md").read_text()
    assert "--agents iql --task Hopper-v5`" in page
    assert "somewhere" not in page


def test_the_committed_page_and_figure_are_made_of_the_committed_numbers() -> None:
    kept = json.loads(KEPT.read_text())
    sets = [bench.Measured(one) for one in kept["sets"]]
    page = KEPT.with_suffix(".md").read_text()
    assert sets
    for one in sets:
        for part in bench.section(one):
            assert part in page
        for line in one.lines:
            assert str(line.difference.sampled) in page
        assert bench.command_of(one.content) in page
    assert KEPT.with_suffix(".svg").read_text() == figure.picture(sets)
