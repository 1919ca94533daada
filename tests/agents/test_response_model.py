"""The response model agent: its fit, its plans, its belief in deployment, its gate, and what it is worth."""

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
from agents.response_model import MIN_WIDTH, ResponseModel, ResponseModelConfig
from dosing.agent import History
from dosing.data.dataset import Dataset
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.models.batch import Batch
from dosing.models.patient_model import recorded_visits
from dosing.models.planning import PlanSettings
from dosing.models.prior import constant_dose
from dosing.models.response import MOST_PULL, STRAIGHT, Belief, Sizes, unpack
from dosing.ope.baselines import estimated_constant
from dosing.ope.trajectories import Trajectories
from dosing.policy import DosePolicy
from dosing.runs.files import read_table, write_json
from dosing.runs.folder import CONFIG, METRICS, WEIGHTS, RunFolder
from dosing.training.checkpoint import training_state
from dosing.training.offline import TrainingSettings, train
from dosing.training.sampler import Sampler
from dosing.types import Problem
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory
from tests.oracles import response_model as oracle
from tests.support.samples import PROBLEM, cohort, dataset, run_config, small

NAME = "response_model"
SEEDS = (3, 7)


def build(
    dtype: torch.dtype = torch.float64, n_obs: int = 8, n_act: int = 1, **settings: Any
) -> ResponseModel:
    config = dataclasses.replace(small(NAME), **settings)
    agent = agents.build(NAME, config, Problem(n_obs, n_act, 24), SEEDS, dtype=dtype)
    assert isinstance(agent, ResponseModel)
    return agent


def randomised(agent: ResponseModel, horizon: int = 5) -> ResponseModel:
    """Random models, rewards and constant doses, different for every seed."""
    rng, patients = torch.Generator().manual_seed(1), agent.patients
    with torch.no_grad():
        for value in (patients.response, patients.reward):
            value.add_(0.2 * torch.randn(value.shape, generator=rng, dtype=value.dtype))
        patients.constant.copy_(torch.rand(patients.constant.shape, generator=rng) - 0.5)
        patients.horizon.fill_(horizon)
        patients.pooling.copy_(torch.tensor([[0.7], [3.0]]))
        patients.count.fill_(9.0)
        patients.reason.zero_()
        for k in range(len(agent.seeds)):
            model = unpack(patients.response[k], patients.sizes)
            model.parameters["low"].fill_(-1.5)
            model.parameters["high"].fill_(1.5)
    patients._notice()
    return agent


def member(agent: ResponseModel, seed: int, number: int) -> dict[str, np.ndarray]:
    parameters = unpack(agent.patients.response[seed].detach(), agent.patients.sizes).parameters
    return {name: p[number].numpy() for name, p in parameters.items()}


def patients_of(agent: ResponseModel, visits: int, number: list[int], first: int | None = None) -> Batch:
    """A batch of random recorded patients, by number; the first one has ``first`` visits, where given."""
    rng = torch.Generator().manual_seed(2)
    rows = (len(agent.seeds), len(number) * visits)
    n_obs, n_act = agent.problem.n_obs, agent.problem.n_act

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    obs = normal(len(agent.seeds), len(number), visits + 1, n_obs)
    episode = torch.tensor(number, dtype=torch.float64).repeat_interleave(visits)
    mask = torch.ones(rows, dtype=torch.float64)
    mask[:, visits if first is None else first : visits] = 0.0
    return Batch(
        obs=obs[:, :, :-1].flatten(1, 2),
        act=normal(*rows, n_act).tanh(),
        reward=normal(*rows),
        next_obs=obs[:, :, 1:].flatten(1, 2),
        terminated=torch.zeros(rows, dtype=torch.float64),
        extra={
            "episode": episode.expand(len(agent.seeds), -1).unsqueeze(-1),
            "mask": mask.unsqueeze(-1),
        },
        length=visits,
    )


@pytest.mark.parametrize(
    ("n_obs", "n_act", "settings"),
    [(3, 1, {}), (3, 2, {"families": "all", "hidden_units": 3}), (4, 1, {"families": "all"})],
    ids=["own marker", "full covariance", "mean field"],
)
def test_the_loss_is_that_of_the_equations(n_obs: int, n_act: int, settings: dict[str, Any]) -> None:
    """Every fold's model by the patients outside the fold, the first by all; in loops."""
    agent = randomised(build(n_obs=n_obs, n_act=n_act, folds=2, **settings))
    visits, number = 4, [0, 3, 5, 8]
    batch = patients_of(agent, visits, number, first=2)
    (loss,) = agent.losses(batch).values()
    full = agent.patients.responses().full
    for k in range(2):
        obs = batch.obs[k].view(len(number), visits, n_obs).numpy()
        last = batch.next_obs[k].view(len(number), visits, n_obs)[:, -1:].numpy()
        seen, act = np.concatenate((obs, last), 1), batch.act[k].view(len(number), visits, n_act).numpy()
        seen[0, 3:] = np.nan
        want = 0.0
        for m in range(3):
            rows = [i for i, n in enumerate(number) if m == 0 or n % 2 != m - 1]
            p = member(agent, k, m) | {"low": np.full(n_obs, -1e9), "high": np.full(n_obs, 1e9)}
            pooling = float(agent.patients.pooling[k, 0])
            want += oracle.fit_loss(p, seen[rows], act[rows], pooling, 9, full=full)
        np.testing.assert_allclose(loss[k].detach(), want, rtol=1e-6)


def test_gradients_of_the_loss_are_those_of_finite_differences() -> None:
    agent = randomised(build(n_obs=3, folds=2))
    batch, packed = patients_of(agent, 4, [0, 1, 2]), agent.patients.response
    (gradient,) = torch.autograd.grad(agent.losses(batch)["response"].sum(), packed)
    for index in ((0, 0, 0), (1, 2, 7), (1, 1, 12)):
        with torch.no_grad():
            packed[index] += 1e-6
            up = agent.losses(batch)["response"].sum()
            packed[index] -= 2e-6
            down = agent.losses(batch)["response"].sum()
            packed[index] += 1e-6
        np.testing.assert_allclose(gradient[index], (up - down) / 2e-6, rtol=1e-5, atol=1e-8)


def test_a_linear_model_stays_linear_and_later_updates_change_nothing() -> None:
    agent = randomised(build(folds=2, decay_steps=3, learning_rate=0.1))
    straight = unpack(agent.patients.response[0], agent.patients.sizes).parameters["log_level"]
    straight.detach().fill_(math.log(STRAIGHT))
    for step in range(5):
        before = agent.patients.response.detach().clone()
        agent.schedule(step)
        agent.update(dataclasses.replace(patients_of(agent, 4, [0, 1, 2]), step=step))
        assert torch.equal(before, agent.patients.response) == (step >= 3)
    level = [unpack(agent.patients.response[k], agent.patients.sizes).parameters["log_level"] for k in (0, 1)]
    assert torch.equal(level[0], torch.full_like(level[0], math.log(STRAIGHT)))
    assert not torch.equal(level[1], torch.full_like(level[1], 0.3))


@pytest.mark.long
def test_updates_that_change_nothing_are_taken_only_where_one_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights and log are those of a training that takes every one of them."""
    results, taken = [], []
    for every in (False, True):
        write_json((tmp_path / str(every)) / CONFIG, run_config().to_json())
        run, agent = RunFolder(tmp_path / str(every)), build(torch.float32, decay_steps=4)
        count, update = [], agent.update
        if every:
            monkeypatch.setattr(agent, "settled", lambda step: False)
            monkeypatch.setattr(agent, "phase", lambda step: int(step >= 4))
        monkeypatch.setattr(agent, "update", lambda batch: (count.append(batch.step), update(batch))[1])  # noqa: B023
        train(agent, dataset(), run, TrainingSettings(steps=13, log_every=5, checkpoint_every=6))
        table = read_table(run.path / METRICS).to_pydict()
        del table["seconds"]
        results.append(((run.path / WEIGHTS).read_bytes(), table))
        taken.append(count)
    assert results[0] == results[1]
    assert taken == [[0, 1, 2, 3, 4, 9, 12], list(range(13))]


def linear_quadratic(agent: ResponseModel, visits: int, pull: float, push: float, cost: float) -> None:
    """One marker that is seen exactly: x' = pull x + push a, reward - x'^2 - cost a^2."""
    patients = agent.patients
    model = unpack(patients.response.flatten(0, 1), Sizes(1, 1)).parameters
    values = {"pull": math.log(pull / (MOST_PULL - pull)), "dose": push, "log_level": math.log(1e3)}
    values |= {"offset": 0.0, "start": 0.0, "log_start_variance": math.log(0.25)}
    values |= {"log_noise": -11.0, "log_process": -11.0}
    with torch.no_grad():
        packed = torch.cat(
            [torch.full_like(p, values.get(name, 0.0)).flatten(1) for name, p in model.items()], 1
        )
        patients.response.copy_(packed.view_as(patients.response))
        for k in range(len(agent.seeds)):
            ends = unpack(patients.response[k], Sizes(1, 1)).parameters
            ends["low"].fill_(-1e6)
            ends["high"].fill_(1e6)
    patients.reward[..., 2, 0] = -1.0  # y' y'
    patients.reward[..., 0, 2] = -cost  # a a
    patients.horizon.fill_(visits)
    patients.reason.zero_()
    patients._notice()


@pytest.mark.parametrize("visit", [0, 2])
def test_the_planned_dose_is_the_riccati_solution(visit: int) -> None:
    """Linear response, quadratic costs, no noise: the best dose is - k x (Kalman 1960), to the end."""
    visits, pull, push, cost = 4, 0.9, 0.5, 0.6
    agent = build(n_obs=1, folds=2, plan_steps=60, plan_step_size=0.3)
    linear_quadratic(agent, visits, pull, push, cost)
    gains = oracle.riccati(pull, push, 1.0, cost, visits)
    level = torch.linspace(-0.6, 0.6, 7, dtype=torch.float64).view(1, -1, 1).expand(6, -1, -1)
    policy: Any = agent.distribution(Belief(level, torch.full_like(level, 1e-6)), visit)
    np.testing.assert_allclose(policy.mode, -gains[visit] * level[:2], atol=2e-3)


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


@pytest.mark.long
def test_a_replicate_in_a_stack_is_the_data_set_alone() -> None:
    data = replicates(2)
    together = training_state(trained(SEEDS, Dataset.join(data)))
    for k, seed in enumerate(SEEDS):
        alone = training_state(trained((seed,), data[k]))
        for name, value in together.items():
            if value.dim() > 0:
                torch.testing.assert_close(value[k], alone[name][0], rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.long
def test_a_fitted_model_is_kept_when_other_data_come() -> None:
    agent = trained((0,), dataset(dtype=torch.float64))
    before = {name: value.clone() for name, value in agent.named_buffers()}
    agent.prepare(replicates(2)[1])
    assert all(torch.equal(value, before[name]) for name, value in agent.named_buffers())


@pytest.mark.long
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
    assert other.patients._coupled == whole.patients._coupled
    assert other.patients._held == whole.patients._held
    assert torch.equal(other.policy(obs).mode, whole.policy(obs).mode)


def shortened(data: Dataset, lengths: list[int]) -> Dataset:
    """The first visits of every patient."""
    rows = torch.cat([start + torch.arange(n) for start, n in zip(data.starts[:-1], lengths, strict=True)])
    columns = {name: getattr(data, name)[rows] for name in ("obs", "act", "reward", "next_obs", "terminated")}
    return dataclasses.replace(data, **columns, starts=torch.tensor([0, *np.cumsum(lengths)]))


@pytest.mark.long
def test_episodes_of_several_lengths_are_learned_from_by_visits_that_were_recorded() -> None:
    whole = dataset(dtype=torch.float64)
    patients = len(whole.starts) - 1
    lengths = [24 - 3 * (k % 3) for k in range(patients)]
    data = shortened(whole, lengths)
    visits = recorded_visits(data)
    for k, length in enumerate(lengths):
        rows = slice(int(data.starts[k]), int(data.starts[k + 1]))
        assert torch.equal(visits.obs[0, k, 1 : length + 1], data.next_obs[rows])
        assert torch.equal(visits.act[0, k, :length], data.act[rows])
        assert torch.equal(visits.reward[0, k, :length], data.reward[rows])
        assert bool(visits.obs[0, k, length + 1 :].isnan().all())
    assert torch.equal(visits.doses[0], data.act)
    agent = trained(SEEDS, data)
    whose = np.repeat(np.arange(patients), lengths)
    best = constant_dose(data.act[:, 0].numpy(), data.reward.numpy(), whose).dose
    assert bool(agent.patients.response.isfinite().all())
    assert float(agent.patients.horizon[0]) == 24.0
    np.testing.assert_allclose(agent.patients.constant[0, 0], best)


# Deployment


@pytest.mark.long
def test_the_belief_goes_on_from_visit_to_visit_as_over_the_whole_history() -> None:
    agent = trained(SEEDS, dataset(dtype=torch.float64))
    rng = torch.Generator().manual_seed(0)
    obs = torch.randn(2, 5, 6, 8, generator=rng, dtype=torch.float64)
    act = 2.0 * torch.rand(2, 5, 6, 1, generator=rng, dtype=torch.float64) - 1.0
    belief = agent.patients.first_belief(5)
    for visit in range(6):
        belief = agent.patients.take_in(belief, obs[:, :, visit])
        history = History(obs[:, :, : visit + 1], act[:, :, :visit], torch.zeros(2, 5, visit))
        whole: Any = agent.policy_after(history)
        step: Any = agent.distribution(belief, visit)
        torch.testing.assert_close(whole.mode, step.mode, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(whole.base_dist.scale, step.base_dist.scale, rtol=1e-10, atol=1e-12)
        belief = agent.patients.carry_on(belief, act[:, :, visit])
    assert torch.equal(agent.policy(obs[:, :, 0]).mode, agent.policy_after(
        History(obs[:, :, :1], act[:, :, :0], torch.zeros(2, 5, 0))).mode)  # fmt: skip


def test_the_width_is_the_disagreement_of_the_fold_models() -> None:
    agent = randomised(build(folds=2))
    patients = agent.patients
    belief = patients.take_in(patients.first_belief(6), torch.randn(2, 6, 8, dtype=torch.float64))
    distribution: Any = agent.distribution(belief, 1).base_dist  # type: ignore[attr-defined]
    doses = patients.planned(belief, 1, PlanSettings())[0].view(2, 3, 6)
    apart = (doses[:, 1:] - doses[:, :1]).square().mean(1).sqrt()
    room = 1.0 - doses[:, 0].abs()
    half = torch.minimum(torch.maximum(2.0 * apart, MIN_WIDTH * room), (1.0 - MIN_WIDTH) * room)
    torch.testing.assert_close(distribution.radius * distribution.scale[..., 0], half)
    assert float(apart.max()) > 1e-3
    gaussian: Any = randomised(build(folds=2, actor="gaussian"))
    other = gaussian.distribution(belief, 1).base_dist
    torch.testing.assert_close(other.variance, distribution.variance)
    assert other.q == 1.0


def test_a_refused_model_answers_without_a_plan_what_it_would_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = randomised(build(folds=2))
    agent.patients.reason.fill_(3)
    rng = torch.Generator().manual_seed(3)
    obs = torch.randn(2, 4, 3, 8, generator=rng, dtype=torch.float64)
    act = torch.rand(2, 4, 2, 1, generator=rng, dtype=torch.float64)
    planned: Any = agent.distribution(agent.patients.belief(obs, act), 2)
    monkeypatch.setattr(agent.patients, "planned", None)
    told: Any = agent.policy_after(History(obs, act, torch.zeros(2, 4, 2, dtype=torch.float64)))
    assert torch.equal(told.base_dist.loc, planned.base_dist.loc)
    assert torch.equal(told.base_dist.scale, planned.base_dist.scale)
    assert torch.equal(told.mode, agent.patients.constant.expand(-1, 4, -1))


def test_no_dose_is_planned_beyond_the_recorded_ones() -> None:
    """The reward rises with the dose for ever; recorded doses end at 0.3."""
    agent = randomised(build(folds=2))
    agent.patients.reward[..., 0, 1] = 100.0
    agent.patients.low.fill_(-0.2)
    agent.patients.high.fill_(0.3)
    agent.patients.constant.fill_(0.1)
    mode = agent.policy(torch.zeros(2, 4, 8, dtype=torch.float64)).mode
    assert bool(((mode > 0.2) & (mode <= 0.3)).all())


@pytest.mark.long
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
        agent.update(sampler(step))
    assert "constant dose is used" in agent.refusals[0]
    mode = agent.policy(obs[None, :, 5]).mode
    torch.testing.assert_close(mode, agent.patients.constant.expand_as(mode))


@pytest.mark.slow
def test_it_beats_the_constant_dose() -> None:
    episodes = simulate("dosing/Treatment-v0", patients=50, policy="uniform", seed=77, variant="simenv3")
    data = Dataset.from_episodes(episodes)
    agent = agents.build(NAME, ResponseModelConfig(), PROBLEM, (0,))
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
    assert best > base + 0.3
