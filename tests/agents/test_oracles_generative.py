"""Every loss of BCQ, BEAR and PLAS equals its equations in loops, in value and gradient, at every option.

And what each update moves and leaves alone; and the doses that are chosen from candidates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents.bear import discrepancy
from dosing.errors import UserError
from dosing.models.flows import points
from dosing.types import Problem
from tests.agents import oracle_cases as cases
from tests.oracles import bcq, bear, plas, spot
from tests.oracles import mlp as nets

SHARED: cases.Config = {
    "hidden": cases.HIDDEN,
    "vae_hidden": (7, 5),
    "vae_beta": 0.5,
    "discount": 0.9,
    "least_weight": 0.75,
}
BCQ: cases.Config = {**SHARED, "reach": 0.3, "noise_clip": 0.5, "target_candidates": 4, "candidates": 6}
PLAS: cases.Config = {**SHARED, "reach": 0.0, "largest_latent": 2.0, "vae_steps": 3}
BEAR: cases.Config = {
    **SHARED,
    "kernel": "laplacian",
    "kernel_width": 3.0,
    "threshold": 0.05,
    "matched": 3,
    "noise_clip": 0.5,
    "mmd_only": 3,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
    "target_candidates": 4,
    "candidates": 6,
}


SAME = {name: name for name in ("vae", "critic", "actor", "multiplier")}
OWN = {"vae": ("vae.",), "critic": ("critic.",), "actor": ("actor.",), "multiplier": ("log_multiplier",)}
ORACLES = {
    "bcq": cases.Oracle(bcq.losses, OWN),
    "bear": cases.Oracle(cases.only(bear.losses, **SAME), OWN, step=BEAR["mmd_only"]),
    "bear alone": cases.Oracle(cases.only(bear.losses, **SAME | {"actor": "imitation"}), OWN),
    "plas": cases.Oracle(
        cases.only(plas.losses, critic="critic", actor="actor"), OWN, step=PLAS["vae_steps"]
    ),
    "plas vae": cases.Oracle(cases.only(plas.losses, vae="vae"), OWN),
}


# Values


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"reach": 0.0},
        {"least_weight": 1.0},
        {"noise_clip": 3.0},
        {"target_candidates": 1},
        {"vae_beta": 1.3},
    ],
    ids=str,
)
def test_bcq_losses(n_act: int, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, "bcq", {**BCQ, **option}, n_act)


@pytest.mark.parametrize("key", ["plas", "plas vae"])
@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    "option", [{}, {"reach": 0.3}, {"largest_latent": 0.5}, {"least_weight": 0.0}], ids=str
)
def test_plas_losses(key: str, n_act: int, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, key, {**PLAS, **option}, n_act)


@pytest.mark.parametrize("key", ["bear", "bear alone"])
@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"kernel": "gaussian"},
        {"matched": 1},
        {"threshold": 0.7},
        {"noise_clip": 3.0},
        {"least_weight": 0.0},
    ],
    ids=str,
)
def test_bear_losses(key: str, n_act: int, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, key, {**BEAR, **option}, n_act)


@pytest.mark.parametrize("bias", [-40.0, 40.0])
def test_bear_bounds_the_width_of_its_policy(bias: float) -> None:
    """Both bounds of ln sigma, passed; the released code has none."""
    config = {**BEAR, "log_std_max": 0.5}
    agent = cases.build("bear", config)
    with torch.no_grad():
        for name in ("actor", "actor_target"):
            agent.state_dict()[f"{name}.scale.bias"].fill_(bias)
    cases.assert_same(ORACLES["bear"], agent, cases.make_batch(agent, ORACLES["bear"].step), config)


@pytest.mark.parametrize(("name", "config"), [("bcq", BCQ), ("bear", BEAR), ("plas", PLAS)])
def test_every_critic_of_an_ensemble_takes_part(name: str, config: cases.Config) -> None:
    """Four critics; the released BEAR switches two of them off."""
    agent = agents.build(
        name, config, Problem(cases.N_OBS, 2), cases.SEEDS, dtype=torch.float64, regularisation={"critics": 4}
    )
    with torch.no_grad():
        for k, parameter in enumerate(agent.parameters()):
            parameter.add_(0.2 * torch.sin(torch.arange(parameter.numel()).view(parameter.shape) + 7.0 * k))
    cases.assert_same(ORACLES[name], agent, cases.make_batch(agent, ORACLES[name].step), config)


# Teeth: an oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches.


def one_candidate(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_target"] = rows["u_target"][:, :1]


def mean_of_critics(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bcq, "soft", lambda values, weight: sum(values) / len(values))


def generated_unclipped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bcq, "clipped", lambda noise, most: [float(x) for x in noise])


def target_noise_clipped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_target"] = np.clip(rows["u_target"], -config["noise_clip"], config["noise_clip"])


def squashed_draws_compared(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = bear.discrepancy

    def wrong(left: Any, other: Any, config: Any) -> float:
        return right([bear.squashed(x) for x in left], [bear.squashed(y) for y in other], config)

    patch.setattr(bear, "discrepancy", wrong)


def no_root(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = bear.discrepancy
    patch.setattr(bear, "discrepancy", lambda *arguments: right(*arguments) ** 2)


def multiplier_not_in_exponent(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    params["log_multiplier"] = np.log1p(np.abs(params["log_multiplier"]))


def mean_critic(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nets, "pessimistic", lambda values: sum(values) / len(values))


def another_decoder(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spot, "decoded", lambda params, obs, z: [math.tanh(x) for x in z[: len(z) // 2]])


BOTH = {"critic", "actor"}
WIDE = {**PLAS, "largest_latent": 8.0}
MISTAKES: list[tuple[str, cases.Config, cases.Mistake, set[str]]] = [
    ("bcq", BCQ, cases.discount_sign, {"critic"}),
    ("bcq", BCQ, cases.no_terminal_mask, {"critic"}),
    ("bcq", BCQ, cases.larger_critic, {"critic"}),
    ("bcq", BCQ, cases.targets_are_online, {"critic"}),
    ("bcq", BCQ, cases.actor_target_is_online, {"critic"}),
    ("bcq", BCQ, one_candidate, {"critic"}),
    ("bcq", BCQ, mean_of_critics, {"critic"}),
    ("bcq", BCQ, cases.setting(least_weight=0.25), {"critic"}),
    ("bcq", BCQ, generated_unclipped, BOTH),
    ("bcq", BCQ, cases.setting(reach=0.2), BOTH),
    ("bcq", BCQ, cases.no_divergence, {"vae"}),
    ("plas", PLAS, cases.discount_sign, {"critic"}),
    ("plas", PLAS, cases.no_terminal_mask, {"critic"}),
    ("plas", PLAS, cases.larger_critic, {"critic"}),
    ("plas", PLAS, cases.targets_are_online, {"critic"}),
    ("plas", WIDE, cases.actor_target_is_online, {"critic"}),
    ("plas", WIDE, cases.setting(largest_latent=1.0), BOTH),
    ("plas", PLAS, another_decoder, BOTH),
    ("plas", {**PLAS, "reach": 0.3}, cases.setting(reach=0.0), BOTH),
    ("plas vae", PLAS, cases.no_divergence, {"vae"}),
    ("bear", BEAR, cases.discount_sign, {"critic"}),
    ("bear", BEAR, cases.no_terminal_mask, {"critic"}),
    ("bear", BEAR, cases.larger_critic, BOTH),
    ("bear", BEAR, mean_critic, BOTH),
    ("bear", BEAR, cases.targets_are_online, {"critic"}),
    ("bear", BEAR, cases.actor_target_is_online, {"critic"}),
    ("bear", BEAR, one_candidate, {"critic"}),
    ("bear", BEAR, target_noise_clipped, {"critic"}),
    ("bear", BEAR, generated_unclipped, {"actor", "multiplier"}),
    ("bear", BEAR, squashed_draws_compared, {"actor", "multiplier"}),
    ("bear", BEAR, no_root, {"actor", "multiplier"}),
    ("bear", BEAR, multiplier_not_in_exponent, {"actor", "multiplier"}),
    ("bear", BEAR, cases.setting(kernel="gaussian"), {"actor", "multiplier"}),
    ("bear", BEAR, cases.setting(kernel_width=6.0), {"actor", "multiplier"}),
    ("bear", BEAR, cases.setting(threshold=-0.05), {"multiplier"}),
    ("bear", BEAR, cases.setting(log_std_max=-2.0), {"critic", "actor", "multiplier"}),
    ("bear alone", BEAR, mean_critic, {"critic"}),
]


@cases.each_mistake(MISTAKES)
def test_a_mistake_is_seen(
    key: str, config: cases.Config, mistake: cases.Mistake, reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(ORACLES[key], key.split()[0], config, mistake, reached, monkeypatch)


# Gradients

CASES: list[tuple[str, cases.Config]] = [
    ("bcq", BCQ),
    ("bear", BEAR),
    ("bear", {**BEAR, "kernel": "gaussian"}),
    ("bear alone", BEAR),
    ("plas", PLAS),
    ("plas", {**PLAS, "reach": 0.3}),
    ("plas vae", PLAS),
]


@pytest.mark.long
@cases.each_case(CASES)
def test_gradients_equal_finite_differences_of_the_equations(key: str, config: cases.Config) -> None:
    cases.assert_gradients(ORACLES[key], key.split()[0], config)


@cases.each_case(CASES)
def test_each_loss_reaches_its_own_network_only(key: str, config: cases.Config) -> None:
    cases.assert_routed(ORACLES[key], key.split()[0], config)


# Updates

JOINT = ("vae.", "critic.", "actor.", "critic_target.", "actor_target.")
PHASED = [
    ("bcq", BCQ, [JOINT] * 2),
    ("bear", {**BEAR, "mmd_only": 2}, [(*JOINT, "log_multiplier")] * 4),
    ("plas", {**PLAS, "vae_steps": 2}, [("vae.",)] * 2 + [JOINT[1:]] * 2),
]


@pytest.mark.parametrize(("name", "config", "phases"), PHASED, ids=[name for name, _, _ in PHASED])
def test_an_update_moves_what_its_phase_moves_and_nothing_else(
    name: str, config: cases.Config, phases: list[tuple[str, ...]]
) -> None:
    agent = cases.build(name, {**config, "target_rate": 0.3})
    for step, moving in enumerate(phases):
        before = {key: value.clone() for key, value in agent.state_dict().items()}
        agent.update(cases.make_batch(agent, step))
        after = agent.state_dict()
        for key, value in after.items():
            assert torch.equal(value, before[key]) != key.startswith(moving), f"{key} in update {step}"
        for key in [k for k in after if "_target." in k and k.startswith(moving)]:
            wanted = 0.3 * after[key.replace("_target.", ".")] + 0.7 * before[key]
            torch.testing.assert_close(after[key], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("start", "kept"), [(-9.0, -5.0), (30.0, 10.0), (1.0, None)])
def test_bear_keeps_its_multiplier_within_bounds(start: float, kept: float | None) -> None:
    agent: Any = cases.build("bear", BEAR)
    with torch.no_grad():
        agent.log_multiplier.fill_(start)
    agent.update(cases.make_batch(agent))
    result = agent.log_multiplier.flatten().tolist()
    assert result == [kept] * 2 if kept is not None else all(x not in (-5.0, 1.0, 10.0) for x in result)


@pytest.mark.parametrize(("threshold", "sign"), [(0.0, 1.0), (5.0, -1.0)])
def test_bear_raises_its_multiplier_where_the_discrepancy_is_above_the_threshold(
    threshold: float, sign: float
) -> None:
    agent: Any = cases.build("bear", {**BEAR, "threshold": threshold})
    before = agent.log_multiplier.detach().clone()
    agent.update(cases.make_batch(agent))
    assert bool((sign * (agent.log_multiplier.detach() - before) > 0.0).all())


# The discrepancy


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_the_discrepancy_of_identical_draws_is_the_root_of_its_floor(kernel: Any) -> None:
    draws = torch.randn(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = discrepancy(draws, draws.flip(1), kernel, 0.7)
    torch.testing.assert_close(result, torch.full((3,), 1e-3, dtype=torch.float64), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("kernel", "between"), [("laplacian", -(1.0 + 2.0)), ("gaussian", -(1.0 + 4.0))])
def test_the_discrepancy_of_two_points_by_hand(kernel: Any, between: float) -> None:
    """k = 1 on either side, exp(-distance / 2w) across: sqrt(2 - 2k + 1e-6)."""
    x, y = (torch.tensor([[[0.5, -1.0]]]).double(), torch.tensor([[[1.5, 1.0]]]).double())
    wanted = math.sqrt(2.0 - 2.0 * math.exp(between / (2.0 * 4.0)) + 1e-6)
    assert float(discrepancy(x, y, kernel, 4.0)) == pytest.approx(wanted, rel=1e-12)


# Candidates


@pytest.mark.parametrize("n_act", [1, 2])
@pytest.mark.parametrize(("name", "config"), [("bcq", BCQ), ("bear", BEAR)])
def test_the_policy_is_the_best_of_the_candidates(name: str, config: dict[str, Any], n_act: int) -> None:
    """Every candidate, the chance of each, and the recommended dose, by the oracle's networks."""
    agent = cases.build(name, config, n_act)
    obs = cases.make_batch(agent).obs[:, :2]
    with torch.no_grad():
        distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
    assert distribution.kind == "point_set"
    tries, count = config["candidates"], distribution.values.shape[-1]
    assert count == {"bcq": tries, "bear": 64}[name]
    noise = points(count, {"bcq": 2, "bear": 1}[name] * n_act, obs).numpy()
    for s in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, s)
        for b in range(2):
            row, doses = obs[s, b].numpy(), []
            for eps in noise:
                if name == "bcq":
                    act = spot.decoded(params, row, bcq.clipped(eps, config["noise_clip"]))
                    doses.append(bcq.perturbed(params, "actor.net", row, act, config["reach"]))
                else:
                    doses.append(
                        bear.squashed(bear.draw(params, "actor", row, [float(x) for x in eps], config))
                    )
            np.testing.assert_allclose(distribution.values[s, b].numpy().T, doses, rtol=1e-9)
            worth = np.array([bcq.members(params, "critic.net", row, act)[0] for act in doses])
            weights = distribution.weights[s, b, 0].numpy()
            for q in worth:  # the best of the tries is no better than q if all of them are not
                no_better = worth <= q + 1e-12
                assert weights[no_better].sum() == pytest.approx(no_better.mean() ** tries, abs=1e-12)
            best = bcq.members(params, "critic.net", row, distribution.mode[s, b].tolist())[0]
            assert best == pytest.approx(worth[:tries].max(), rel=1e-12)


@pytest.mark.parametrize("n_act", [1, 2])
def test_every_generated_dose_is_admissible(n_act: int) -> None:
    """The candidates of BCQ and the dose of PLAS lie between the ends of the admissible doses."""
    for name, config in (("bcq", BCQ), ("plas", {**PLAS, "reach": 0.1})):
        agent = cases.build(name, config, n_act)
        obs = cases.make_batch(agent).obs
        with torch.no_grad():
            distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
            doses = agent.admissible(obs, 4096)
        assert doses is not None
        assert doses.shape == (len(cases.SEEDS), obs.shape[1], 4096, n_act)
        values = distribution.values if name == "bcq" else distribution.mode.unsqueeze(-1)  # [S, B, A, M]
        room = 0.02
        assert bool((values <= doses.amax(2).unsqueeze(-1) + room).all())
        assert bool((values >= doses.amin(2).unsqueeze(-1) - room).all())


# Input


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("bcq", {"reach": -0.1}, "reach must be at least 0"),
        ("bcq", {"least_weight": 1.1}, "least_weight must be between 0 and 1"),
        ("bcq", {"candidates": 0}, "candidates must be at least 1, got 0"),
        ("bcq", {"target_candidates": 0}, "target_candidates must be at least 1"),
        ("bcq", {"noise_clip": -1.0}, "noise_clip must be at least 0"),
        ("bcq", {"vae_hidden": ()}, "vae_hidden must be one or more widths"),
        ("bcq", {"vae_beta": 0.0}, "vae_beta must be above 0"),
        ("plas", {"largest_latent": 0.0}, "largest_latent must be above 0"),
        ("plas", {"actor_learning_rate": -1.0}, "actor_learning_rate must be above 0"),
        ("plas", {"reach": -0.1}, "reach must be at least 0"),
        ("plas", {"least_weight": -0.1}, "least_weight must be between 0 and 1"),
        ("plas", {"vae_steps": 0}, "vae_steps must be at least 1"),
        ("bear", {"kernel_width": 0.0}, "kernel_width must be above 0"),
        ("bear", {"multiplier_learning_rate": 0.0}, "multiplier_learning_rate must be above 0"),
        ("bear", {"threshold": -0.1}, "threshold must be at least 0"),
        ("bear", {"mmd_only": -1}, "mmd_only must be at least 0"),
        ("bear", {"matched": 0}, "matched must be at least 1"),
        ("bear", {"least_weight": 2.0}, "least_weight must be between 0 and 1"),
        ("bear", {"log_std_min": 3.0}, "log_std_min must not exceed log_std_max"),
        ("bear", {"kernel": "cubic"}, "kernel must be one of laplacian, gaussian"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        agents.build(name, wrong, Problem(2, 1), (0,))
