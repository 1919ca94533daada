"""IQN, C51, CODAC and Value Flows learn distributions of returns that are known, and choose doses by them.

Rewards here are drawn: on the bandit the distribution of the return is that of the reward, on a chain of two
visits that of r + gamma r'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.models.return_distributions import LEVELS
from tests.agents.bandit import OBS, SEEDS, bandit, trained

pytestmark = pytest.mark.long

FEW = {"learning_rate": 1e-2, "candidates": 2, "flow_steps": 1}
"""Where the dose does not matter to what is learned, a quick choice."""
QUICK: dict[str, dict[str, Any]] = {
    "iqn": FEW | {"n_quantiles": 8, "choice_quantiles": 10, "huber_threshold": 0.02},
    "c51": FEW,
    "codac": {
        "learning_rate": 1e-2,
        "actor_learning_rate": 1e-2,
        "n_quantiles": 8,
        "huber_threshold": 0.02,
        "n_actions": 1,
        "penalty": 0.0,
        "temperature": 1e-3,
    },
    "value_flows": FEW | {"distributional": 0.0, "return_steps": 5},
}
FINE = {"value_flows": {"return_steps": 10}}
"""Fewer Euler steps narrow the distribution."""
DOSES = bandit().act[:, 0].numpy()
EVENLY = (np.arange(len(DOSES)) * 0.5 * (np.sqrt(5.0) - 1.0) + 0.5) % 1.0
"""In place of uniform draws: spread evenly wherever one looks, so that no stretch of doses is luckier."""


def learner(name: str, data: Dataset, steps: int = 300, **changes: Any) -> Any:
    """A stack trained quickly."""
    return trained(name, QUICK[name] | changes, data, steps, 64)


def rewarded(reward: np.ndarray) -> Dataset:
    """The bandit with these rewards, its states all alike."""
    data = bandit()
    zero = torch.zeros_like(data.obs)
    return replace(data, obs=zero, next_obs=zero, reward=torch.from_numpy(reward.astype(np.float32)))


def learned(agent: Agent, dose: float, state: float = 0.0) -> np.ndarray:
    """Sorted returns of a dose, ``[S, K]``."""
    obs = torch.full((len(SEEDS), 1, 1), state)
    with torch.no_grad():
        result = agent.returns(obs, torch.full_like(obs, dose))
    assert result is not None
    return np.sort(result[:, 0].numpy(), -1)


# The distribution of the reward


def effect(dose: Any) -> Any:
    """Probability that a dose has its effect."""
    return 0.5 + 0.3 * dose


@pytest.mark.parametrize("name", list(QUICK))
def test_the_probability_of_an_effect_is_learned(name: str) -> None:
    """Reward 1 with a probability that depends on the dose, else 0."""
    reward = (effect(DOSES) > EVENLY).astype(np.float64)
    agent = learner(name, rewarded(reward), 300)
    share = 0.4 if name == "value_flows" else 0.75  # a smooth flow passes between the two
    for dose in (-0.7, 0.0, 0.7):
        result = learned(agent, dose)
        np.testing.assert_allclose(result.mean(-1), effect(dose), atol=0.12)
        assert result.mean() == pytest.approx(effect(dose), abs=0.06)
        np.testing.assert_allclose((result > 0.5).mean(-1), effect(dose), atol=0.15)
        assert (np.minimum(np.abs(result), np.abs(result - 1.0)) < 0.1).mean() > share


# Two visits


def chain() -> Dataset:
    """Episodes of two visits told apart by the state; both pay 0 or 1, each by a fair coin."""
    data = bandit()
    m = len(data)
    second = torch.arange(m) % 2 == 1
    obs = torch.where(second, 1.0, -1.0)[:, None]
    coins = np.random.default_rng(1).integers(0, 2, m).astype(np.float32)
    return replace(
        data,
        obs=obs,
        next_obs=torch.ones_like(obs),
        act=data.act[torch.randperm(m, generator=torch.Generator().manual_seed(0))],
        reward=torch.from_numpy(coins),
        terminated=second.float(),
        starts=torch.arange(0, m + 1, 2),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", list(QUICK))
def test_the_return_of_two_visits_is_the_convolution(name: str) -> None:
    """0, 1/2, 1 and 3/2, each with probability 1/4, at a discount of 1/2."""
    agent = learner(name, chain(), 400, discount=0.5, **FINE.get(name, {}))
    result = learned(agent, 0.0, -1.0)
    np.testing.assert_allclose(result.mean(-1), 0.75, atol=0.1)
    np.testing.assert_allclose(result.std(-1), np.sqrt(1.25) / 2.0, atol=0.1)
    if name != "value_flows":  # a smooth flow passes between them
        middles = result[:, [12, 37, 62, 87]].mean(0)
        np.testing.assert_allclose(middles, [0.0, 0.5, 1.0, 1.5], atol=0.05)


@pytest.mark.slow
def test_the_second_term_of_value_flows_moves_the_mean() -> None:
    """As published both terms count 1: the compromise that the module speaks of, at 0.62 for 0.75."""
    agent = learner("value_flows", chain(), 400, discount=0.5, distributional=1.0, **FINE["value_flows"])
    assert learned(agent, 0.0, -1.0).mean() == pytest.approx(0.62, abs=0.06)


# Risk

WORST = 0.2
"""Share of the worst returns in the cautious agents' measure."""
PRICE = float(stats.norm.pdf(stats.norm.ppf(WORST)) / WORST)
"""Deviations that the mean of this share of a normal distribution lies below the mean."""


NEUTRAL, CAUTIOUS = 0.6, 0.0
"""Doses with the largest mean, and with the largest mean of the worst share."""


def reward_distribution(dose: Any) -> Any:
    """Normal: mean 1.2 a - a^2, and a deviation so that the mean less PRICE deviations is largest at 0."""
    return stats.norm(2.0 * NEUTRAL * dose - dose**2, 2.0 * NEUTRAL / PRICE * (1.0 + dose))


def heteroscedastic() -> Dataset:
    """Rewards of that distribution, spread evenly over it."""
    return rewarded(reward_distribution(DOSES).ppf(EVENLY))


@pytest.mark.slow
def test_iqn_knows_the_tails_and_the_cautious_dose() -> None:
    agent = learner("iqn", heteroscedastic(), 400, risk_level=WORST)
    levels = np.array([10, 30, 50, 70, 90])
    for dose in (-0.5, 0.0, 0.5):
        wanted = reward_distribution(dose).ppf((levels + 0.5) / LEVELS)
        np.testing.assert_allclose(learned(agent, dose).mean(0)[levels], wanted, atol=0.2)
    grid = torch.linspace(-1.0, 1.0, 41).view(1, 41, 1).expand(len(SEEDS), 41, 1)
    with torch.no_grad():
        cautious = agent.risk(torch.zeros_like(grid), grid).mean(0)
    assert float(grid[0, cautious.argmax(), 0]) == pytest.approx(CAUTIOUS, abs=0.25)
    assert learned(agent, NEUTRAL).mean() > learned(agent, CAUTIOUS).mean() + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("level", [1.0, WORST])
def test_iqn_deploys_the_dose_of_its_risk(level: float) -> None:
    changes = {"risk_level": level, "candidates": 16, "flow_steps": 5}
    agent = learner("iqn", heteroscedastic(), 500, **changes)
    with torch.no_grad():
        doses = agent.policy(torch.zeros_like(OBS)).mode[:, 0, 0].numpy()
    assert doses.mean() == pytest.approx(NEUTRAL if level == 1.0 else CAUTIOUS, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("risk", ["neutral", "cvar"])
def test_codac_deploys_the_dose_of_its_risk(risk: str) -> None:
    agent = learner("codac", heteroscedastic(), 300, risk=risk, risk_parameter=WORST)
    with torch.no_grad():
        doses = agent.policy(torch.zeros_like(OBS)).mode[:, 0, 0].numpy()
    assert doses.mean() == pytest.approx(NEUTRAL if risk == "neutral" else CAUTIOUS, abs=0.25)
