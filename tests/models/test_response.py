"""The response model against plain loops and a dense normal; fitting, choice of family, and calibration."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dosing.errors import UserError
from dosing.models.calibration import HORIZONS, LEAST_SKILL, REASONS, Calibration, calibrate
from dosing.models.response import Belief, ResponseModel, Sizes, unpack
from dosing.models.response_fit import (
    FitSettings,
    Fitted,
    fit_response,
    held_out,
    one_standard_error,
    refit,
    spread,
)
from dosing.models.reward_model import RewardModel, fit_reward, powers, refit_reward
from tests.oracles import response_model as oracle

OWN, COUPLED = Sizes(3, 2), Sizes(3, 2, 4)
QUICK = FitSettings(steps=60, families=("saturating", "linear"))


def random_model(sizes: Sizes, count: int = 2) -> ResponseModel:
    """Models with random parameters, whose levels are held where they seldom are."""
    rng = torch.Generator().manual_seed(3)
    blank = ResponseModel.blank(sizes, count, torch.zeros((), dtype=torch.float64)).pack()
    model = unpack(blank + 0.3 * torch.randn(blank.shape, generator=rng, dtype=torch.float64), sizes)
    for name, end in (("low", -1.0), ("high", 1.0)):
        model.parameters[name].fill_(end)
    return model


def random_patients(
    sizes: Sizes, count: int = 2, patients: int = 4, visits: int = 5, missing: float = 0.3
) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(4)
    obs = torch.randn(count, patients, visits, sizes.n_obs, generator=rng, dtype=torch.float64)
    obs[torch.rand(obs.shape, generator=rng) < missing] = math.nan
    act = 2.0 * torch.rand(count, patients, visits - 1, sizes.n_act, generator=rng, dtype=torch.float64) - 1.0
    return obs, act


def own(model: ResponseModel, k: int) -> dict[str, np.ndarray]:
    return {name: p[k].detach().numpy() for name, p in model.parameters.items()}


def toy(kind: str, patients: int, sets: int = 1, visits: int = 24, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Recorded patients of a small scenario: one the families hold, and two that none of them can."""
    rng = torch.Generator().manual_seed(seed)
    act = 2.0 * torch.rand(sets, patients, visits, 1, generator=rng) - 1.0
    level, speed = 0.5 * torch.randn(sets, patients, 3, generator=rng), torch.zeros(sets, patients, 3)
    sign = torch.tensor([1.0, -1.0, 1.0])
    seen = [level]
    for visit in range(visits):
        dose = act[:, :, visit]
        if kind == "saturating":
            level = torch.tanh(level + dose * sign)
        elif kind == "linear":
            level = 0.8 * level + dose * sign
        elif kind == "slow":
            level = 0.97 * level + dose * sign
        elif kind == "threshold":
            level = 0.7 * level + 1.5 * ((dose > 0.4).float() - 0.3) * sign
        elif kind == "resonant":
            speed = 0.9 * speed - 0.8 * level + 0.6 * dose * sign
            level = level + speed
        elif kind == "none":
            level = torch.zeros_like(level)
        seen.append(level)
    obs = torch.stack(seen, 2)
    obs = obs + 0.5 * torch.randn(obs.shape, generator=rng)
    return (obs - obs.mean((1, 2), keepdim=True)) / obs.std((1, 2), keepdim=True), act


# The filter and its likelihood


@pytest.mark.parametrize("sizes", [OWN, COUPLED], ids=["own marker", "coupled"])
def test_the_filter_is_that_of_the_equations(sizes: Sizes) -> None:
    """Beliefs and log-likelihood of every patient, with missing markers, by loops and by matrices."""
    model, (obs, act) = random_model(sizes), random_patients(sizes)
    assert model.full == (sizes.hidden > 0)
    beliefs, _ = model.filter(obs, act)
    likelihood = model.log_likelihood(obs, act)
    for k in range(2):
        for n in range(obs.shape[1]):
            means, covariances, total = oracle.filter_patient(
                own(model, k), obs[k, n].numpy(), act[k, n].numpy(), full=model.full
            )
            for visit, belief in enumerate(beliefs):
                np.testing.assert_allclose(belief.mean[k, n], means[visit], rtol=1e-6, atol=1e-8)
                diagonal = np.diag(covariances[visit])
                np.testing.assert_allclose(belief.diagonal[k, n], diagonal, rtol=1e-6)
                if model.full:
                    np.testing.assert_allclose(
                        belief.variance[k, n], covariances[visit], rtol=1e-6, atol=1e-9
                    )
            np.testing.assert_allclose(likelihood[k, n], total, rtol=1e-7)


@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_a_linear_filter_is_the_gaussian_conditional(missing: float) -> None:
    """Last belief and likelihood from one dense normal vector of all visits."""
    sizes = OWN
    obs, act = random_patients(sizes, missing=missing)
    model = random_model(sizes)
    model.parameters["log_level"].fill_(math.log(1e6))
    model.parameters["low"].fill_(-1e6)
    model.parameters["high"].fill_(1e6)
    beliefs, _ = model.filter(obs, act)
    likelihood = model.log_likelihood(obs, act)
    for k in range(2):
        p = own(model, k)
        pull = np.diag(1.1 / (1.0 + np.exp(-p["pull"])))
        for n in range(obs.shape[1]):
            added = [p["offset"] + p["dose"] @ a for a in act[k, n].numpy()]
            mean, both = oracle.joint_normal(p, act[k, n].numpy(), pull, added)
            values, size = obs[k, n].numpy().ravel(), obs[k, n].numel()
            seen, last = np.flatnonzero(np.isfinite(values)), np.arange(2 * size - sizes.n_obs, 2 * size)
            inverse = np.linalg.inv(both[np.ix_(seen, seen)])
            error = values[seen] - mean[seen]
            gain = both[np.ix_(last, seen)] @ inverse
            np.testing.assert_allclose(beliefs[-1].mean[k, n], mean[last] + gain @ error, rtol=1e-6)
            left = both[np.ix_(last, last)] - gain @ both[np.ix_(seen, last)]
            np.testing.assert_allclose(beliefs[-1].variance[k, n], np.diag(left), rtol=1e-6)
            logdet = np.linalg.slogdet(2.0 * math.pi * both[np.ix_(seen, seen)])[1]
            np.testing.assert_allclose(likelihood[k, n], -0.5 * (error @ inverse @ error + logdet), rtol=1e-8)


def test_an_uncertain_level_that_saturates_is_forecast_as_quadrature_says() -> None:
    """Moments of f of a normal level by Gauss-Hermite quadrature: the second order is what a slope misses."""
    blank = ResponseModel.blank(Sizes(1, 1), 5, torch.zeros((), dtype=torch.float64))
    level = torch.tensor([-1.2, -0.4, 0.0, 0.5, 1.5], dtype=torch.float64).view(5, 1, 1)
    variance, act = torch.full_like(level, 0.1), torch.full((5, 1, 1), 0.3, dtype=torch.float64)
    told = blank.predict(Belief(level, variance), act)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    points = level + variance.sqrt() * torch.as_tensor(nodes)
    moved = blank.move(points.mT, act.expand(-1, len(nodes), -1))[..., 0].numpy()
    share = weights / weights.sum()
    mean = moved @ share
    spread = (moved - mean[:, None]) ** 2 @ share + blank.process.numpy().ravel()
    plain = blank.move(level, act).numpy().ravel()
    np.testing.assert_allclose(told.mean.numpy().ravel(), mean, atol=6e-3)
    assert (
        np.abs(plain - mean)[[0, 1, 3, 4]] > 3.0 * np.abs(told.mean.numpy().ravel() - mean)[[0, 1, 3, 4]]
    ).all()
    np.testing.assert_allclose(told.variance.numpy().ravel(), spread, rtol=0.15)


def test_complete_visits_may_be_taken_in_without_looking_for_gaps() -> None:
    model, (obs, act) = random_model(OWN), random_patients(OWN, missing=0.0)
    quick = ResponseModel(model.parameters, complete=True)
    torch.testing.assert_close(quick.log_likelihood(obs, act), model.log_likelihood(obs, act))


@pytest.mark.parametrize("sizes", [OWN, COUPLED], ids=["own marker", "coupled"])
def test_gradients_are_those_of_the_likelihood(sizes: Sizes) -> None:
    packed, (obs, act) = random_model(sizes, 1).pack(), random_patients(sizes, 1, 2, 3)
    ends = [name in ("low", "high") for name, s in sizes.shapes().items() for _ in range(math.prod(s))]
    free = packed[:, ~torch.tensor(ends)].requires_grad_()

    def likelihood(values: Tensor) -> Tensor:
        whole = packed.clone()
        whole[:, ~torch.tensor(ends)] = values
        return unpack(whole, sizes).log_likelihood(obs, act)

    assert torch.autograd.gradcheck(likelihood, (free,))


def test_models_are_packed_and_selected_one_by_one() -> None:
    model = random_model(COUPLED)
    again = unpack(model.pack(), COUPLED)
    obs, act = random_patients(COUPLED)
    assert torch.equal(again.pack(), model.pack())
    chosen = model.select(torch.tensor([1])).log_likelihood(obs[1:], act[1:])
    torch.testing.assert_close(chosen, model.log_likelihood(obs, act)[1:], rtol=1e-12, atol=1e-12)


def test_the_spread_over_markers_does_not_know_the_sign_of_a_response() -> None:
    model = random_model(OWN, 1)
    mirrored = {name: p.clone() for name, p in model.parameters.items()}
    for name in ("dose", "offset", "start"):
        mirrored[name][:, 1] *= -1.0
    torch.testing.assert_close(spread(ResponseModel(mirrored)), spread(model))
    same = {name: p[:, :1].expand_as(p) for name, p in model.parameters.items()}
    torch.testing.assert_close(spread(ResponseModel(same)), torch.zeros(1, dtype=torch.float64))


# Fitting


@pytest.mark.long
def test_a_stacked_data_set_is_fitted_as_it_is_alone() -> None:
    obs, act = toy("saturating", 12, sets=2)
    obs, act = obs.double(), act.double()
    together = fit_response(obs, act, FitSettings(steps=10))
    for k in range(2):
        alone = fit_response(obs[k : k + 1], act[k : k + 1], FitSettings(steps=10))
        torch.testing.assert_close(together.packed[k], alone.packed[0], rtol=1e-9, atol=1e-9)
        assert (together.family[k], together.pooling[k]) == (alone.family[0], alone.pooling[0])


@pytest.mark.long
def test_the_family_is_chosen_by_held_out_patients() -> None:
    settings = FitSettings(families=("saturating", "linear"))
    obs, act = toy("saturating", 60)
    assert fit_response(obs, act, settings).family == ("saturating",)
    far, act = toy("slow", 60)
    assert fit_response(far, act, settings).family == ("linear",)


@pytest.mark.long
def test_the_response_to_the_dose_is_learnt_and_linear_levels_are_held() -> None:
    obs, act = toy("linear", 60)
    fitted = fit_response(obs, act, FitSettings(steps=150, families=("linear",)))
    model = fitted.models(0)
    np.testing.assert_allclose(model.pull[0, 0], 0.8, atol=0.05)
    assert (model.parameters["dose"][0, :, 0].sign() == torch.tensor([1.0, -1.0, 1.0])).all()
    far = torch.full((1, 1, 3), 100.0)
    assert bool((model.move(far, torch.ones(1, 1, 1)) == model.parameters["high"]).all())


@pytest.mark.long
def test_a_weighing_is_fitted_as_the_patients_it_stands_for() -> None:
    obs, act = (x.double() for x in toy("saturating", 12, sets=2))
    fitted = fit_response(obs, act, FitSettings(steps=10, families=("saturating",)))
    counts = torch.tensor([[1.0] * 12, [3.0, 0.0, 2.0, 1.0] + [0.0] * 2 + [1.0] * 6]).double()
    together = refit(fitted, obs, act, counts.repeat(2, 1), 10, 12)
    assert together.count == 4
    for k in range(2):
        for m in range(2):
            rows = torch.arange(12).repeat_interleave(counts[m].long())
            one = dataclasses.replace(
                fitted,
                packed=fitted.packed[k : k + 1],
                family=fitted.family[:1],
                pooling=fitted.pooling[k:][:1],
            )
            listed = refit(one, obs[k : k + 1, rows], act[k : k + 1, rows], counts[:1], 10, 12)
            torch.testing.assert_close(together.pack()[2 * k + m], listed.pack()[0], rtol=1e-9, atol=1e-9)
    assert not torch.equal(together.pack()[0], together.pack()[1])


@pytest.mark.long
def test_missing_entries_are_passed_over() -> None:
    obs, act = toy("saturating", 40)
    holes = obs.clone()
    holes[torch.rand(obs.shape, generator=torch.Generator().manual_seed(2)) < 0.2] = math.nan
    fitted = fit_response(holes, act, FitSettings(steps=60, families=("saturating",)))
    assert bool(fitted.packed.isfinite().all())
    whole = fit_response(obs, act, FitSettings(steps=60, families=("saturating",)))
    for name in ("pull", "dose", "log_noise"):
        a, b = (f.models(0).parameters[name] for f in (fitted, whole))
        torch.testing.assert_close(a, b, atol=0.15, rtol=0.1)


def test_a_coupled_family_is_tried_with_many_patients_only() -> None:
    settings = FitSettings(steps=2, families=("saturating", "network"), hidden=2)
    for patients, tried in ((30, {"saturating"}), (400, {"saturating", "network"})):
        obs, act = toy("saturating", patients, visits=4)
        assert {family for family, _ in fit_response(obs, act, settings).candidates} == tried


def test_one_standard_error_prefers_the_simpler() -> None:
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 50, generator=rng)
    losses = (
        noise + torch.tensor([0.5, 0.001, 0.0])[None, :, None] + 0.1 * torch.randn(1, 3, 50, generator=rng)
    )
    assert one_standard_error(losses).tolist() == [1]


def test_held_out_patients_are_seen_by_the_models_fitted_without_them() -> None:
    obs, act = random_patients(OWN, 1, 6, missing=0.0)
    model, fold = random_model(OWN, 3), torch.arange(6) % 3
    found = held_out(model, obs, act, fold, 3)
    for n in range(6):
        k = int(fold[n])
        one = model.select(torch.tensor([k])).log_likelihood(obs[:, n : n + 1], act[:, n : n + 1])
        torch.testing.assert_close(found[0, 0, n], -one[0, 0] / 15.0)


def test_too_few_patients_are_refused_in_one_sentence() -> None:
    obs, act = toy("saturating", 2)
    with pytest.raises(UserError, match="at least 3 patients"):
        fit_response(obs, act)


# Reward


def test_the_reward_is_that_of_the_equations() -> None:
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(2, 1 + 3 + 9, 6, generator=rng, dtype=torch.float64)
    next_obs = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64)
    act = torch.randn(2, 4, 2, generator=rng, dtype=torch.float64)
    found = RewardModel(theta)(next_obs, act)
    for k in range(2):
        for b in range(4):
            want = oracle.reward(theta[k].numpy(), next_obs[k, b].numpy(), act[k, b].numpy())
            np.testing.assert_allclose(found[k, b], want, rtol=1e-10)


def test_a_quadratic_reward_is_recovered_and_visits_without_a_record_left_out() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(2, 20, 10, 3, generator=rng, dtype=torch.float64)
    a = 2.0 * torch.rand(2, 20, 10, 1, generator=rng, dtype=torch.float64) - 1.0
    reward = 1.0 + (y[..., 0] * y[..., 1] - a[..., 0]) * a[..., 0] + y[..., 2]
    y[:, :, 3, 1] = math.nan
    fitted = fit_reward(y, a, reward, torch.arange(20) % 3)
    assert bool((fitted.explained > 0.999).all())
    assert bool(fitted.quadratic.all())
    known = torch.arange(10) != 3
    for member in range(4):
        model = RewardModel(fitted.theta[:, member])
        told = model(y[:, :, known].flatten(1, 2), a[:, :, known].flatten(1, 2))
        torch.testing.assert_close(told, reward[:, :, known].flatten(1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("quadratic", [False, True])
def test_a_weighed_reward_is_the_ridge_regression_of_the_patients_it_stands_for(quadratic: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(1, 70, 4, 2, generator=rng, dtype=torch.float64)
    a = 2.0 * torch.rand(1, 70, 4, 1, generator=rng, dtype=torch.float64) - 1.0
    reward = 1.0 + y[..., 0] - a[..., 0] ** 2 + quadratic * y[..., 0] * y[..., 1]
    reward = reward + torch.randn(reward.shape, generator=rng, dtype=torch.float64)
    fitted = fit_reward(y, a, reward, torch.arange(70) % 3)
    assert bool(fitted.quadratic[0]) == quadratic
    counts = torch.stack([torch.ones(70), torch.arange(70) % 3]).double()
    found = refit_reward(fitted, 0, y[0], a[0], reward[0], counts)
    torch.testing.assert_close(found.theta[0], fitted.theta[0, 0])  # of all patients
    rows = torch.arange(70).repeat_interleave(counts[1].long())
    state, dose, paid = (x[0, rows].flatten(0, 1).numpy() for x in (y, a, reward))
    columns = [np.ones(len(state)), *state.T]
    columns += [state[:, 0] ** 2, state[:, 0] * state[:, 1], state[:, 1] ** 2] if quadratic else []
    design = (np.stack(columns, 1)[:, :, None] * powers(torch.from_numpy(dose)).numpy()[:, None]).reshape(
        len(state), -1
    )
    penalty = float(fitted.strength[0]) * len(state) * np.eye(design.shape[1])
    penalty[0, 0] *= 1e-9
    theta = np.linalg.solve(design.T @ design + penalty, design.T @ paid)
    told = found(y[0, :5].reshape(1, 20, 2).expand(2, -1, -1), a[0, :5].reshape(1, 20, 1).expand(2, -1, -1))[
        1
    ]
    state, dose = y[0, :5].reshape(20, 2).numpy(), a[0, :5].reshape(20, 1).numpy()
    columns = [np.ones(20), *state.T]
    columns += [state[:, 0] ** 2, state[:, 0] * state[:, 1], state[:, 1] ** 2] if quadratic else []
    design = (np.stack(columns, 1)[:, :, None] * powers(torch.from_numpy(dose)).numpy()[:, None]).reshape(
        20, -1
    )
    np.testing.assert_allclose(told, design @ theta, rtol=1e-6, atol=1e-6)


# Calibration


def fitted_toy(kind: str, patients: int) -> tuple[Fitted, Tensor, Tensor]:
    obs, act = toy(kind, patients)
    return fit_response(obs, act, FitSettings(steps=80, families=("saturating", "linear"))), obs, act


@pytest.mark.long
@pytest.mark.parametrize("kind", ["saturating", "linear"])
def test_a_response_that_a_family_holds_is_trusted(kind: str) -> None:
    calibration = calibrate(*fitted_toy(kind, 50))
    assert calibration.reason(torch.ones(1)).tolist() == [0]
    assert float(calibration.uniform) < 0.03
    assert abs(float(calibration.autocorrelation)) < 0.1
    assert bool((calibration.skill > 0.1).all())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["threshold", "resonant"])
def test_a_response_that_no_family_holds_is_refused(kind: str) -> None:
    calibration = calibrate(*fitted_toy(kind, 50))
    (reason,) = calibration.reason(torch.ones(1)).tolist()
    assert reason > 0


@pytest.mark.long
def test_few_long_episodes_decide_nothing_about_far_forecasts() -> None:
    """A horizon that less than half of the patients have is left out; errors count who has it."""
    fitted, obs, act = fitted_toy("saturating", 50)
    whole = calibrate(fitted, obs, act)
    assert whole.lower.shape[1] == len(HORIZONS)
    short = obs.clone()
    short[:, 5:, 4:] = math.nan  # all but five patients have four visits
    part = calibrate(fitted, short, act)
    assert part.lower.shape[1] == 2
    assert bool(part.lower.isfinite().all())
    assert bool((part.lower < whole.lower[:, :2]).all()), "fewer visits, less certain"


@pytest.mark.parametrize("weak", [0, 1])
def test_a_gain_over_either_naive_forecast_must_be_of_some_size(weak: int) -> None:
    """Two data sets, both better beyond chance, the second by too little over one naive forecast."""
    skill = torch.full((2, len(HORIZONS), 2), 1.1 * LEAST_SKILL)
    skill[1, :, weak] = 0.9 * LEAST_SKILL
    lower, coverage = torch.full_like(skill, 1e-6), torch.full((2, len(HORIZONS)), 0.9)
    nothing = torch.zeros(2)
    calibration = Calibration(skill, lower, coverage, nothing, nothing, nothing)
    assert calibration.reason(torch.full((2,), 0.5)).tolist() == [0, 1]


@pytest.mark.long
def test_a_model_of_nothing_is_refused_for_not_beating_naive_forecasts() -> None:
    calibration = calibrate(*fitted_toy("none", 50))
    assert calibration.reason(torch.ones(1)).tolist() == [1]
    assert "last value" in REASONS[1]
