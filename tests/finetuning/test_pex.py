"""Policy expansion: who is chosen, what is transferred, what is learned, against direct computations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

import agents
from agents import finetuning
from dosing.errors import UserError
from dosing.finetuning.method import TrialProgress
from dosing.finetuning.patients import Waves
from dosing.rng import generator
from dosing.runs.files import write_json, write_table, write_tensors
from dosing.runs.folder import CONFIG, METRICS, WEIGHTS, RunFolder
from dosing.training.regularised import take_step
from tests.finetuning.expansions import batch, begun, learner, same_alone, trial
from tests.finetuning.test_trial import SEEDS, killed_and_resumed
from tests.support.samples import PROBLEM, run_config, small

BETA = 3.0


def agent_of(method: str = "pex", **options: Any) -> Any:
    return learner(method, begun(**options)).agent


# The choice


def test_probabilities_by_hand() -> None:
    agent = agent_of()
    values = torch.tensor([[[1.0, 1.2]], [[0.5, 0.2]]])  # times 10: differences of 2 and -3
    result = agent.probabilities(values)
    want = [[[1.0 / (1.0 + np.exp(2.0)), 1.0 / (1.0 + np.exp(-2.0))]], [[0.952574, 0.047426]]]
    np.testing.assert_allclose(result, want, rtol=1e-5)
    three = agent_of("pex,members=3,inverse_temperature=1", further=2)
    logs = torch.tensor([1.0, 2.0, 5.0]).log().expand(2, 1, 3)
    np.testing.assert_allclose(three.probabilities(logs)[0, 0], [1 / 8, 2 / 8, 5 / 8], rtol=1e-6)


@torch.no_grad()
def composed_by_hand(agent: Any, obs: Tensor, u: Any, choice: Any) -> tuple[Any, Any]:
    """Doses ``[S, B, 2]`` of both members and the number of the one that is taken, by loops."""
    doses, taken = np.zeros((*obs.shape[:2], 2)), np.zeros(obs.shape[:2], int)
    distribution, offer = agent.online.policy(obs).base_dist, agent.frozen[0].policy(obs).mode
    for k in range(obs.shape[0]):
        for b in range(obs.shape[1]):
            own = float(distribution.loc[k, b, 0]) + float(distribution.scale[k, b, 0]) * ndtri(u[k, b])
            doses[k, b] = float(offer[k, b, 0]), own
            q = []
            for dose in np.clip(doses[k, b], -1.0, 1.0):
                act = torch.full((obs.shape[0], 1, 1), dose, dtype=obs.dtype)
                q.append(float(agent.online.critic(obs[:, b : b + 1], act)[k, :, 0].min()))
            second = 1.0 / (1.0 + np.exp(-10.0 * (q[1] - q[0])))
            taken[k, b] = int(choice[k, b] > 1.0 - second)
    return doses, taken


def test_the_composite_policy_requests_what_a_loop_says() -> None:
    start = begun(dtype=torch.float64)
    agent: Any = learner("pex", start).agent
    obs = start.dataset.obs[:12].expand(2, -1, -1)
    rng = np.random.default_rng(0)
    u, choice = rng.random((2, 12)), rng.random((2, 12))
    doses, taken = composed_by_hand(agent, obs, u, choice)
    result = agent.requested(obs, torch.from_numpy(u)[..., None], torch.from_numpy(choice))
    np.testing.assert_allclose(
        result[..., 0], np.take_along_axis(doses, taken[..., None], 2)[..., 0], rtol=1e-9
    )
    assert 0 < taken.mean() < 1
    assert (np.abs(doses) > 1.0).any()  # a draw beyond the limits is requested as it is


def test_a_trial_doses_by_the_composite_policy() -> None:
    result, start = learner("pex", begun()), begun()
    obs = start.dataset.obs[:4].expand(2, -1, -1)
    raw = obs.numpy() * np.array(start.transform.obs_scale) + np.array(start.transform.obs_mean)
    visit = np.zeros((2, 4), np.int64)
    dose = result.behaviour(raw.astype(np.float32), TrialProgress(5, 0.1, visit, visit))
    numbers = np.stack([generator(s, "exploration", 5).random((4, 2)) for s in SEEDS])
    doses, taken = composed_by_hand(result.agent, obs, numbers[..., 0], numbers[..., 1])
    want = np.take_along_axis(doses, taken[..., None], 2)
    np.testing.assert_allclose(start.transform.to_unit(dose), want, atol=2e-4)


def test_the_distribution_is_that_of_the_doses_requested() -> None:
    start = begun()
    agent: Any = learner("pex,draws=256,inverse_temperature=3", start).agent
    obs = start.dataset.obs[:3].expand(2, -1, -1)
    with torch.no_grad():
        distribution = agent.policy(obs).base_dist
    assert distribution.kind == "point_set"
    np.testing.assert_allclose(distribution.weights.sum(-1), 1.0, rtol=1e-5)
    n = 8000
    many = obs.repeat_interleave(n, 1)
    rng = np.random.default_rng(1)
    u, choice = (torch.from_numpy(rng.random((2, 3 * n))).float() for _ in range(2))
    act = agent.requested(many, u[..., None], choice).view(2, 3, n)
    np.testing.assert_allclose(distribution.mean[..., 0], act.mean(-1), atol=0.05)
    offer = agent.frozen[0].policy(obs).mode
    share = ((act - offer).abs() < 1e-4).double().mean(-1)
    np.testing.assert_allclose(distribution.weights[:, :, 0, 0], share, atol=0.02)
    assert 0.05 < float(share.min()) < float(share.max()) < 0.95


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_papers_evaluation_is_drawn_as_it_says(epsilon: float) -> None:
    """Loops: mode or draw, then dose of highest value or a choice, both by coins of their own."""
    start = begun()
    agent: Any = learner(f"pex,draws=64,inverse_temperature=3,evaluation_epsilon={epsilon}", start).agent
    obs = start.dataset.obs[:3].expand(2, -1, -1)
    with torch.no_grad():
        distribution, online = agent.policy(obs).base_dist, agent.online.policy(obs).base_dist
        offer = agent.frozen[0].policy(obs).mode[..., 0].numpy()
        rng, n = np.random.default_rng(2), 4000
        draw = online.loc[..., 0, None].numpy() + online.scale[..., 0, None].numpy() * rng.standard_normal(
            (2, 3, n)
        )
        second = np.where(rng.random((2, 3, n)) < epsilon, draw, online.loc[..., 0, None].numpy())
        values = []
        for act in (np.broadcast_to(offer[..., None], second.shape), second):
            many = torch.from_numpy(np.clip(act, -1.0, 1.0)).float().reshape(2, 3 * n, 1)
            values.append(
                agent.online.critic(obs.repeat_interleave(n, 1), many).amin(1).view(2, 3, n).numpy()
            )
    chance = 1.0 / (1.0 + np.exp(-3.0 * (values[1] - values[0])))
    drawn, greedy = rng.random((2, 3, n)) < chance, values[1] > values[0]
    taken = np.where(rng.random((2, 3, n)) < epsilon, drawn, greedy)
    share = distribution.weights[:, :, 0]
    np.testing.assert_allclose(share.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(share[..., 0], 1.0 - taken.mean(-1), atol=0.04)
    np.testing.assert_allclose(
        share[..., 1], (taken & (second == online.loc[..., 0, None].numpy())).mean(-1), atol=0.04
    )
    mean = np.where(taken, second, offer[..., None]).mean(-1)
    np.testing.assert_allclose(distribution.mean[..., 0], mean, atol=0.05)
    usual = learner("pex,draws=64,inverse_temperature=3", start).agent
    assert torch.equal(distribution.mode, usual.policy(obs).base_dist.mode)


def test_recommended_is_the_mode_of_highest_value() -> None:
    start = begun()
    agent: Any = learner("pex", start).agent
    obs = start.dataset.obs[:40].expand(2, -1, -1)
    modes = torch.stack((agent.frozen[0].policy(obs).mode, agent.online.policy(obs).mode))
    q = torch.stack([agent.online.critic(obs, mode).amin(1) for mode in modes])
    want = torch.where((q[0] >= q[1])[..., None], modes[0], modes[1])
    torch.testing.assert_close(agent.policy(obs).mode, want)
    assert bool((q[0] > q[1]).any())
    assert bool((q[0] < q[1]).any())


# What is transferred


def test_critics_are_transferred_bit_by_bit_and_the_policy_is_new() -> None:
    start = begun()
    agent: Any = learner("pex", start).agent
    fresh: Any = agents.build("iql", start.config, PROBLEM, start.seeds)
    for name, x in agent.online.state_dict().items():
        want = fresh.state_dict()[name] if name.startswith("actor.") else start.weights[name]
        assert torch.equal(x, want), name
    assert all(torch.equal(x, start.weights[n]) for n, x in agent.frozen[0].state_dict().items())
    new: Any = learner("pex,critic=random", start).agent
    assert all(torch.equal(x, fresh.state_dict()[n]) for n, x in new.online.state_dict().items())


def test_frozen_members_stay_as_they_are() -> None:
    start = begun()
    agent: Any = learner("pex", start).agent
    before = {n: x.clone() for n, x in agent.state_dict().items()}
    for step in range(3):
        take_step(agent, batch(agent, start, step=step))
    for name, x in agent.state_dict().items():
        moved = name.startswith("online.")
        assert torch.equal(x, before[name]) is not moved, name
    assert not any(p.requires_grad for p in agent.frozen.parameters())


def test_an_offline_policy_that_adapts_is_fitted_to_the_batch_and_nothing_else_of_it_moves() -> None:
    """Its loss by a direct computation; its critics, which value nothing, stay as they were."""
    start = begun(dtype=torch.float64)
    agent: Any = learner("pex,offline_step_size=0.01", start).agent
    data = batch(agent, start)
    with torch.no_grad():
        loss = agent.losses(data)["offline"].numpy()
        q, v = target_value(agent, data.obs, data.act)
        own = agent.frozen[0].policy(data.obs).base_dist
        z = (data.act - own.loc) / own.scale
        log_prob = (-0.5 * z.square() - own.scale.log() - 0.5 * np.log(2.0 * np.pi)).sum(-1)
        weight = torch.exp(BETA * (q - v)).clamp(max=100.0)
    np.testing.assert_allclose(loss, -(weight * log_prob).mean(-1), rtol=1e-9)
    before = {name: x.clone() for name, x in agent.frozen[0].state_dict().items()}
    take_step(agent, data)
    moved = {name for name, x in agent.frozen[0].state_dict().items() if not torch.equal(x, before[name])}
    assert moved == {name for name in before if name.startswith("actor.")}


def test_settings_of_the_learner() -> None:
    config = agent_of("pex,expectile=0.6,beta=10,step_size=0.001", actor_decay_steps=9).online.config
    assert (config.expectile, config.inverse_temperature, config.learning_rate) == (0.6, 10.0, 1e-3)
    assert config.actor_decay_steps is None


# What is learned


def weighted(agent: Any, obs: Tensor, act: Tensor, q: Any, v: Any) -> Any:
    """Terms of the policy's loss, by the density of a normal distribution."""
    distribution = agent.online.policy(obs).base_dist
    weight = torch.exp(BETA * (q - v)).clamp(max=100.0).detach()
    z = (act - distribution.loc) / distribution.scale
    return -weight * (-0.5 * z.square() - distribution.scale.log() - 0.5 * np.log(2.0 * np.pi))[..., 0]


def target_value(agent: Any, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
    return agent.online.critic_target(obs, act).amin(1), agent.online.value(obs)


def actor_loss(agent: Any, data: Any, mistake: str = "") -> Any:
    u, choice = data.noise["own"][..., 0].numpy(), data.noise["choice"].numpy()
    doses, taken = composed_by_hand(agent, data.obs, u, choice)
    if mistake == "other member":
        taken = 1 - taken
    act = torch.from_numpy(np.take_along_axis(doses, taken[..., None], 2))
    if mistake != "beyond the limits":
        act = act.clamp(-1.0, 1.0)
    if mistake == "doses of the batch":
        act = data.act
    return weighted(agent, data.obs, act, *target_value(agent, data.obs, act)).mean(-1)


def test_the_policy_is_fitted_to_what_the_composite_policy_proposes() -> None:
    start = begun(dtype=torch.float64)
    agent: Any = learner("pex", start).agent
    data = batch(agent, start, 24)
    losses = agent.losses(data)
    actor = list(agent.online.actor.parameters())
    want = actor_loss(agent, data)
    torch.testing.assert_close(losses["actor"], want, rtol=1e-9, atol=0.0)
    for a, b in zip(
        torch.autograd.grad(losses["actor"].sum(), actor, retain_graph=True),
        torch.autograd.grad(want.sum(), actor),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
    for mistake in ("other member", "beyond the limits", "doses of the batch"):
        assert not torch.allclose(losses["actor"], actor_loss(agent, data, mistake), rtol=1e-3)
    others = [p for n, p in agent.named_parameters() if not n.startswith("online.actor") and p.requires_grad]
    assert others
    gradient = torch.autograd.grad(losses["actor"].sum(), others, retain_graph=True, allow_unused=True)
    assert all(g is None for g in gradient)
    own: Any = agents.build("iql", start.config, PROBLEM, start.seeds, dtype=torch.float64)
    own.load_state_dict(agent.online.state_dict())
    for name, loss in own.losses(data).items():  # the rest is IQL's, and with doses=recorded all of it
        assert (name == "actor") is not torch.equal(losses[name], loss)
    recorded: Any = learner("pex,doses=recorded", start).agent
    assert all(torch.equal(recorded.losses(data)[n], x) for n, x in own.losses(data).items())


def test_gradients_are_mixed_by_the_chances_of_the_choice() -> None:
    start = begun(dtype=torch.float64)
    agent: Any = learner("pex,mix=gradients", start).agent
    assert torch.equal(agent.online.actor.loc.weight, start.weights["actor.loc.weight"])  # it goes on
    with torch.no_grad():
        agent.online.actor.loc.bias += 0.3
    data = batch(agent, start, 24)
    n, total = 400, torch.zeros(2, dtype=torch.float64)
    doses, _ = composed_by_hand(agent, data.obs, data.noise["own"][..., 0].numpy(), np.zeros((2, 24)))
    for i in range(n):  # the mean over the choice, by even steps
        choice = np.full((2, 24), (i + 0.5) / n)
        q = [
            agent.online.critic(data.obs, torch.from_numpy(doses[..., k : k + 1]).clamp(-1, 1))
            for k in (0, 1)
        ]
        second = torch.sigmoid(10.0 * (q[1].amin(1) - q[0].amin(1))).detach().numpy()
        taken = (choice > 1.0 - second).astype(int)
        act = torch.from_numpy(np.take_along_axis(doses, taken[..., None], 2)).clamp(-1.0, 1.0)
        with torch.no_grad():
            total += weighted(agent, data.obs, act, *target_value(agent, data.obs, act)).mean(-1) / n
    torch.testing.assert_close(agent.losses(data)["actor"].detach(), total, rtol=0.02, atol=0.0)
    assert agent.policy(data.obs).base_dist.kind == "infinite_clipped"


def test_values_are_mixed_by_their_mean_advantage() -> None:
    start = begun(dtype=torch.float64, further=2)
    agent: Any = learner("pex,mix=values,members=3", start).agent
    with torch.no_grad():
        agent.online.value.net.layers[-1].bias += 0.4
    data = batch(agent, start, 24)
    advantage = torch.zeros(2, 24, dtype=torch.float64)
    for member in (agent.online, *agent.frozen):
        q = member.critic_target(data.obs, data.act).amin(1)
        advantage += (q - member.value(data.obs)).detach() / 3.0
    want = weighted(agent, data.obs, data.act, advantage, 0.0).mean(-1)
    losses = agent.losses(data)
    torch.testing.assert_close(losses["actor"], want, rtol=1e-9, atol=0.0)
    online = weighted(agent, data.obs, data.act, *target_value(agent, data.obs, data.act)).mean(-1)
    assert not torch.allclose(losses["actor"], online, rtol=1e-3)


# The temperature


@pytest.mark.long
@pytest.mark.parametrize("target", [0.3, 0.9])
def test_the_temperature_reaches_its_target_entropy(target: float) -> None:
    start = begun(dtype=torch.float64)
    spec = f"pex,adaptive=true,entropy={target},temperature_learning_rate=0.1,step_size=1e-12"
    agent: Any = learner(spec, start).agent
    data = batch(agent, start, 32)
    first = agent.losses_and_metrics(data)[1]["entropy"]
    for step in range(150):
        metrics = take_step(agent, replace(data, step=step))
    np.testing.assert_allclose(metrics["entropy"], target * np.log(2.0), rtol=0.03)
    assert float((first / np.log(2.0) - target).abs().min()) > 0.05
    assert len(set(metrics["inverse_temperature"].tolist())) == 2  # each seed has its own
    loss = agent.losses(data)["temperature"]
    alpha = 1.0 / metrics["inverse_temperature"]
    want = agent.log_temperature.exp()[:, 0] * (metrics["entropy"] - target * np.log(2.0))
    np.testing.assert_allclose(loss.detach(), want.detach(), atol=0.02 * float(alpha.max()))


def test_the_target_entropy_falls_over_the_trial() -> None:
    result = learner("pex,adaptive=true,entropy=0.8,entropy_end=0.2", begun())
    fall = result.decay["entropy"]
    np.testing.assert_allclose([0.8 * fall(t) for t in (0.0, 0.5, 1.0)], [0.8, 0.5, 0.2])
    assert not learner("pex", begun()).decay


def test_scaled_logits_do_not_change_with_the_unit_of_the_reward() -> None:
    start = begun(dtype=torch.float64)
    obs = start.dataset.obs[:20].expand(2, -1, -1)
    result = []
    for unit in (1.0, 7.0):
        for logits in ("raw", "scaled"):
            agent: Any = learner(f"pex,logits={logits},inverse_temperature=2", start).agent
            with torch.no_grad():
                agent.online.critic.net.layers[-1].weight *= unit
                agent.online.critic.net.layers[-1].bias *= unit
            if logits == "scaled":
                agent.calibrate(start.dataset.obs.expand(2, -1, -1))
            result.append(agent.policy(obs).base_dist.weights)
    torch.testing.assert_close(result[1], result[3])
    assert not torch.allclose(result[0], result[2], atol=1e-3)


def test_the_spread_follows_the_batches() -> None:
    start = begun(dtype=torch.float64)
    agent: Any = learner("pex,logits=scaled", start).agent
    before = agent.spread.clone()
    metrics = take_step(agent, batch(agent, start, 24))
    torch.testing.assert_close(agent.spread[:, 0], 0.995 * before[:, 0] + 0.005 * metrics["spread"])


# More members


def test_members_are_other_seeds_each_used_once() -> None:
    start = begun(further=6)
    agent: Any = learner("pex,members=5", start).agent
    assert len(agent.frozen) == 4
    for name, x in start.further.items():
        for k in (0, 1):
            for j in range(3):
                assert torch.equal(agent.frozen[1 + j].state_dict()[name][k], x[3 * k + j])
    distribution = agent.policy(start.dataset.obs[:2].expand(2, -1, -1)).base_dist
    assert distribution.values.shape[-1] == 4 + 8
    with pytest.raises(
        UserError, match=r"run of 8 seeds and --seeds 2; beyond those of the trial this run has 5"
    ):
        learner("pex,members=5", begun(further=5))


def test_members_are_policies_of_other_runs(tmp_path: Path) -> None:
    start = begun()
    config = small("td3_bc")
    other = agents.build("td3_bc", config, PROBLEM, (3, 1, 0))
    run = RunFolder(tmp_path)
    told = run_config(
        agent="td3_bc",
        agent_config={**vars(config), "hidden": list(config.hidden)},
        seeds=(3, 1, 0),
        problem=PROBLEM,
        transform=start.transform,
    )
    write_json(run.path / CONFIG, told.to_json())
    write_tensors(run.path / WEIGHTS, other.state_dict(), {})
    write_table(run.path / METRICS, {"step": np.zeros(1)})
    run.finish()
    agent: Any = learner(f"pex,members=3,others=runs,runs={tmp_path}", start).agent
    obs = start.dataset.obs[:5].expand(3, -1, -1)
    want = other.policy(obs).mode[[2, 0]]
    torch.testing.assert_close(agent.offers(obs[:2])[:, :, 1], want)
    with pytest.raises(UserError, match=r"lacks the seeds \[7\]"):
        learner(f"pex,members=3,others=runs,runs={tmp_path}", begun(seeds=(0, 7)))
    with pytest.raises(UserError, match="every run must be one of iql"):
        learner(f"pex,members=3,mix=values,others=runs,runs={tmp_path}", start)
    with pytest.raises(UserError, match="needs 2"):
        learner(f"pex,members=4,others=runs,runs={tmp_path}", start)


def test_the_policy_is_frozen_and_begins_anew() -> None:
    start = begun()
    result = learner("pex,members=4,others=online,snapshot_every=3", start)
    agent: Any = result.agent
    obs = start.dataset.obs[:5].expand(2, -1, -1)
    initial = {n: x.clone() for n, x in agent.online.actor.state_dict().items()}
    kept = []
    for step in range(8):
        before = {n: x.clone() for n, x in agent.online.actor.state_dict().items()}
        agent.schedule(step)
        if step in (3, 6):
            kept.append(before)
            assert all(torch.equal(x, initial[n]) for n, x in agent.online.actor.state_dict().items())
            assert not agent.optimizers["actor"].state
        else:
            assert all(torch.equal(x, before[n]) for n, x in agent.online.actor.state_dict().items())
        chances = agent.probabilities(torch.zeros(2, 1, 4))
        there = [True, step >= 3, step >= 6, True]
        np.testing.assert_allclose(chances[0, 0], np.array(there) / sum(there), rtol=1e-6)
        take_step(agent, batch(agent, start, step=step))
    for number, state in enumerate(kept):
        assert all(torch.equal(x, state[n]) for n, x in agent.snapshots[number].state_dict().items())
    assert agent.offers(obs).shape == (2, 5, 3, 1)
    spaced: Any = learner("pex,members=4,others=online", start, visits=620).agent
    assert spaced.config.snapshot_every == 50  # 150 updates in three equal parts


# Settings


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pex,members=1", "members must be at least 2"),
        ("pex,members=two", "members must be of type int, got 'two'"),
        ("pex,member=2", "no setting 'member'; there are: members, others"),
        ("pex,mix=q", "mix must be one of policies, values, gradients"),
        ("pex,inverse_temperature=-1", "inverse_temperature must be at least 0"),
        ("pex,entropy=1.5", "entropy must be above 0"),
        ("pex,adaptive=true,mix=values", "nothing is chosen"),
        ("pex,others=online,mix=gradients", "one policy learns"),
        ("pex,members", "written pex,SETTING=VALUE"),
        ("pex,members=2,members=3", "each once"),
        ("direct,members=2", "Direct .* has no settings of its own"),
        ("pecs", "no method 'pecs'"),
        ("pex,share=1", "share of recorded visits must be at least 0 and below 1"),
        ("pex,offline_step_size=0", "offline_step_size must be above 0"),
        ("pex,evaluation_epsilon=1.5", "evaluation_epsilon must be between 0 and 1"),
        ("pex,mix=values,offline_step_size=0.1", "no frozen policy doses"),
    ],
)
def test_settings_that_cannot_work_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learner(spec, begun())


def test_it_goes_on_from_iql_only() -> None:
    with pytest.raises(UserError, match="run of iql, this is one of spot"):
        learner("pex", begun("spot"))
    assert finetuning.find("pex,members=4").title == "PEX (members=4)"


# In a trial


SPECS = ["pex", "pex,adaptive=true,logits=scaled", "pex,members=4,others=online,snapshot_every=7"]
ADAPTS = "pex,offline_step_size=0.01,evaluation_epsilon=0.1,share=0.25"


@pytest.mark.long
@pytest.mark.parametrize("spec", [*SPECS, ADAPTS, "pex,mix=gradients"])
def test_a_killed_trial_resumes_bit_by_bit(spec: str, tmp_path: Path) -> None:
    start = begun()
    killed_and_resumed(lambda: trial(spec, start, {"checkpoint_every": 62, "visits": 120}), tmp_path)


@pytest.mark.parametrize("spec", [SPECS[1], SPECS[2], ADAPTS])
def test_a_stacked_seed_is_the_seed_alone(spec: str) -> None:
    same_alone(spec, "iql")


def test_a_stacked_seed_has_members_of_its_own() -> None:
    same_alone("pex,members=3", "iql", further=1)


def test_half_of_a_batch_are_recorded_visits() -> None:
    result = trial("pex", begun())
    assert isinstance(result.treated, Waves)
    while not result.learner.replay.ready or result.visits < 40:
        result.step()
    data = result.learner.replay(result.updates)
    recorded = result.learner.replay._recorded  # type: ignore[attr-defined]
    theirs = (data.obs[:, :, None] == recorded[None, None, :, : PROBLEM.n_obs]).all(-1).any(-1)
    assert theirs[:, :4].all()
    assert not theirs[:, 4:].any()


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_share_of_recorded_visits_is_a_setting(share: float) -> None:
    result = trial(f"pex,share={share}", begun())
    while not result.learner.replay.ready or result.visits < 40:
        result.step()
    data, start = result.learner.replay(result.updates), begun()
    theirs = (data.obs[:, :, None] == start.dataset.obs[None, None]).all(-1).any(-1)
    first = round(share * theirs.shape[1])
    assert theirs[:, :first].all()
    assert not theirs[:, first:].any()


def test_fixed_draws_are_those_of_the_distribution() -> None:
    start = begun(dtype=torch.float64)
    agent: Any = learner("pex,draws=64", start).agent
    obs = start.dataset.obs[:2].expand(2, -1, -1)
    own, distribution = agent.policy(obs).base_dist.values[..., 1:], agent.online.policy(obs).base_dist
    ranks = ndtr(((own - distribution.loc[..., None]) / distribution.scale[..., None]).detach().numpy())
    np.testing.assert_allclose(
        np.sort(ranks, -1), np.broadcast_to((np.arange(64) + 0.5) / 64, ranks.shape), atol=0.016
    )


@pytest.mark.slow
def test_on_a_bandit_the_policy_goes_beyond_the_frozen_one() -> None:
    """The reward is 1 - 4 (a - 0.4)^2 in every state; recorded doses are uniform and every visit the last."""
    start = begun(target_rate=0.1)
    agent: Any = learner("pex,critic=random,beta=10,expectile=0.9,step_size=0.01", start).agent
    rng, size = np.random.default_rng(5), 32
    obs = start.dataset.obs[:size].expand(2, -1, -1)
    data = batch(agent, start, size)
    for step in range(300):
        act = torch.from_numpy(rng.uniform(-1.0, 1.0, (2, size, 1))).float()
        noise = {n: torch.from_numpy(rng.random(tuple(x.shape))).float() for n, x in data.noise.items()}
        reward = 1.0 - 4.0 * (act[..., 0] - 0.4).square()
        ones = torch.ones_like(reward)
        take_step(
            agent, replace(data, obs=obs, act=act, reward=reward, terminated=ones, noise=noise, step=step)
        )
    with torch.no_grad():
        distribution, offer = agent.policy(obs), agent.offers(obs)[:, :, 0]
        own = agent.online.policy(obs).mode
    assert float((offer - 0.4).abs().mean()) > 0.3
    assert float((distribution.mode - 0.4).abs().mean()) < 0.15
    assert float((own - 0.4).abs().mean()) < 0.15
    assert float(agent.online.policy(obs).base_dist.scale.detach().max()) < 0.2
