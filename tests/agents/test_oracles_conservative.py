"""Every loss of CQL, Cal-QL and Onestep RL equals its equations in loops, in value and in gradient.

And what each update moves and leaves alone; the gap of CQL against the integral that it estimates.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from tests.agents import oracle_cases as cases
from tests.oracles import cql, onestep, policies
from tests.oracles import mlp as nets

CQL: dict[str, Any] = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "conservative_weight": 0.7,
    "n_samples": 3,
    "lagrange": False,
    "target_gap": 2.0,
    "gap_floor": None,
    "backup": "min",
    "backup_entropy": False,
    "bc_steps": 0,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
}
LAGRANGE = CQL | {"lagrange": True}
IMITATES = CQL | {"bc_steps": 3}
ONESTEP: dict[str, Any] = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "behaviour_steps": 2,
    "critic_steps": 3,
    "improvement": "reverse_kl",
    "inverse_temperature": 0.8,
    "weight_clip": 100.0,
    "divergence_weight": 0.6,
    "n_samples": 3,
    "log_std_min": -5.0,
    "log_std_max": 0.0,
}
EXP_WEIGHT = ONESTEP | {"improvement": "exp_weight"}
EASY_BCQ = ONESTEP | {"improvement": "easy_bcq"}


def cql_losses(params: Any, batch: Any, config: Any, frozen: Any = None) -> dict[str, float]:
    """The oracle's losses in the first update."""
    return cql.losses(params, batch, dict(config) | {"imitates": config["bc_steps"] > 0}, frozen)


SAC = {
    "critic": ("critic.",),
    "actor": ("actor.",),
    "temperature": ("log_temperature",),
    "multiplier": ("log_multiplier",),
}
ORACLES = {
    "cql": cases.Oracle(cql_losses, SAC),
    "cal_ql": cases.Oracle(cql_losses, SAC),
    "onestep behaviour": cases.Oracle(partial(onestep.loss, "behaviour"), {"behaviour": ("behaviour.",)}),
    "onestep critic": cases.Oracle(partial(onestep.loss, "critic"), {"critic": ("critic.",)}, step=2),
    "onestep actor": cases.Oracle(partial(onestep.loss, "actor"), {"actor": ("actor.",)}, step=5),
}


# Values


@pytest.mark.parametrize("name", ["cql", "cal_ql"])
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"n_samples": 1},
        {"backup": "max"},
        {"backup_entropy": True},
        {"backup": "max", "backup_entropy": True},
        {"gap_floor": 3.5},
        {"lagrange": True},
        {"bc_steps": 1},
        {"conservative_weight": 0.0},
    ],
    ids=str,
)
def test_cql_and_cal_ql_losses(name: str, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, name, CQL | option)


@pytest.mark.parametrize("name", ["cql", "cal_ql"])
@pytest.mark.parametrize("n_act", [1, 3])
def test_cql_and_cal_ql_losses_in_other_dimensions(name: str, n_act: int) -> None:
    cases.agrees(ORACLES, name, LAGRANGE | {"backup": "max"}, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("onestep behaviour", ONESTEP),
        ("onestep critic", ONESTEP),
        ("onestep critic", EASY_BCQ),
        ("onestep actor", ONESTEP),
        ("onestep actor", ONESTEP | {"n_samples": 1}),
        ("onestep actor", EXP_WEIGHT),
        ("onestep actor", EXP_WEIGHT | {"n_samples": 1}),
        ("onestep actor", EXP_WEIGHT | {"weight_clip": 1.0}),
    ],
)
def test_onestep_losses(key: str, config: cases.Config, n_act: int) -> None:
    cases.agrees(ORACLES, key, config, n_act)


# Teeth: an oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches.


def uniform_doses_all_at_the_limit(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_anywhere"] = np.ones_like(rows["u_anywhere"])


def no_importance(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    """Draws at the two states are not divided by their density, in the gap alone."""
    right = cql.draw

    def wrong(params: Any, obs: Any, uniform: Any, config: Any) -> tuple[list[float], float]:
        act, log_prob = right(params, obs, uniform, config)
        in_gap = any(np.shares_memory(uniform, rows[name]) for name in ("u_current", "u_ahead"))
        return act, 0.0 if in_gap else log_prob

    patch.setattr(cql, "draw", wrong)


def density_at_the_other_state(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    """The doses drawn at s' are divided by the density of the same noise at s."""
    right = cql.draw

    def wrong(params: Any, obs: Any, uniform: Any, config: Any) -> tuple[list[float], float]:
        act, log_prob = right(params, obs, uniform, config)
        if np.shares_memory(uniform, rows["u_ahead"]):
            row = next(b for b in range(cases.N_ROWS) if np.shares_memory(uniform, rows["u_ahead"][b]))
            log_prob = right(params, rows["obs"][row], uniform, config)[1]
        return act, log_prob

    patch.setattr(cql, "draw", wrong)


def one_noise_for_both_states(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_current"] = rows["u_ahead"]


def unbounded(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    del rows["discounted_return"]


def bounded_by_the_reward(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["discounted_return"] = rows["reward"][:, None]


def drawn_dose_imitated(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    """The log-density ignores the dose that it is asked for."""

    def wrong(params: Any, name: str, obs: Any, act: Any, config: Any) -> float:
        row = next(b for b in range(cases.N_ROWS) if np.array_equal(obs, rows["obs"][b]))
        return cql.draw(params, obs, rows["u_act"][row, 0], config)[1]

    patch.setattr(policies, "log_policy", wrong)


def temperature_is_one(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    params["log_temperature"][:] = 0.0


def multiplier_is_one(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    params["log_multiplier"][:] = 0.0


def next_act_drawn(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["has_next"] = np.zeros_like(rows["has_next"])


def targets_swapped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for key in [k for k in params if k.startswith("critic.")]:
        other = key.replace("critic.", "critic_target.", 1)
        params[key], params[other] = params[other], params[key]


def not_truncated(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(onestep, "distribution", lambda config: config | {"policy_family": "clipped_gaussian"})


def policies_swapped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for key in [k for k in params if k.startswith("actor.")]:
        other = key.replace("actor.", "behaviour.", 1)
        params[key], params[other] = params[other], params[key]


ALL = {"critic", "actor", "temperature"}
BC, Q, PI = "onestep behaviour", "onestep critic", "onestep actor"
MISTAKES: list[tuple[str, cases.Config, cases.Mistake, set[str]]] = [
    ("cql", CQL, cases.discount_sign, {"critic"}),
    ("cql", CQL, cases.no_terminal_mask, {"critic"}),
    ("cql", CQL, cases.larger_critic, {"critic", "actor"}),
    ("cql", CQL, cases.targets_are_online, {"critic"}),
    ("cql", CQL, cases.setting(conservative_weight=0.6), {"critic"}),
    ("cql", CQL, uniform_doses_all_at_the_limit, {"critic"}),
    ("cql", CQL, no_importance, {"critic"}),
    ("cql", CQL, density_at_the_other_state, {"critic"}),
    ("cql", CQL, one_noise_for_both_states, {"critic"}),
    ("cql", CQL, cases.without_tanh_slope, ALL),
    ("cql", CQL, cases.setting(backup_entropy=True), {"critic"}),
    ("cql", CQL, temperature_is_one, {"actor", "temperature"}),
    ("cql", CQL, cases.setting(bc_steps=1), {"actor"}),
    ("cql", IMITATES, drawn_dose_imitated, {"actor"}),
    ("cql", LAGRANGE, multiplier_is_one, {"critic", "multiplier"}),
    ("cql", LAGRANGE, cases.setting(target_gap=-2.0), {"critic", "multiplier"}),
    ("cql", CQL, cases.setting(gap_floor=3.5), {"critic"}),
    ("cal_ql", CQL, unbounded, {"critic"}),
    ("cal_ql", CQL, bounded_by_the_reward, {"critic"}),
    ("cal_ql", LAGRANGE, unbounded, {"critic", "multiplier"}),
    (BC, ONESTEP, not_truncated, {"behaviour"}),
    (BC, ONESTEP, policies_swapped, {"behaviour"}),
    (Q, ONESTEP, cases.discount_sign, {"critic"}),
    (Q, ONESTEP, cases.no_terminal_mask, {"critic"}),
    (Q, ONESTEP, cases.larger_critic, {"critic"}),
    (Q, ONESTEP, cases.targets_are_online, {"critic"}),
    (Q, ONESTEP, targets_swapped, {"critic"}),
    (Q, ONESTEP, cases.next_act_of_another_episode, {"critic"}),
    (Q, ONESTEP, next_act_drawn, {"critic"}),
    (Q, ONESTEP, policies_swapped, {"critic"}),
    (PI, ONESTEP, cases.larger_critic, {"actor"}),
    (PI, ONESTEP, targets_swapped, {"actor"}),
    (PI, ONESTEP, policies_swapped, {"actor"}),
    (PI, ONESTEP, not_truncated, {"actor"}),
    (PI, ONESTEP, cases.setting(divergence_weight=-0.6), {"actor"}),
    (PI, EXP_WEIGHT, cases.larger_critic, {"actor"}),
    (PI, EXP_WEIGHT, targets_swapped, {"actor"}),
    (PI, EXP_WEIGHT, policies_swapped, {"actor"}),
    (PI, EXP_WEIGHT, not_truncated, {"actor"}),
    (PI, EXP_WEIGHT, cases.setting(inverse_temperature=-0.8), {"actor"}),
    (PI, EXP_WEIGHT, cases.setting(weight_clip=1.0), {"actor"}),
]


@cases.each_mistake(MISTAKES)
def test_a_mistake_is_seen(
    key: str, config: cases.Config, mistake: cases.Mistake, reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(ORACLES[key], key.split()[0], config, mistake, reached, monkeypatch)


# Gradients

CASES: list[tuple[str, cases.Config]] = [
    ("cql", CQL),
    ("cql", LAGRANGE | {"backup": "max", "backup_entropy": True}),
    ("cql", IMITATES),
    ("cal_ql", LAGRANGE),
    (BC, ONESTEP),
    (Q, ONESTEP),
    (PI, ONESTEP),
    (PI, EXP_WEIGHT),
]


@pytest.mark.long
@cases.each_case(CASES)
def test_gradients_equal_finite_differences_of_the_equations(key: str, config: cases.Config) -> None:
    cases.assert_gradients(ORACLES[key], key.split()[0], config)


@cases.each_case(CASES)
def test_each_loss_reaches_its_own_network_only(key: str, config: cases.Config) -> None:
    cases.assert_routed(ORACLES[key], key.split()[0], config)


# The gap


def stratified(agent: Agent, count: int) -> Batch:
    """A batch whose doses in the gap are drawn with evenly spread noise, the same in every row."""
    batch = cases.make_batch(agent)
    even = ((torch.arange(count, dtype=torch.float64) + 0.5) / count).view(1, 1, -1, 1)
    noise = dict(batch.noise)
    for name in ("anywhere", "current", "ahead"):
        noise[name] = even.expand(len(cases.SEEDS), cases.N_ROWS, -1, 1)
    return replace(batch, noise=noise)


@pytest.mark.long
@pytest.mark.parametrize("name", ["cql", "cal_ql"])
def test_the_gap_estimates_the_logarithm_of_an_integral(name: str) -> None:
    """ln int exp Q over the box, by quadrature; in Cal-QL two thirds of exp Q are bounded below by exp G."""
    count = 2000
    agent: Any = cases.build(name, CQL | {"n_samples": count}, n_act=1)
    with torch.no_grad():  # a policy that is wide at every state: others need more doses
        agent.actor.loc.weight.mul_(0.1)
        agent.actor.scale.weight.zero_()
        agent.actor.scale.bias.fill_(0.3)
    batch = stratified(agent, count)
    result = agent.losses_and_metrics(batch)[1]["gap"] - math.log(3 * count)
    for seed in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, seed)
        wanted = []
        for b in range(cases.N_ROWS):
            obs = batch.obs[seed, b].numpy()
            for i in range(2):

                def value(a: float, obs: Any = obs, i: int = i, params: Any = params) -> float:
                    return nets.action_values(params, "critic.net", obs, [a])[i]

                grid = np.linspace(-1.0, 1.0, 401)
                q = np.array([value(a) for a in grid])
                density = np.exp(q)
                if name == "cal_ql":
                    bound = float(batch.extra["discounted_return"][seed, b, 0])
                    density = density / 3.0 + 2.0 * np.exp(np.maximum(q, bound)) / 3.0
                total = integrate.trapezoid(density, grid)
                wanted.append(math.log(total) - value(float(batch.act[seed, b, 0])))
        assert float(result[seed]) == pytest.approx(np.mean(wanted), abs=2e-3)


def test_the_multiplier_stays_within_its_limit_and_can_leave_it() -> None:
    agent: Any = cases.build("cql", LAGRANGE | {"target_gap": -50.0, "learning_rate": 0.5})
    with torch.no_grad():
        agent.log_multiplier.fill_(math.log(1e6) - 0.1)
    agent.update(cases.make_batch(agent))
    torch.testing.assert_close(agent.log_multiplier.exp(), torch.full((2, 1), 1e6, dtype=torch.float64))
    assert bool(agent.losses(cases.make_batch(agent))["multiplier"].isfinite().all())
    eased: Any = cases.build("cql", LAGRANGE | {"target_gap": 50.0, "learning_rate": 0.5})
    with torch.no_grad():
        eased.log_multiplier.fill_(math.log(1e6))
    eased.update(cases.make_batch(eased))
    assert bool((eased.log_multiplier < math.log(1e6) - 0.4).all())


def test_a_multiplier_is_there_only_where_it_is_asked_for() -> None:
    assert not any("multiplier" in key for key in cases.build("cql", CQL).state_dict())
    assert "multiplier" not in make_losses(CQL)
    assert "multiplier" in make_losses(LAGRANGE)


def make_losses(config: cases.Config) -> set[str]:
    """Names of the losses."""
    agent = cases.build("cql", config)
    return set(agent.losses(cases.make_batch(agent)))


# Phases

CRITIC = ("critic.", "critic_target.")
PHASED = [
    ("cql", IMITATES, [("critic", "actor", "temperature")] * 5, [(*CRITIC, "actor.", "log_temp")] * 5),
    (
        "onestep",
        ONESTEP,
        [("behaviour",)] * 2 + [("critic",)] * 3 + [("actor",)] * 2,
        [("behaviour.", "actor.")] * 2 + [CRITIC] * 3 + [("actor.",)] * 2,
    ),
    ("onestep", EASY_BCQ, [("behaviour",)] * 2 + [("critic",)] * 5, [("behaviour.",)] * 2 + [CRITIC] * 5),
]


@pytest.mark.parametrize(("name", "config", "losses", "moving"), PHASED, ids=["cql", "onestep", "easy_bcq"])
def test_an_update_moves_what_its_phase_moves_and_nothing_else(
    name: str, config: cases.Config, losses: list[tuple[str, ...]], moving: list[tuple[str, ...]]
) -> None:
    agent = cases.build(name, config)
    for step, (reported, moved) in enumerate(zip(losses, moving, strict=True)):
        before = {key: value.clone() for key, value in agent.state_dict().items()}
        report = agent.update(cases.make_batch(agent, step))
        assert {k[5:] for k in report if k.startswith("loss/")} == set(reported)
        for key, value in agent.state_dict().items():
            assert torch.equal(value, before[key]) != key.startswith(moved), f"{key} in update {step}"


@pytest.mark.long
def test_the_policy_imitates_first_and_then_follows_the_critic() -> None:
    agent = cases.build("cql", IMITATES)
    for step, imitates in enumerate([True, True, True, False]):
        batch = cases.make_batch(agent, step)
        have = agent.losses(batch)["actor"].detach().numpy()
        config = dict(IMITATES) | {"imitates": imitates}
        want = [
            cql.losses(cases.seed_params(agent, k), ORACLES["cql"].rows(batch, k, config), config)["actor"]
            for k in range(len(cases.SEEDS))
        ]
        np.testing.assert_allclose(have, want, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "config", "step"), [("cql", CQL, 0), ("cal_ql", CQL, 0), ("onestep", ONESTEP, 2)]
)
def test_targets_follow_by_polyak_averaging(name: str, config: cases.Config, step: int) -> None:
    agent = cases.build(name, dict(config) | {"target_rate": 0.3})
    cases.assert_targets_follow(agent, cases.make_batch(agent, step))


def test_the_improvement_starts_at_the_recorded_policy() -> None:
    agent: Any = cases.build("onestep", ONESTEP)
    for step in range(2):
        agent.update(cases.make_batch(agent, step))
    for key, value in agent.behaviour.state_dict().items():
        assert torch.equal(value, agent.actor.state_dict()[key]), key


@pytest.mark.parametrize(("config", "warm_up"), [(ONESTEP, 5), (EXP_WEIGHT, 5), (EASY_BCQ, 2)])
def test_the_first_phases_are_the_warm_up(config: cases.Config, warm_up: int) -> None:
    assert cases.build("onestep", config).warm_up == warm_up


# Easy BCQ


@pytest.mark.parametrize("n_act", [1, 2])
def test_easy_bcq_chooses_among_quantiles_of_the_recorded_policy(n_act: int) -> None:
    """Every candidate is one by the oracle's distribution, and its probability that of the best of three
    draws."""
    agent: Any = cases.build("onestep", EASY_BCQ, n_act)
    batch = cases.make_batch(agent)
    with torch.no_grad():
        distribution = agent.policy(batch.obs).base_dist
    assert distribution.kind == "point_set"
    assert distribution.values.shape == (len(cases.SEEDS), cases.N_ROWS, n_act, 64)
    config = onestep.distribution(EASY_BCQ)
    for seed, row in ((0, 0), (1, 4)):
        params, obs = cases.seed_params(agent, seed), batch.obs[seed, row].numpy()
        worth = []
        for k in range(64):
            noise = agent.candidates[k, :, None].numpy()
            wanted = policies.sample(params, "behaviour", obs, noise, config)
            np.testing.assert_allclose(distribution.values[seed, row, :, k], wanted, rtol=1e-9)
            worth.append(onestep.worth(params, obs, wanted))
        best = int(np.argmax(worth[:3]))
        np.testing.assert_array_equal(distribution.mode[seed, row], distribution.values[seed, row, :, best])
        rank = np.argsort(np.argsort(-np.array(worth)))
        chance = ((64 - rank) / 64) ** 3 - ((63 - rank) / 64) ** 3
        np.testing.assert_allclose(distribution.weights[seed, row, 0], chance, rtol=1e-9)


def test_candidates_are_spread_evenly() -> None:
    """One in each 64th of the unit interval, none on its ends, the first ten not all on one side."""
    agent: Any = cases.build("onestep", EASY_BCQ, 1)
    points = agent.candidates[:, 0].numpy()
    np.testing.assert_allclose(np.sort(points), (np.arange(64) + 0.5) / 64)
    assert 0.3 < points[:10].mean() < 0.6


# Settings


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("cql", {"conservative_weight": -1.0}),
        ("cql", {"n_samples": 0}),
        ("cql", {"bc_steps": -1}),
        ("cql", {"actor_learning_rate": 0.0}),
        ("cql", {"log_std_min": 3.0}),
        ("cal_ql", {"n_samples": 0}),
        ("onestep", {"behaviour_steps": 0}),
        ("onestep", {"critic_steps": 0}),
        ("onestep", {"n_samples": 0}),
        ("onestep", {"divergence_weight": -0.1}),
        ("onestep", {"inverse_temperature": -0.1}),
        ("onestep", {"n_samples": 65, "improvement": "easy_bcq"}),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        cases.build(name, wrong, 1)
