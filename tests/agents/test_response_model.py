"""The response model agent: its roll-outs, its belief in deployment, its gate, and what it is worth."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
from agents.response_model import MEAN_LIMIT, MIN_WIDTH, ResponseModel, ResponseModelConfig
from dosing.agent import History
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.models.batch import Batch
from dosing.models.response import Sizes, unpack
from dosing.ope.baselines import estimated_constant
from dosing.ope.trajectories import Trajectories
from dosing.policy import DosePolicy
from dosing.runs.files import write_json
from dosing.runs.folder import RunFolder
from dosing.training.checkpoint import training_state
from dosing.training.offline import TrainingSettings, train
from dosing.training.sampler import Sampler
from dosing.types import Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory
from tests.oracles import response_model as oracle
from tests.support.samples import PROBLEM, cohort, dataset, small, stack

NAME = "response_model"
SEEDS = (3, 7)


def build(
    dtype: torch.dtype = torch.float64, n_obs: int = 8, n_act: int = 1, **settings: Any
) -> ResponseModel:
    config = dataclasses.replace(small(NAME), **settings)
    agent = agents.build(NAME, config, Problem(n_obs, n_act, 24), SEEDS, dtype=dtype)
    assert isinstance(agent, ResponseModel)
    return agent


def randomised(agent: ResponseModel) -> ResponseModel:
    """Random models, rewards and constant doses, and a different policy for every seed."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*agent.named_parameters(), *agent.named_buffers()]:
            if name in ("reason", "numbers"):
                continue
            value.add_(0.2 * torch.randn(value.shape, generator=rng, dtype=value.dtype))
        agent.horizon.fill_(5.0)
        agent.reason.zero_()
        sizes = agent.sizes
        for k in range(len(agent.seeds)):
            model = unpack(agent.response[k], sizes)
            model.parameters["low"].fill_(-1.5)
            model.parameters["high"].fill_(1.5)
    agent._notice()
    return agent


def member(agent: ResponseModel, seed: int, number: int) -> dict[str, np.ndarray]:
    parameters = unpack(agent.response[seed], agent.sizes).parameters
    return {name: p[number].numpy() for name, p in parameters.items()}


def recommended(
    agent: ResponseModel, seed: int, mean: np.ndarray, visit: int, before: np.ndarray
) -> np.ndarray:
    """The policy of one seed, written out."""
    horizon = float(agent.horizon[seed, 0])
    clock = [visit / horizon, math.exp(-visit / 2), math.exp(-(horizon - 1 - visit) / 2)]
    x = np.concatenate((np.clip(mean, -6.0, 6.0), clock, before))
    layers: list[Any] = list(agent.actor.layers)
    for i, layer in enumerate(layers):
        x = x @ layer.weight[seed].detach().numpy() + layer.bias[seed, 0].detach().numpy()
        if i < len(layers) - 1:
            x = 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return np.asarray(MEAN_LIMIT * np.tanh(x + agent.prior_dose[seed, 0].numpy()))


def episodes(agent: ResponseModel, visits: int, patients: int) -> Batch:
    """A batch of random recorded patients, with the noise of one update."""
    rng = torch.Generator().manual_seed(2)
    rows = (len(agent.seeds), patients * visits)
    n_obs, n_act = agent.problem.n_obs, agent.problem.n_act

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    obs = normal(len(agent.seeds), patients, visits + 1, n_obs)
    noise = {}
    for name, (kind, shape) in agent.noise(rows[1]).items():
        full = (len(agent.seeds), *shape)
        noise[name] = (
            normal(*full) if kind == "normal" else torch.rand(full, generator=rng, dtype=torch.float64)
        )
    return Batch(
        obs=obs[:, :, :-1].flatten(1, 2),
        act=normal(*rows, n_act).tanh(),
        reward=normal(*rows),
        next_obs=obs[:, :, 1:].flatten(1, 2),
        terminated=torch.zeros(rows, dtype=torch.float64),
        noise=noise,
        length=visits,
    )


def expected_gains(agent: ResponseModel, batch: Batch, seed: int) -> np.ndarray:
    """Gain over the constant dose in every model, by loops over models, patients and visits."""
    visits, patients, full = batch.length, agent.config.episodes, agent.models(slice(0, 1)).full
    own, n_obs = member(agent, seed, 0), agent.problem.n_obs
    noise = {name: value[seed].numpy() for name, value in batch.noise.items()}
    obs = batch.obs[seed].view(patients, visits, n_obs).numpy()
    act = batch.act[seed].view(patients, visits, -1).numpy()
    last = batch.next_obs[seed].view(patients, visits, n_obs)[:, -1:].numpy()
    first, gains = min(6, visits // 2), np.zeros(1 + agent.config.folds)
    constant = MEAN_LIMIT * np.tanh(agent.prior_dose[seed, 0].numpy())
    for n in range(patients):
        seen = np.concatenate((obs[n], last[n]))
        means, covariances, _ = oracle.filter_patient(own, seen, act[n], full=full)
        pool = []
        for v in range(first, visits + 1):
            ahead = oracle.move(own, means[v - 1], act[n, v - 1])
            slope = np.diag(oracle.jacobian(own, means[v - 1], act[n, v - 1]))
            spread = slope**2 * np.diag(covariances[v - 1]) + np.exp(own["log_process"])
            r = np.exp(own["log_noise"])
            pool.append((seen[v] - ahead) * np.sqrt(r / (spread + r)))
        for k in range(len(gains)):
            sign = -1.0 if noise["sign"][n, k, 0, 0] < 0.5 else 1.0
            residual = [sign * pool[int(u * len(pool))] for u in noise["order"][n, k]]
            world, theta = member(agent, seed, k), agent.reward[seed, k].numpy()
            for follow, weight in ((True, 1.0), (False, -1.0)):
                level = world["start"] + np.exp(0.5 * world["log_start_variance"]) * noise["level"][n, k]
                history: list[np.ndarray] = []
                doses: list[np.ndarray] = []
                for t in range(visits):
                    history.append(level + residual[t])
                    mean = oracle.filter_patient(own, np.stack(history), np.array(doses), full=full)[0][-1]
                    before = doses[-1] if doses else np.zeros(len(constant))
                    dose = recommended(agent, seed, mean, t, before) if follow else constant
                    doses.append(dose)
                    shake = np.exp(0.5 * world["log_process"]) * noise["process"][n, k, t]
                    level = oracle.move(world, level, dose) + shake
                    gains[k] += weight * oracle.reward(theta, level + residual[t + 1], dose) / patients
    return gains


@pytest.mark.parametrize("n_act", [1, 2])
@pytest.mark.parametrize("pessimism", [0.0, 0.5, 1.0])
def test_the_loss_is_that_of_the_equations(n_act: int, pessimism: float) -> None:
    agent = randomised(build(n_obs=3, n_act=n_act, pessimism=pessimism, folds=2))
    batch = episodes(agent, 5, agent.config.episodes)
    (loss,) = agent.losses(batch).values()
    for k in range(2):
        gains = expected_gains(agent, batch, k)
        want = -((1.0 - pessimism) * gains.mean() + pessimism * gains.min())
        np.testing.assert_allclose(loss[k].detach(), want, rtol=1e-6)


def test_the_loss_with_hidden_units_is_that_of_the_equations() -> None:
    agent = randomised(build(n_obs=4, families="all", hidden_units=3, folds=2, pessimism=0.5))
    assert agent._coupled
    batch = episodes(agent, 4, agent.config.episodes)
    (loss,) = agent.losses(batch).values()
    gains = expected_gains(agent, batch, 1)
    np.testing.assert_allclose(loss[1].detach(), -0.5 * (gains.mean() + gains.min()), rtol=1e-6)


def test_gradients_of_the_loss_are_those_of_finite_differences() -> None:
    agent = randomised(build(n_obs=3, folds=2))
    batch = episodes(agent, 4, agent.config.episodes)
    weight: Any = agent.actor.layers[0].weight
    loss = agent.losses(batch)["actor"].sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    for index in ((0, 0, 0), (1, 2, 3), (1, 6, 1)):
        with torch.no_grad():
            weight[index] += 1e-6
            up = agent.losses(batch)["actor"].sum()
            weight[index] -= 2e-6
            down = agent.losses(batch)["actor"].sum()
            weight[index] += 1e-6
        np.testing.assert_allclose(gradient[index], (up - down) / 2e-6, rtol=1e-5, atol=1e-9)


def test_the_policy_learns_the_riccati_solution() -> None:
    """A level that is seen exactly, linear response, quadratic costs: the dose is - k x (Kalman 1960)."""
    visits, pull, push, state_cost, dose_cost = 4, 0.9, 0.5, 1.0, 0.6
    agent = build(
        torch.float32, n_obs=1, folds=2, episodes=128, hidden=(24,), learning_rate=0.01, decay_steps=500,
        pessimism=0.0, gradient_clip=100.0,
    )  # fmt: skip
    model = unpack(agent.response.flatten(0, 1), Sizes(1, 1)).parameters
    logit = math.log(pull / (1.0 - pull))
    values = {"pull": logit, "dose": push, "log_level": math.log(1e3), "offset": 0.0, "start": 0.0}
    values |= {"log_start_variance": math.log(0.25), "log_noise": -11.0, "log_process": -11.0}
    for name, value in values.items():
        model[name].fill_(value)
    agent.response.copy_(unpack(agent.response.flatten(0, 1), Sizes(1, 1)).pack().view_as(agent.response))
    agent.reward[..., 2, 0] = -state_cost  # y' y'
    agent.reward[..., 0, 2] = -dose_cost  # a a
    agent.horizon.fill_(visits)
    agent.reason.zero_()
    agent._notice()
    rows = visits * agent.config.episodes
    zeros = torch.zeros(2, rows, 1)
    rng = torch.Generator().manual_seed(0)
    for step in range(500):
        noise = {
            name: torch.randn(2, *s, generator=rng) if kind == "normal" else torch.rand(2, *s, generator=rng)
            for name, (kind, s) in agent.noise(rows).items()
        }
        flat = zeros[..., 0]
        agent.schedule(step)
        agent.update(Batch(zeros, zeros, flat, zeros, flat, noise, step=step, length=visits))
    gains = oracle.riccati(pull, push, state_cost, dose_cost, visits)
    level = torch.linspace(-0.6, 0.6, 7).view(1, -1, 1).expand(2, -1, -1)
    with torch.no_grad():
        dose = agent.dose(level, 0, torch.zeros_like(level))
    np.testing.assert_allclose(dose, -gains[0] * level, atol=0.06)


# Stacks, replicates, resuming


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def replicates(count: int, patients: int = 9, dtype: torch.dtype = torch.float64) -> list[Dataset]:
    return [Dataset.from_episodes(cohort(patients, seed), dtype=dtype) for seed in range(count)]


def trained(seeds: tuple[int, ...], data: Dataset, steps: int = 4) -> ResponseModel:
    agent = agents.build(NAME, small(NAME), PROBLEM, seeds, dtype=torch.float64)
    sampler = Sampler(data, agent, 32)
    for step in range(steps):
        agent.update(sampler(step))
    assert isinstance(agent, ResponseModel)
    return agent


def test_a_replicate_in_a_stack_is_the_data_set_alone() -> None:
    data = replicates(2)
    together = training_state(trained(SEEDS, Dataset.join(data)))
    for k, seed in enumerate(SEEDS):
        alone = training_state(trained((seed,), data[k]))
        for name, value in together.items():
            if value.dim() > 0:
                torch.testing.assert_close(value[k], alone[name][0], rtol=1e-8, atol=1e-8, msg=name)


def test_a_fitted_model_is_kept_when_other_data_come() -> None:
    agent = trained((0,), dataset(dtype=torch.float64))
    before = {name: value.clone() for name, value in agent.named_buffers()}
    agent.prepare(replicates(2)[1])
    assert all(torch.equal(value, before[name]) for name, value in agent.named_buffers())


def test_a_run_is_resumed_and_loaded_exactly(tmp_path: Path) -> None:
    """Interrupted and uninterrupted training give the same bits; a loaded policy the same doses."""
    data = dataset()
    settings = TrainingSettings(steps=8, batch_size=32, log_every=2, checkpoint_every=4)

    def run(name: str, stop: int | None = None) -> ResponseModel:
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        write_json(folder.path / "config.json", {})
        agent = agents.build(NAME, small(NAME), PROBLEM, SEEDS)
        assert isinstance(agent, ResponseModel)
        take = agent.update

        def update(batch: Batch) -> dict[str, Tensor]:
            if batch.step == stop:
                raise KeyboardInterrupt
            return take(batch)

        agent.update = update  # type: ignore[method-assign]
        train(agent, data, folder, settings)
        return agent

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", stop=6)
    assert equal(training_state(run("parts")), training_state(whole))
    obs = data.obs[:6].expand(2, -1, -1)
    other = agents.build(NAME, small(NAME), PROBLEM, SEEDS)
    assert isinstance(other, ResponseModel)
    other.load_state_dict(whole.state_dict())
    assert other._coupled == whole._coupled
    assert other._held == whole._held
    assert torch.equal(other.policy(obs).mode, whole.policy(obs).mode)


def test_episodes_of_several_lengths_are_refused_in_one_sentence() -> None:
    data = dataset()
    uneven = dataclasses.replace(data, starts=torch.cat((data.starts[:1], data.starts[2:])))
    with pytest.raises(UserError, match="episodes of one length"):
        stack(NAME).prepare(uneven)


# Deployment


def test_the_belief_goes_on_from_visit_to_visit_as_over_the_whole_history() -> None:
    agent = trained(SEEDS, dataset(dtype=torch.float64))
    rng = torch.Generator().manual_seed(0)
    obs = torch.randn(2, 5, 6, 8, generator=rng, dtype=torch.float64)
    act = 2.0 * torch.rand(2, 5, 6, 1, generator=rng, dtype=torch.float64) - 1.0
    belief, before = agent.first_belief(5), torch.zeros(2, 5, 1, dtype=torch.float64)
    for visit in range(6):
        belief = agent.take_in(belief, obs[:, :, visit])
        history = History(obs[:, :, : visit + 1], act[:, :, :visit], torch.zeros(2, 5, visit))
        whole: Any = agent.policy_after(history)
        step: Any = agent.distribution(belief, visit, before)
        torch.testing.assert_close(whole.mode, step.mode, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(whole.base_dist.scale, step.base_dist.scale, rtol=1e-10, atol=1e-12)
        before = act[:, :, visit]
        belief = agent.carry_on(belief, before)
    assert torch.equal(agent.policy(obs[:, :, 0]).mode, agent.policy_after(
        History(obs[:, :, :1], act[:, :, :0], torch.zeros(2, 5, 0))).mode)  # fmt: skip


def test_the_width_is_the_disagreement_of_the_fold_models() -> None:
    agent = randomised(build(folds=2))
    obs = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
    for k in range(2):
        for b in range(6):
            doses = []
            for number in range(3):
                means, _, _ = oracle.filter_patient(
                    member(agent, k, number), obs[k, b : b + 1].numpy(), np.zeros((0, 1)), full=False
                )
                doses.append(recommended(agent, k, means[0], 0, np.zeros(1)))
            apart = np.sqrt(np.mean([(d - doses[0]) ** 2 for d in doses[1:]]))
            room = 1.0 - abs(doses[0][0])
            half = min(max(2.0 * apart, MIN_WIDTH * room), (1.0 - MIN_WIDTH) * room)
            width = distribution.radius * distribution.scale[k, b, 0].detach()
            np.testing.assert_allclose(width, half, rtol=1e-6)
    gaussian: Any = randomised(build(folds=2, actor="gaussian")).policy(obs).base_dist  # type: ignore[attr-defined]
    torch.testing.assert_close(gaussian.variance, distribution.variance)
    assert gaussian.q == 1.0


@pytest.mark.parametrize("kind", ["threshold", "resonant"])
def test_a_response_that_no_family_holds_is_answered_with_the_constant_dose(kind: str) -> None:
    """Recorded visits of a scenario with a dose threshold, or an oscillation, built into a data set."""
    patients, visits = 40, 24
    rng = torch.Generator().manual_seed(1)
    act = 2.0 * torch.rand(patients, visits, 1, generator=rng) - 1.0
    sign = torch.tensor([1.0, -1.0] * 4)
    level, speed = 0.5 * torch.randn(patients, 8, generator=rng), torch.zeros(patients, 8)
    seen = [level]
    for t in range(visits):
        if kind == "threshold":
            level = 0.7 * level + 1.5 * ((act[:, t] > 0.4).float() - 0.3) * sign
        else:
            speed = 0.9 * speed - 0.8 * level + 0.6 * act[:, t] * sign
            level = level + speed
        seen.append(level)
    obs = torch.stack(seen, 1)
    obs = obs + 0.5 * torch.randn(obs.shape, generator=rng)
    obs = (obs - obs.mean((0, 1))) / obs.std((0, 1))
    reward = obs[:, 1:, 0] - (act[..., 0] - 0.2) ** 2
    data = dataclasses.replace(
        dataset(patients), obs=obs[:, :-1].flatten(0, 1), next_obs=obs[:, 1:].flatten(0, 1),
        act=act.flatten(0, 1), reward=reward.flatten(),
    )  # fmt: skip
    agent = agents.build(
        NAME, dataclasses.replace(small(NAME), gate="calibration", fit_steps=100), PROBLEM, (0,)
    )
    assert isinstance(agent, ResponseModel)
    sampler = Sampler(data, agent, 32)
    for step in range(3):
        metrics = agent.update(sampler(step))
        assert float(metrics["gain/mean"]) == 0.0
    assert "constant dose is used" in agent.refusals[0]
    mode = agent.policy(obs[None, :, 5]).mode
    constant = MEAN_LIMIT * torch.tanh(agent.prior_dose)
    torch.testing.assert_close(mode, constant.expand_as(mode))


@pytest.mark.slow
def test_it_beats_the_constant_dose_and_a_saved_run_gives_the_same_doses(tmp_path: Path) -> None:
    episodes = simulate("dosing/Treatment-v0", patients=50, policy="uniform", seed=77, variant="simenv3")
    data = Dataset.from_episodes(episodes)
    agent = agents.build(NAME, ResponseModelConfig(decay_steps=200), PROBLEM, (0,))
    sampler = Sampler(data, agent, 64)
    for step in range(200):
        agent.schedule(step)
        agent.update(sampler(step))
    assert isinstance(agent, ResponseModel)
    assert agent.refusals == ("",)
    policy = DosePolicy(agent, data.transform)
    factory = CohortFactory("dosing/Treatment-v0", {"variant": "simenv3"})
    best = rollout(factory, following(policy), (0,), 2000).returns.mean()
    dose = estimated_constant(Trajectories.from_episodes(episodes)).dose
    base = rollout(factory, lambda obs, visit: np.full((1, obs.shape[1], 1), dose), (0,), 2000).returns.mean()
    assert best > base + 0.15
