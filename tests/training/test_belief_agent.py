"""Agents of the suite on a belief: their states, the advantages they learn, their policy, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.agent import History, HoldsBelief
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.patient_model import CLOCK, PatientSettings
from dosing.models.planning import PlanSettings
from dosing.models.response import Belief, unpack
from dosing.training.belief_agent import OnBelief
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.sampler import Lookahead, Sampler
from tests.oracles import response_model as oracle
from tests.support.samples import PROBLEM, cohort, dataset, small

PATIENTS = 9
SHORT = PlanSettings(visits=3, iterations=3)


@pytest.fixture(autouse=True)
def short_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosing.training.belief_agent.PLAN", SHORT)
    monkeypatch.setattr("dosing.training.belief_agent.FIT", PatientSettings(fit_steps=6))


def build(name: str = "fttpo", seeds: tuple[int, ...] = (3, 7), **options: Any) -> OnBelief:
    fields = {"advantage": "model", "imagined": 2} | options
    agent = agents.build(name, small(name), PROBLEM, seeds, dtype=torch.float64, regularisation=fields)
    assert isinstance(agent, OnBelief)
    return agent


def fitted(agent: OnBelief, data: Dataset) -> OnBelief:
    """With models of the data, trusted whatever their calibration."""
    agent.prepare(data)
    agent.patients.reason.zero_()
    return agent


@pytest.mark.long
def test_a_visit_is_shown_as_its_belief_and_valued_by_a_model_without_the_patient() -> None:
    """State, dose and reward of some rows, from the equations in plain loops."""
    data = dataset(PATIENTS, dtype=torch.float64)
    agent = fitted(build(), data)
    view, visits = agent.view(data), len(data) // PATIENTS
    patients, copies = agent.patients, 3
    assert len(view) == copies * len(data)
    assert view.obs.shape[1] == 8 + CLOCK + 1
    assert bool((view.terminated == 1.0).all())
    advantage = np.zeros((copies, PATIENTS, visits))
    for k in range(3):
        packed = unpack(patients.response[0].detach(), patients.sizes).parameters
        p = {name: value[1 + k].numpy() for name, value in packed.items()}
        theta = patients.reward[0, 1 + k].numpy()
        for n in range(k, PATIENTS, 3):
            rows = slice(n * visits, (n + 1) * visits)
            obs, act = data.obs[rows].numpy(), data.act[rows].numpy()
            means, covariances, _ = oracle.filter_patient(p, obs, act, full=False)
            for t in (0, 3, visits - 2, visits - 1):
                mean, variance = means[t], np.diag(covariances[t])
                here = Belief(*(torch.tensor(x)[None, None].expand(2, 1, -1) for x in (mean, variance)))
                plan = patients.planned(here, t, SHORT, slice(1 + k, 2 + k))[:, 0, 0].numpy()
                constant = [patients.constant[0, 0].numpy()] * len(plan)
                for c in range(copies):
                    dose = view.act[(c * PATIENTS + n) * visits + t].numpy()
                    better = oracle.promised(p, theta, mean, variance, [dose, *plan[1:]])
                    base = oracle.promised(p, theta, mean, variance, constant)
                    advantage[c, n, t] = better - base
    told = view.reward.view(copies, PATIENTS, visits)
    checked = advantage != 0.0
    scale = told.numpy()[checked] / advantage[checked]
    np.testing.assert_allclose(scale, scale[0], rtol=1e-5)
    np.testing.assert_allclose(told.std(), 1.0, rtol=1e-6)


def test_states_are_beliefs_of_the_model_of_all_patients() -> None:
    data = dataset(PATIENTS, dtype=torch.float64)
    agent = fitted(build(), data)
    view, visits = agent.view(data), len(data) // PATIENTS
    packed = unpack(agent.patients.response[0].detach(), agent.patients.sizes).parameters
    p = {name: value[0].numpy() for name, value in packed.items()}
    rows = slice(4 * visits, 5 * visits)
    seen = np.concatenate((data.obs[rows].numpy(), data.next_obs[rows][-1:].numpy()))
    means, _, _ = oracle.filter_patient(p, seen, data.act[rows].numpy(), full=False)
    np.testing.assert_allclose(view.obs[rows, :8], np.stack(means[:-1]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(view.next_obs[rows, :8], np.stack(means[1:]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(view.obs[rows, 8], np.arange(visits) / visits)
    assert float(view.obs[rows][0, -1]) == 0.0
    assert torch.equal(view.obs[rows][1:, -1], data.act[rows][:-1, 0])
    assert torch.equal(view.next_obs[rows][:, -1], data.act[rows][:, 0])
    assert set(view.act.flatten().tolist()) <= set(data.act.flatten().tolist())
    assert torch.equal(view.act[: len(data)], data.act)


def test_the_policy_is_the_agents_at_the_belief_after_the_history() -> None:
    data = dataset(PATIENTS, dtype=torch.float64)
    agent = fitted(build(), data)
    visits = len(data) // PATIENTS
    obs, act = (x.view(1, PATIENTS, visits, -1).expand(2, -1, -1, -1) for x in (data.obs, data.act))
    view = agent.view(data).obs[: len(data)].view(1, PATIENTS, visits, -1).expand(2, -1, -1, -1)
    for t in (0, 1, visits - 1):
        history = History(obs[:, :, : t + 1], act[:, :, :t], torch.zeros(2, PATIENTS, t))
        torch.testing.assert_close(agent.policy_after(history).mode, agent.inner.policy(view[:, :, t]).mode)
    assert torch.equal(agent.policy(obs[:, :, 0]).mode, agent.inner.policy(view[:, :, 0]).mode)
    assert agent.looks_back
    assert isinstance(agent, HoldsBelief)


@pytest.mark.long
def test_a_seed_of_a_stack_is_the_seed_alone_and_replicates_are_the_data_sets_alone() -> None:
    sets = [Dataset.from_episodes(cohort(PATIENTS, seed), dtype=torch.float64) for seed in range(2)]
    for data, parts in ((sets[0], [sets[0]] * 2), (Dataset.join(sets), sets)):
        together = build()
        sampler = Sampler(data, together, 32)
        for step in range(4):
            together.update(sampler(step))
        for k, seed in enumerate((3, 7)):
            alone = build(seeds=(seed,))
            own = Sampler(parts[k], alone, 32)
            for step in range(4):
                alone.update(own(step))
            whole = training_state(together)
            for name, value in training_state(alone).items():
                if value.dim() > 0:
                    torch.testing.assert_close(whole[name][k], value[0], rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.long
def test_a_loaded_agent_learns_and_doses_on_as_the_saved_one() -> None:
    data = dataset(PATIENTS, dtype=torch.float64)
    first, second = build(), build()
    sampler = Sampler(data, first, 32)
    for step in range(3):
        first.update(sampler(step))
    load_training_state(second, training_state(first))
    again = Sampler(data, second, 32)
    for step in range(3, 6):
        first.update(sampler(step))
        second.update(again(step))
    obs = data.obs[:5].expand(2, -1, -1)
    assert torch.equal(first.policy(obs).mode, second.policy(obs).mode)


@pytest.mark.long
def test_every_row_is_an_episode_of_its_own() -> None:
    """So that neither returns to go nor targets over several visits sum advantages over a horizon again."""
    data = dataset(PATIENTS, dtype=torch.float64)
    agent = fitted(build("cal_ql"), data)
    view = agent.view(data)
    assert torch.equal(view.starts, torch.arange(len(view) + 1))
    several = Sampler(data, build(), 64, lookahead=Lookahead(3))(0)
    assert set(several.reward[0].tolist()) <= set(Sampler(data, build(), 64).dataset.reward.tolist())


def test_other_patients_than_those_of_the_fit_are_refused() -> None:
    agent = fitted(build(), dataset(PATIENTS, dtype=torch.float64))
    with pytest.raises(UserError, match="fitted to 9 patients of 24 visits"):
        agent.view(dataset(PATIENTS + 1, dtype=torch.float64))


def test_where_the_model_is_refused_the_constant_dose_is_the_best() -> None:
    data = dataset(PATIENTS, dtype=torch.float64)
    agent = build()
    agent.prepare(data)
    agent.patients.reason.fill_(1)
    view, constant = agent.view(data), float(agent.patients.constant[0])
    away = (view.act[:, 0] - constant).square()
    assert bool((-view.reward / away).std() < 1e-6 * (view.reward / away).abs().mean())
    assert agent.refusals[0].endswith("the constant dose is used.")


@pytest.mark.parametrize("name", ["decision_transformer", "quasi_optimal", "response_model"])
def test_agents_of_whole_episodes_are_refused_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match="agents of the state alone"):
        build(name)


@pytest.mark.parametrize("options", [{"advantage": "critics"}, {"imagined": -1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        build(**options)
