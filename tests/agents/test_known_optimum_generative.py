"""BCQ, BEAR and PLAS reach the best dose of the bandit where recorded doses are, and stay there.

Doses are recorded on [low, 1]; the best one is 0.3. It can be generated where it is among the recorded ones,
and not with low = 0.5. Critics are quadratic in the dose, as the reward is, so that what is left of error is
the method's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.models.flows import points, spread
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem
from tests.agents.bandit import BEST, OBS, SEEDS, bandit

pytestmark = pytest.mark.long

SETTINGS: dict[str, Any] = {
    "hidden": (16,),
    "learning_rate": 2e-2,
    "target_rate": 0.05,
    "vae_hidden": (16,),
    "vae_learning_rate": 1e-2,
    "vae_beta": 0.05,
}
BCQ = {"target_candidates": 1, "candidates": 64}
PLAS = {"actor_learning_rate": 1e-2, "vae_steps": 150}
BEAR = {
    "target_candidates": 1,
    "mmd_only": 0,
    "multiplier_learning_rate": 0.05,
    "kernel_width": 1.0,
    "matched": 4,
}


def trained(name: str, config: dict[str, Any], dataset: Dataset, steps: int) -> Any:
    """A stack of four seeds after ``steps`` updates, the last third at a tenth of the step size."""
    options = {"dose_quadratic": True}
    agent = agents.build(name, SETTINGS | config, Problem(1, 1), SEEDS, regularisation=options)
    sampler, take = Sampler(dataset, agent, 64), updater(agent)
    for step in range(steps):
        if step == 2 * steps // 3:
            for optimizer in agent.optimizers.values():
                optimizer.param_groups[0]["lr"] *= 0.1
        take(sampler(step))
    return agent


def doses(agent: Agent) -> np.ndarray:
    """The recommended dose at each of the observations, ``[S, B]``."""
    with torch.no_grad():
        return agent.policy(OBS).mode.squeeze(-1).numpy()


def candidates(agent: Agent) -> np.ndarray:
    """What the executed dose is chosen from, ``[S, B, M]``."""
    with torch.no_grad():
        distribution: Any = agent.policy(OBS).base_dist  # type: ignore[attr-defined]
    return np.asarray(distribution.values.squeeze(2))


def ends(agent: Agent) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest dose that can be generated at each of the observations, ``[S, B]`` each."""
    with torch.no_grad():
        result = agent.admissible(OBS, 8192)
    assert result is not None
    return result.amin((2, 3)).numpy(), result.amax((2, 3)).numpy()


# BCQ


def test_bcq_takes_the_best_dose_that_is_recorded() -> None:
    """The candidate that is nearest to it; some of them are near."""
    agent = trained("bcq", {**BCQ, "reach": 0.0}, bandit(), 700)
    result, among = doses(agent), candidates(agent)
    nearest = np.take_along_axis(among, np.abs(among - BEST).argmin(-1)[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.abs(result - BEST), np.abs(nearest - BEST), atol=0.02)
    assert np.abs(nearest - BEST).max() < 0.1
    assert np.ptp(among, axis=-1).min() > 0.4


@pytest.mark.parametrize("reach", [0.0, 0.1])
def test_bcq_leaves_the_generated_doses_by_no_more_than_its_reach(reach: float) -> None:
    """The critics fall from 0.3 on: the least dose that is generated, moved down as far as allowed.

    With larger steps, untrained critics move it up as far as allowed, and it is slow to come back.
    """
    agent = trained("bcq", {**BCQ, "reach": reach, "learning_rate": 1e-2}, bandit(0.5), 600)
    low, high = ends(agent)
    assert (low > 0.5 - reach).all()
    assert (high < 1.0).all()
    np.testing.assert_allclose(doses(agent), low, atol=0.02)
    np.testing.assert_allclose(doses(agent), candidates(agent).min(-1), atol=1e-6)


# PLAS


def test_plas_takes_the_best_dose_that_is_recorded() -> None:
    agent = trained("plas", PLAS, bandit(), 450)
    low, high = ends(agent)
    assert (low < -0.7).all()
    assert (high > 0.7).all()
    np.testing.assert_allclose(doses(agent).mean(1), BEST, atol=0.02)
    np.testing.assert_allclose(doses(agent), BEST, atol=0.06)


def test_plas_stays_in_the_image_of_its_decoder() -> None:
    """The critics fall from 0.3 on: near the least dose of the decoder, and never below."""
    agent = trained("plas", PLAS, bandit(0.5), 1200)
    low, high = ends(agent)
    assert (low > 0.5).all()
    assert (doses(agent) > low - 0.01).all()
    assert (doses(agent) < low + 0.3 * (high - low)).all()


# BEAR


def test_bear_takes_the_best_dose_where_any_discrepancy_is_allowed() -> None:
    agent = trained("bear", {**BEAR, "threshold": 5.0}, bandit(), 300)
    assert (agent.log_multiplier.detach() < -3.0).all()
    np.testing.assert_allclose(doses(agent), BEST, atol=0.04)


def test_bear_stays_where_the_data_are_where_no_discrepancy_is_allowed() -> None:
    """Draws as they are compared, within half a deviation, match the decoder's, whose doses pay less."""
    agent = trained("bear", {**BEAR, "threshold": 0.0}, bandit(0.5), 300)
    with torch.no_grad():
        distribution: Any = agent.densities(OBS)["candidates"].base_dist
        compared = [torch.tanh(distribution.loc + k * distribution.scale).numpy() for k in (-0.5, 0.5)]
        generated = torch.tanh(agent.vae.decode(OBS, torch.zeros(len(SEEDS), len(OBS[0]), 2))).numpy()
    assert (agent.log_multiplier.detach() == 10.0).all()
    assert min(x.min() for x in compared) > 0.5
    assert max(x.max() for x in compared) < 1.0
    np.testing.assert_allclose(np.mean(compared, 0).mean((1, 2)), generated.mean((1, 2)), atol=0.04)


def test_bear_imitates_at_first() -> None:
    """With Q left out, the mean before tanh is that of the decoder, near the mean recorded dose, 0."""
    agent = trained("bear", {**BEAR, "mmd_only": 10_000, "kernel_width": 10.0}, bandit(), 200)
    with torch.no_grad():
        distribution: Any = agent.densities(OBS)["candidates"].base_dist
        generated = spread(agent.vae.decode, OBS, points(64, 2, OBS).clamp(-0.5, 0.5)).mean((1, 2, 3))
    np.testing.assert_allclose(generated, 0.0, atol=0.3)
    np.testing.assert_allclose(distribution.loc.mean((1, 2)), generated, atol=0.05)
