"""The stopping rule: wealth by hand, the bound it gives, how rarely it stops a trial within its budget."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dosing.errors import UserError
from dosing.finetuning.stopping import FRACTIONS, check_budget, exceeds, log_evidence, lower_bound


@pytest.mark.parametrize("costs", [[], [0.0], [3.0], [0.5, 4.0, 0.0, 2.5, 2.5, 1.0]])
@pytest.mark.parametrize("budget", [0.3, 2.0])
def test_evidence_is_the_mean_wealth_of_the_bets(costs: list[float], budget: float) -> None:
    wealth = [1.0] * len(FRACTIONS)
    for cost in costs:
        wealth = [w * (1.0 + c * (cost / budget - 1.0)) for w, c in zip(wealth, FRACTIONS, strict=True)]
    assert log_evidence(np.array(costs), budget) == pytest.approx(math.log(sum(wealth) / len(wealth)))


def test_a_budget_of_nothing_is_refused_by_the_first_cost() -> None:
    assert not exceeds(np.zeros(1000), 0.0)
    assert exceeds(np.array([0.0, 1e-9]), 0.0)


def test_the_bound_is_the_largest_budget_that_is_refused() -> None:
    costs = np.random.default_rng(0).exponential(2.0, 60)
    bound = lower_bound(costs)
    assert 0.0 < bound < costs.mean()
    assert exceeds(costs, 0.999 * bound)
    assert not exceeds(costs, 1.001 * bound)
    assert lower_bound(np.zeros(30)) == 0.0
    assert lower_bound(np.array([])) == 0.0
    assert lower_bound(costs, 0.01) < bound


def test_it_rarely_stops_what_keeps_to_its_budget_and_soon_what_does_not() -> None:
    """Costs of mean 1, looked at after every one of 300 groups; the level holds for any distribution of that
    mean."""
    rng, level = np.random.default_rng(1), 0.05

    def ever(scale: float) -> float:
        stopped = 0
        for _ in range(400):
            costs = scale * rng.binomial(24, 1.0 / 24.0, 300)
            growth = np.log1p(FRACTIONS[:, None] * (costs - 1.0)).cumsum(1)  # budget 1
            stopped += bool((np.exp(growth).mean(0) >= 1.0 / level).any())
        return stopped / 400

    assert ever(1.0) <= level + 3.0 * math.sqrt(level * (1.0 - level) / 400)
    assert ever(1.5) > 0.95


def test_a_budget_that_is_none_is_refused() -> None:
    check_budget(None)
    for value in (-1.0, math.inf, math.nan):
        with pytest.raises(UserError, match="harm budget"):
            check_budget(value)
