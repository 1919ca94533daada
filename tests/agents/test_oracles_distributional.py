"""Every loss of IQN, C51, CODAC and Value Flows equals its equations in loops.

Values and gradients, at every option; what each update moves; the distributions of doses and returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from dosing.errors import UserError
from dosing.models.flows import DRAWS, points
from dosing.models.return_distributions import LEVELS
from tests.agents import oracle_cases as cases
from tests.oracles import c51, codac, flow_nets, iqn, value_flows
from tests.oracles import mlp as nets

CHOICE = {"hidden": cases.HIDDEN, "discount": 0.9, "candidates": 3, "flow_steps": 2}
IQN = CHOICE | {"n_quantiles": 3, "choice_quantiles": 2, "huber_threshold": 0.9, "risk_level": 1.0}
C51 = CHOICE | {"n_atoms": 7}
FLOWS = CHOICE | {
    "bootstrapped": 0.7,
    "distributional": 0.4,
    "confidence_temperature": 0.8,
    "return_steps": 3,
}
CODAC = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "temperature": 0.3,
    "learn_temperature": False,
    "n_quantiles": 4,
    "huber_threshold": 0.6,
    "penalty": 0.7,
    "lagrange_gap": None,
    "n_actions": 2,
    "risk": "neutral",
    "risk_parameter": 0.4,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
}
EVERYTHING = CODAC | {"learn_temperature": True, "lagrange_gap": 1.5}
CONFIGS: dict[str, cases.Config] = {"iqn": IQN, "c51": C51, "codac": CODAC, "value_flows": FLOWS}

OWN = {"critic": ("critic.",), "flow": ("flow.",)}
ORACLES = {
    "iqn": cases.Oracle(iqn.losses, OWN),
    "c51": cases.Oracle(c51.losses, OWN),
    "value_flows": cases.Oracle(value_flows.losses, OWN),
    "codac": cases.Oracle(
        codac.losses,
        {
            "critic": ("critic.",),
            "actor": ("actor.",),
            "temperature": ("log_temperature",),
            "lagrange": ("log_multiplier",),
        },
    ),
}


# Values

OPTIONS: list[tuple[str, cases.Config]] = [
    *((name, {}) for name in CONFIGS),
    *((name, {"flow_steps": 1, "candidates": 1}) for name in CONFIGS if name != "codac"),
    ("iqn", {"risk_level": 0.2}),
    ("iqn", {"huber_threshold": 0.05}),
    ("iqn", {"hidden": ()}),
    ("c51", {"n_atoms": 2}),
    ("c51", {"n_atoms": 40, "discount": 0.5}),
    ("value_flows", {"distributional": 0.0}),
    ("value_flows", {"confidence_temperature": 0.0}),
    ("value_flows", {"return_steps": 1}),
    ("value_flows", {"discount": 0.1}),
    ("codac", {"lagrange_gap": 1.5}),
    ("codac", {"learn_temperature": True}),
    ("codac", {"huber_threshold": 1.0}),
    ("codac", {"risk": "cvar"}),
    ("codac", {"risk": "cvar", "risk_parameter": 0.01}),
    ("codac", {"risk": "wang"}),
    ("codac", {"risk": "cpw"}),
    ("codac", {"penalty": 0.0, "temperature": 2.0}),
    ("codac", {"hidden": (6,)}),
]


@pytest.mark.parametrize("n_act", [1, 2])
@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=str)
def test_losses(name: str, option: cases.Config, n_act: int) -> None:
    cases.agrees(ORACLES, name, {**CONFIGS[name], **option}, n_act)


def test_returns_outside_of_the_range_are_moved_to_its_ends() -> None:
    """A range that most of the target's returns leave, in C51's atoms and in the ends of Value Flows."""
    for name in ("c51", "value_flows"):
        agent = cases.build(name, CONFIGS[name])
        batch = cases.make_batch(agent)
        wide = agent.losses(batch)["critic"].detach()
        agent.state_dict()["range.low"].fill_(-0.1)
        agent.state_dict()["range.high"].fill_(0.2)
        cases.assert_same(ORACLES[name], agent, batch, CONFIGS[name])
        assert not torch.allclose(agent.losses(batch)["critic"].detach(), wide)


# Teeth: an oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches.


def least_candidate(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for module in (iqn, c51, value_flows):
        right = module.chosen
        patch.setattr(
            module, "chosen", lambda p, o, s, n, value, right=right: right(p, o, s, n, lambda a: -value(a))
        )


def raw_logits(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(c51, "log_softmax", lambda row: row)
    patch.setattr(c51, "probability", softmax_of(c51.logits))


def softmax_of(logits: Callable[..., list[float]]) -> Callable[..., list[float]]:
    """The right mean probability, whatever ``log_softmax`` is."""

    def probability(params: Any, name: str, obs: Any, act: list[float]) -> list[float]:
        rows = [np.exp(logits(params, name, obs, act, e)) for e in range(2)]
        return [float(x) for x in sum(row / row.sum() for row in rows) / 2.0]

    return probability


def atoms_move_to_the_nearest(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    def nearest(z: list[float], reward: float, discount: float, mass: list[float]) -> list[float]:
        result = [0.0] * len(z)
        for value, p in zip(z, mass, strict=True):
            result[int(np.argmin(np.abs(np.array(z) - (reward + discount * value))))] += p
        return result

    patch.setattr(c51, "projected", nearest)


def other_side(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_tau"] = 1.0 - rows["u_tau"]


def fractions_shared(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_next_tau"] = rows["u_tau"]


def one_member(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for module in (iqn, c51, value_flows, codac):
        patch.setattr(module, "MEMBERS", 1)


def velocity_without_discount(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right, gamma = value_flows.velocity, config["discount"]

    def wrong(params: Any, name: str, obs: Any, act: Any, z: float, time: float, member: int) -> float:
        at_next = (rows["next_obs"] == obs).all(1).any()
        outside = not patched["inside"]
        scale = 1.0 / gamma if name == "critic_target" and at_next and outside else 1.0
        return scale * right(params, name, obs, act, z, time, member)

    patched = {"inside": False}
    carried = value_flows.carried

    def without(*arguments: Any) -> float:
        patched["inside"] = True
        try:
            return carried(*arguments)
        finally:
            patched["inside"] = False

    patch.setattr(value_flows, "velocity", wrong)
    patch.setattr(value_flows, "carried", without)


def same_noise_for_the_weight(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_confidence"] = rows["u_return"]


def slope_squared(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = value_flows.slope
    patch.setattr(value_flows, "slope", lambda *arguments: right(*arguments) ** 2)


def without_importance(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right, inside = codac.draw, {"gap": False}
    gap = codac.gap

    def wrong(*arguments: Any) -> tuple[list[float], float]:
        act, log_prob = right(*arguments)
        return act, 0.0 if inside["gap"] else log_prob

    def within(*arguments: Any) -> float:
        inside["gap"] = True
        try:
            return gap(*arguments)
        finally:
            inside["gap"] = False

    patch.setattr(codac, "draw", wrong)
    patch.setattr(codac, "gap", within)


def another_quantile(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_quantile"] = (rows["u_quantile"] + 0.5) % 1.0


def next_doses_from_here(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_there"] = rows["u_here"]


def equal_widths(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(codac, "fractions", lambda u: [k / len(u) for k in range(len(u) + 1)])


ALL = {"critic", "actor", "temperature", "lagrange"}
MISTAKES: list[tuple[str, cases.Config, cases.Mistake, set[str]]] = [
    *((name, CONFIGS[name], cases.discount_sign, {"critic"}) for name in CONFIGS),
    *((name, CONFIGS[name], cases.no_terminal_mask, {"critic"}) for name in CONFIGS),
    *((name, CONFIGS[name], cases.targets_are_online, {"critic"}) for name in CONFIGS),
    *((name, CONFIGS[name], least_candidate, {"critic"}) for name in CONFIGS if name != "codac"),
    *((name, CONFIGS[name], one_member, {"critic"}) for name in CONFIGS if name != "codac"),
    *((name, CONFIGS[name], cases.setting(flow_steps=1), {"critic"}) for name in CONFIGS if name != "codac"),
    ("iqn", IQN, other_side, {"critic"}),
    ("iqn", IQN, fractions_shared, {"critic"}),
    ("iqn", IQN, cases.setting(huber_threshold=1.0), {"critic"}),
    ("c51", C51, raw_logits, {"critic"}),
    ("c51", C51, atoms_move_to_the_nearest, {"critic"}),
    ("value_flows", FLOWS, velocity_without_discount, {"critic"}),
    ("value_flows", FLOWS, same_noise_for_the_weight, {"critic"}),
    ("value_flows", FLOWS, slope_squared, {"critic"}),
    ("value_flows", FLOWS, cases.setting(bootstrapped=0.4, distributional=0.7), {"critic"}),
    ("value_flows", FLOWS, cases.setting(return_steps=4), {"critic"}),
    ("codac", EVERYTHING, cases.larger_critic, {"critic", "actor"}),
    ("codac", CODAC, cases.actor_target_is_online, {"critic"}),
    ("codac", EVERYTHING, cases.without_tanh_slope, ALL),
    ("codac", EVERYTHING, without_importance, {"critic", "lagrange"}),
    ("codac", EVERYTHING, another_quantile, {"critic", "lagrange"}),
    ("codac", EVERYTHING, next_doses_from_here, {"critic", "lagrange"}),
    ("codac", EVERYTHING, equal_widths, {"critic", "actor", "lagrange"}),
    ("codac", CODAC | {"risk": "cvar"}, cases.setting(risk="neutral"), {"actor"}),
    ("codac", CODAC | {"risk": "wang"}, cases.setting(risk_parameter=-0.4), {"actor"}),
    ("codac", CODAC | {"risk": "cpw"}, cases.setting(risk_parameter=0.5), {"actor"}),
    ("codac", CODAC, cases.setting(huber_threshold=0.5), {"critic"}),
    ("codac", EVERYTHING, cases.setting(penalty=0.8), {"critic", "lagrange"}),
    ("codac", EVERYTHING, cases.setting(lagrange_gap=1.6), {"critic", "lagrange"}),
]


@cases.each_mistake(MISTAKES)
def test_a_mistake_is_seen(
    key: str, config: cases.Config, mistake: cases.Mistake, reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(ORACLES[key], key, config, mistake, reached, monkeypatch)


# Gradients and what moves

SHORT = {"candidates": 2, "flow_steps": 1, "hidden": (5, 4)}
FEW = {"n_quantiles": 2, "n_actions": 1, "hidden": (5, 4)}
CASES: list[tuple[str, cases.Config]] = [
    ("iqn", IQN | SHORT | {"n_quantiles": 2, "choice_quantiles": 1, "risk_level": 0.3}),
    ("c51", C51),
    ("value_flows", FLOWS | SHORT),
    ("codac", EVERYTHING | FEW),
    ("codac", CODAC | FEW | {"risk": "cvar", "hidden": (6,)}),
]


@pytest.mark.long
@cases.each_case(CASES)
def test_gradients_equal_finite_differences_of_the_equations(key: str, config: cases.Config) -> None:
    cases.assert_gradients(ORACLES[key], key, config)


@cases.each_case(CASES)
def test_each_loss_reaches_its_own_network_only(key: str, config: cases.Config) -> None:
    cases.assert_routed(ORACLES[key], key, config)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_targets_follow_by_polyak_averaging(name: str) -> None:
    agent = cases.build(name, CONFIGS[name] | {"target_rate": 0.3})
    cases.assert_targets_follow(agent, cases.make_batch(agent))


def test_the_multiplier_of_codac_stays_within_its_limit_and_can_leave_it() -> None:
    limit, wanted = math.log(1e6), {-50.0: (math.log(1e6), math.log(1e6)), 50.0: (0.0, math.log(1e6) - 0.1)}
    for aim, (low, high) in wanted.items():
        agent: Any = cases.build("codac", EVERYTHING | {"lagrange_gap": aim, "learning_rate": 0.5})
        with torch.no_grad():
            agent.log_multiplier.fill_(limit + 0.1)
        agent.update(cases.make_batch(agent))
        result = agent.log_multiplier.detach()
        assert bool(((result >= low) & (result <= high)).all()), (aim, result)


# Distributions of doses and returns


def value_of(
    name: str, params: nets.Arrays, config: cases.Config
) -> Callable[[np.ndarray, list[float]], float]:
    """By what an agent compares the doses at a state, by the oracles."""
    if name == "iqn":
        return lambda obs, act: iqn.rho(params, obs, act, dict(config))
    if name == "c51":
        z = c51.atoms(params, config["n_atoms"])
        return lambda obs, act: float(np.dot(z, c51.probability(params, "critic", obs, act)))
    return lambda obs, act: value_flows.mean(
        [
            value_flows.inside(params, value_flows.velocity(params, "critic", obs, act, 0.0, 0.0, e))
            for e in range(2)
        ]
    )


@pytest.mark.parametrize("name", ["iqn", "c51", "value_flows"])
def test_the_policy_is_the_best_of_the_candidates(name: str) -> None:
    config = CONFIGS[name] | {"candidates": 5}
    agent = cases.build(name, config)
    obs = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 3, 4)))
    starts = points(DRAWS, 2, obs).numpy()
    with torch.no_grad():
        distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
    assert distribution.kind == "point_set"
    for s in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, s)
        value = value_of(name, params, config)
        for b in range(3):
            state = obs[s, b].numpy()
            doses = [flow_nets.flow_end(params, state, start, config["flow_steps"]) for start in starts]
            worth = [value(state, dose) for dose in doses]
            np.testing.assert_allclose(distribution.values[s, b].T, doses, rtol=1e-9)
            np.testing.assert_allclose(distribution.mode[s, b], doses[int(np.argmax(worth[:5]))], rtol=1e-9)
            order = np.argsort(worth)  # doses at a limit are worth the same in any order
            chance = (np.arange(1.0, DRAWS + 1.0) ** 5 - np.arange(DRAWS) ** 5) / DRAWS**5
            np.testing.assert_allclose(distribution.mean[s, b], chance @ np.array(doses)[order], rtol=1e-9)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_returns_are_the_quantiles_of_the_learned_distribution(name: str) -> None:
    config = CONFIGS[name]
    agent = cases.build(name, config)
    rng = np.random.default_rng(2)
    obs, act = torch.from_numpy(rng.standard_normal((2, 3, 4))), torch.from_numpy(rng.random((2, 3, 2)))
    with torch.no_grad():
        result = agent.returns(obs, act)
    assert result is not None
    assert result.shape == (2, 3, LEVELS)
    params, state, dose = cases.seed_params(agent, 1), obs[1, 2].numpy(), act[1, 2].tolist()
    for k in (0, 37, 99):
        level = (k + 0.5) / LEVELS
        if name == "iqn":
            wanted = iqn.average(params, "critic", state, dose, level)
        elif name == "codac":
            wanted = min(codac.quantile(params, "critic", state, dose, level, e) for e in range(2))
        elif name == "c51":
            reached = np.cumsum(c51.probability(params, "critic", state, dose))
            wanted = c51.atoms(params, config["n_atoms"])[int((reached < level).sum())]
        else:
            start, steps = float(ndtri(level)), config["return_steps"]
            ends = [
                value_flows.carried(params, "critic", state, dose, start, 1.0, steps, e) for e in range(2)
            ]
            wanted = value_flows.mean([value_flows.inside(params, x) for x in ends])
        assert float(result[1, 2, k]) == pytest.approx(wanted, rel=1e-9)


# Input


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("iqn", {"risk_level": 0.0}, "risk_level must be above 0 and at most 1"),
        ("iqn", {"huber_threshold": 0.0}, "huber_threshold must be above 0"),
        ("iqn", {"candidates": 0}, "candidates must be at least 1"),
        ("c51", {"n_atoms": 1}, "n_atoms must be at least 2"),
        ("c51", {"discount": 1.0}, "discount must be below 1"),
        ("value_flows", {"discount": 1.0}, "discount must be below 1"),
        ("value_flows", {"bootstrapped": 0.0}, "bootstrapped must be above 0"),
        ("value_flows", {"distributional": -1.0}, "distributional must be at least 0"),
        ("value_flows", {"return_steps": 0}, "return_steps must be at least 1"),
        ("codac", {"risk": "cvar", "risk_parameter": 0.0}, "risk_parameter of cvar"),
        ("codac", {"risk": "cpw", "risk_parameter": 0.1}, "risk_parameter of cpw"),
        ("codac", {"n_actions": 0}, "n_actions must be at least 1"),
        ("codac", {"huber_threshold": 0.0}, "huber_threshold must be above 0"),
        ("codac", {"penalty": -1.0}, "penalty must be at least 0"),
        ("codac", {"temperature": 0.0}, "temperature"),
        ("codac", {"actor_learning_rate": 0.0}, "actor_learning_rate must be above 0"),
    ],
)
def test_impossible_settings_are_refused(name: str, wrong: cases.Config, said: str) -> None:
    with pytest.raises(UserError, match=said):
        cases.build(name, {**CONFIGS[name], **wrong})
