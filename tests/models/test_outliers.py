"""Outliers: those that were put in are found, nothing else is; a fit without them is as if they were not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dosing.models.outliers import CHANCE, fit_without_outliers, outliers
from dosing.models.response_fit import FitSettings, fit_response
from dosing.models.reward_model import fit_reward
from tests.models.test_response import toy

HOW = FitSettings(steps=60, families=("saturating",))


def disturbed(obs: Tensor, share: float, away: float = 8.0) -> tuple[Tensor, Tensor]:
    """Observations of which a share lies ``away`` standard deviations off, and which."""
    rng = torch.Generator().manual_seed(7)
    where = torch.rand(obs.shape, generator=rng) < share
    sign = 2.0 * (torch.rand(obs.shape, generator=rng) < 0.5) - 1.0
    return torch.where(where, obs + away * sign * obs.std(), obs), where


@pytest.mark.long
def test_those_that_were_put_in_are_found_and_hardly_any_other() -> None:
    obs, act = toy("saturating", 40)
    dirty, where = disturbed(obs, 0.05)
    found = outliers(fit_response(dirty, act, HOW), dirty, act)
    assert float(found[where].float().mean()) > 0.98
    assert float(found[~where].float().mean()) < 0.002


@pytest.mark.long
def test_recorded_patients_without_them_are_fitted_as_they_are() -> None:
    obs, act = toy("saturating", 40)
    fitted, seen = fit_without_outliers(obs, act, HOW)
    assert seen is obs
    torch.testing.assert_close(fitted.packed, fit_response(obs, act, HOW).packed, rtol=0.0, atol=0.0)


@pytest.mark.long
def test_few_are_chance_and_left_alone() -> None:
    obs, act = toy("saturating", 40)
    dirty, where = disturbed(obs, 0.5 * CHANCE)
    assert int(where.sum()) > 2
    assert not outliers(fit_response(dirty, act, HOW), dirty, act).any()


@pytest.mark.long
def test_each_data_set_of_a_stack_is_looked_at_alone() -> None:
    obs, act = toy("saturating", 20, sets=2)
    dirty = torch.cat((obs[:1], disturbed(obs[1:], 0.05)[0]))
    found = outliers(fit_response(dirty, act, HOW), dirty, act)
    assert not found[0].any()
    assert found[1].any()


@pytest.mark.long
def test_the_first_visit_may_differ_more_than_later_ones() -> None:
    """Levels that differ much between patients before anything is known of them: no outlier among them."""
    rng = torch.Generator().manual_seed(10)
    act = 2.0 * torch.rand(1, 60, 24, 1, generator=rng) - 1.0
    level, seen = torch.randn(1, 60, 2, generator=rng), []
    for visit in range(25):
        seen.append(level + 0.3 * torch.randn(level.shape, generator=rng))
        level = 0.8 * level + 0.6 * act[:, :, min(visit, 23)]
    obs = torch.stack(seen, 2)
    fitted = fit_response(obs, act, FitSettings(steps=100, families=("linear",)))
    assert float(obs[:, :, 0].std()) > 1.5 * float((obs[:, :, 1:] - 0.8 * obs[:, :, :-1] - 0.6 * act).std())
    assert not outliers(fitted, obs, act).any()


@pytest.mark.long
def test_a_code_has_none() -> None:
    """A marker of two values, one of them rare, is far off whenever it is the rare one."""
    obs, act = toy("saturating", 40)
    rare = torch.rand(obs.shape[:3], generator=torch.Generator().manual_seed(8)) < 0.03
    obs = torch.cat((obs, rare.unsqueeze(-1).to(obs)), -1)
    assert not outliers(fit_response(obs, act, HOW), obs, act).any()


@pytest.mark.long
def test_what_was_not_recorded_is_no_outlier() -> None:
    obs, act = toy("saturating", 40)
    holes = torch.where(
        torch.rand(obs.shape, generator=torch.Generator().manual_seed(9)) < 0.2, math.nan, obs
    )
    assert not outliers(fit_response(holes, act, HOW), holes, act).any()


@pytest.mark.long
@pytest.mark.parametrize("clean", [True, False])
def test_rewards_are_learned_as_if_outliers_were_not_there(clean: bool) -> None:
    """A reward of the numbers as they were; with the outliers left in, its curvature is lost."""
    obs, act = toy("saturating", 40)
    reward = -(obs[:, :, 1:, 0] - 0.5).square() - act[..., 0].square()
    dirty, _ = disturbed(obs, 0.05)
    fitted, seen = fit_without_outliers(dirty, act, HOW)
    paid = fit_reward((seen if clean else dirty)[:, :, 1:], act, reward, fitted.fold)
    curvature = float(paid.theta[0, 0, 1 + obs.shape[3], 0])  # of the first marker's square
    assert (abs(curvature + 1.0) < 0.05) == clean
