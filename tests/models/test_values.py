"""What agents believe a dose to be worth: which have a critic, what it says, and in which units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.data.dataset import Transform
from dosing.policy import DosePolicy
from tests.support.samples import PROBLEM, stack

IMITATORS = ("bc", "pct_bc", "decision_transformer", "response_model")
DISTRIBUTIONS = ("iqn", "c51", "codac", "value_flows")
UNITS = Transform((0.5,) * 8, (2.0,) * 8, (0.1,), (0.7,), reward_scale=3.0)


def asked(seeds: int = 2, rows: int = 5) -> tuple[Any, Any]:
    """The same states ``[S, B, O]`` for every seed, and doses within the limits ``[S, B, A]``."""
    state = np.random.default_rng(0).standard_normal((rows, PROBLEM.n_obs)).astype(np.float32)
    dose = np.linspace(0.1, 0.7, rows)[:, None]
    return np.broadcast_to(state, (seeds, *state.shape)), np.broadcast_to(dose, (seeds, *dose.shape))


@pytest.mark.parametrize("name", list(agents.AGENTS))
def test_whoever_has_a_critic_values_every_dose(name: str) -> None:
    state, dose = asked()
    policy = DosePolicy(stack(name), UNITS)
    result = policy.values(state, dose)
    assert (result is None) == (name in IMITATORS)
    if result is None:
        return
    assert result.shape == (2, 5)
    assert np.isfinite(result).all()
    moved = policy.values(state, dose[:, ::-1])
    assert moved is not None
    assert not np.allclose(result[:, [0, 1, 3, 4]], moved[:, [0, 1, 3, 4]], rtol=1e-6)  # it looks at the dose
    np.testing.assert_allclose(result[:, 2], moved[:, 2], rtol=1e-4, atol=1e-6)


def inside(agent: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same states and doses in agents' units."""
    state, dose = (torch.tensor(x.copy(), dtype=torch.float32) for x in asked())
    return (state - 0.5) / 2.0, (dose - 0.4) / 0.3


@pytest.mark.parametrize("name", ["iql", "fttpo", "td3_bc", "bcq"])
def test_a_value_is_that_of_the_lesser_critic_in_the_unit_of_the_rewards(name: str) -> None:
    agent: Any = stack(name)
    with torch.no_grad():
        expected = 3.0 * agent.critic(*inside(agent)).amin(1).numpy()
    result = DosePolicy(agent, UNITS).values(*asked())
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_value_is_the_mean_of_a_learned_distribution(name: str) -> None:
    policy = DosePolicy(stack(name), UNITS)
    distribution = policy.returns(*asked())
    assert distribution is not None
    np.testing.assert_allclose(policy.values(*asked()), distribution.mean(-1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["fan", "nbrac", "nfql"])
def test_a_critic_of_noise_is_averaged_over_it(name: str) -> None:
    agent: Any = stack(name)
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    state, act = inside(agent)
    rows = (x[:, :, None].expand(-1, -1, 2000, -1).flatten(1, 2) for x in (state, act))
    obs, dose = rows
    told = torch.cat((obs, noise.repeat(5, 1).expand(2, -1, -1)), -1)
    with torch.no_grad():
        drawn = 3.0 * agent.critic(told, dose).mean(1).view(2, 5, 2000)
    result = DosePolicy(agent, UNITS).values(*asked())
    assert result is not None
    error = 5.0 * drawn.std(-1).numpy() / np.sqrt(2000)
    assert (np.abs(result - drawn.mean(-1).numpy()) < error + 1e-4).all()


def test_the_parabola_explains_the_density_that_follows_from_it() -> None:
    """Differences of Q within the support are 2 lambda times those of pi, on the scaled dose."""
    agent: Any = stack("quasi_optimal", dtype=torch.float64)
    state, _ = inside(agent)
    state = state.double()
    distribution: Any = agent.policy(state).base_dist  # type: ignore[attr-defined]
    low, high = distribution.support.lower_bound, distribution.support.upper_bound
    one, other = torch.lerp(low, high, torch.tensor(0.3)), torch.lerp(low, high, torch.tensor(0.6))
    width = agent.act_high - agent.act_low
    density = [distribution.log_prob(x).exp().squeeze(-1) * width for x in (one, other)]
    value = [agent.value_of(state, x) for x in (one, other)]
    expected = 2.0 * agent.config.regularisation * (density[0] - density[1])
    torch.testing.assert_close(value[0] - value[1], expected)
