"""Plans: what they promise, in plain loops; that they climb; and that nobody else's plan matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dosing.models.plan_gradient import PlanGradient
from dosing.models.planning import PlanSettings, Range, plan, plan_gradient, promised
from dosing.models.response import Belief, ResponseModel, Sizes
from dosing.models.reward_model import RewardModel, powers
from tests.oracles import response_model as oracle


def models(n_act: int, count: int = 2, n_obs: int = 3) -> tuple[ResponseModel, RewardModel, Belief]:
    """Random models of uncoupled markers with symmetric rewards that bend down in the dose, and beliefs."""
    rng = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    blank = ResponseModel.blank(Sizes(n_obs, n_act), count, torch.zeros((), dtype=torch.float64))
    noisy = {
        name: p + (0.3 * normal(*p.shape) if p.abs().max() < 1e5 else 0.0)
        for name, p in blank.parameters.items()
    }
    noisy |= {"low": torch.full_like(noisy["low"], -2.0), "high": torch.full_like(noisy["high"], 2.0)}
    theta = 0.2 * normal(count, 1 + n_obs + n_obs**2, powers(torch.zeros(1, n_act)).shape[-1])
    square = theta[:, 1 + n_obs :].unflatten(1, (n_obs, n_obs))
    theta[:, 1 + n_obs :] = (0.5 * (square + square.transpose(1, 2))).flatten(1, 2)
    theta[:, 0, -1] = -2.0
    belief = Belief(normal(count, 4, n_obs), normal(count, 4, n_obs).square())
    return ResponseModel(noisy), RewardModel(theta), belief


def dose_range(n_act: int, low: float = -0.6, high: float = 0.8, count: int = 2) -> Range:
    one = torch.ones(count, 1, n_act, dtype=torch.float64)
    return Range(low * one, high * one)


@pytest.mark.parametrize("n_act", [1, 2])
def test_what_a_plan_promises_is_the_expected_reward(n_act: int) -> None:
    world, reward, belief = models(n_act)
    doses = torch.randn(
        5, 2, 4, n_act, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    ).tanh()
    told = promised(world, reward, belief, doses)
    for k in range(2):
        p = {name: value[k].numpy() for name, value in world.parameters.items()}
        for b in range(4):
            want = oracle.promised(
                p, reward.theta[k].numpy(), belief.mean[k, b].numpy(), belief.variance[k, b].numpy(),
                list(doses[:, k, b].numpy()),
            )  # fmt: skip
            np.testing.assert_allclose(told[k, b], want, rtol=1e-6)


@pytest.mark.long
def test_the_expected_reward_is_the_mean_of_simulated_ones() -> None:
    """Where the response is straight, the forecast is exactly normal: draws of it average to the promise."""
    world, reward, belief = models(1)
    parameters = dict(world.parameters)
    parameters["log_level"] = torch.full_like(parameters["log_level"], 9.0)
    parameters["low"], parameters["high"] = (torch.full_like(parameters["low"], end) for end in (-1e6, 1e6))
    world = ResponseModel(parameters)
    doses = torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 2, 4, 1)
    rng, draws = torch.Generator().manual_seed(5), 200_000
    total = torch.zeros(2, draws, dtype=torch.float64)
    one = Belief(belief.mean[:, :1], belief.variance[:, :1])

    def normal() -> Tensor:
        return torch.randn(2, draws, 3, generator=rng, dtype=torch.float64)

    level = one.mean + one.variance.sqrt() * normal()
    for dose in doses:
        act = dose[:, :1].expand(-1, draws, -1)
        level = world.move(level, act) + world.process.sqrt() * normal()
        total += reward(level + world.noise.sqrt() * normal(), act)
    error = total.std(1) / draws**0.5
    told = promised(world, reward, one, doses[:, :, :1])[:, 0]
    assert bool(((total.mean(1) - told).abs() < 4.0 * error).all())


def test_markers_that_are_uncertain_together_count_together() -> None:
    """A full covariance: the products of two markers in the reward see their covariance."""
    world, reward, belief = models(1)
    straight = {"log_level": 9.0, "low": -1e6, "high": 1e6}
    parameters = {
        name: torch.full_like(p, straight[name]) if name in straight else p
        for name, p in world.parameters.items()
    }
    half = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.4, 0.0], [-0.5, 0.2, 0.6]], dtype=torch.float64)
    one = Belief(belief.mean[:, :1], (half @ half.mT).expand(2, 1, 3, 3))
    dose = torch.tensor([0.3], dtype=torch.float64).expand(1, 2, 1, 1)
    told = promised(ResponseModel(parameters, full=True), reward, one, dose)[:, 0]
    rng, draws = torch.Generator().manual_seed(6), 400_000

    def normal() -> Tensor:
        return torch.randn(2, draws, 3, generator=rng, dtype=torch.float64)

    world = ResponseModel(parameters)
    act = dose[0].expand(-1, draws, -1)
    level = world.move(one.mean + normal() @ half.mT, act) + world.process.sqrt() * normal()
    worth = reward(level + world.noise.sqrt() * normal(), act)
    assert bool(((worth.mean(1) - told).abs() < 4.0 * worth.std(1) / draws**0.5).all())
    apart = promised(world, reward, Belief(one.mean, one.variance.diagonal(dim1=-2, dim2=-1)), dose)[:, 0]
    assert bool(((worth.mean(1) - apart).abs() > 8.0 * worth.std(1) / draws**0.5).any())


def test_a_longer_climb_promises_more_and_the_constant_is_the_floor() -> None:
    world, reward, belief = models(2)
    span, start = dose_range(2), torch.full((2, 1, 2), 0.1, dtype=torch.float64)
    worth = []
    for steps in (1, 4, 12, 40):
        doses = plan(world, reward, belief, start, span, 6, PlanSettings(6, steps))
        assert doses.shape == (6, 2, 4, 2)
        assert bool(((doses >= -0.6) & (doses <= 0.8)).all())
        worth.append(promised(world, reward, belief, doses).mean())
    constant = promised(world, reward, belief, start.expand(2, 4, 2).expand(6, 2, 4, 2))
    assert worth[0] > constant.mean()
    assert worth == sorted(worth)
    assert bool((promised(world, reward, belief, doses) >= constant).all())


def test_a_plan_is_no_longer_than_the_visits_that_are_left() -> None:
    world, reward, belief = models(1)
    start = torch.zeros(2, 1, 1, dtype=torch.float64)
    assert len(plan(world, reward, belief, start, dose_range(1), 3, PlanSettings(6))) == 3


@pytest.mark.long
def test_one_visit_ahead_is_the_top_of_the_parabola() -> None:
    """With one visit left and one dose, the expected reward of every patient can be tried dose by dose."""
    world, reward, belief = models(1)
    start = torch.zeros(2, 1, 1, dtype=torch.float64)
    chosen = plan(world, reward, belief, start, dose_range(1), 1, PlanSettings(1, 80, 0.3))[0]
    grid = torch.linspace(-0.6, 0.8, 2801, dtype=torch.float64)
    worth = torch.stack([promised(world, reward, belief, dose.expand(1, 2, 4, 1)) for dose in grid])
    best = grid[worth.argmax(0)]
    torch.testing.assert_close(chosen.squeeze(-1), best, atol=3e-3, rtol=0.0)


def test_a_patients_plan_does_not_depend_on_who_else_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world, reward, belief = models(1)
    start = torch.zeros(2, 1, 1, dtype=torch.float64)
    whole = plan(world, reward, belief, start, dose_range(1), 5, PlanSettings())
    monkeypatch.setattr("dosing.models.planning.ROWS", 2)
    torch.testing.assert_close(plan(world, reward, belief, start, dose_range(1), 5, PlanSettings()), whole)
    with torch.no_grad():
        again = plan(world, reward, belief, start, dose_range(1), 5, PlanSettings())
    torch.testing.assert_close(again, whole)


@pytest.mark.parametrize("n_act", [1, 2, 3])
@pytest.mark.parametrize("held", [True, False])
def test_the_gradient_by_hand_is_that_of_the_promise(n_act: int, held: bool) -> None:
    world, reward, belief = models(n_act)
    world = ResponseModel(world.parameters, held=held)
    draws = torch.Generator().manual_seed(4)
    doses = torch.randn(5, 2, 4, n_act, dtype=torch.float64, generator=draws).requires_grad_()
    (want,) = torch.autograd.grad(promised(world, reward, belief, doses).sum(), doses)
    told = plan_gradient(world, reward, belief)(doses.detach().mT.contiguous())
    assert isinstance(plan_gradient(world, reward, belief), PlanGradient)
    torch.testing.assert_close(told.mT, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("full", [True, False])
def test_the_gradient_of_coupled_models_is_that_of_the_promise(full: bool) -> None:
    """Central differences of the promise; nothing is differentiated by hand here."""
    world, reward, belief = models(1)
    rng = torch.Generator().manual_seed(5)
    shapes = {
        "hidden_obs": (2, 3, 4),
        "hidden_act": (2, 1, 4),
        "hidden_bias": (2, 1, 4),
        "hidden_out": (2, 4, 3),
    }
    hidden = {n: torch.randn(s, generator=rng, dtype=torch.float64) for n, s in shapes.items()}
    world = ResponseModel({**world.parameters, **hidden}, full=full)
    if full:
        belief = Belief(belief.mean, torch.diag_embed(belief.variance))
    doses = torch.randn(3, 2, 4, 1, dtype=torch.float64, generator=rng).tanh()
    told = plan_gradient(world, reward, belief)(doses.mT)
    for h in range(3):
        step = torch.zeros_like(doses)
        step[h] = 1e-6
        ends = [promised(world, reward, belief, doses + sign * step) for sign in (1.0, -1.0)]
        torch.testing.assert_close(told[h, :, 0], (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-5)
