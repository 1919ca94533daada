"""Distributions and doses in the world's units against scipy and quadrature, and what is refused at
loading."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Distribution, Independent

import agents
from dosing.agent import Agent
from dosing.data.dataset import Transform
from dosing.distributions.draws import Draws
from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.policy import CENTRAL, DosePolicy
from dosing.runs.files import write_json, write_table, write_tensors
from dosing.runs.folder import CONFIG, METRICS, WEIGHTS, RunFolder
from dosing.safety import DoseLimits
from dosing.studies.loading import policy_of
from dosing.types import Noise
from tests.support.samples import PROBLEM, has_density, is_bounded, run_config, small, stack

every_agent = pytest.mark.parametrize("name", list(agents.AGENTS))
every_density = pytest.mark.parametrize("name", [name for name in agents.AGENTS if has_density(name)])

AWKWARD = Transform((0.5,) * 8, (2.0,) * 8, (0.1,), (0.7,))
"""Dose limits that binary numbers do not hold exactly."""


class Fixed(Agent):
    """Distributions of given location, scale and index at every state; two seeds, one dose."""

    def __init__(self, loc: list[float], scale: list[float], q: float) -> None:
        super().__init__(PROBLEM, tuple(range(len(loc))))
        self.loc = torch.nn.Parameter(torch.tensor(loc).reshape(-1, 1, 1))
        self.scale, self.q = torch.tensor(scale).reshape(-1, 1, 1), q

    def noise(self, batch_size: int) -> dict[str, Noise]:
        return {}

    def losses_and_metrics(self, batch: Batch) -> Any:
        raise NotImplementedError

    def policy(self, obs: torch.Tensor) -> Distribution:
        shape = (*obs.shape[:2], 1)
        return Independent(QGaussian(self.loc.expand(shape), self.scale.expand(shape), self.q), 1)


def states(seeds: int, n: int = 4) -> Any:
    rows = np.random.default_rng(0).standard_normal((n, 8)).astype(np.float32)
    return np.broadcast_to(rows, (seeds, n, 8))


# Units


def test_observations_are_standardised_and_doses_brought_back() -> None:
    """The network sees (obs - mean)/scale; -1 and 1 become the low and the high limit."""
    seen = []

    class Watching(Fixed):
        def policy(self, obs: torch.Tensor) -> Distribution:
            seen.append(obs)
            return super().policy(obs)

    policy = DosePolicy(Watching([-0.5, 0.5], [0.1, 0.1], 1.0), AWKWARD)
    obs = states(2)
    np.testing.assert_allclose(policy.recommended(obs)[:, :, 0], [[0.25] * 4, [0.55] * 4], rtol=1e-6)
    np.testing.assert_allclose(seen[0], (obs - 0.5) / 2.0, rtol=1e-6)


@every_agent
def test_the_recommended_dose_is_the_mode(name: str) -> None:
    agent = stack(name, (0, 1, 2))
    policy = DosePolicy(agent, AWKWARD)
    obs = states(3)
    with torch.no_grad():
        mode = agent.policy(AWKWARD.obs(torch.from_numpy(obs.copy()))).mode.numpy()
    np.testing.assert_allclose(policy.recommended(obs), 0.4 + 0.3 * mode, rtol=1e-5)


# Dose sets and masses


def test_the_set_of_a_gaussian_is_its_central_interval() -> None:
    policy = DosePolicy(Fixed([-0.2, 0.6], [0.5, 0.05], 1.0), AWKWARD)
    result = policy.dose_set(states(2))
    assert not result.bounded
    for k, (loc, scale) in enumerate(((-0.2, 0.5), (0.6, 0.05))):
        distribution = stats.norm(0.4 + 0.3 * loc, 0.3 * scale)  # in dose units
        np.testing.assert_allclose(result.low[k], distribution.ppf((1 - CENTRAL) / 2), rtol=1e-6)
        np.testing.assert_allclose(result.high[k], distribution.ppf((1 + CENTRAL) / 2), rtol=1e-6)
        np.testing.assert_allclose(
            result.half_width[k], distribution.ppf((1 + CENTRAL) / 2) - distribution.mean(), rtol=1e-6
        )
        np.testing.assert_allclose(
            result.mass_outside[k], distribution.cdf(0.1) + distribution.sf(0.7), rtol=1e-5
        )
    assert (
        result.mass_outside[1].max() < 1e-14 < result.mass_outside[0].min()
    )  # far tails are not rounded to 0
    assert result.mass_outside.min() > 0.0


def test_the_set_of_a_sparse_distribution_is_its_support() -> None:
    scale = 0.25 / support_radius(0.0)
    policy = DosePolicy(Fixed([-0.2, 0.6], [scale, scale], 0.0), AWKWARD)
    result = policy.dose_set(states(2))
    assert result.bounded
    np.testing.assert_allclose(result.low[:, 0, 0], [0.4 + 0.3 * -0.45, 0.4 + 0.3 * 0.35], rtol=1e-6)
    np.testing.assert_allclose(result.high[:, 0, 0], [0.4 + 0.3 * 0.05, 0.4 + 0.3 * 0.85], rtol=1e-6)
    np.testing.assert_allclose(result.half_width, 0.3 * 0.25, rtol=1e-6)
    assert (result.mass_outside == 0.0).all()


def test_a_bounded_support_that_leaves_the_limits_is_not_called_safe() -> None:
    """q = 0 at 0.9 with half-width 0.2: the part beyond 1 is the tail of 3/4 (1 - w^2) from w = 1/2 on."""
    policy = DosePolicy(Fixed([0.9], [0.2 / support_radius(0.0)], 0.0), AWKWARD)
    result = policy.dose_set(states(1))
    assert result.bounded
    np.testing.assert_allclose(result.mass_outside, 5 / 32, rtol=1e-5)


@every_agent
@pytest.mark.parametrize("limits", [(-1.0, 1.0), (0.1, 0.7), (3.3, 41.9)])
def test_no_mass_lies_outside_a_bounded_distributions_own_interval(
    name: str, limits: tuple[float, float]
) -> None:
    """Exactly 0 whatever the units round to; a distribution on the whole line keeps the share it must.

    A finite distribution keeps no more than that, and nothing of it lies outside the limits at which it is
    clipped.
    """
    transform = Transform((0.0,) * 8, (1.0,) * 8, (limits[0],), (limits[1],))
    policy = DosePolicy(stack(name, (0, 1, 2)), transform)
    obs = states(3, 50)
    own = policy.dose_set(obs)
    outside = policy.mass_outside(obs, own.low, own.high)
    assert own.bounded == is_bounded(name)
    if own.bounded:
        assert (outside == 0.0).all()
        if name == "fttpo_released":  # as released: its edges may leave the box
            return
        assert (own.mass_outside == 0.0).all()
        assert ((own.low > limits[0]) & (own.high < limits[1])).all()
    elif has_density(name):
        # a quantile within rounding of a limit is that limit, beyond which a distribution on the box has
        # nothing
        room = 1e-8 * (limits[1] - limits[0])
        apart = (own.low > limits[0] + room) & (own.high < limits[1] - room)
        apart |= own.kind == "infinite_clipped"
        np.testing.assert_allclose(outside[apart], 1 - CENTRAL, rtol=1e-6)
        assert (outside < 2 * (1 - CENTRAL)).all()
        assert apart.mean() > 0.9
    else:
        assert (outside < 1 - CENTRAL + 1e-6).all()
        assert (own.mass_outside == 0.0).all()


def test_draws_on_the_limits_are_within_them() -> None:
    """Half of the doses clipped at the lower limit, a quarter beyond an interval inside."""

    class Clipped(Fixed):
        def policy(self, obs: torch.Tensor) -> Distribution:
            values = torch.tensor([-1.0, -1.0, 0.0, 1.0]).expand(*obs.shape[:2], 1, 4)
            return Independent(Draws(values), 1)

    policy = DosePolicy(Clipped([0.0], [1.0], 1.0), AWKWARD)
    assert (policy.dose_set(states(1)).mass_outside == 0.0).all()
    low, high = np.full((1, 4, 1), 0.1), np.full((1, 4, 1), 0.6)
    assert (policy.mass_outside(states(1), low, high) == 0.25).all()
    assert (policy.mass_outside(states(1), low + 0.1, high + 0.1) == 0.5).all()


def test_mass_outside_an_interval_is_the_distributions() -> None:
    policy = DosePolicy(Fixed([0.0, 0.0], [0.5, 0.5], 1.0), AWKWARD)
    low, high = np.full((2, 4, 1), 0.3), np.full((2, 4, 1), 0.45)
    distribution = stats.norm(0.4, 0.15)
    np.testing.assert_allclose(
        policy.mass_outside(states(2), low, high), distribution.cdf(0.3) + distribution.sf(0.45), rtol=1e-6
    )
    sparse = DosePolicy(
        Fixed([0.0], [1 / support_radius(0.0)], 0.0), AWKWARD
    )  # 3/4 (1 - w^2) on the whole box
    inner = sparse.mass_outside(states(1), np.full((1, 4, 1), 0.25), np.full((1, 4, 1), 0.55))
    np.testing.assert_allclose(inner, 1 - 11 / 16, rtol=1e-6)


# Densities


@every_density
def test_a_density_integrates_to_one_in_dose_units(name: str) -> None:
    transform = Transform((0.0,) * 8, (1.0,) * 8, (3.3,), (41.9,))
    policy = DosePolicy(stack(name, (0, 1)), transform)
    grid = np.linspace(3.3 - 400, 41.9 + 400, 400_001)[:, None]
    density = policy.density(states(1, 1)[0, 0], grid)
    assert density.shape == grid.shape
    assert float(np.trapezoid(density[:, 0], grid[:, 0])) == pytest.approx(1.0, abs=1e-4)


def test_a_density_is_the_mean_over_seeds() -> None:
    policy = DosePolicy(Fixed([-0.2, 0.6], [0.5, 0.1], 1.0), AWKWARD)
    dose = np.array([[0.1], [0.4], [0.58]])
    expected = 0.5 * stats.norm(0.34, 0.15).pdf(dose) + 0.5 * stats.norm(0.58, 0.03).pdf(dose)
    np.testing.assert_allclose(policy.density(states(1, 1)[0, 0], dose), expected, rtol=1e-6)


@every_density
def test_further_distributions_are_densities_too(name: str) -> None:
    policy = DosePolicy(stack(name, (0, 1)), AWKWARD)
    dose = np.linspace(0.1, 0.7, 7)[:, None]
    for density in policy.extra_densities(states(1, 1)[0, 0], dose).values():
        assert density.shape == (7, 1)
        assert np.isfinite(density).all()
        assert (density >= 0).all()


# Sampling


@every_density
def test_sampled_doses_are_fixed_by_seed_and_visit(name: str) -> None:
    policy, obs = DosePolicy(stack(name, (3, 5)), AWKWARD), states(2, 30)
    doses = policy.sampled(obs, 4)
    np.testing.assert_array_equal(doses, DosePolicy(stack(name, (3, 5)), AWKWARD).sampled(obs, 4))
    assert not np.isclose(doses, policy.sampled(obs, 5)).all()
    alone = DosePolicy(stack(name, (5,)), AWKWARD).sampled(obs[:1], 4)
    np.testing.assert_allclose(doses[1], alone[0], rtol=1e-4)


@every_density
def test_sampled_doses_follow_the_distribution(name: str) -> None:
    """The distribution function of each distribution at its own draws is uniform, over patients and
    visits."""
    policy, obs = DosePolicy(stack(name, (3, 5)), AWKWARD), states(2, 500)
    levels = []
    for visit in range(6):
        doses = policy.sampled(obs, visit)
        levels.append(policy.mass_outside(obs, doses, np.full_like(doses, np.inf)))
    assert stats.kstest(np.ravel(levels), stats.uniform().cdf).pvalue > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n, entry in agents.AGENTS.items() if entry.about.support == "point"])
def test_a_policy_of_one_dose_always_gives_it(name: str) -> None:
    policy, obs = DosePolicy(stack(name, (3, 5)), AWKWARD), states(2, 30)
    dose = policy.recommended(obs)
    np.testing.assert_array_equal(policy.sampled(obs, 4), dose)
    assert (policy.dose_set(obs).half_width == 0.0).all()
    np.testing.assert_allclose(policy.dose_set(obs).low, dose)
    assert (policy.mass_outside(obs, dose + 1e-3, dose + 1.0) == 1.0).all()


# Loading


def saved(path: Path, name: str, agent: Agent, seeds: tuple[int, ...] = (0, 1)) -> RunFolder:
    run = RunFolder(path)
    config = run_config(
        agent=name,
        agent_config=asdict(small(name)),
        problem=PROBLEM,
        seeds=seeds,
        transform=AWKWARD,
        limits=DoseLimits(AWKWARD.act_low, AWKWARD.act_high),
    )
    write_json(path / CONFIG, config.to_json())
    write_tensors(path / WEIGHTS, agent.state_dict(), {})
    write_table(path / METRICS, {"step": [1]})
    run.finish()
    return run


@every_agent
def test_a_loaded_policy_is_the_trained_one(name: str, tmp_path: Path) -> None:
    agent = stack(name)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.mul_(1.3)
    loaded = policy_of(saved(tmp_path, name, agent))
    original = DosePolicy(agent, AWKWARD)
    assert loaded.seeds == (0, 1)
    assert loaded.transform == AWKWARD
    np.testing.assert_array_equal(loaded.recommended(states(2)), original.recommended(states(2)))


@every_agent
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    agent = stack(name)
    with torch.no_grad():
        list(agent.parameters())[-1].flatten()[0] = value
    with pytest.raises(UserError, match="NaN or infinity"):
        policy_of(saved(tmp_path, name, agent))


@every_agent
def test_weights_of_another_size_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit") as error:
        policy_of(saved(tmp_path, name, stack(name, (0, 1, 2))))
    assert "\n" not in str(error.value)


def test_weights_of_another_agent_are_refused(tmp_path: Path) -> None:
    first, second, *_ = agents.AGENTS
    with pytest.raises(UserError, match="do not fit"):
        policy_of(saved(tmp_path, first, stack(second)))


def test_an_unknown_agent_is_refused(tmp_path: Path) -> None:
    run = saved(tmp_path, next(iter(agents.AGENTS)), stack(next(iter(agents.AGENTS))))
    write_json(run.path / CONFIG, replace(run.config(), agent="no_such_agent").to_json())
    run.finish()
    with pytest.raises(UserError, match="no_such_agent"):
        policy_of(run)
