"""TD3: its losses are the equations in value, gradient and routing; it finds the best dose of the bandit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dosing.training.regularised import take_step
from tests.agents.bandit import BEST, OBS, bandit, reward, trained
from tests.agents.oracle_cases import (
    HIDDEN,
    Oracle,
    actor_target_is_online,
    assert_gradients,
    assert_routed,
    assert_same,
    assert_seen,
    build,
    discount_sign,
    larger_critic,
    make_batch,
    no_terminal_mask,
    noise_negated,
    targets_are_online,
    without_tanh,
)
from tests.oracles import mlp as nets
from tests.oracles import td3

CONFIG: dict[str, Any] = {
    "hidden": HIDDEN,
    "discount": 0.9,
    "target_noise": 0.2,
    "noise_clip": 0.25,
    "actor_every": 2,
}
ORACLE = Oracle(td3.losses, {"critic": ("critic.",), "actor": ("actor.",)}, step=1)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    "option", [{}, {"discount": 0.99}, {"target_noise": 0.0}, {"noise_clip": 0.01}], ids=str
)
def test_losses(n_act: int, option: dict[str, Any]) -> None:
    config = CONFIG | option
    agent = build("td3", config, n_act)
    assert_same(ORACLE, agent, make_batch(agent, 1), config)


@pytest.mark.long
def test_gradients_and_whom_they_reach() -> None:
    assert_gradients(ORACLE, "td3", CONFIG)
    assert_routed(ORACLE, "td3", CONFIG)


def noise_not_clipped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["noise_clip"] = 9.0


def actor_follows_the_second_critic(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    values = nets.action_values
    patch.setattr(nets, "action_values", lambda *arguments: values(*arguments)[::-1])


@pytest.mark.parametrize(
    ("mistake", "reached"),
    [
        (discount_sign, {"critic"}),
        (no_terminal_mask, {"critic"}),
        (larger_critic, {"critic"}),
        (targets_are_online, {"critic"}),
        (actor_target_is_online, {"critic"}),
        (noise_negated, {"critic"}),
        (noise_not_clipped, {"critic"}),
        (actor_follows_the_second_critic, {"actor"}),
        (without_tanh, {"critic", "actor"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_is_seen(mistake: Any, reached: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_seen(ORACLE, "td3", CONFIG, mistake, reached, monkeypatch)


def test_the_policy_and_the_targets_move_every_third_time() -> None:
    agent = build("td3", CONFIG | {"actor_every": 3})
    moved = []
    for step in range(6):
        before = {name: value.clone() for name, value in agent.state_dict().items()}
        take_step(agent, make_batch(agent, step))
        after = agent.state_dict()
        moved.append({name.split(".")[0] for name in before if not torch.equal(before[name], after[name])})
    everything = {"critic", "actor", "critic_target", "actor_target"}
    assert moved == [{"critic"}, {"critic"}, everything] * 2


@pytest.mark.long
def test_the_policy_reaches_the_best_dose() -> None:
    """The critic is quadratic in the dose, as the reward is: a free one leaves its maximum to noise."""
    agent = trained("td3", {"learning_rate": 3e-3}, bandit(), 700, dose_quadratic=True)
    with torch.no_grad():
        doses = agent.policy(OBS).mode.squeeze(-1).numpy().mean(1)
    assert (reward(doses) > 0.96).all()
    assert doses.mean() == pytest.approx(BEST, abs=0.06)
