"""Live treatment by fat and thin policies: what is kept is what the trials wrote, and the page tells it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from benchmarks.experiments import sparse_online as bench
from benchmarks.experiments.sparse_vs_gaussian import RESULTS
from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.finetuning.trial import CURVE, TREATED
from dosing.runs.folder import DONE
from dosing.studies import references
from dosing.typed_json import typed

KEPT = RESULTS / f"{bench.NAME}.json"
FAT = bench.Acting(
    *("iql", "IQL", "own", "clipped Gaussian", False, (1.0, 3.0), (0.5, 0.75), (8.0, 6.0), (-9.0, -7.0)),
    *((-30.0, -32.0), (0.25, 0.25), (1.0, 2.0), (0.5, 1.5), 64),
)
THIN = replace(FAT, role="thin", bounded=True, coverage=(0.25, 0.25), cost=(1.0, 2.0), along=(1.5, 3.5))


def test_the_bounded_policy_is_set_beside_every_other_of_its_agent() -> None:
    wide, alone = replace(FAT, role="other"), replace(FAT, agent="dt", title="DT")
    assert bench.pairs([FAT, THIN, wide, alone]) == [(THIN, FAT), (THIN, wide)]
    gap = THIN.less(FAT, "cost")
    t = scipy.stats.ttest_1samp([-7.0, -4.0], 0.0).confidence_interval()
    assert (gap.value, gap.low, gap.high) == pytest.approx((-5.5, t.low, t.high))
    (line,) = bench.differences_table([FAT, THIN]).splitlines()[2:]
    assert line.startswith("| IQL | less clipped Gaussian | \N{MINUS SIGN}37.5% [")
    told = bench.findings([FAT, THIN, replace(FAT, role="other", cost=(0.0, 0.0))])
    assert told.startswith("The bounded policy beside the fat one of its agent, 1 agents. ")
    assert "cost per patient treated: 1 not distinguishable; " in told
    assert line.endswith("| 1.50 [\N{MINUS SIGN}4.85, 7.85] | not distinguishable |")


def test_the_figure_stands_where_the_numbers_say() -> None:
    picture = ElementTree.fromstring(bench.picture([FAT, THIN]))
    svg = "{http://www.w3.org/2000/svg}"
    circles = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in picture.iter(f"{svg}circle")]
    expected = []
    for measure, _ in bench.PANELS:
        frame = bench.Frame([FAT, THIN], measure)
        expected += [frame.at(FAT), frame.at(THIN)]
        assert frame.x(0.625) > frame.x(0.25) > frame.x(0.0) == bench.LEFT
        assert frame.y(7.0) < frame.y(1.5) < frame.y(0.0)
    for found, place in zip(circles, expected, strict=True):
        assert found == pytest.approx(place, abs=0.06)
    assert [node.text for node in picture.iter(f"{svg}text")].count("IQL") == 2


@pytest.mark.slow
def test_trials_are_run_read_and_found_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)
    words = (
        "--agents iql td3_bc --seeds 2 --visits 192 --start 32 --evaluate-every 96 --patients 4 --updates 6 "
        "--evaluation-patients 6 --recorded 10 --workers 1"
    )
    command = [*words.split(), "--study", str(tmp_path / "study"), "--out", str(tmp_path / "out")]
    bench.main(command)
    kept = json.loads((tmp_path / "out" / f"{bench.NAME}.json").read_text())
    told = {(x["agent"], x["role"]): typed(bench.Acting, x, "x") for x in kept["policies"]}
    assert [(key, x.bounded) for key, x in told.items()] == [
        (("iql", "own"), False),
        (("iql", "thin"), True),
        (("iql", "other"), False),
        (("td3_bc", "own"), False),
        (("td3_bc", "thin"), True),
    ]
    assert told["iql", "thin"].limited == (0.0, 0.0)
    assert min(told["iql", "own"].limited) > 0.0
    trials = [done.parent for done in tmp_path.glob(f"study/trials/*/*/*/{DONE}")]
    costs, along = [], []
    for trial in trials:
        treated, curve = pd.read_parquet(trial / TREATED), pd.read_parquet(trial / CURVE)
        costs.append(tuple(treated.groupby("seed").cost.mean()))
        wide = curve.pivot(index="visits", columns="seed", values="recommended")
        gain = (wide - wide.iloc[0]).to_numpy()
        along.append(tuple((0.5 * gain[0] + gain[1:-1].sum(0) + 0.5 * gain[-1]) / (len(gain) - 1)))
    for one in told.values():
        assert any(one.cost == pytest.approx(cost) for cost in costs)
        assert any(one.along == pytest.approx(mean) for mean in along)
    stamps = {done: done.stat().st_mtime_ns for done in tmp_path.rglob(DONE)}
    bench.main(command)
    assert {done: done.stat().st_mtime_ns for done in tmp_path.rglob(DONE)} == stamps
    page = (tmp_path / "out" / f"{bench.NAME}.md").read_text()
    assert NOT_FOR_PATIENTS in page
    assert str(tmp_path) not in page


def test_one_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        bench.main(["--seeds", "1", "--study", str(tmp_path)])


@pytest.mark.long
def test_the_committed_page_and_figure_are_made_of_the_committed_numbers() -> None:
    kept = json.loads(KEPT.read_text())
    result = [typed(bench.Acting, one, bench.NAME) for one in kept["policies"]]
    assert KEPT.with_suffix(".md").read_text() == bench.page(result, kept)
    assert KEPT.with_suffix(".svg").read_text() == bench.picture(result)
    for one in result:
        assert np.isfinite([getattr(one, name) for name in bench.MEASURES]).all()
        assert one.limited == (0.0,) * len(one.cost) or not one.bounded
