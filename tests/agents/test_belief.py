"""What an agent believes: against one dense normal vector of all levels and visits, and a filter in loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import agents
from agents.response_model import ResponseModel
from dosing.agent import History, HoldsBelief
from dosing.data.dataset import Transform
from dosing.data.earlier_visits import EarlierVisits
from dosing.models.calibration import REASONS
from dosing.models.response import STRAIGHT, unpack
from dosing.policy import DosePolicy
from dosing.recommendation.belief import belief_of, quality_of
from dosing.types import Problem
from tests.oracles import response_model as oracle
from tests.support.samples import small, stack

SEEDS, N_OBS, N_ACT, VISITS, COMING, PATIENTS = (3, 7), 3, 2, 5, 4, 2


def build(families: str, *, held: bool = False) -> ResponseModel:
    """An agent whose models are random; straight ones for the linear family."""
    config = dataclasses.replace(small("response_model"), families=families)
    agent = agents.build("response_model", config, Problem(N_OBS, N_ACT, 24), SEEDS, dtype=torch.float64)
    assert isinstance(agent, ResponseModel)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model = agent.patients
        model.response.add_(0.3 * torch.randn(model.response.shape, generator=rng, dtype=torch.float64))
        model.constant.add_(
            0.3 * torch.randn(model.constant.shape, generator=rng, dtype=torch.float64).tanh()
        )
        model.horizon.fill_(24.0)
        model.reason.zero_()
        for k in range(len(SEEDS)):
            parameters = unpack(model.response[k], model.sizes).parameters
            parameters["low"].fill_(-0.8 if held else -1e6)
            parameters["high"].fill_(0.8 if held else 1e6)
            if families == "linear":
                parameters["log_level"].fill_(math.log(STRAIGHT))
    model._notice()
    return agent


def model_of(agent: ResponseModel, seed: int) -> dict[str, np.ndarray]:
    return {
        name: p[0].numpy()
        for name, p in unpack(agent.patients.response[seed].detach(), agent.patients.sizes).parameters.items()
    }


def history() -> tuple[History, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn((len(SEEDS), PATIENTS, *shape), generator=rng, dtype=torch.float64)

    told = History(normal(VISITS, N_OBS), normal(VISITS - 1, N_ACT).tanh(), normal(VISITS - 1))
    return told, normal(COMING, N_ACT).tanh()


@pytest.mark.long
def test_a_linear_belief_is_that_of_one_dense_normal_vector() -> None:
    """Condition all levels and observations of the whole course on the observations so far, by matrices."""
    agent = build("linear")
    told, coming = history()
    believed = agent.belief_after(told, coming)
    for s in range(len(SEEDS)):
        p = model_of(agent, s)
        pull = np.diag(1.1 / (1.0 + np.exp(-p["pull"])))
        for b in range(PATIENTS):
            doses = np.concatenate((told.act[s, b].numpy(), coming[s, b].numpy()))
            mean, both = oracle.joint_normal(p, doses, pull, [p["offset"] + p["dose"] @ a for a in doses])
            whole = (VISITS + COMING) * N_OBS
            for visit in range(1, VISITS + 1):  # the level after each visit, from the visits up to it
                seen = np.arange(visit * N_OBS)
                wanted = whole + seen[-N_OBS:]
                expected, deviation = conditional(mean, both, seen, told.obs[s, b, :visit].numpy(), wanted)
                np.testing.assert_allclose(believed.level_mean[s, b, visit - 1], expected, rtol=1e-6)
                np.testing.assert_allclose(believed.level_sd[s, b, visit - 1], deviation, rtol=1e-6)
            seen, ahead = np.arange(VISITS * N_OBS), np.arange(VISITS * N_OBS, whole)
            expected, deviation = conditional(mean, both, seen, told.obs[s, b].numpy(), ahead)
            np.testing.assert_allclose(believed.forecast_mean[s, b].flatten(), expected, rtol=1e-6)
            np.testing.assert_allclose(believed.forecast_sd[s, b].flatten(), deviation, rtol=1e-6)


def conditional(
    mean: np.ndarray, both: np.ndarray, seen: np.ndarray, values: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of some entries of a normal vector, given others."""
    gain = both[np.ix_(wanted, seen)] @ np.linalg.inv(both[np.ix_(seen, seen)])
    left = both[np.ix_(wanted, wanted)] - gain @ both[np.ix_(seen, wanted)]
    return mean[wanted] + gain @ (values.ravel() - mean[seen]), np.sqrt(np.diag(left))


@pytest.mark.parametrize(
    ("families", "held"), [("saturating", False), ("saturating", True), ("network", False)]
)
def test_a_belief_is_that_of_a_filter_in_loops(families: str, held: bool) -> None:
    agent = build(families, held=held)
    told, coming = history()
    believed = agent.belief_after(told, coming)
    full = agent.patients.responses(slice(0, 1)).full
    for s in range(len(SEEDS)):
        p = model_of(agent, s)
        noise = np.exp(p["log_noise"])
        for b in range(PATIENTS):
            means, covariances, _ = oracle.filter_patient(
                p, told.obs[s, b].numpy(), told.act[s, b].numpy(), full=full
            )
            spreads = [np.sqrt(np.diag(c)) for c in covariances]
            np.testing.assert_allclose(believed.level_mean[s, b], means, rtol=1e-5, atol=1e-8)
            np.testing.assert_allclose(believed.level_sd[s, b], spreads, rtol=1e-5)
            mean, covariance = means[-1], covariances[-1]
            for k in range(COMING):
                mean, covariance = oracle.predict(p, mean, covariance, coming[s, b, k].numpy(), full=full)
                np.testing.assert_allclose(believed.forecast_mean[s, b, k], mean, rtol=1e-5, atol=1e-8)
                deviation = np.sqrt(np.diag(covariance) + noise)
                np.testing.assert_allclose(believed.forecast_sd[s, b, k], deviation, rtol=1e-5)


# In the world's units


TRANSFORM = Transform((1.0, -2.0, 0.5), (2.0, 0.5, 3.0), (0.0, 0.0), (4.0, 10.0), 2.0)


def asked(agent: ResponseModel) -> tuple[DosePolicy, np.ndarray, EarlierVisits]:
    """The policy after four visits of one patient, and the state at hand."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(VISITS, N_OBS)) * TRANSFORM.obs_scale + TRANSFORM.obs_mean
    dose = rng.uniform(size=(VISITS, N_ACT)) * TRANSFORM.act_high
    earlier = EarlierVisits.of_episodes(obs, dose, np.zeros(VISITS), np.zeros(1, dtype=np.int64))
    last = earlier[np.array([VISITS - 1])]
    return DosePolicy(agent, TRANSFORM).after(last.past()), obs[-1], earlier


def test_a_patients_belief_is_the_mixture_over_seeds_in_the_worlds_units() -> None:
    agent = build("saturating")
    policy, state, earlier = asked(agent)
    dose = np.array([1.0, 7.5])
    result = belief_of(policy, state, dose, COMING)
    assert result is not None
    mean, scale = np.asarray(TRANSFORM.obs_mean), np.asarray(TRANSFORM.obs_scale)
    held = [(1.0 - 2.0) / 2.0, (7.5 - 5.0) / 5.0]
    levels, ahead = [], []
    for s in range(len(SEEDS)):
        seen = (earlier.obs.astype(np.float32) - mean) / scale
        act = (earlier.dose[:-1] - [2.0, 5.0]) / [2.0, 5.0]
        means, covariances, _ = oracle.filter_patient(model_of(agent, s), seen, act, full=False)
        levels.append((np.stack(means), np.stack([np.diag(c) for c in covariances])))
        coming = oracle.predict(model_of(agent, s), means[-1], covariances[-1], np.asarray(held), full=False)
        ahead.append(coming[0])
    middle = np.mean([m for m, _ in levels], 0)
    variance = np.mean([v + (m - middle) ** 2 for m, v in levels], 0)
    np.testing.assert_allclose(result.level, mean + scale * middle, rtol=1e-5)
    np.testing.assert_allclose(result.level_sd, scale * np.sqrt(variance), rtol=1e-5)
    np.testing.assert_allclose(result.forecast[0], mean + scale * np.mean(ahead, 0), rtol=1e-5)
    assert result.forecast.shape == result.forecast_sd.shape == (COMING, N_OBS)


def test_the_constant_dose_is_the_one_that_a_refused_model_gives() -> None:
    agent = build("saturating")
    policy, state, _ = asked(agent)
    constant = TRANSFORM.to_dose(agent.patients.constant[:, 0].numpy())
    with torch.no_grad():
        agent.patients.reason.fill_(1)
    given = policy.recommended(np.broadcast_to(state.astype(np.float32), (len(SEEDS), 1, N_OBS)))
    np.testing.assert_allclose(given[:, 0], constant, rtol=1e-12)
    assert belief_of(policy, state, None, COMING) is None  # nothing is drawn from models that are refused
    with torch.no_grad():
        agent.patients.reason[0] = 0
    own, told = (belief_of(policy, state, dose, COMING) for dose in (None, constant[0]))
    assert own is not None
    assert told is not None
    np.testing.assert_allclose(own.forecast, told.forecast, rtol=1e-9)  # of the seed that is used alone
    states = np.tile(state.astype(np.float32), (2, 1, 1))
    alone = agent.belief_after(policy.history(states), agent.constant_dose[:, None, None])
    np.testing.assert_allclose(
        own.level, TRANSFORM.obs_mean + np.asarray(TRANSFORM.obs_scale) * alone.level_mean[0, 0].numpy()
    )


def test_the_quality_of_a_model_is_told_as_shares_and_refusals() -> None:
    agent = build("saturating")
    with torch.no_grad():
        agent.patients.numbers.copy_(
            torch.tensor([[0.6, 0.4, 0.9, 0.0, 0.0, 0.0], [0.8, 0.2, 0.8, 0.0, 0.0, 0.0]])
        )
        agent.patients.reason[1] = 3
    quality = quality_of(DosePolicy(agent, TRANSFORM))
    assert quality is not None
    assert quality.of_last_value == pytest.approx(0.3)
    assert quality.of_mean == pytest.approx(0.7)
    assert quality.coverage == pytest.approx(0.85)
    assert quality.refused == (f"{REASONS[3]}: the constant dose is used.",)
    assert quality.used
    with torch.no_grad():
        agent.patients.reason.fill_(2)
    refused = quality_of(DosePolicy(agent, TRANSFORM))
    assert refused is not None
    assert refused.refused == (f"{REASONS[2]}: the constant dose is used.",) * 2
    assert not refused.used


def test_agents_without_a_belief_have_none() -> None:
    plain = DosePolicy(stack("iql"), Transform((0.0,) * 8, (1.0,) * 8, (-1.0,), (1.0,)))
    assert not isinstance(plain.agent, HoldsBelief)
    assert quality_of(plain) is None
    assert belief_of(plain, np.zeros(8), None, 2) is None
