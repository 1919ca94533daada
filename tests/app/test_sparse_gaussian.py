"""Sparse against Gaussian: tails, what they cost, and every state of the page."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from scipy import stats

import agents
from app.analysis.recommendations import Answer, Source, ask
from app.analysis.tails import (
    CONTRAST,
    Paid,
    Tails,
    beside,
    default_pair,
    differ_in_distribution_only,
    differences,
    is_gaussian,
    is_sparse,
    outside,
    paid,
    tails,
    worst_share,
)
from app.charts.estimates import panels_of_estimates
from app.charts.tails import DECADES, measures, tail_mass
from app.readers.study import Run
from app.theme import GREY, MARKS, NOTICE, minus, probability
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.evaluation.statistics import Estimate, cvar, mean_over_seeds, paired_difference
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.runs.config import DataReference
from dosing.runs.folder import DONE, EPISODES, EVALUATION, RunFolder
from dosing.studies import Grid, Resources, compare, presets
from dosing.studies.data import episodes_of
from dosing.studies.grid import configurations
from dosing.studies.loading import recommender_of
from dosing.training.offline import TrainingSettings
from tests.app.figures import specs
from tests.app.test_charts import answer, texts
from tests.app.test_pages import run_of, words
from tests.app.test_what_if import TYPED, open_app  # noqa: F401
from tests.support.samples import cohort, run_config

PAGE = "views/sparse_gaussian.py"
COMMAND = "python -m dosing compare --preset sparse-vs-gaussian --agents fttpo iql"


@pytest.fixture
def both(full_study: Path) -> list[Answer]:
    """FtTPO and IQL, asked about the first recorded state."""
    runs = [run_of(full_study, agent) for agent in ("fttpo", "iql")]
    state = episodes_of(runs[0]).obs[0].tolist()
    return ask(
        [Source(agent, "distribution", recommender_of(run)) for agent, run in zip("ab", runs, strict=True)],
        state,
    )


def test_a_sparse_tail_ends_and_a_gaussian_one_follows_the_error_function(both: list[Answer]) -> None:
    sparse, gaussian = tails(both, 0)
    seeds = sparse.answer.result.seeds
    for own, seed in zip(sparse.mass, seeds, strict=True):
        beyond = (sparse.dose < seed.low[0]) | (sparse.dose > seed.high[0])
        assert beyond.any()
        assert (own[beyond] == 0.0).all()
        within = (sparse.dose > seed.low[0]) & (sparse.dose < seed.high[0])
        assert (own[within] > 0.0).all()
    policy = gaussian.answer.source.policy
    obs = np.broadcast_to(np.asarray(gaussian.answer.result.state, dtype=np.float32), (2, 1, 8))
    distribution: Any = policy.distribution(obs).base_dist  # type: ignore[attr-defined]
    loc, scale = (x.double().reshape(2, 1).numpy() for x in (distribution.loc, distribution.scale))
    far = np.abs(gaussian.dose - loc) / scale
    np.testing.assert_allclose(gaussian.mass, stats.norm.sf(far), rtol=2e-4)
    low, high = np.searchsorted(gaussian.dose, [-1.0, 1.0])
    beyond = gaussian.mass[:, low] + gaussian.mass[:, high]
    np.testing.assert_allclose(outside(both[1], [-1.0], [1.0]), beyond, rtol=1e-6)
    assert (outside(both[0], [-1.0], [1.0]) == 0.0).all()


def run(
    agent: str,
    data: str = "d",
    seeds: tuple[int, ...] = (0, 1),
    thin: float | None = None,
    **settings: object,
) -> Run:
    config = run_config(
        agent=agent,
        agent_config=settings,
        seeds=seeds,
        data=DataReference("d", data, visits=24, patients=1),
        regularisation=Regularisation(thin=thin),
    )
    entry = agents.find(agent)
    return Run(RunFolder(Path("x")), config, entry, entry.title)


def test_the_command_that_is_named_trains_such_a_pair() -> None:
    preset = presets.find(CONTRAST)
    training = TrainingSettings(**preset.training)
    made = configurations(Grid(("fttpo", "iql")), preset, [PLAIN], training)
    assert preset.contrast is not None
    runs = [run(agent, thin=None, **json.loads(json.dumps(asdict(config)))) for agent, config in made]
    (iql,) = (r for r in runs if r.config.agent_config.get("policy_family") == "clipped_gaussian")
    runs.append(run("iql", thin=preset.contrast.thin, **iql.config.agent_config))
    sparse, others = [r for r in runs if is_sparse(r)], [r for r in runs if not is_sparse(r)]
    assert [r.config.agent for r in sparse] == ["fttpo", "iql"]
    for one in sparse:
        place = beside(one, others)
        assert place is not None
        assert differ_in_distribution_only(one, others[place])


def test_a_pair_that_differs_in_its_distribution_alone_comes_first() -> None:
    sparse, gaussian = (run("fttpo", actor=a, temperature=0.1) for a in ("sparse", "gaussian"))
    iql = run("iql", expectile=0.7)
    assert is_sparse(sparse)
    assert is_sparse(run("td3", thin=0.5))
    assert all(map(is_gaussian, (gaussian, run("cql"))))
    assert not any(map(is_gaussian, (sparse, run("td3"), run("iql", thin=0.0))))
    assert not any(map(is_sparse, (gaussian, iql, run("cql"), run("td3"))))
    assert default_pair([sparse], [iql, gaussian]) == (0, 1)
    assert differ_in_distribution_only(sparse, gaussian)
    for other in (
        run("fttpo", actor="gaussian", temperature=0.2),
        run("fttpo", data="e", actor="gaussian", temperature=0.1),
        run("fttpo", seeds=(0,), actor="gaussian", temperature=0.1),
    ):
        assert not differ_in_distribution_only(sparse, other)
    assert default_pair([run("awac", thin=0.0, discount=0.5), sparse], [run("awac"), iql]) == (1, 1)
    assert default_pair([run("quasi_optimal")], [run("awac")]) == (0, 0)


def test_a_thin_law_is_set_beside_the_policy_it_was_distilled_from() -> None:
    thin = run("iql", thin=0.0, policy_family="clipped_gaussian")
    fat, truncated = (run("iql", policy_family=f) for f in ("clipped_gaussian", "truncated_normal"))
    assert beside(thin, [truncated, fat]) == 1
    assert beside(thin, [truncated]) == 0
    assert beside(thin, [run("bc", policy_family="clipped_gaussian"), run("iql", data="e")]) is None
    assert default_pair([run("quasi_optimal"), thin], [truncated, fat]) == (1, 1)


def outcomes(seed: int, patients: int = 120, seeds: tuple[int, ...] = (0, 1)) -> Outcomes:
    rng = np.random.default_rng(seed)
    shape = (len(seeds), patients)
    return Outcomes(
        seeds,
        rng.normal(size=shape),
        rng.poisson(1.0, shape).astype(float),
        rng.random(shape),
        rng.random(shape),
        np.full(shape, 24.0),
    )


def test_costs_and_the_worst_patients_are_those_of_the_outcomes() -> None:
    one, other = outcomes(0), outcomes(1)
    result = paid(one)
    assert result.cost == mean_over_seeds(one.cost)
    assert result.worst == cvar(one.returns, 0.01)
    assert result.limited == mean_over_seeds(100.0 * one.limited)
    assert [worst_share(n) for n in (100, 99, 19, 9)] == [0.01, 0.05, 0.1, None]
    assert paid(outcomes(0, 5)).worst is None
    between = differences({"sampled": one}, {"sampled": other}, "sampled")
    assert between["cost"] == paired_difference(one.cost, other.cost)
    assert between["return"] == paired_difference(one.returns, other.returns)
    for odd in (outcomes(1, 60), outcomes(1, seeds=(0, 2))):
        with pytest.raises(UserError, match="different patients"):
            differences({"sampled": one}, {"sampled": odd}, "sampled")


# Figures


def triangle(position: int, half: float) -> Tails:
    """Tails of a symmetric distribution about 0 that end at +-half, on doses from -2 to 2."""
    dose = np.linspace(-2.0, 2.0, 81)
    mass = np.clip(0.5 * (1 - np.abs(dose) / half), 0.0, None) ** 2
    return Tails(answer(position=position), dose, np.stack([mass, mass]))


def endless(position: int) -> Tails:
    dose = np.linspace(-2.0, 2.0, 81)
    return Tails(answer(position=position), dose, np.stack([stats.norm.sf(np.abs(dose))] * 2))


def test_the_difference_in_tails_is_filled_and_exact_zeros_are_marked() -> None:
    sparse, gaussian = triangle(0, 0.5), endless(1)
    figure = tail_mass([sparse, gaussian], (-1.0, 1.0), unit="mg")
    assert figure.layout.title.text == NOTICE
    assert figure.layout.xaxis.title.text == "dose (mg)"
    assert figure.layout.yaxis.type == "log"
    gap = figure.data[0]
    assert gap.fill == "toself"
    assert gap.fillcolor == MARKS[1].faint(0.12)
    assert min(gap.y) == pytest.approx(10.0**-DECADES)
    lines = [t for t in figure.data if t.mode == "lines" and t.fill is None]
    assert [t.line.dash for t in lines] == [MARKS[0].dash, MARKS[1].dash]
    shown = np.asarray(lines[0].y, dtype=float)
    assert (np.isnan(shown) == (sparse.mean == 0.0)).all()
    ends = [t for t in figure.data if t.mode == "markers"]
    assert sorted(t.x[0] for t in ends) == [pytest.approx(-0.45), pytest.approx(0.45)]
    assert all("exactly 0 beyond" in t.hovertemplate for t in ends)
    for half, name in ((0.5, "Agent 0"), (1.9, "Agent 0")):
        shown = tail_mass([triangle(0, half), gaussian], (-1.0, 1.0))
        assert texts(shown).count(name) == 1
        assert texts(shown).count("Agent 1") == 1
    assert {s.x0 for s in figure.layout.shapes if s.line.color == GREY} == {-1.0, 1.0}


def test_estimates_stand_in_rows_with_their_intervals_or_the_reason_for_none() -> None:
    one = Estimate(2.0, 1.0, 3.5, 0.95, 200, 2, "t")
    rows = [
        ("Agent", MARKS[0], "recommended", Paid(one, None, one)),
        ("B", MARKS[1], "sampled", Paid(one, one, one)),
    ]
    panels = measures(rows, 0.01)
    assert [title for title, _ in panels] == [
        "safety cost per patient",
        "return of the worst 1\N{NO-BREAK SPACE}% of patients (no unit)",
        "doses held at a hard limit (%)",
    ]
    assert len(measures(rows, None)) == 2
    figure = panels_of_estimates(panels)
    assert isinstance(figure, go.Figure)
    assert figure.layout.title.text == NOTICE
    assert figure.layout.xaxis2.title.text == panels[1][0]
    assert len(figure.data) == 5
    first = figure.data[0]
    assert (first.x[0], first.error_x.array[0], first.error_x.arrayminus[0]) == (2.0, 1.5, 1.0)
    assert first.marker.symbol == MARKS[0].symbol
    assert figure.data[1].marker.symbol == f"{MARKS[1].symbol}-open"
    assert "too few patients" in texts(figure)
    low, high = figure.layout.xaxis.range
    assert low < 1.0
    assert high > 3.5
    tops = [getattr(figure.layout, f"yaxis{k}").domain for k in ("", "2", "3")]
    assert tops[0][0] > tops[1][1] > tops[1][0] > tops[2][1]


# The page


@pytest.mark.long
def test_the_page_shows_masses_and_costs_as_measured(open_app, full_study: Path, both: list[Answer]) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, part="tails")
    assert not at.error
    said = words(at)
    mass = outside(both[1], [-1.0], [1.0])
    assert f"IQL, outside the hard limits: **{probability(float(mass.mean()))}**" in said
    assert f"FtTPO, outside the hard limits: **{probability(0.0)}**" in said
    assert len(specs(at)) == 1
    at = open_app(full_study, PAGE, part="what it costs")
    said = words(at)
    sparse, gaussian = (read_outcomes(run_of(full_study, a).path / EPISODES) for a in ("fttpo", "iql"))
    for rule in ("recommended", "sampled"):
        result = differences(sparse, gaussian, rule)
        assert f"safety events **{minus(result['cost'])}**" in said
        assert f"return **{minus(result['return'])}**" in said
    assert "More than the distribution differs" in at.expander[0].label
    assert len(specs(at)) == 1
    again = open_app(full_study, PAGE, sparse="FtTPO", gaussian="IQL", part="what it costs")
    assert words(again) == said


@pytest.mark.parametrize("part", ["doses and densities", "tails"])
def test_a_refused_state_draws_nothing(open_app, full_study: Path, part: str) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, **{**TYPED, "numbers": "nan 0 0 0 0 0 0 0"}, part=part)
    assert words(at).count("REFUSED: no dose.") == 2
    assert not specs(at)


def test_a_study_without_such_a_pair_names_the_command(
    open_app,  # noqa: F811
    full_study: Path,
    tmp_path: Path,
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    (run_of(study, "iql").path / DONE).unlink()
    at = open_app(study, PAGE)
    assert "No agent here has a policy that is not sparse" in words(at)
    assert at.code[0].value.startswith(f"{COMMAND}\n")
    assert not specs(at)


@pytest.mark.long
def test_without_an_evaluation_or_with_a_damaged_one_the_tails_still_show(
    open_app,  # noqa: F811
    full_study: Path,
    tmp_path: Path,
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    (run_of(study, "fttpo").path / EVALUATION).unlink()
    with (run_of(study, "iql").path / EPISODES).open("ab") as file:
        file.write(b"x")
    at = open_app(study, PAGE)
    assert len(specs(at)) == 1
    at = open_app(study, PAGE, part="what it costs")
    assert "FtTPO was not evaluated on new patients" in words(at)
    assert at.code[1].value == f"python -m dosing evaluate {run_of(study, 'fttpo').path}"
    assert any("changed or truncated" in e.value for e in at.error)
    assert not specs(at)


def test_an_empty_or_damaged_study_says_so(open_app, empty_study: Path, damaged_study: Path) -> None:  # noqa: F811
    at = open_app(damaged_study, PAGE)
    assert any("IQL" in e.value and "changed or truncated" in e.value for e in at.error)
    at = open_app(empty_study, PAGE)
    assert at.code[0].value == "python -m dosing demo"


OTHERS = {
    "IQL, sparse q-Gaussian (q=0) from clipped Gaussian": "IQL, clipped Gaussian",
    "FQL, sparse q-Gaussian (q=0) from flow, one step": "FQL, flow, one step",
    "TD3+BC, sparse q-Gaussian (q=0) from deterministic": "TD3+BC, deterministic",
    "FtTPO, sparse q-Gaussian": "FtTPO, clipped Gaussian",
    "Quasi-optimal": None,
}
"""Sparse policies of a study of every kind of agent, and what differs in its distribution alone."""


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("kinds")
    write_episodes(cohort(4), study / "visits.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dosing.studies.references.SEARCH_PATIENTS", 20)
        compare(
            study / "study",
            Grid(
                ("iql", "fql", "td3_bc", "fttpo", "quasi_optimal", "decision_transformer"),
                {"hidden": [(8, 8)], "width": [8], "context": [3]},
                preset=CONTRAST,
            ),
            study / "visits.parquet",
            seeds=(0, 1),
            training=TrainingSettings(steps=3, batch_size=8),
            evaluation_patients=4,
            resources=Resources("cpu", workers=1),
        )
    return study / "study"


@pytest.mark.parametrize("sparse", OTHERS)
def test_every_agents_policies_are_drawn_beside_each_other(
    open_app,  # noqa: F811
    every_kind: Path,
    sparse: str,
) -> None:
    at = open_app(every_kind, PAGE, sparse=sparse, part="tails")
    assert not at.error
    assert not at.exception
    boxes = {box.key: box for box in at.selectbox}
    assert boxes["sparse"].value == sparse
    assert set(boxes["sparse"].options) == set(OTHERS)
    if (other := OTHERS[sparse]) is not None:
        assert boxes["gaussian"].value == other
        assert "only the distribution differs" in words(at)
    assert f"{sparse}, outside the hard limits: **0" in words(at)
    assert len(specs(at)) == 1


@pytest.mark.long
def test_choosing_another_sparse_policy_brings_its_own_counterpart(open_app, every_kind: Path) -> None:  # noqa: F811
    first, second, *_ = OTHERS
    at = open_app(every_kind, PAGE, sparse=first, part="what it costs")
    assert not at.error
    at.selectbox(key="sparse").set_value(second).run()
    assert at.selectbox(key="gaussian").value == OTHERS[second]
    assert f"**{second} minus {OTHERS[second]}**" in words(at)
    looking_back = next(name for name in at.selectbox(key="gaussian").options if "Decision" in name)
    at = open_app(every_kind, PAGE, sparse=first, gaussian=looking_back)
    assert not at.error
    assert not at.exception
    assert "More than the distribution differs" in at.expander[0].label
