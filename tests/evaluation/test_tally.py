"""What is told of patients a stretch at a time is what is told of all at once."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

import agents
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation import rollout as rollouts
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant, following, uniform
from dosing.evaluation.statistics import cvar, mean_over_seeds, paired_difference, verdict
from dosing.evaluation.tally import Tally
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.policy import DosePolicy
from dosing.studies import many_patients
from dosing.studies.baseline import Baseline
from dosing.studies.comparison_table import agent_row, reference_rows
from dosing.studies.dose_sets import doses_at
from dosing.studies.references import references
from simulator.scenarios import evaluation_factory
from tests.support.samples import ENV, PROBLEM, cohort, long_for_most, small

FACTORY = evaluation_factory(ENV, {})
CUTS = [0, 256, 700]


def close(a: Any, b: Any) -> None:
    numbers = ("value", "low", "high")
    np.testing.assert_allclose([getattr(a, n) for n in numbers], [getattr(b, n) for n in numbers], rtol=1e-9)
    assert (a.n, a.n_seeds, a.level) == (b.n, b.n_seeds, b.level)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("patients", [100, 1007])
def test_mean_interval_and_lower_tail_are_exact(rows: int, patients: int) -> None:
    values = 1e4 + np.random.default_rng(rows).standard_gamma(2.0, (rows, patients))
    tally = Tally(rows, patients, 0.05)
    for piece in np.split(values, [1, 40, 41, 90], axis=1):
        tally.add(piece)
    close(tally.estimate(), mean_over_seeds(values))
    result, wanted = tally.lower_tail(), cvar(values, 0.05)
    assert result is not None
    np.testing.assert_allclose(result.value, wanted.value, rtol=1e-12)
    if rows > 1:
        close(result, wanted)
    assert Tally(1, 10, 0.05).tail * 10 < 1
    with pytest.raises(UserError, match=r"0 of 10 patients have been counted"):
        Tally(1, 10).estimate()


def test_the_interval_of_one_row_s_tail_covers_the_truth() -> None:
    """CVaR 5 % of a standard normal is -pdf(z) / 0.05; intervals of 400 samples of 2,000 cover it."""
    truth = -stats.norm.pdf(stats.norm.ppf(0.05)) / 0.05
    rng, covered = np.random.default_rng(5), 0
    for _ in range(400):
        tally = Tally(1, 2000, 0.05)
        tally.add(rng.standard_normal((1, 2000)))
        estimate = tally.lower_tail()
        assert estimate is not None
        covered += estimate.low <= truth <= estimate.high
    assert stats.binomtest(covered, 400, 0.95).pvalue > 1e-3


def test_parts_of_the_patients_are_the_same_patients() -> None:
    seeds, rule = (0, 1, 4), constant(0.3)
    whole = rollout(FACTORY, rule, seeds, 700)
    for start, end in itertools.pairwise(CUTS):
        part = rollout(FACTORY, rule, seeds, 700, part=range(start, end))
        for name in ("returns", "cost", "limited", "dose", "visits"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, start:end])


def test_every_stretch_has_draws_of_its_own() -> None:
    rules = [uniform(FACTORY.limits, (0, 1), block) for block in (0, 1)]
    obs = np.zeros((2, 50, 8), dtype=np.float32)
    first, second = (rule(obs, 3) for rule in rules)
    assert not (first == second).any()
    np.testing.assert_array_equal(first, uniform(FACTORY.limits, (0, 1))(obs, 3))
    agent = agents.build("fttpo", small("fttpo"), PROBLEM, (0, 1))
    policy = DosePolicy(agent, Transform.fit(cohort()))
    drawn = [following(policy, sampled=True, block=block)(obs, 3) for block in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not (drawn[0] == drawn[2]).any()


@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_doses_do_not_depend_on_how_many_states_are_asked_about(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit: the many states of a roll-out go through networks a part at a time."""
    thin = Regularisation(thin=0.0) if name == "iql" else PLAIN
    agent = agents.build(name, small(name), PROBLEM, (0, 1), regularisation=thin)
    if agent.looks_back:
        pytest.skip("asked after its episodes, which are treated side by side")
    policy = DosePolicy(agent, Transform.fit(cohort()))
    obs = np.random.default_rng(0).standard_normal((2, 150, 8)).astype(np.float32)

    def doses() -> tuple[Any, Any]:
        return policy.recommended(obs), policy.sampled(obs, 3, block=2)

    whole = doses()
    monkeypatch.setattr("dosing.policy.TOGETHER", 37)
    asked: list[int] = []
    real = agent.policy
    monkeypatch.setattr(agent, "policy", lambda seen: (asked.append(seen.shape[1]), real(seen))[1])
    for one, other in zip(doses(), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert asked == 2 * [38, 38, 37, 37]


@pytest.mark.long
def test_the_table_of_many_patients_is_that_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Policies of the state alone, whose doses for a stretch are those for all up to rounding."""
    monkeypatch.setattr(many_patients, "STRETCH", 256)
    seeds, patients = (0, 1, 2), 700
    agent = agents.build("fttpo", small("fttpo"), PROBLEM, seeds)
    policy = DosePolicy(agent, Transform.fit(cohort()))
    baseline = Baseline(0.4, 8, "", (-1.0, 1.0))
    kept = references(tmp_path, FACTORY, seeds, 20, baseline)
    outcomes = rollouts.evaluate(policy, FACTORY, 20)
    row = agent_row("agent", "sparse", doses_at(policy, cohort().obs[:50]), outcomes, kept, None)
    rules = reference_rows(kept)
    (result,), beside, notes = many_patients.on_many(FACTORY, [policy], [row], rules, kept, patients)
    best = rollout(FACTORY, following(policy), seeds, patients)
    base = rollout(FACTORY, constant(0.4), seeds, patients)
    assert result.difference is not None
    assert result.cost is not None
    assert result.lower_tail is not None
    for told, wanted in (
        (result.recommended, mean_over_seeds(best.returns)),
        (result.cost, mean_over_seeds(best.cost)),
        (result.lower_tail, cvar(best.returns, 0.05)),
        (result.difference, paired_difference(best.returns, base.returns)),
    ):
        np.testing.assert_allclose(
            [told.value, told.low, told.high], [wanted.value, wanted.low, wanted.high], rtol=1e-4, atol=1e-4
        )
        assert told.n == 2100
    assert result.verdict == verdict(result.difference)
    assert result.half_width == row.half_width
    assert result.sampled is not None
    assert result.sampled.n == 2100
    assert [one.name for one in beside] == [one.name for one in rules]
    estimated = beside[list(kept.outcomes).index("estimated")]
    close(estimated.recommended, mean_over_seeds(base.returns.reshape(1, -1)))
    assert estimated.difference is None
    assert "700 patients per seed" in notes[0]
    assert dataclasses.asdict(beside[0].recommended)["n"] == 2100
