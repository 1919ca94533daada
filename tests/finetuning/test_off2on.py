"""Off2On: matched moments, losses, the density ratio and the balanced replay, against direct computations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import Tensor

from agents.finetuning.off2on import SMALLEST_LOG, priority, ratio_loss
from dosing.errors import UserError
from dosing.training.regularised import take_step
from tests.finetuning.expansions import batch, begun, learner, same_alone, trial
from tests.finetuning.test_trial import killed_and_resumed
from tests.support.samples import PROBLEM

SPEC = "off2on,members=3,ratio_width=16"


def made(dtype: torch.dtype = torch.float64, spec: str = SPEC, **changes: Any) -> Any:
    return learner(spec, begun("cql", further=4, dtype=dtype), **changes)


# The ensemble


def test_members_are_offline_agents_each_used_once() -> None:
    start = begun("cql", further=4)
    agent: Any = learner(SPEC, start).agent
    for name, x in start.weights.items():
        assert torch.equal(agent.members[0].state_dict()[name], x)
        for k in (0, 1):
            for j in (0, 1):
                theirs = agent.members[1 + j].state_dict()[name][k]
                assert torch.equal(theirs, start.further[name][2 * k + j])
    with pytest.raises(UserError, match="a run of 10 seeds and --seeds 2"):
        learner("off2on", start)


def test_the_policy_has_the_moments_of_its_members() -> None:
    result = made()
    obs = result.replay.recorded[:5, :8].expand(2, -1, -1)
    distributions = [m.actor(obs).base_dist for m in result.agent.members]
    rng = np.random.default_rng(0)
    draws = [
        distribution.loc + distribution.scale * torch.from_numpy(rng.standard_normal((40000, 2, 5, 1)))
        for distribution in distributions
    ]
    mixture = torch.cat(draws).detach()
    distribution = result.agent.policy(obs).base_dist
    np.testing.assert_allclose(distribution.loc.detach(), mixture.mean(0), atol=0.03)
    np.testing.assert_allclose(distribution.scale.detach(), mixture.std(0), rtol=0.02)
    assert distribution.kind == "full_box"
    torch.testing.assert_close(distribution.mode, torch.tanh(distribution.loc))


def losses_by_hand(agent: Any, data: Any, mistake: str = "") -> dict[str, Tensor]:
    """The three losses by the equations, one member after another, densities by hand."""

    def drawn(obs: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        distributions = [m.actor(obs).base_dist for m in agent.members]
        mean = sum(distribution.loc for distribution in distributions) / len(distributions)
        square = sum(distribution.loc**2 + distribution.scale**2 for distribution in distributions) / len(
            distributions
        )
        std = (square - mean**2).sqrt()
        z = torch.from_numpy(ndtri(u[..., 0].numpy()))
        x = mean + std * z
        log_prob = -0.5 * z**2 - std.log() - 0.5 * np.log(2 * np.pi) - (1 - torch.tanh(x) ** 2).log()
        return torch.tanh(x), log_prob.sum(-1)

    alpha = agent.log_temperature.exp().detach()
    ahead, log_ahead = (x.detach() for x in drawn(data.next_obs, data.noise["next_act"]))
    act, log_prob = drawn(data.obs, data.noise["act"])
    below = [m.critic_target(data.next_obs, ahead).amin(1) for m in agent.members]
    critic, worth = torch.zeros(2, dtype=torch.float64), torch.zeros_like(log_prob)
    for i, member in enumerate(agent.members):
        soft = below[i] if mistake != "one target for all" else torch.stack(below).mean(0)
        if mistake != "no entropy":
            soft = soft - alpha * log_ahead
        target = (data.reward + 0.9 * (1.0 - data.terminated) * soft).detach()
        for q in member.critic(data.obs, data.act).unbind(1):
            critic = critic + (q - target).square().mean(-1)
        values = member.critic(data.obs, act)
        worth = worth + (values.amin(1) if mistake != "mean critic" else values.mean(1)) / len(agent.members)
    return {
        "critic": critic,
        "actor": (alpha * log_prob - worth).mean(-1),
        "temperature": -agent.log_temperature[:, 0] * (log_prob.detach().mean(-1) - 1.0),
    }


def test_losses_and_whom_they_move() -> None:
    result = made()
    agent = result.agent
    with torch.no_grad():
        agent.log_temperature += 0.3
    data = batch(agent, begun("cql", dtype=torch.float64), 12)
    losses, want = agent.losses(data), losses_by_hand(agent, data)
    named = {n: p for n, p in agent.named_parameters() if p.requires_grad}
    routes: dict[str, Any] = {
        "critic": lambda n: ".critic." in n,
        "actor": lambda n: ".actor." in n,
        "temperature": lambda n: n == "log_temperature",
    }
    assert set(losses) == set(routes)
    for name, own in routes.items():
        torch.testing.assert_close(losses[name], want[name], rtol=1e-9, atol=1e-12)
        moved = {n: p for n, p in named.items() if own(n)}
        others = [p for n, p in named.items() if not own(n)]
        gradient = torch.autograd.grad(losses[name].sum(), list(moved.values()), retain_graph=True)
        by_hand = torch.autograd.grad(want[name].sum(), list(moved.values()), retain_graph=True)
        for a, b in zip(gradient, by_hand, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-11)
        rest = torch.autograd.grad(losses[name].sum(), others, retain_graph=True, allow_unused=True)
        assert all(g is None for g in rest)
    for mistake, name in (
        ("one target for all", "critic"),
        ("no entropy", "critic"),
        ("mean critic", "actor"),
    ):
        assert not torch.allclose(losses[name], losses_by_hand(agent, data, mistake)[name], rtol=1e-4)


def test_an_update_moves_all_members_and_their_targets() -> None:
    result = made()
    before = {n: x.clone() for n, x in result.agent.state_dict().items()}
    take_step(result.agent, batch(result.agent, begun("cql", dtype=torch.float64)))
    for name, x in result.agent.state_dict().items():
        stays = name.startswith("members.") and name.endswith("log_temperature")  # CQL's own
        assert torch.equal(x, before[name]) is stays, name
    for member in result.agent.members:
        name = "net.layers.0.weight"
        want = torch.lerp(
            before[f"members.0.critic_target.{name}"],
            result.agent.members[0].critic.state_dict()[name],
            0.005,
        )
        torch.testing.assert_close(result.agent.members[0].critic_target.state_dict()[name], want)
        assert member.config.target_rate == 0.005


# The density ratio


def test_the_loss_of_the_density_ratio_and_its_slope() -> None:
    rng = np.random.default_rng(0)
    off, on = rng.uniform(0.0, 3.0, (2, 7)), rng.uniform(0.1, 3.0, (2, 7))
    a, b = torch.from_numpy(off).requires_grad_(), torch.from_numpy(on).requires_grad_()
    loss = ratio_loss(a, b)
    want = np.mean(-np.log(2 / (off + 1)), 1) - np.mean(np.log(2 * on / (on + 1)), 1)
    np.testing.assert_allclose(loss.detach(), want, rtol=1e-7)
    loss.sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), 1 / (off + 1) / 7, rtol=1e-7)
    np.testing.assert_allclose(b.grad.numpy(), -(1 / on - 1 / (on + 1)) / 7, rtol=1e-7)
    zero = ratio_loss(torch.zeros(1, 1), torch.zeros(1, 1))
    np.testing.assert_allclose(zero, -np.log(2.0) - np.log(SMALLEST_LOG), rtol=1e-5)


def test_its_least_is_at_the_ratio_of_densities() -> None:
    """Two cells: new visits in 4 and 1 of 5, recorded ones in 2 and 3."""
    log = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    new, recorded = torch.tensor([[0, 0, 0, 0, 1]]), torch.tensor([[0, 0, 1, 1, 1]])
    optimizer = torch.optim.LBFGS([log], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        w = log.exp()
        loss = ratio_loss(w.gather(1, recorded), w.gather(1, new)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(log.detach().exp(), [[2.0, 1.0 / 3.0]], rtol=1e-4)


def test_priorities_by_hand() -> None:
    ratio = torch.tensor([[32.0, 1.0, 0.0, 1e30], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    recorded = torch.tensor([[1.0, 32.0], [0.0, 1.0]], dtype=torch.float64)
    result = priority(ratio, recorded, 5.0)
    np.testing.assert_allclose(result, [[2 / 1.5, 1 / 1.5, 1e-3, 1e3], [2.0] * 4])
    np.testing.assert_allclose(priority(ratio, recorded, 1.0)[0, :2], [32 / 16.5, 1 / 16.5])


# The replay


def visits(replay: Any, count: int, mark: float = 0.0) -> None:
    """Remember so many visits of two episodes; their states tell which."""
    for number in range(count):
        obs = torch.full((2, 2, 8), mark + number)
        obs[..., 0] = torch.arange(2.0)
        column = torch.zeros(2, 2)
        replay.remember(obs, torch.zeros(2, 2, 1), column, obs, column, column.bool())


def test_at_first_a_share_of_the_batch_is_new() -> None:
    for share, start, expected in ((0.5, 20, 20), (0.75, 40, 40), (0.5, 0, 2)):
        replay: Any = made(spec=f"{SPEC},online_share={share}", start=start).replay
        visits(replay, expected // 2)
        held, filled = replay.held, replay.filled
        assert filled == held + expected
        total = replay.priorities[:, :filled].sum(1)
        np.testing.assert_allclose(replay.priorities[:, held:filled].sum(1) / total, share)
        assert (replay.priorities[:, :held] == 1.0).all()


def test_rows_are_drawn_in_proportion_to_their_priorities() -> None:
    replay: Any = made().replay
    visits(replay, 3)
    rng = np.random.default_rng(0)
    replay.priorities[:, : replay.filled] = torch.from_numpy(rng.uniform(0, 2, (2, replay.filled)) ** 4)
    priorities = replay.priorities[:, : replay.filled].clone()
    asked = []
    rows_at: Any = replay.rows_at

    def listening(index: Tensor) -> Any:
        asked.append(index)
        return rows_at(index)

    replay.rows_at = listening
    replay._base = torch.ones(2, 4, dtype=torch.float64)
    n = 200_000
    replay._drawn(((torch.arange(n) + 0.5) / n).double().expand(2, -1))
    for k in range(2):
        counts = torch.bincount(asked[0][k], minlength=replay.filled)
        share = priorities[k] / priorities[k].sum()
        assert float((counts - n * share).abs().max()) < 1.01


def test_priorities_of_drawn_rows_are_set_anew_and_of_no_others() -> None:
    replay: Any = made().replay
    visits(replay, 12)
    before, largest = replay.priorities.clone(), replay.largest.clone()
    data = replay(0)
    replay_rows = torch.cat((data.obs, data.act), -1)
    ratio = replay.ratio(replay_rows).detach()
    want = (ratio**0.2 / (replay._base**0.2).mean(1, keepdim=True)).clamp(1e-3, 1e3)
    changed = (replay.priorities != before).nonzero()
    everything = replay.rows_at(torch.arange(replay.filled).expand(2, -1))[..., :9]
    assert len(changed) >= 8
    for k, row in changed.tolist():
        same = (replay_rows[k] == everything[k, row]).all(-1).nonzero()[:, 0]
        assert len(same) > 0
        np.testing.assert_allclose(replay.priorities[k, row], want[k, same[0]], rtol=1e-6)
    drawn_ = sum(len({tuple(r) for r in replay_rows[k].tolist()}) for k in range(2))
    assert len({(k, *everything[k, r].tolist()) for k, r in changed.tolist()}) == drawn_
    top = torch.maximum(largest[:, 0], want.amax(1))
    torch.testing.assert_close(replay.largest[:, 0], top)
    visits(replay, 1)
    np.testing.assert_allclose(
        replay.priorities[:, replay.filled - 2 : replay.filled], top[:, None].expand(-1, 2)
    )


def test_the_ratio_is_learned_from_recorded_and_new_visits() -> None:
    """New visits lie elsewhere, so that their ratio grows and that of recorded ones shrinks."""
    replay: Any = made(batch_size=32).replay
    visits(replay, 6, mark=4.0)
    first = replay.ratio(replay.recorded[None, :, :9].expand(2, -1, -1)).mean(1)
    for step in range(300):
        replay(step)
    held = replay.held
    everything = replay.ratio(replay.rows_at(torch.arange(replay.filled).expand(2, -1))[..., :9])
    assert (everything[:, held:].mean(1) > 1.5 * everything[:, :held].mean(1)).all()
    assert (everything[:, :held].mean(1) < first).all()


def test_new_visits_take_the_place_of_the_oldest() -> None:
    replay: Any = made(capacity=6).replay
    visits(replay, 3)
    replay.largest.fill_(9.0)
    visits(replay, 1, mark=50.0)
    held = replay.held
    assert replay.filled == held + 6
    np.testing.assert_allclose(replay.priorities[:, held : held + 2], 9.0)
    assert (replay.priorities[:, held + 2 :] != 9.0).all()
    rows = replay.rows_at(torch.arange(held, held + 6).expand(2, -1))
    np.testing.assert_array_equal(rows[0, :, 1], [50, 50, 1, 1, 2, 2])
    assert not made().replay.ready


def test_a_checkpoint_brings_everything_back() -> None:
    one, two = made().replay, made().replay
    visits(one, 5)
    for step in range(3):
        one(step)
    two.load({n: x.clone() for n, x in one.state().items()})
    for step in range(3, 6):
        a, b = one(step), two(step)
        assert torch.equal(a.obs, b.obs)
        visits(one, 1)
        visits(two, 1)
    assert torch.equal(one.priorities, two.priorities)
    state = one.state()
    with pytest.raises(UserError, match="of other visits"):
        made().replay.load(state | {"priority.rows": state["priority.rows"][:, 1:]})
    del state["ratio.net.layers.0.weight"]
    with pytest.raises(UserError, match=r"ratio.net.layers.0.weight.* is missing"):
        made().replay.load(state)


# In a trial


@pytest.mark.long
def test_a_killed_trial_resumes_bit_by_bit(tmp_path: Path) -> None:
    start = begun("cql", further=4)
    killed_and_resumed(lambda: trial(SPEC, start, {"checkpoint_every": 62, "visits": 120}), tmp_path)


@pytest.mark.long
def test_a_stacked_seed_is_the_seed_alone() -> None:
    same_alone("off2on,members=2,ratio_width=16", "cql", further=1)


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        (SPEC, "iql", "run of cql, this is one of iql"),
        (SPEC, "cal_ql", "run of cql, this is one of cal_ql"),
        ("off2on,members=0", "cql", "members must be at least 1"),
        ("off2on,members=1,online_share=1", "cql", "online_share must be above 0"),
        ("off2on,members=1,priority_temperature=0", "cql", "priority_temperature must be above 0"),
    ],
)
def test_what_cannot_work_is_refused(spec: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learner(spec, begun(name))
    assert PROBLEM.n_act == 1
