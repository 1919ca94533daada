"""The cohort page: distributions, worst tenth, cost, subgroups, worst patients; every state of the page."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from app.charts import cohort
from app.theme import MARKS, NOTICE
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes
from dosing.evaluation.statistics import Estimate, cvar, mean_over_seeds, subgroups
from dosing.runs.files import read_json, sha256, write_json
from dosing.runs.folder import EPISODES, EVALUATION, find_runs
from simulator.cohorts.evaluated import evaluated
from tests.app.figures import specs
from tests.app.test_charts import texts
from tests.app.test_pages import words
from tests.app.test_what_if import minus, open_app  # noqa: F401

PAGE = "views/cohort.py"


def make_larger(study: Path) -> None:
    """Give every run 20 patients a seed, so that a tenth and quarters are whole patients."""
    for run in find_runs(study):
        rng = np.random.default_rng(len(run.config().agent))
        names = [field.name for field in fields(Outcomes) if field.name not in ("seeds", "events")]
        kept = {
            rule: Outcomes((0, 1), **{name: rng.normal(size=(2, 20)) for name in names})
            for rule in ("recommended", "sampled")
        }
        write_outcomes(run.path / EPISODES, kept)
        record = read_json(run.path / EVALUATION)
        write_json(run.path / EVALUATION, record | {"episodes": sha256(run.path / EPISODES)})


@pytest.fixture
def larger(full_study: Path, tmp_path: Path) -> Path:
    study = shutil.copytree(full_study, tmp_path / "larger")
    make_larger(study)
    return study


def test_the_page_says_what_the_outcomes_say(open_app, larger: Path) -> None:  # noqa: F811
    at = open_app(larger, PAGE, trait="latent mean of s3", under="IQL")
    assert not at.error
    run = next(r for r in find_runs(larger) if r.config().agent == "iql")
    outcome = read_outcomes(run.path / EPISODES)["recommended"]
    said = words(at)
    mean, tail = mean_over_seeds(outcome.returns), cvar(outcome.returns, 0.1)
    assert f"IQL: mean **{minus(mean)}**, worst tenth **{minus(tail)}**" in said
    assert len(specs(at)) == 3
    seed, patient = np.unravel_index(outcome.returns.argmin(), (2, 20))
    first = next(line for line in said.splitlines() if line.startswith("Patient "))
    assert f"Patient {20 * seed + patient}, training seed {seed}:" in first
    assert f"return **{minus(f'{outcome.returns.min():.1f}')}**" in first
    who = evaluated("dosing/Treatment-v0", (0, 1), 20, 0, variant="corrected", steps=24)
    groups = subgroups(outcome.returns, who.traits["latent mean of s3"])
    assert minus(str(groups[0].mean)) in minus(specs(at)[2])
    links = at.get("page_link")
    assert len(links) == 20
    state = "+".join(f"{x:.4f}" for x in who.seen[seed, patient])
    assert state in links[0].proto.query_string
    assert "follow+IQL" in links[0].proto.query_string


def test_few_patients_have_no_tail_and_no_quarters_but_the_rest_shows(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE)
    assert "worst tenth: fewer than 10 patients a seed" in words(at)
    assert "No subgroups: 4 subgroups need 2 or more patients" in words(at)
    assert len(specs(at)) == 2


@pytest.mark.long
def test_a_run_that_was_not_evaluated_names_the_command(
    open_app,  # noqa: F811
    full_study: Path,
    tmp_path: Path,
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    iql, fttpo = sorted(find_runs(study), key=lambda run: run.config().agent, reverse=True)
    (iql.path / EPISODES).unlink()
    at = open_app(study, PAGE)
    assert "Not evaluated on new patients yet: IQL" in words(at)
    assert at.code[0].value.startswith("python -m dosing")
    assert len(specs(at)) == 2
    (fttpo.path / EPISODES).unlink()
    at = open_app(study, PAGE)
    assert "FtTPO, IQL" in words(at)
    assert not specs(at)


def test_a_damaged_evaluation_is_named(open_app, full_study: Path, tmp_path: Path) -> None:  # noqa: F811
    study = shutil.copytree(full_study, tmp_path / "study")
    run = find_runs(study)[0]
    (run.path / EPISODES).write_bytes((run.path / EPISODES).read_bytes()[:-10])
    at = open_app(study, PAGE)
    assert any("changed or truncated since the evaluation" in e.value for e in at.error)
    assert specs(at)


def test_an_empty_study_names_the_command(open_app, empty_study: Path) -> None:  # noqa: F811
    at = open_app(empty_study, PAGE)
    assert at.code[0].value == "python -m dosing demo"
    assert not specs(at)


def lane(name: str, mark: int, shift: float = 0.0) -> cohort.Lane:
    returns = np.linspace(-10, 10, 200) + shift
    mean, tail = Estimate(shift, shift - 1, shift + 2, 0.95, 200, 5, "t"), cvar(returns, 0.1)
    return cohort.Lane(name, MARKS[mark], returns, mean, tail)


def test_a_distribution_holds_every_patient_and_fills_the_worst_tenth() -> None:
    figure = cohort.distributions([lane("A", 0), lane("B", 1, 3.0)])
    assert figure.layout.title.text == NOTICE
    bars = [t for t in figure.data if isinstance(t, go.Bar)]
    for one in bars:
        assert np.sum(one.customdata) == pytest.approx(100.0)
    dark = np.array([colour == MARKS[0].faint(0.75) for colour in bars[0].marker.color])
    assert np.sum(np.asarray(bars[0].customdata)[dark]) == pytest.approx(10.0, abs=1.5)
    assert max(bars[0].x[dark]) < -7.5
    marks = [(t.x[0], t.marker.symbol) for t in figure.data if isinstance(t, go.Scatter)]
    tail = cvar(np.linspace(-10, 10, 200), 0.1).value
    assert marks[:2] == [(0.0, "diamond"), (tail, "diamond-open")]
    assert "<b>B</b>" in texts(figure)
    wide = replace(lane("A", 0), mean=Estimate(0.0, -50.0, 40.0, 0.95, 4, 2, "t"))
    low, high = cohort.distributions([wide]).layout.xaxis.range
    assert low < -50.0  # an interval is never cut by the edge
    assert high > 40.0


def test_names_over_the_scatter_stand_in_rows_of_their_own() -> None:
    def at(value: float) -> Estimate:
        return Estimate(value, value - 0.5, value + 0.5, 0.95, 10, 2, "t")

    values = (-3.0, 0.2, 0.3, 4.0)
    points = [(f"rule {k}", MARKS[k], at(value), at(float(k))) for k, value in enumerate(values)]
    figure = cohort.cost_and_return(points)
    notes = {note.text.split()[-1]: note for note in figure.layout.annotations}
    assert len({note.y for note in notes.values()}) == 4
    assert notes["3"].y > notes["1"].y  # the further out, the higher
    assert notes["0"].y > notes["2"].y
    assert (notes["0"].xanchor, notes["3"].xanchor) == ("left", "right")
    assert min(note.y for note in notes.values()) > figure.layout.yaxis.domain[1]
    assert sorted((t.x[0], t.y[0]) for t in figure.data) == [(-3.0, 0.0), (0.2, 1.0), (0.3, 2.0), (4.0, 3.0)]
    lines = sorted(figure.layout.shapes, key=lambda s: s.x0)
    assert [s.x0 for s in lines] == list(values)
    low, high = figure.layout.yaxis.range
    share = figure.layout.yaxis.domain[1]
    assert [s.y0 for s in lines] == pytest.approx([share * (k - low) / (high - low) for k in range(4)])


def test_cost_budgets_are_lines_within_the_scatter() -> None:
    point = Estimate(1.0, 0.5, 1.5, 0.95, 10, 2, "t")
    figure = cohort.cost_and_return([("A", MARKS[0], point, point)], [0.5, 9.0])
    across = [(s.y0, s.y1) for s in figure.layout.shapes if s.xref == "x domain"]
    assert across == [(0.5, 0.5), (9.0, 9.0)]
    assert "cost budget 0.5" in texts(figure)
    assert "cost budget 9" in texts(figure)
    assert figure.layout.yaxis.range[1] > 9.0


def test_subgroups_are_drawn_with_their_ends_and_intervals() -> None:
    rng = np.random.default_rng(0)
    trait, returns = rng.normal(size=(3, 40)), rng.normal(size=(3, 40))
    groups = subgroups(returns, trait)
    figure = cohort.by_subgroup("latent mean of s1", [("A", MARKS[0], groups), ("B", MARKS[1], groups)])
    assert list(figure.data[0].y) == [group.mean.value for group in groups]
    high = [y + e for y, e in zip(figure.data[0].y, figure.data[0].error_y.array, strict=True)]
    assert high == pytest.approx([group.mean.high for group in groups])
    assert figure.layout.xaxis.ticktext[0] == minus(f"{groups[0].low:.2f} to<br>{groups[0].high:.2f}")
    first, second = figure.layout.annotations
    assert abs(second.y - first.y) > 0  # the same last value, and still apart


def test_labels_are_pushed_apart_and_keep_their_order() -> None:
    heights = cohort.spread([5.0, 1.0, 1.1, 9.0], 1.0)
    assert heights == [5.0, 1.0, 2.0, 9.0]


def test_subgroup_means_by_hand() -> None:
    trait = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    returns = np.array([[10.0, 20.0, 30.0, 40.0], [8.0, 6.0, 4.0, 2.0]])
    low, high = subgroups(returns, trait, 2)
    assert (low.low, low.high, high.low, high.high) == (1.0, 2.0, 3.0, 4.0)
    assert low.mean.value == pytest.approx((15.0 + 3.0) / 2)  # the mean of the seeds' means
    assert high.mean.value == pytest.approx((35.0 + 7.0) / 2)
    assert low.mean.high == pytest.approx(mean_over_seeds([[15.0], [3.0]]).high)
    one = subgroups(returns[0], trait[0], 2)[0].mean
    assert (one.value, one.n, one.method) == (15.0, 2, "t over patients")
    with pytest.raises(UserError, match="2 or more patients each in every seed, one has 1"):
        subgroups(returns, trait, 4)
    with pytest.raises(UserError, match="one trait per return"):
        subgroups(returns, trait[0], 2)
    with pytest.raises(UserError, match="2 or more groups, got 1"):
        subgroups(returns, trait, 1)
