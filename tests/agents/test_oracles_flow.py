"""Every loss of FQL, IFQL, FAN, FAQL, NBRAC and NFQL equals its equations in loops.

Values and gradients, at every option; what each update moves; the distribution that each policy returns.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dosing.agent import LearnsReturns
from dosing.errors import UserError
from dosing.models.flows import DRAWS, points
from dosing.models.networks import Mlp
from tests.agents import oracle_cases as cases
from tests.oracles import fan, flow_nets, fql, ifql

SHARED = {"hidden": cases.HIDDEN, "discount": 0.9, "aggregate": "mean", "normalise_q": False}
FQL = SHARED | {"alpha": 0.7, "flow_steps": 4}
IFQL: dict[str, Any] = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "expectile": 0.8,
    "candidates": 8,
    "flow_steps": 4,
}
FAQL = SHARED | {"actor_penalty": 0.7, "critic_penalty": 0.4}
FAN = FAQL | {"expectile": 0.8}
NFQL = SHARED | {"actor_penalty": 0.7, "expectile": 0.8, "flow_steps": 4}
CONFIGS: dict[str, cases.Config] = {
    "fql": FQL,
    "ifql": IFQL,
    "fan": FAN,
    "faql": FAQL,
    "nbrac": FAN,
    "nfql": NFQL,
}

OWN = {name: (f"{name}.",) for name in ("critic", "value", "upper", "flow", "actor")}
ORACLES = {"fql": cases.Oracle(fql.losses, OWN), "ifql": cases.Oracle(ifql.losses, OWN)} | {
    name: cases.Oracle(partial(fan.losses, name), OWN) for name in ("fan", "faql", "nbrac", "nfql")
}


# Values

OPTIONS: list[tuple[str, cases.Config]] = [
    *((name, {}) for name in CONFIGS),
    *((name, {"aggregate": "min"}) for name in CONFIGS if name != "ifql"),
    *((name, {"normalise_q": True}) for name in CONFIGS if name != "ifql"),
    *((name, {"layer_norm": False}) for name in CONFIGS),
    *((name, {"expectile": 0.3}) for name in ("ifql", "fan", "nbrac", "nfql")),
    *((name, {"flow_steps": 1}) for name in ("fql", "nfql")),
    *((name, {"critic_penalty": 0.0}) for name in ("fan", "faql", "nbrac")),
    ("fql", {"alpha": 0.0}),
]


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=str)
def test_losses(name: str, option: cases.Config, n_act: int) -> None:
    cases.agrees(ORACLES, name, {**CONFIGS[name], **option}, n_act)


@pytest.mark.parametrize("name", ["fql", "fan", "faql", "nbrac", "nfql"])
def test_losses_where_doses_are_clipped(name: str) -> None:
    """Noise of four deviations: next doses that matter are outside the box before they are clipped."""
    agent: Any = cases.build(name, CONFIGS[name])
    batch = cases.make_batch(agent)
    batch = replace(batch, noise={k: 4.0 * v if "time" not in k else v for k, v in batch.noise.items()})
    outside = (agent.actor(batch.next_obs, batch.noise["next"]).abs() > 1.0).any(-1)  # [S, B]
    assert bool((outside & (batch.terminated == 0.0)).any(-1).all())
    cases.assert_same(ORACLES[name], agent, batch, CONFIGS[name])


# Teeth: an oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches.


def exchanged(first: str, second: str) -> cases.Mistake:
    """One noise where another belongs."""

    def change(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        rows[first] = rows[second]

    change.__name__ = f"{second} for {first}"
    return change


def critic_told_another_noise(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    """Q(s, a, .) learns what a' is worth under a noise that did not make a'."""
    right = flow_nets.critics

    def wrong(params: Any, name: str, obs: Any, *rest: Any) -> Any:
        row = (
            np.flatnonzero((rows["u_next"] == rest[0]).all(1)) if name == "critic" and len(rest) == 2 else []
        )
        return right(params, name, obs, *((rows["u_upper"][row[0]], rest[1]) if len(row) else rest))

    patch.setattr(flow_nets, "critics", wrong)


def not_clipped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flow_nets, "clipped", list)


def relu_for_gelu(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flow_nets, "gelu", lambda x: max(x, 0.0))


def time_runs_backwards(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = flow_nets.between
    patch.setattr(flow_nets, "between", lambda start, end, time: right(end, start, time))


def steps_at_their_ends(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right, step = flow_nets.velocity, 1.0 / config["flow_steps"]

    def wrong(params: Any, obs: Any, x: Any, time: float) -> Any:
        on_grid = abs(time / step - round(time / step)) < 1e-9
        return right(params, obs, x, time + step if on_grid else time)

    patch.setattr(flow_nets, "velocity", wrong)


def sum_of_members(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flow_nets, "aggregated", lambda values, rule: sum(values))


def sum_of_dimensions(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(flow_nets, "mean_square", lambda row: sum(x**2 for x in row))


def dimensions_averaged(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["critic_penalty"] /= rows["act"].shape[1]


ALL = {"critic", "upper", "flow", "actor"}
MISTAKES: list[tuple[str, cases.Config, cases.Mistake, set[str]]] = [
    ("fql", FQL, cases.discount_sign, {"critic"}),
    ("fql", FQL, cases.no_terminal_mask, {"critic"}),
    ("fql", FQL, cases.targets_are_online, {"critic"}),
    ("fql", FQL | {"aggregate": "min"}, cases.larger_critic, {"critic"}),
    ("fql", FQL, cases.setting(aggregate="min"), {"critic"}),
    ("fql", FQL, sum_of_members, {"critic"}),
    ("fql", FQL, exchanged("u_next", "u_dose"), {"critic"}),
    ("fql", FQL, exchanged("u_start", "u_dose"), {"flow"}),
    ("fql", FQL, exchanged("u_dose", "u_start"), {"actor"}),
    ("fql", FQL, cases.setting(alpha=0.8), {"actor"}),
    ("fql", FQL, cases.setting(normalise_q=True), {"actor"}),
    ("fql", FQL, cases.setting(flow_steps=5), {"actor"}),
    ("fql", FQL, steps_at_their_ends, {"actor"}),
    ("fql", FQL, not_clipped, {"critic", "actor"}),
    ("fql", FQL, sum_of_dimensions, {"flow", "actor"}),
    ("fql", FQL, time_runs_backwards, {"flow"}),
    ("fql", FQL, relu_for_gelu, {"critic", "flow", "actor"}),
    ("ifql", IFQL, cases.discount_sign, {"critic"}),
    ("ifql", IFQL, cases.no_terminal_mask, {"critic"}),
    ("ifql", IFQL, cases.targets_are_online, {"value"}),
    ("ifql", IFQL, cases.larger_critic, {"value"}),
    ("ifql", IFQL, cases.setting(expectile=0.2), {"value"}),
    ("ifql", IFQL, time_runs_backwards, {"flow"}),
    ("ifql", IFQL, sum_of_dimensions, {"flow"}),
    ("fan", FAN, cases.discount_sign, {"critic"}),
    ("fan", FAN, cases.no_terminal_mask, {"critic"}),
    ("fan", FAN, cases.targets_are_online, {"upper"}),
    ("fan", FAN, cases.setting(aggregate="min"), {"critic"}),
    ("fan", FAN, cases.setting(expectile=0.2), {"upper"}),
    ("fan", FAN, cases.setting(critic_penalty=-0.4), {"critic"}),
    ("fan", FAN, dimensions_averaged, {"critic"}),
    ("fan", FAN, cases.setting(actor_penalty=0.8), {"actor"}),
    ("fan", FAN, cases.setting(normalise_q=True), {"actor"}),
    ("fan", FAN, exchanged("u_next", "u_dose"), {"critic"}),
    ("fan", FAN, critic_told_another_noise, {"critic"}),
    ("fan", FAN, exchanged("u_next_time", "u_time"), {"critic"}),
    ("fan", FAN, exchanged("u_upper", "u_next"), {"upper"}),
    ("fan", FAN, exchanged("u_value", "u_dose"), {"actor"}),
    ("fan", FAN, exchanged("u_dose", "u_next"), {"actor"}),
    ("fan", FAN, exchanged("u_dose_time", "u_time"), {"actor"}),
    ("fan", FAN, not_clipped, {"actor"}),  # for the next dose see above
    ("fan", FAN, time_runs_backwards, {"critic", "flow", "actor"}),
    ("fan", FAN, sum_of_dimensions, {"flow", "actor"}),
    ("fan", FAN, relu_for_gelu, ALL),
    ("faql", FAQL, cases.targets_are_online, {"critic"}),
    ("faql", FAQL, cases.setting(aggregate="min"), {"critic"}),
    ("faql", FAQL, not_clipped, {"actor"}),  # for the next dose see above
    ("nbrac", FAN, cases.next_act_of_another_episode, {"critic"}),
    ("nbrac", FAN, cases.act_for_next_act, {"critic"}),
    ("nbrac", FAN, cases.setting(critic_penalty=-0.4), {"critic"}),
    ("nbrac", FAN, not_clipped, {"actor"}),  # for the next dose see above
    ("nfql", NFQL, steps_at_their_ends, {"actor"}),
    ("nfql", NFQL, cases.setting(actor_penalty=0.8), {"actor"}),
]


@cases.each_mistake(MISTAKES)
def test_a_mistake_is_seen(
    key: str, config: cases.Config, mistake: cases.Mistake, reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(ORACLES[key], key, config, mistake, reached, monkeypatch)


# Gradients

CASES: list[tuple[str, cases.Config]] = [
    *CONFIGS.items(),
    ("fql", FQL | {"normalise_q": True}),
    ("fan", FAN | {"normalise_q": True, "aggregate": "min"}),
]


@pytest.mark.long
@cases.each_case(CASES)
def test_gradients_equal_finite_differences_of_the_equations(key: str, config: cases.Config) -> None:
    cases.assert_gradients(ORACLES[key], key, config)


@cases.each_case(CASES)
def test_each_loss_reaches_its_own_network_only(key: str, config: cases.Config) -> None:
    cases.assert_routed(ORACLES[key], key, config)


# Updates


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_critics_have_targets_and_these_follow_after_the_step(name: str) -> None:
    agent = cases.build(name, {**CONFIGS[name], "target_rate": 0.3})
    cases.assert_targets_follow(agent, cases.make_batch(agent))
    targets = [key for key in agent.state_dict() if "_target." in key]
    assert {key.split(".")[0] for key in targets} == {"critic_target"}


@pytest.mark.parametrize(
    ("name", "doses", "values"),
    [
        ("fql", 13, 6),
        ("ifql", 1, 6),
        ("fan", 5, 12),
        ("faql", 5, 6),
        ("nbrac", 2, 12),
        ("nfql", 13, 12),
    ],
)
def test_an_update_evaluates_as_many_networks_as_published(name: str, doses: int, values: int) -> None:
    """Evaluations per row: of maps and velocities, and of members of critics, Z and V."""
    agent = cases.build(name, {"hidden": cases.HIDDEN})
    seen = {"doses": 0, "values": 0}
    kinds = {"actor": "doses", "flow": "doses", "critic": "values", "upper": "values", "value": "values"}
    for part, network in agent.named_modules():
        if isinstance(network, Mlp):
            kind = kinds[part.split(".")[0].removesuffix("_target")]
            weight = next(network.parameters())
            members = weight.shape[1] if weight.dim() == 4 else 1  # [S, E, in, out] or [S, in, out]

            def count(*_: Any, kind: str = kind, members: int = int(members)) -> None:
                seen[kind] += members

            network.register_forward_hook(count)
    agent.losses(cases.make_batch(agent))
    assert seen == {"doses": doses, "values": values}


# Distributions


@pytest.mark.parametrize("name", ["fql", "fan", "faql", "nbrac", "nfql"])
def test_the_policy_is_the_clipped_map_of_fixed_noise(name: str) -> None:
    agent = cases.build(name, CONFIGS[name])
    obs = torch.randn(len(cases.SEEDS), 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
    noise = points(DRAWS, 2, obs).numpy()
    assert distribution.values.shape == (len(cases.SEEDS), 3, 2, DRAWS)
    for k in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, k)
        for b, m in ((0, 0), (2, 17), (1, DRAWS - 1)):
            wanted = flow_nets.clipped(flow_nets.one_step(params, obs[k, b].numpy(), noise[m]))
            np.testing.assert_allclose(distribution.values[k, b, :, m].detach(), wanted, rtol=1e-9)


def test_ifql_gives_the_best_of_its_candidates() -> None:
    agent = cases.build("ifql", IFQL)
    obs = torch.randn(len(cases.SEEDS), 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
    starts = points(DRAWS, 2, obs).numpy()
    for k in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, k)
        for b in range(3):
            wanted = ifql.chosen(params, obs[k, b].numpy(), starts[: IFQL["candidates"]], IFQL["flow_steps"])
            np.testing.assert_allclose(distribution.mode[k, b].detach(), wanted, rtol=1e-9)
    assert distribution.kind == "point_set"
    assert bool((distribution.weights[..., 0, :].argmax(-1) >= 0).all())
    torch.testing.assert_close(
        distribution.weights.amax(-1)[..., 0], torch.full((2, 3), 1 - (1 - 1 / DRAWS) ** 8).double()
    )


@pytest.mark.parametrize("name", ["fan", "nbrac", "nfql"])
def test_values_by_noise_are_the_critic_at_fixed_noise(name: str) -> None:
    agent = cases.build(name, CONFIGS[name])
    rng = torch.Generator().manual_seed(0)
    obs = torch.randn(len(cases.SEEDS), 3, 4, dtype=torch.float64, generator=rng)
    act = 2.0 * torch.rand(len(cases.SEEDS), 3, 2, dtype=torch.float64, generator=rng) - 1.0
    result = agent.noise_values(obs, act)
    assert result.shape == (len(cases.SEEDS), 3, DRAWS)
    noise = points(DRAWS, 2, obs).numpy()
    for k in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, k)
        for b, m in ((0, 0), (2, 17)):
            values = flow_nets.critics(params, "critic", obs[k, b].numpy(), noise[m], act[k, b].numpy())
            assert float(result[k, b, m].detach()) == pytest.approx(sum(values) / 2, rel=1e-9)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_critics_of_means_offer_no_distribution_of_returns(name: str) -> None:
    assert not isinstance(cases.build(name, CONFIGS[name]), LearnsReturns)


# Input


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("fql", {"alpha": -0.1}),
        ("fql", {"flow_steps": 0}),
        ("ifql", {"expectile": 1.0}),
        ("ifql", {"candidates": 0}),
        ("ifql", {"flow_steps": 0}),
        ("fan", {"actor_penalty": -0.1}),
        ("fan", {"critic_penalty": -0.1}),
        ("fan", {"expectile": 0.0}),
        ("faql", {"critic_penalty": -0.1}),
        ("nbrac", {"expectile": 1.0}),
        ("nfql", {"actor_penalty": -0.1}),
        ("nfql", {"flow_steps": 0}),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(UserError, match=key):
        cases.build(name, wrong)
