"""FtTPO's variants, trained on the bandit, reach the fixed points that their equations have there.

With V the reward averaged over the actor, 1 - E(a - m)^2, the weight [1 + (r - V) / tau]_+ is a parabola that
vanishes at W from the best dose, W^2 = tau + E(a - m)^2. The Cauchy distribution most likely under a parabola
of half-width W has the scale s = W / 3.2579, the ratio of the table of least divergences.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dosing.agent import Agent
from tests.agents.bandit import BEST, OBS, bandit, trained

TAU = 0.1
CAUCHY = 3.2579
"""Half-width of a parabola over the scale of a Cauchy distribution, where either is closest to the other."""


def fixed_point(per_scale: float, variance: float) -> tuple[float, float, float]:
    """Half-width W of the weight, scale s of the proposal and width of the actor.

    Args:
        per_scale: width of the actor over s.
        variance: of an actor of width 1.
    """
    ratio = per_scale / CAUCHY
    weight = math.sqrt(TAU / (1.0 - variance * ratio**2))
    return weight, weight / CAUCHY, ratio * weight


def learned(agent: Agent) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mode, width (half-width, or the scale of a normal distribution) and value, means over observations,
    ``[S]``."""
    with torch.no_grad():
        distribution: Any = agent.policy(OBS).base_dist  # type: ignore[attr-defined]
        width = distribution.scale * (distribution.radius if distribution.q < 1.0 else 1.0)
        value = agent.get_submodule("value")(OBS)
    return distribution.mode.mean((1, 2)).numpy(), width.mean((1, 2)).numpy(), value.mean(1).numpy()


CASES = [
    ({"actor_loss": "quadrature_kl"}, CAUCHY, 0.2),
    ({"actor_loss": "closed_form_width"}, CAUCHY, 0.2),
    ({"actor": "gaussian"}, 1.633978, 1.0),
    # as released the density has the scale sqrt(2) sigma, and the actor settles at 2.8539 sigma
    ({"released": True}, 2.8539 / math.sqrt(2.0), 0.2),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "per_scale", "variance"), CASES, ids=lambda x: str(x) if isinstance(x, dict) else ""
)
def test_fttpo_reaches_its_fixed_point(config: dict[str, Any], per_scale: float, variance: float) -> None:
    weight, scale, width = fixed_point(per_scale, variance)
    assert weight < 1.0 - BEST, "the solution fits into the box"
    name = "fttpo_released" if "released" in config else "fttpo"
    own = {} if "released" in config else config
    agent = trained(name, own | {"temperature": TAU, "learning_rate": 3e-3}, bandit(), 1200)
    mode, result, value = learned(agent)
    if name == "fttpo":
        proposal: Any = agent.densities(OBS)["proposal"].base_dist  # type: ignore[attr-defined]
        np.testing.assert_allclose(proposal.scale.detach().mean((1, 2)), scale, rtol=0.06)
    np.testing.assert_allclose(mode, BEST, atol=0.05)
    np.testing.assert_allclose(mode.mean(), BEST, atol=0.02)
    np.testing.assert_allclose(result, width, rtol=0.08)
    np.testing.assert_allclose(value, 1.0 - variance * width**2, atol=0.024)
    np.testing.assert_allclose(value.mean(), 1.0 - variance * width**2, atol=0.012)


def test_the_fixed_points_differ_by_more_than_the_tolerance() -> None:
    """The default's half-width is sqrt(5 tau / 4); the released code's is narrower by two fifths."""
    corrected, released = (fixed_point(ratio, 0.2)[2] for ratio in (CAUCHY, 2.8539 / math.sqrt(2.0)))
    assert corrected == pytest.approx(math.sqrt(1.25 * TAU), rel=1e-6)
    assert released == pytest.approx(0.5765 * corrected, rel=1e-3)
