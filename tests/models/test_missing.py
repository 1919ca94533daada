"""Flags that tell which entries of a state were measured: found, obeyed, and neutral for everything else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
from dosing.data.dataset import Dataset
from dosing.data.earlier_visits import EarlierVisits
from dosing.models.missing import Flags, flags
from dosing.policy import DosePolicy
from dosing.recommendation.belief import belief_of
from dosing.types import Problem
from simulator.cohorts.generate import simulate

VISITS, PATIENTS = 6, 40


def states(seed: int = 0) -> Tensor:
    """``[2, N, V, 4]``: two markers, standardised, of which the second is missing at a third of the visits.

    The third entry says so; the last is a yes or no that tells of nothing.
    """
    rng = torch.Generator().manual_seed(seed)
    marker = torch.randn(2, PATIENTS, VISITS, 2, generator=rng)
    measured = (torch.rand(2, PATIENTS, VISITS, generator=rng) > 1 / 3).float()
    marker[..., 1] = torch.where(measured > 0, marker[..., 1], -0.25)
    other = (torch.rand(2, PATIENTS, VISITS, generator=rng) > 0.5).float()
    return torch.stack((marker[..., 0], marker[..., 1], (measured - 0.6) / 0.5, other), -1)


def test_a_flag_is_found_and_obeyed() -> None:
    obs = states()
    found = flags(obs)
    assert found.of.tolist() == [[0, 2, 2, 3]] * 2
    assert found.are.tolist() == [[False, False, True, False]] * 2
    assert found.instead.tolist() == [[0, 1, 1, 3]] * 2
    seen = found.recorded(obs)
    measured = obs[..., 2] > 0.0
    for k in (1, 2):  # the flag gives way to what it tells of
        assert torch.equal(seen[..., k].isfinite(), measured)
        assert torch.equal(seen[..., k][measured], obs[..., 1][measured])
    assert torch.equal(seen[..., [0, 3]], obs[..., [0, 3]])
    one = found.recorded(obs[:, :, 0])
    assert torch.equal(one.isnan(), seen[:, :, 0].isnan())


def test_a_visit_without_measurements_has_as_many_flags_as_markers() -> None:
    """Flags that always agree: each stands for an entry of its own."""
    obs = states()
    whole = obs[..., 2:3]
    denied = whole < 0.0
    obs = torch.cat((torch.where(denied, -0.25, torch.randn(obs[..., :2].shape)), whole, whole), -1)
    found = flags(obs)
    assert found.are.tolist() == [[False, False, True, True]] * 2
    assert found.instead.tolist() == [[0, 1, 0, 1]] * 2
    assert torch.equal(found.recorded(obs).isnan(), denied.expand_as(obs))


@pytest.mark.parametrize("change", ["few", "varies", "empty"])
def test_what_looks_like_a_flag_is_none(change: str) -> None:
    obs = states()
    if change == "few":  # seen too seldom to be sure
        obs = obs[:, :2, :2]
    elif change == "varies":
        obs[..., 1] += 1e-3 * torch.randn(obs.shape[:-1])
    else:
        obs[:] = math.nan
    found = flags(obs)
    none = Flags.none(2, 4, obs)
    assert all(torch.equal(a, b) for a, b in zip(found, none, strict=True))
    assert torch.equal(found.recorded(obs).nan_to_num(), obs.nan_to_num())


@pytest.mark.parametrize("env_id", ["dosing/Treatment-v0", "dosing/Warfarin-v0", "dosing/Insulin-v0"])
def test_states_without_gaps_have_no_flags(env_id: str) -> None:
    visits = simulate(env_id, patients=20, seed=1)
    assert not bool(flags(torch.as_tensor(visits.obs)[None, None]).are.any())


@pytest.mark.long
def test_a_missing_visit_leaves_the_belief_to_the_forecast() -> None:
    """The last visit was not measured: what its zeros would say has no say."""
    data = Dataset.from_episodes(
        simulate("dosing/Treatment-v0", patients=60, policy="uniform", seed=3, missing_visits=0.3)
    )
    agent = agents.build(
        "response_model", {"fit_steps": 20, "gate": "off"}, Problem(data.obs.shape[1], 1), (0,)
    )
    agent.prepare(data)
    policy = DosePolicy(agent, data.transform)
    flagged = agent.patients.flags.are[0].numpy()
    assert flagged.tolist() == [False] * 8 + [True] * 8
    measured = np.concatenate((np.full(8, 0.7), np.ones(8)))
    earlier = EarlierVisits.of_episodes(
        np.stack((measured, measured)), np.full((2, 1), 0.5), np.zeros(2), np.zeros(1, dtype=np.int64)
    )
    after = policy.after(earlier[np.array([1])].past())
    ahead = belief_of(after, measured, np.array([0.5]), 1)
    assert ahead is not None
    assert np.isnan(ahead.level[:, flagged]).all()
    later = EarlierVisits.of_episodes(
        np.stack((measured,) * 3), np.full((3, 1), 0.5), np.zeros(3), np.zeros(1, dtype=np.int64)
    )
    missing = belief_of(policy.after(later[np.array([2])].past()), np.zeros(16), np.array([0.5]), 1)
    assert missing is not None
    assert not missing.recorded[2].any()
    assert missing.recorded[:2, :8].all()
    scale = np.asarray(data.transform.obs_scale)[:8]
    noise = scale * np.sqrt(agent.patients.responses(slice(0, 1)).noise[0, 0, :8].detach().numpy())
    np.testing.assert_allclose(missing.level[2, :8], ahead.forecast[0, :8], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        missing.level_sd[2, :8], np.sqrt(ahead.forecast_sd[0, :8] ** 2 - noise**2), rtol=1e-3
    )
