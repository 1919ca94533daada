"""The page of live treatment: its lines, bands and words are the trials', in every state of the page."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from app.charts.live_treatment import ROW, LearningCurve, over_visits, stack
from app.theme import MARKS, NOTICE, OTHER
from dosing.evaluation.statistics import Estimate, band_over_seeds, mean_over_seeds
from dosing.finetuning.method import TrialSettings
from dosing.finetuning.trial import CURVE, TREATED
from dosing.runs.files import read_json, read_table, write_json
from dosing.runs.folder import DONE, find_runs
from dosing.studies import Resources
from dosing.studies.finetune import finetune
from dosing.studies.finetune_table import CURVES, STARTS, TABLE, TRIALS
from tests.app.figures import specs
from tests.app.test_charts import texts
from tests.app.test_pages import words
from tests.app.test_training_page import figure, values
from tests.app.test_what_if import open_app  # noqa: F401

PAGE = "views/live_treatment.py"
TINY = {"visits": 96, "patients": 2, "start": 10, "updates_per_visit": 0.1, "batch_size": 8}
METHODS = ["direct", "scratch", "buffer", "bt", "pex"]


def treat(study: Path, methods: list[str], **settings: Any) -> None:
    (run,) = (run.path for run in find_runs(study) if run.config().agent == "iql")
    chosen = TrialSettings(evaluate_every=48, capacity=200, **(TINY | settings))
    finetune(
        methods, [run], study=study, settings=chosen, evaluation_patients=4, resources=Resources("cpu", 1)
    )


@pytest.fixture(scope="module")
def treated(full_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five methods from one run of two seeds, for 96 visits."""
    study = shutil.copytree(full_study, tmp_path_factory.mktemp("treated") / "study")
    treat(study, METHODS)
    return study


@pytest.fixture
def study(treated: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(treated, tmp_path / "study")


def lines(at: AppTest, chart: int) -> dict[str, dict[str, Any]]:
    """Traces with a hover text, by the name that it begins with."""
    traces = figure(at, chart)["data"]
    return {t["hovertemplate"].split(",")[0].split(":")[0]: t for t in traces if "hovertemplate" in t}


def test_without_a_trial_the_page_names_the_exact_command(
    open_app,  # noqa: F811
    full_study: Path,
    empty_study: Path,
) -> None:
    at = open_app(full_study, PAGE)
    assert "There is no trial" in words(at)
    command = at.code[0].value
    assert command.startswith("python -m dosing finetune all --run ")
    run = Path(command.rpartition(" ")[2])
    assert read_json(run / "config.json")["agent"] == "iql"
    at = open_app(empty_study, PAGE)
    assert f"demo --no-serve --out {empty_study}" in at.code[0].value
    assert f"finetune all --run {empty_study}/iql/*/*" in at.code[0].value
    assert not specs(at)


def test_lines_and_bands_are_those_of_the_trials(open_app, treated: Path) -> None:  # noqa: F811
    at = open_app(treated, PAGE)
    assert len(specs(at)) == 3
    curves = read_table(treated / TRIALS / CURVES).to_pandas()
    own = curves[curves.method == "direct"].pivot(index="seed", columns="visits", values="recommended")
    band = band_over_seeds(own.to_numpy())
    learning, treatment, cost = (lines(at, chart) for chart in range(3))
    assert set(learning) == {"Direct", "Scratch", "Buffer", "BT", "PEX", "offline IQL"}
    assert values(learning["Direct"]["y"]) == pytest.approx([e.value for e in band])
    drawn = [values(t["y"]) for t in figure(at, 0)["data"] if t.get("fill") == "toself"]
    assert len(drawn) == 4, "the fifth method is grey and has no band"
    ends = [e.high for e in band] + [e.low for e in band][::-1]
    assert any(np.allclose(ends, one) for one in drawn)
    start = read_table(treated / TRIALS / STARTS).to_pandas()
    assert values(learning["offline IQL"]["y"]) == pytest.approx([start.recommended.mean()] * 2)
    rows = curves[(curves.method == "direct") & (curves.visits > 0)].groupby("visits")
    assert values(treatment["Direct"]["y"]) == pytest.approx(rows["treated"].mean().tolist())
    total = (curves.cost_per_patient * curves.patients).fillna(0.0)[curves.method == "direct"]
    assert values(cost["Direct"]["y"]) == pytest.approx(total.groupby(curves.visits).mean().tolist())
    said = words(at)
    assert "95 % over 2 training seeds" in said
    assert "2 seeds. 5 trials." in said


def test_the_table_has_every_measure_with_its_interval(open_app, treated: Path) -> None:  # noqa: F811
    at = open_app(treated, PAGE)
    table = at.table[0].value
    assert table["method"].tolist() == ["Direct", "Scratch", "Buffer", "BT", "PEX"]
    row = table.iloc[1]
    (folder,) = treated.glob(f"{TRIALS}/scratch/*/*/{TREATED}")
    episodes = read_table(folder).to_pandas()
    means = episodes.groupby("seed").returns.mean().to_numpy()
    wanted = format(mean_over_seeds(means[:, None]), ".2f").replace("-", "\N{MINUS SIGN}")
    assert row["treated patients' return"].replace("\\", "") == wanted  # brackets are escaped in a table
    assert row["worst patient's return"].replace("\N{MINUS SIGN}", "-") == f"{episodes.returns.min():.1f}"
    assert row["patients per seed"] == "4"
    assert row["trial"] == "finished: 96 visits"
    assert row["stopped by the harm rule"] == "none"
    assert table["found below the offline policy"].str.startswith(("no", "yes")).all()
    assert table["dose range covered"].str.contains("%").all()


def test_a_method_is_coloured_by_choice_and_by_link(open_app, treated: Path) -> None:  # noqa: F811
    at = open_app(treated, PAGE)
    assert lines(at, 0)["PEX"]["line"]["color"] == OTHER.colour
    at.pills(key="methods").set_value(["PEX"]).run()
    assert lines(at, 0)["PEX"]["line"]["color"] == MARKS[0].colour
    assert lines(at, 0)["Direct"]["line"]["color"] == OTHER.colour
    assert at.query_params["methods"] == "PEX"
    at.pills(key="methods").set_value(["PEX", "BT"]).run()
    assert at.query_params["methods"] == ["PEX", "BT"]


def test_an_unfinished_trial_is_shown_as_far_as_it_is(open_app, study: Path) -> None:  # noqa: F811
    (done,) = study.glob(f"{TRIALS}/pex/*/*/{DONE}")
    done.unlink()
    (nothing,) = study.glob(f"{TRIALS}/bt/*/*/{DONE}")
    for name in (DONE, CURVE, TREATED):
        (nothing.parent / name).unlink()
    at = open_app(study, PAGE)
    told = "\n".join(element.value for element in at.info)
    assert "PEX, not finished: 96 of 96 visits" in told
    assert "BT, not finished: 0 of 96 visits" in told
    assert set(lines(at, 0)) == {"Direct", "Scratch", "Buffer", "PEX (so far)", "offline IQL"}
    assert at.table[0].value.set_index("method").loc["BT", "return at end"] == "\N{EM DASH}"
    for path in study.glob(f"{TRIALS}/*/*/*/{CURVE}"):
        (path.parent / DONE).unlink(missing_ok=True)
        path.unlink()
    at = open_app(study, PAGE)
    assert "No trial has reached its first checkpoint yet" in words(at)
    assert not specs(at)


@pytest.mark.long
def test_seeds_that_the_harm_rule_stopped_are_named(open_app, study: Path) -> None:  # noqa: F811
    treat(study, ["scratch"], harm_budget=0.0)
    at = open_app(study, PAGE)
    assert "Stopped by the harm rule" in words(at)
    row = at.table[0].value.iloc[0]
    assert row["trial"].startswith("ended early: every seed stopped by the harm rule, the last after 48")
    assert "seed 0 after 48 visits" in row["stopped by the harm rule"]
    last, before = at.selectbox(key="trials").options
    assert last == f"{before}, harm budget 0 per patient"
    at.selectbox(key="trials").select(before).run()
    assert "Stopped by the harm rule" not in words(at)
    assert len(at.table[0].value) == len(METHODS)


@pytest.mark.long
def test_a_damaged_trial_is_named_and_the_others_show(open_app, study: Path) -> None:  # noqa: F811
    (episodes,) = study.glob(f"{TRIALS}/pex/*/*/{TREATED}")
    episodes.write_bytes(episodes.read_bytes()[:-20])
    (study / TRIALS / STARTS).unlink()
    at = open_app(study, PAGE)
    assert any("pex" in error.value for error in at.error)
    assert set(lines(at, 0)) == {"Direct", "Scratch", "Buffer", "BT"}
    assert "the `finetune` command does so when its trials are done" in words(at)
    assert (at.table[0].value["found below the offline policy"] == "\N{EM DASH}").all()
    write_json(study / TRIALS / TABLE, {"lines": [{}]})
    at = open_app(study, PAGE)
    assert any("no table of trials" in error.value for error in at.error)


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half, 0.95, 10, 5, "t over seeds")


def drawing(ends: list[float]) -> go.Figure:
    visits = np.array([0, 1000])
    curves = [
        LearningCurve(
            f"Method number {k} of many",
            (*MARKS[:4], OTHER)[min(k, 4)],
            visits,
            (estimate(0.0, 9.0), estimate(v, 9.0)),
        )
        for k, v in enumerate(ends)
    ]
    return over_visits(curves, "mean return (no unit)", 1000, [("offline IQL", estimate(0.5, 0.1))])


def test_every_line_is_named_beside_its_end_and_no_label_is_on_another() -> None:
    result = drawing([1.0, 1.01, 1.02, 0.99, 1.0, -0.5])
    assert NOTICE in result.layout.title.text
    for k in range(6):
        assert f"Method number {k}".split()[0] in texts(result)
    low, high = result.layout.yaxis.range
    plot = result.layout.height - result.layout.margin.t - result.layout.margin.b
    places = []
    for note in result.layout.annotations:
        tall = ROW * (1 + note.text.count("<br>"))
        middle = (note.y - low) / (high - low) * plot - note.ay
        places.append((middle - tall / 2, middle + tall / 2))
    places.sort()
    assert len(places) == 7
    assert places[0][0] >= 0.0
    assert places[-1][1] <= plot
    assert all(under[1] <= over[0] for under, over in itertools.pairwise(places))
    assert -3.0 < low < -0.5  # the bands of 9 are cut, the means are not
    assert 1.02 < high < 3.0


@pytest.mark.parametrize(
    "offsets", [[5.0, 5.0, 5.0], [99.0, 98.0, 97.0], [50.0, 10.0, 90.0], [0.0, 0.0, 100.0]]
)
def test_labels_are_stacked_within_the_frame_in_the_order_of_the_lines(offsets: list[float]) -> None:
    places = stack(offsets, [30, 30, 30], 100.0)
    assert all(15.0 <= place <= 85.0 for place in places)
    ordered = sorted(places)
    assert all(b - a >= 30.0 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert np.argsort(places, kind="stable").tolist() == np.argsort(offsets, kind="stable").tolist()
    assert stack([50.0], [10], 100.0) == [50.0]
