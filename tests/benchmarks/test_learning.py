"""The benchmark of learning runs, is found done when run again, and draws what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import curves
from benchmarks.experiments import learning
from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.runs.folder import DONE
from dosing.studies import references

SVG = "{http://www.w3.org/2000/svg}"


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half, 0.95, 10, 5, "t over seeds")


@pytest.mark.long
def test_two_agents_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FtTPO under both groups of settings, BC under the one that has it; again without training."""
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)
    options = "--agents fttpo bc --seeds 2 --steps 4 --at 2 --evaluation-patients 4 --workers 1"
    words = [*options.split(), "--study", str(tmp_path / "study"), "--out", str(tmp_path / "out")]
    assert learning.main(words) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(files) == ["learning.json", "learning.md", "learning.svg"]
    stamps = {done: done.stat().st_mtime_ns for done in tmp_path.rglob(DONE)}
    assert len(stamps) == 3
    assert learning.main(words) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files
    assert {done: done.stat().st_mtime_ns for done in tmp_path.rglob(DONE)} == stamps

    groups = json.loads(files["learning.json"])["groups"]
    assert {name: len(part["runs"]) for name, part in groups.items()} == {"common": 2, "published": 1}
    end = groups["common"]["points"][1]
    assert (end["update"], end["recommended"]["n"], end["recommended"]["n_seeds"]) == (4, 8, 2)
    row = groups["common"]["rows"][0]["recommended"]
    assert [end["recommended"][k] for k in ("value", "low", "high")] == pytest.approx(
        [row[k] for k in ("value", "low", "high")]
    )
    page = files["learning.md"].decode()
    assert NOT_FOR_PATIENTS in page
    assert "| agent | policy | 2 updates | 4 updates |" in page
    assert "4 new patients per seed" in page
    assert page.count("2 seeds.") == 2
    assert page.count("| FtTPO |") == 2
    assert page.count("| best constant dose") == 2
    picture = ElementTree.fromstring(files["learning.svg"])
    assert len(list(picture.iter(f"{SVG}polyline"))) == 3
    assert len(list(picture.iter(f"{SVG}circle"))) == 6


def test_an_interval_over_seeds_needs_two(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        learning.main(["--seeds", "1", "--study", str(tmp_path)])


def test_points_stand_where_their_numbers_are() -> None:
    """On the logarithmic axis of updates, upwards with the return, the same in every panel."""
    first = curves.Line("one", (100, 1000, 10_000), (estimate(0, 1), estimate(2, 0.5), estimate(4, 2)))
    second = curves.Line("one", (100,), (estimate(4, 1),))
    drawn = curves.draw(
        [curves.Panel("A & B", (first,)), curves.Panel("C", (second,))], [("rule <1>", 2.0)], "title"
    )
    picture = ElementTree.fromstring(drawn)
    x, y = ([float(c.attrib[key]) for c in picture.iter(f"{SVG}circle")] for key in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11)
    assert y[0] > y[1]
    assert (x[3], y[3]) == (x[0], y[2])
    bars = [
        (float(b.attrib["y1"]) - float(b.attrib["y2"]))
        for b in picture.iter(f"{SVG}line")
        if b.attrib["stroke-width"] == "1.4"
    ]
    assert [abs(b) / (y[0] - y[1]) for b in bars] == pytest.approx([1.0, 0.5, 2.0, 1.0], abs=0.01)
    rule = [b for b in picture.iter(f"{SVG}line") if b.attrib["stroke-dasharray"] == "3 3"]
    assert [float(b.attrib["y1"]) for b in rule] == [y[1], y[1]]
    words = [t.text for t in picture.iter(f"{SVG}text")]
    assert {"A & B", "C", "title", "100", "1k", "10k", "dotted line 1: rule <1>, 2.00"} <= set(words)
