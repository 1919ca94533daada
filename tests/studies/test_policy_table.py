"""Every kind of agent beside its Gaussians and its thin law: what is trained, paired, refused and told."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

from dosing.data.store import write_episodes
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.evaluation.statistics import Estimate
from dosing.models.regularisation import Regularisation
from dosing.runs.files import read_json
from dosing.runs.folder import EPISODES, WEIGHTS, RunFolder
from dosing.studies import Comparison, Grid, Resources, compare
from dosing.studies.data import recorded_states
from dosing.studies.loading import policy_of
from dosing.studies.naming import TABLE
from dosing.studies.policy_table import HEAD, PolicyRow, cells, mass_cell, render
from dosing.training.offline import TrainingSettings
from dosing.typed_json import typed
from tests.support.samples import cohort

KINDS = ("iql", "cql", "fql", "td3_bc", "fttpo", "quasi_optimal", "decision_transformer")
"""A density with a choice of families, one without, draws, one dose, sparse already, looking back."""
POLICIES = {
    "IQL": ["own", "thin", "other"],
    "CQL": ["own", "thin"],
    "FQL": ["own", "thin"],
    "TD3+BC": ["own", "thin"],
    "FtTPO": ["own", "other"],
    "Quasi-optimal": ["own"],
    "Decision Transformer": ["own"],
}
REFUSED = {"FtTPO": "sparse already", "Quasi-optimal": "sparse already", "Decision Transformer": "looks back"}
SEEDS, PATIENTS = (0, 1, 4), 20


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    folder = tmp_path_factory.mktemp("sparse")
    write_episodes(cohort(), folder / "visits.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dosing.studies.references.SEARCH_PATIENTS", 20)
        result = compare(
            folder / "study",
            Grid(KINDS, {"hidden": [(8, 8)], "width": [8], "context": [3]}, preset="sparse-vs-gaussian"),
            folder / "visits.parquet",
            seeds=SEEDS,
            training=TrainingSettings(steps=5, batch_size=8),
            evaluation_patients=PATIENTS,
            resources=Resources("cpu", workers=1),
        )
    return folder / "study", result


def runs_of(study: Path) -> list[RunFolder]:
    return [RunFolder(study / run) for run in read_json(study / TABLE)["runs"]]


def outcomes_of(study: Path, agent: str, thin: bool, **settings: str) -> dict[str, Outcomes]:
    (run,) = (
        run
        for run in runs_of(study)
        for config in [run.config()]
        if config.agent == agent and (config.regularisation.thin is not None) == thin
        if all(config.agent_config[k] == v for k, v in settings.items())
    )
    return read_outcomes(run.path / EPISODES)


def test_every_agent_is_there_with_all_its_policies(study: tuple[Path, Comparison]) -> None:
    rows = study[1].policies
    assert {
        t: [r.role for r in rows if r.title == t] for t in dict.fromkeys(r.title for r in rows)
    } == POLICIES
    assert [row.family for row in rows if row.title == "IQL"] == [
        "clipped Gaussian",
        "sparse q-Gaussian (q=0) from clipped Gaussian",
        "truncated normal",
    ]
    told = dict.fromkeys(row.title for row in rows)
    assert len(study[1].rows) > len(rows) == sum(map(len, POLICIES.values()))
    assert list(told) == list(POLICIES)


def test_who_has_no_thin_policy_is_told_with_the_reason(study: tuple[Path, Comparison]) -> None:
    for row in study[1].policies:
        assert (row.refused is not None) == (row.title in REFUSED)
        assert REFUSED.get(row.title, "") in (row.refused or "")
    for title, reason in REFUSED.items():
        (note,) = (note for note in study[1].notes if note.startswith(f"{title} has no thin row: "))
        assert reason in note


def test_fat_and_thin_have_the_same_weights_but_for_the_thin_law(study: tuple[Path, Comparison]) -> None:
    """The same data, critics and seeds, to the bit."""
    for agent in ("iql", "fql", "td3_bc"):
        (thin,) = (
            r for r in runs_of(study[0]) if r.config().agent == agent and r.config().regularisation.thin == 0
        )
        fat_config = replace(thin.config(), regularisation=Regularisation())
        (fat,) = (r for r in runs_of(study[0]) if r.config().key == fat_config.key)
        ours, theirs = load_file(fat.path / WEIGHTS), load_file(thin.path / WEIGHTS)
        inner = {name.removeprefix("inner."): x for name, x in theirs.items() if name.startswith("inner.")}
        assert inner.keys() >= {name for name in ours if not name.startswith("thin.")}
        assert all(np.array_equal(inner[name], x) for name, x in ours.items())
        assert (fat.config().seeds, fat.config().data) == (thin.config().seeds, thin.config().data)


def by_seeds(values: np.ndarray) -> tuple[float, float, float]:
    means = values.mean(1)
    return (float(means.mean()), *stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means)))


def numbers(estimate: Estimate | None) -> tuple[float, float, float]:
    assert estimate is not None
    return estimate.value, estimate.low, estimate.high


def test_differences_are_paired_by_patient_and_seed(study: tuple[Path, Comparison]) -> None:
    pairs = {(d.name, d.distributions): d for d in study[1].differences}
    assert list(pairs) == [
        ("IQL", ("clipped Gaussian", "truncated Gaussian")),
        ("FtTPO", ("sparse", "Gaussian")),
        ("IQL", ("thin", "fat")),
        ("IQL", ("thin", "truncated Gaussian")),
        *((name, ("thin", "fat")) for name in ("CQL", "FQL", "TD3+BC")),
    ]
    clipped, truncated = ({"policy_family": f} for f in ("clipped_gaussian", "truncated_normal"))
    expected = {
        ("IQL", ("thin", "fat")): (("iql", True, clipped), ("iql", False, clipped)),
        ("IQL", ("thin", "truncated Gaussian")): (("iql", True, clipped), ("iql", False, truncated)),
        ("IQL", ("clipped Gaussian", "truncated Gaussian")): (
            ("iql", False, clipped),
            ("iql", False, truncated),
        ),
        ("FQL", ("thin", "fat")): (("fql", True, {}), ("fql", False, {})),
    }
    for key, (one, other) in expected.items():
        first, second = (outcomes_of(study[0], name, thin, **own) for name, thin, own in (one, other))
        told = pairs[key]
        assert told.costs is not None
        for rule, returns, cost in zip(
            ("recommended", "sampled"), (told.recommended, told.sampled), told.costs, strict=True
        ):
            gain = first[rule].returns - second[rule].returns
            assert numbers(returns) == pytest.approx(by_seeds(gain), nan_ok=True)
            assert cost.value == pytest.approx((first[rule].cost - second[rule].cost).mean())
            assert cost.n == len(SEEDS) * PATIENTS
    shared = pairs["IQL", ("thin", "fat")].recommended  # the mean is, but for the last 0.1 % before a limit
    assert shared.value == pytest.approx(0.0, abs=0.01)


def test_a_row_tells_what_the_policy_and_its_patients_say(study: tuple[Path, Comparison]) -> None:
    rows = {(row.title, row.role): row for row in study[1].policies}
    states = recorded_states(cohort())
    obs = np.broadcast_to(states, (len(SEEDS), *states.shape))
    policies = {
        (
            r.config().agent,
            r.config().regularisation.thin,
            r.config().agent_config.get("policy_family"),
        ): policy_of(r)
        for r in runs_of(study[0])
    }
    fat, thin = (policies["iql", q, "clipped_gaussian"] for q in (None, 0.0))
    interval, row = thin.dose_set(obs), rows["IQL", "own"]
    law = fat.distribution(obs).base_dist  # type: ignore[attr-defined]
    loc, scale = (x.double().numpy() for x in (law.loc, law.scale))
    outside = stats.norm.cdf(interval.low, loc, scale) + stats.norm.sf(interval.high, loc, scale)
    assert numbers(row.outside_interval) == pytest.approx(by_seeds(outside[..., 0]), abs=1e-6)
    beyond = stats.norm.cdf(-1.0, loc, scale) + stats.norm.sf(1.0, loc, scale)
    assert numbers(row.outside_limits) == pytest.approx(by_seeds(beyond[..., 0]), abs=1e-6)
    nats = 0.5 * math.log(2.0 * math.pi * math.e) + np.log(scale[..., 0])
    assert numbers(row.entropy) == pytest.approx(by_seeds(nats), abs=1e-6)
    assert row.half_width is not None
    assert row.half_width.n == len(SEEDS) * len(states)
    assert row.half_width.value == pytest.approx(stats.norm.ppf(0.995) * scale.mean(), rel=1e-6)
    given = outcomes_of(study[0], "iql", False, policy_family="clipped_gaussian")
    assert numbers(row.lost) == pytest.approx(
        by_seeds(given["recommended"].returns - given["sampled"].returns)
    )
    worst = np.sort(given["sampled"].returns, 1)[:, :1].mean()  # 5 % of 20 patients
    assert row.sampled.worst is not None
    assert row.sampled.worst.value == pytest.approx(worst)
    assert row.sampled.cost.value == pytest.approx(given["sampled"].cost.mean())

    sparse = rows["IQL", "thin"]
    assert sparse.exact
    assert sparse.outside_interval is not None
    assert sparse.outside_limits is not None
    assert sparse.outside_interval.value == sparse.outside_limits.value == 0.0
    half = 0.5 * (interval.high - interval.low)
    assert sparse.entropy is not None  # of an Epanechnikov distribution of half-width h: 0.5681 + ln h
    assert sparse.entropy.value == pytest.approx(5.0 / 3.0 - math.log(3.0) + np.log(half).mean(), abs=1e-6)
    assert [rows[key].entropy for key in (("FQL", "own"), ("TD3+BC", "own"))] == [None, None]
    assert rows["Decision Transformer", "own"].outside_interval is None
    own, gaussian = rows["FtTPO", "own"].outside_interval, rows["FtTPO", "other"].outside_interval
    assert own is not None
    assert gaussian is not None
    assert own.value == 0.0 < gaussian.value


def test_the_table_is_kept_and_told(study: tuple[Path, Comparison]) -> None:
    kept = read_json(study[0] / TABLE)["policies"]
    assert tuple(typed(PolicyRow, row, "table") for row in kept) == study[1].policies
    assert json.loads(json.dumps(asdict(study[1].policies[0]))) == kept[0]
    text = render(study[1].policies)
    assert text in str(study[1])
    assert len(text.splitlines()) == 2 + len(kept)
    assert len(cells(study[1].policies[0])) == len(HEAD)
    some = Estimate(0.25, -0.125, 1.5, 0.95, 2, 2, "t")
    assert mass_cell(some, False) == "0.25 [0, 1]"
    assert (mass_cell(None, True), mass_cell(replace(some, value=0.0), True)) == ("-", "0 (exactly)")
    assert mass_cell(replace(some, value=0.0), False) == "0 (as computed)"


@pytest.mark.long
def test_without_distributions_side_by_side_there_is_no_such_table(tmp_path: Path) -> None:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    result = compare(
        tmp_path / "study",
        Grid(("iql",), {"hidden": [(8, 8)]}),
        tmp_path / "visits.parquet",
        seeds=(0,),
        training=TrainingSettings(steps=3, batch_size=8),
        evaluation_patients=4,
        resources=Resources("cpu", workers=1),
    )
    assert result.policies == result.differences == ()


@pytest.mark.long
def test_a_single_seed_has_no_interval_of_its_doses(tmp_path: Path) -> None:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    result = compare(
        tmp_path / "study",
        Grid(("iql",), {"hidden": [(8, 8)]}, preset="sparse-vs-gaussian", regularise={"thin": [None, 0.5]}),
        tmp_path / "visits.parquet",
        seeds=(0,),
        training=TrainingSettings(steps=3, batch_size=8),
        evaluation_patients=4,
        resources=Resources("cpu", workers=1),
    )
    assert [row.family for row in result.policies] == [
        "clipped Gaussian",
        "sparse q-Gaussian (q=0.5) from clipped Gaussian",
        "truncated normal",
    ]
    assert {row.half_width for row in result.policies} == {row.entropy for row in result.policies} == {None}
    assert {row.sampled.worst for row in result.policies} == {None}  # 5 % of four is nobody
