"""Every loss of AWAC, TAWAC, InAC, SQL, EQL and XQL equals its equations written out in loops.

All six fit a policy to recorded doses with a weight; they differ in the weight and in what it is measured by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch

from dosing.errors import UserError
from dosing.models.policy_heads import Family
from tests.agents import oracle_cases as cases
from tests.oracles import awac, eql, inac, policies, sql, tawac, xql
from tests.oracles import mlp as nets

COMMON = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "weight_clip": 100.0,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "awac": COMMON | {"temperature": 0.5, "weighting": "exp"},
    "tawac": COMMON | {"temperature": 0.4, "q_weight": 0.0, "weight_floor": 0.0},
    "inac": COMMON | {"temperature": 0.5, "weight_clip": 1e4},
    "sql": COMMON | {"alpha": 0.4, "actor_weight": "derived", "value_layer_norm": True},
    "eql": COMMON
    | {
        "alpha": 0.7,
        "max_clip": 5.0,
        "beyond_clip": "line",
        "actor_weight": "derived",
        "value_layer_norm": True,
    },
    "xql": COMMON
    | {
        "beta": 0.7,
        "max_clip": 7.0,
        "beyond_clip": "line",
        "value_loss": "rescaled",
        "action_noise": 0.0,
        "random_actions": 0,
        "huber_delta": 20.0,
        "inverse_temperature": 2.0,
        "value_layer_norm": True,
    },
}
OWN = {part: (f"{part}.",) for part in ("critic", "value", "behaviour", "actor")}
ORACLES = {
    "awac": cases.Oracle(awac.losses, OWN),
    "tawac": cases.Oracle(tawac.losses, OWN),
    "inac": cases.Oracle(inac.losses, OWN),
    "sql": cases.Oracle(sql.losses, OWN),
    "eql": cases.Oracle(eql.losses, OWN),
    "xql": cases.Oracle(xql.losses, OWN),
}

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("awac", {}),
    ("awac", {"weighting": "softmax"}),
    ("awac", {"temperature": 0.1}),
    ("tawac", {}),
    ("tawac", {"q_weight": 0.5}),
    ("tawac", {"q_weight": -1.0}),
    ("tawac", {"q_weight": 1.0}),
    ("tawac", {"q_weight": 1.5, "weight_clip": 3.0}),
    ("tawac", {"temperature": 0.1, "weight_floor": 0.01}),
    ("inac", {}),
    ("inac", {"temperature": 0.1}),
    ("sql", {}),
    ("sql", {"actor_weight": "released"}),
    ("sql", {"alpha": 5.0, "value_layer_norm": False}),
    ("eql", {}),
    ("eql", {"actor_weight": "released"}),
    ("eql", {"beyond_clip": "flat"}),
    ("eql", {"max_clip": 0.3}),
    ("eql", {"max_clip": 0.3, "beyond_clip": "flat"}),
    ("eql", {"alpha": 4.0, "value_layer_norm": False}),
    ("xql", {}),
    ("xql", {"value_loss": "log"}),
    ("xql", {"max_clip": 0.3}),
    ("xql", {"max_clip": 0.3, "beyond_clip": "flat"}),
    ("xql", {"max_clip": 0.3, "value_loss": "log"}),
    ("xql", {"max_clip": 0.3, "value_loss": "log", "beyond_clip": "flat"}),
    ("xql", {"action_noise": 0.4}),
    ("xql", {"random_actions": 2}),
    ("xql", {"action_noise": 0.4, "random_actions": 2, "value_loss": "log"}),
    ("xql", {"huber_delta": 0.5, "inverse_temperature": 0.0}),
    ("xql", {"value_layer_norm": False}),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}" for name, options in OPTIONS]


# Values


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_losses(name: str, options: dict[str, Any], n_act: int) -> None:
    config = CONFIGS[name] | options
    agent = cases.build(name, config, n_act)
    cases.assert_same(ORACLES[name], agent, cases.make_batch(agent), config)


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("name", CONFIGS)
def test_losses_of_every_policy_family(name: str, family: str) -> None:
    config = CONFIGS[name] | {"policy_family": family}
    agent = cases.build(name, config)
    cases.assert_same(ORACLES[name], agent, cases.make_batch(agent), config)


WRONG = [
    ("awac", "temperature", 0.0),
    ("tawac", "temperature", -1.0),
    ("tawac", "weight_floor", -1e-8),
    ("tawac", "weight_floor", 101.0),
    ("inac", "temperature", 0.0),
    ("sql", "alpha", 0.0),
    ("eql", "alpha", 0.0),
    ("eql", "max_clip", 0.0),
    ("xql", "beta", 0.0),
    ("xql", "max_clip", -1.0),
    ("xql", "huber_delta", 0.0),
    ("xql", "action_noise", -0.1),
    ("xql", "random_actions", -1),
    ("xql", "inverse_temperature", -1.0),
    *((name, "log_std_min", 3.0) for name in CONFIGS),
    *((name, "actor_decay_steps", 0) for name in ("sql", "eql", "xql")),
]


@pytest.mark.parametrize(("name", "setting", "value"), WRONG)
def test_a_setting_out_of_range_is_refused(name: str, setting: str, value: float) -> None:
    with pytest.raises(UserError, match=setting):
        cases.build(name, CONFIGS[name] | {setting: value})


# Bounds


def assert_bound_reached(name: str, config: cases.Config, looser: cases.Config, reached: set[str]) -> None:
    """The agent follows the bound; an oracle without it differs, in these losses of both seeds."""
    agent = cases.build(name, config)
    batch = cases.make_batch(agent)
    cases.assert_same(ORACLES[name], agent, batch, config)
    have, loose = cases.result(agent, batch), ORACLES[name].expected(agent, batch, looser)
    differs = {key for key in have if (abs(have[key] - loose[key]) > 1e-6 * abs(have[key])).all()}
    assert differs == reached


@pytest.mark.parametrize("name", CONFIGS)
def test_the_weight_clip_is_reached(name: str) -> None:
    config = CONFIGS[name] | {"weight_clip": 0.05}
    assert_bound_reached(name, config, CONFIGS[name] | {"weight_clip": math.inf}, {"actor"})


def test_the_weight_floor_is_reached() -> None:
    config = CONFIGS["tawac"] | {"weight_floor": 1.2}
    assert_bound_reached("tawac", config, CONFIGS["tawac"], {"actor"})


@pytest.mark.parametrize("name", ["eql", "xql"])
@pytest.mark.parametrize("beyond_clip", ["line", "flat"])
def test_the_exponent_clip_is_reached(name: str, beyond_clip: str) -> None:
    config = CONFIGS[name] | {"max_clip": 0.3, "beyond_clip": beyond_clip}
    assert_bound_reached(name, config, config | {"max_clip": 50.0}, {"value"})


def test_hubers_line_is_reached() -> None:
    config = CONFIGS["xql"] | {"huber_delta": 0.5}
    assert_bound_reached("xql", config, CONFIGS["xql"], {"critic"})


@pytest.mark.parametrize("name", CONFIGS)
def test_the_bounds_of_the_scale_are_reached(name: str) -> None:
    """Two scales, one below the lower and one above the upper bound, as every distribution of a Gaussian has
    them."""
    config = CONFIGS[name] | {"log_std_min": -1.0, "log_std_max": 0.5}
    agent = cases.build(name, config)
    with torch.no_grad():
        for key, parameter in agent.named_parameters():
            if key in ("actor.scale", "behaviour.scale"):
                parameter.copy_(torch.tensor([[-1.5, 1.0]]))
            elif key == "actor.scale.bias":
                parameter.copy_(torch.tensor([[-20.0, 20.0]]))
    batch = cases.make_batch(agent)
    cases.assert_same(ORACLES[name], agent, batch, config)
    for bound in ({"log_std_min": -9.0}, {"log_std_max": 9.0}):
        loose = ORACLES[name].expected(agent, batch, config | bound)
        assert (loose["actor"] != cases.result(agent, batch)["actor"]).all(), f"{bound} was not reached"


def test_noise_on_doses_is_bounded() -> None:
    """Large noise is cut at half a unit, and doses stay in the box: both are reached."""
    config = CONFIGS["xql"] | {"action_noise": 3.0}
    agent = cases.build("xql", config)
    batch = cases.make_batch(agent)
    cases.assert_same(ORACLES["xql"], agent, batch, config)
    shift = 3.0 * batch.noise["action_noise"]
    assert bool((shift.abs() > 0.5).any())
    assert bool(((batch.act + shift.clamp(-0.5, 0.5)).abs() > 1.0).any())


def test_drawn_doses_are_clipped_before_the_critics() -> None:
    """The comparison above has draws on both sides of the box."""
    for name in ("awac", "tawac", "inac"):
        agent = cases.build(name, CONFIGS[name])
        batch = cases.make_batch(agent)
        with torch.no_grad():
            distribution = agent.policy(batch.obs).base_dist  # type: ignore[attr-defined]
            drawn = distribution.rsample_from(batch.noise["act"])
        assert bool((drawn > 1.0).any()), name
        assert bool((drawn < -1.0).any()), name
        assert bool((drawn.abs() < 1.0).any()), name


def test_both_branches_are_compared() -> None:
    """The transitions lie on both sides of every cut-off: zero weight, and positive advantage."""
    for name, members, cut in (
        ("tawac", "critic", -0.4),
        ("sql", "critic_target", -0.8),
        ("sql", "critic_target", 0.0),
    ):
        agent = cases.build(name, CONFIGS[name])
        batch = cases.make_batch(agent)
        sides = set()
        for seed in range(len(cases.SEEDS)):
            params = cases.seed_params(agent, seed)
            for obs, act in zip(batch.obs[seed].numpy(), batch.act[seed].numpy(), strict=True):
                low = nets.pessimistic(nets.action_values(params, f"{members}.net", obs, list(act)))
                sides.add(low - nets.state_value(params, obs) > cut)
        assert sides == {True, False}, name


# Teeth


def drawn_unclipped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(policies, "executed", list)


def noise_swapped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_act"], rows["u_next_act"] = rows["u_next_act"], rows["u_act"]


def temperature_inverted(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["temperature"] = 1.0 / config["temperature"]


def other_index(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["q_weight"] = 2.0 - config["q_weight"] + 1e-9  # the other convention of the index


def behaviour_is_actor(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for key in [k for k in params if k.startswith("behaviour.")]:
        params[key] = params[key.replace("behaviour.", "actor.", 1)]


def alpha_doubled(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["alpha"] *= 2.0


def released_weight(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["actor_weight"] = "released"


def clip_is_flat(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["beyond_clip"] = "flat"


def beta_negative(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["beta"] *= -1.0


def huber_is_square(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xql, "huber", lambda x, delta: x**2)


def not_normalised(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for key in [k for k in params if ".norms." in k]:
        del params[key]


def unbiased_variance(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = nets.normalised

    def wrong(weight: np.ndarray, bias: np.ndarray, row: list[float]) -> list[float]:
        n = len(row)
        return right(weight * math.sqrt((n - 1) / n), bias, row)

    patch.setattr(nets, "normalised", wrong)


LOW_CLIP = {"max_clip": 0.3}


@pytest.mark.parametrize(
    ("name", "options", "mistake", "reached"),
    [
        *(
            (name, {}, mistake, {"critic"})
            for name in CONFIGS
            for mistake in (cases.discount_sign, cases.no_terminal_mask)
        ),
        ("awac", {}, cases.larger_critic, {"critic", "actor"}),
        ("awac", {"weighting": "softmax"}, cases.larger_critic, {"critic", "actor"}),
        ("awac", {}, cases.targets_are_online, {"critic"}),
        ("awac", {}, temperature_inverted, {"actor"}),
        ("awac", {}, drawn_unclipped, {"critic", "actor"}),
        ("awac", {}, noise_swapped, {"critic", "actor"}),
        ("awac", {}, cases.without_tanh, {"critic", "actor"}),
        ("tawac", {}, cases.larger_critic, {"critic", "value", "actor"}),
        ("tawac", {}, cases.targets_are_online, {"critic", "value"}),
        ("tawac", {}, temperature_inverted, {"actor"}),
        ("tawac", {}, other_index, {"actor"}),
        ("tawac", {}, drawn_unclipped, {"critic", "value"}),
        ("tawac", {}, noise_swapped, {"critic", "value"}),
        ("inac", {}, cases.larger_critic, {"critic", "value", "actor"}),
        ("inac", {}, cases.targets_are_online, {"critic", "value"}),
        ("inac", {}, temperature_inverted, {"critic", "value", "actor"}),
        ("inac", {}, drawn_unclipped, {"critic", "value"}),
        ("inac", {}, noise_swapped, {"critic", "value"}),
        ("inac", {}, behaviour_is_actor, {"behaviour", "actor"}),
        ("inac", {}, cases.without_tanh, {"critic", "value", "behaviour", "actor"}),
        ("sql", {}, cases.larger_critic, {"value", "actor"}),
        ("sql", {}, cases.targets_are_online, {"value", "actor"}),
        ("sql", {}, alpha_doubled, {"value", "actor"}),
        ("sql", {}, released_weight, {"actor"}),
        ("sql", {}, cases.without_tanh, {"actor"}),
        ("sql", {}, not_normalised, {"critic", "value", "actor"}),
        ("sql", {}, unbiased_variance, {"critic", "value", "actor"}),
        ("eql", {}, cases.larger_critic, {"value", "actor"}),
        ("eql", {}, cases.targets_are_online, {"value", "actor"}),
        ("eql", {}, alpha_doubled, {"value", "actor"}),
        ("eql", {}, released_weight, {"actor"}),
        ("eql", LOW_CLIP, clip_is_flat, {"value"}),
        ("eql", {}, not_normalised, {"critic", "value", "actor"}),
        ("xql", {}, cases.larger_critic, {"value", "actor"}),
        ("xql", {}, cases.targets_are_online, {"value", "actor"}),
        ("xql", {}, beta_negative, {"value"}),
        ("xql", {"value_loss": "log"}, beta_negative, {"value"}),
        ("xql", LOW_CLIP, clip_is_flat, {"value"}),
        ("xql", {}, huber_is_square, {"critic"}),
        ("xql", {}, not_normalised, {"critic", "value", "actor"}),
    ],
)
def test_a_mistake_is_seen(
    name: str,
    options: dict[str, Any],
    mistake: Callable[..., None],
    reached: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases.assert_seen(ORACLES[name], name, CONFIGS[name] | options, mistake, reached, monkeypatch)


# Gradients


@pytest.mark.long
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_gradients_equal_finite_differences_of_the_equations(name: str, options: dict[str, Any]) -> None:
    cases.assert_gradients(ORACLES[name], name, CONFIGS[name] | options)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=IDS)
def test_each_loss_reaches_its_own_network_only(name: str, options: dict[str, Any]) -> None:
    cases.assert_routed(ORACLES[name], name, CONFIGS[name] | options)


# Relations between the equations


def value_gradient(name: str, config: cases.Config) -> torch.Tensor:
    """Gradient of the value loss by V's parameters, ``[S, P]``."""
    agent = cases.build(name, config)
    loss = agent.losses(cases.make_batch(agent))["value"].sum()
    parameters = [p for key, p in agent.named_parameters() if key.startswith("value.")]
    gradients = torch.autograd.grad(loss, parameters)
    return torch.cat([gradient.reshape(len(cases.SEEDS), -1) for gradient in gradients], 1)


def test_eql_and_xql_fit_the_same_value() -> None:
    """exp(x) + V/alpha and exp(z) - z - 1 differ by a constant in V when alpha = beta."""
    from_eql = value_gradient("eql", CONFIGS["eql"] | {"max_clip": 7.0})
    from_xql = value_gradient("xql", CONFIGS["xql"])
    torch.testing.assert_close(from_eql, from_xql, rtol=1e-10, atol=1e-12)


def test_the_log_form_points_where_the_rescaled_one_does() -> None:
    rescaled, log = (
        value_gradient("xql", CONFIGS["xql"] | {"value_loss": form}) for form in ("rescaled", "log")
    )
    cosine = torch.nn.functional.cosine_similarity(rescaled, log, dim=1)
    torch.testing.assert_close(cosine, torch.ones(2, dtype=torch.float64), rtol=1e-12, atol=0.0)
    assert not torch.allclose(rescaled, log, rtol=0.1)


def test_at_a_high_temperature_awac_imitates() -> None:
    """The softmax weights have mean 1, so that only the likelihood is left."""
    config = CONFIGS["awac"] | {"weighting": "softmax", "temperature": 1e9}
    agent = cases.build("awac", config)
    batch = cases.make_batch(agent)
    with torch.no_grad():
        imitation = -agent.actor.log_prob(batch.obs, batch.act).mean(-1)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(agent.losses(batch)["actor"], imitation, rtol=1e-8, atol=0.0)


def test_a_value_far_below_is_pulled_up_beyond_the_clip() -> None:
    """With V far below Q, the line still raises V; the released cut does nothing (XQL) or lowers it (EQL)."""

    def slope(name: str, beyond_clip: str) -> float:
        agent = cases.build(name, CONFIGS[name] | {"beyond_clip": beyond_clip, "max_clip": 2.0})
        with torch.no_grad():
            for key, parameter in agent.named_parameters():
                if key.startswith("value.net.layers.2."):
                    parameter.fill_(-50.0 if key.endswith("bias") else 0.0)
        loss = agent.losses(cases.make_batch(agent))["value"].sum()
        bias = dict(agent.named_parameters())["value.net.layers.2.bias"]
        (gradient,) = torch.autograd.grad(loss, [bias])
        return float(gradient.sum())

    assert slope("eql", "line") < 0.0
    assert slope("xql", "line") < 0.0
    assert slope("eql", "flat") > 0.0
    assert slope("xql", "flat") == 0.0


def test_cosine_decay_of_the_policys_step_size() -> None:
    for name in ("sql", "eql", "xql"):
        agent = cases.build(name, CONFIGS[name] | {"actor_decay_steps": 100, "learning_rate": 1e-2})
        rates = []
        for step in (0, 50, 100, 500):
            agent.schedule(step)
            rates.append(agent.optimizers["actor"].param_groups[0]["lr"])
            assert agent.optimizers["critic"].param_groups[0]["lr"] == 1e-2
        assert rates == pytest.approx([1e-2, 5e-3, 0.0, 0.0])
