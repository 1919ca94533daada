"""Every loss of BC, TD3+BC, ReBRAC, SPOT and quasi-optimal learning equals its equations in loops.

Values and gradients, at every option; and what each update moves and leaves alone.
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.models.policy_heads import Family
from tests.agents import oracle_cases as cases
from tests.oracles import bc, deterministic, quasi_optimal, rebrac, spot, td3_bc

TD3 = {"hidden": cases.HIDDEN, "discount": 0.9, "target_noise": 0.2, "noise_clip": 0.25, "actor_every": 2}
BC = {"hidden": cases.HIDDEN, "policy_family": "clipped_gaussian", "log_std_min": -5.0, "log_std_max": 2.0}
TD3_BC = TD3 | {"alpha": 2.5}
REBRAC = TD3 | {"actor_penalty": 0.3, "critic_penalty": 0.4, "normalise_q": True}
SPOT = TD3 | {
    "penalty": 0.5,
    "density": "elbo",
    "n_samples": 3,
    "normalise_q": True,
    "dropout": 0.3,
    "vae_steps": 4,
    "vae_hidden": (7, 5),
    "vae_beta": 0.5,
}
SOFT = SPOT | {"actor": "squashed_gaussian"}
QUASI = {
    "discount": 0.9,
    "regularisation": 0.05,
    "state_bandwidth": 0.5,
    "dose_bandwidth": 0.7,
    "value_multiplier": "learned",
    "support_multiplier": "derived",
    "pairs": "episode",
}


TURN = TD3["actor_every"] - 1
"""Number of the first update in which the policy moves as well."""
PAIR = {"critic": ("critic.",), "actor": ("actor.",)}
ORACLES = {
    "bc": cases.Oracle(bc.losses, {"actor": ("actor.",)}),
    "pct_bc": cases.Oracle(bc.losses, {"actor": ("actor.",)}),
    "td3_bc": cases.Oracle(td3_bc.losses, PAIR, step=TURN),
    "rebrac": cases.Oracle(rebrac.losses, PAIR, step=TURN),
    "spot": cases.Oracle(cases.only(spot.losses, "critic", "actor"), PAIR, step=SPOT["vae_steps"] + TURN),
    "spot vae": cases.Oracle(cases.only(spot.losses, "vae"), {"vae": ("vae.",)}),
    "spot behaviour": cases.Oracle(spot.behaviour_loss, {"behaviour": ("behaviour.",)}),
    "spot soft": cases.Oracle(
        spot.soft_losses, PAIR | {"temperature": ("log_temperature",)}, step=SPOT["vae_steps"] + TURN
    ),
    "quasi_optimal": cases.Oracle(quasi_optimal.losses, {"residual": ("theta", "w")}, n_act=1),
}


# Values


@pytest.mark.parametrize("family", [*get_args(Family), "point"])
@pytest.mark.parametrize("n_act", [1, 3])
def test_bc_losses(family: str, n_act: int) -> None:
    cases.agrees(ORACLES, "bc", BC | {"policy_family": family}, n_act)


def test_percent_bc_losses_are_those_of_bc() -> None:
    cases.agrees(ORACLES, "pct_bc", BC)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize("option", [{}, {"alpha": 0.0}, {"target_noise": 0.0}, {"noise_clip": 0.01}], ids=str)
def test_td3_bc_losses(n_act: int, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, "td3_bc", TD3_BC | option, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    "option",
    [{}, {"normalise_q": False}, {"layer_norm": False}, {"critic_penalty": 0.0}, {"actor_penalty": 0.0}],
    ids=str,
)
def test_rebrac_losses(n_act: int, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, "rebrac", REBRAC | option, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize("density", ["elbo", "importance"])
@pytest.mark.parametrize("n_samples", [1, 5])
@pytest.mark.parametrize("option", [{}, {"normalise_q": False}, {"dropout": 0.0}, {"vae_beta": 0.2}], ids=str)
def test_spot_losses(n_act: int, density: str, n_samples: int, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, "spot", SPOT | {"density": density, "n_samples": n_samples} | option, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("density", ["elbo", "gaussian"])
def test_spot_losses_with_dropout_in_the_target(n_act: int, dropout: float, density: str) -> None:
    config = SPOT | {"density": density, "dropout": dropout, "target_dropout": True}
    cases.agrees(ORACLES, "spot", config, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize("density", ["elbo", "importance", "gaussian"])
@pytest.mark.parametrize(
    "option", [{}, {"normalise_q": False, "dropout": 0.0}, {"target_dropout": True}], ids=str
)
def test_spot_losses_of_a_stochastic_policy(n_act: int, density: str, option: dict[str, Any]) -> None:
    cases.agrees(ORACLES, "spot soft", SOFT | {"density": density} | option, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
def test_spot_loss_of_the_normal_distribution(n_act: int) -> None:
    cases.agrees(ORACLES, "spot behaviour", SPOT | {"density": "gaussian"}, n_act)


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize("vae_beta", [0.5, 1.3])
def test_spot_vae_loss(n_act: int, vae_beta: float) -> None:
    cases.agrees(ORACLES, "spot vae", SPOT | {"vae_beta": vae_beta}, n_act)


@pytest.mark.parametrize("bias", [-40.0, 40.0])
def test_spot_bounds_the_posterior_width(bias: float) -> None:
    """Both bounds of ln sigma, reached and passed."""
    agent = cases.build("spot", SPOT)
    with torch.no_grad():
        agent.state_dict()["vae.log_std.bias"].fill_(bias)
        agent.state_dict()["vae.mean.weight"].mul_(0.1)
    for key in ("spot", "spot vae"):
        cases.assert_same(ORACLES[key], agent, cases.make_batch(agent, ORACLES[key].step), SPOT)


@pytest.mark.parametrize("value_multiplier", ["learned", "exact"])
@pytest.mark.parametrize("support_multiplier", ["derived", "released"])
@pytest.mark.parametrize("regularisation", [0.05, 2.0])
def test_quasi_optimal_losses(value_multiplier: str, support_multiplier: str, regularisation: float) -> None:
    config = QUASI | {
        "value_multiplier": value_multiplier,
        "support_multiplier": support_multiplier,
        "regularisation": regularisation,
    }
    cases.agrees(ORACLES, "quasi_optimal", config, 1)


# Teeth: an oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches.


def dropout_in_the_target(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    usual, mask = deterministic.act, rows["u_dropout"][0]

    def dropped(params: Any, name: str, obs: Any) -> list[float]:
        if name != "actor_target":
            return usual(params, name, obs)
        target = {k.replace("_target.", "."): v for k, v in params.items() if k.startswith("actor_target.")}
        return spot.dropped_act(target, obs, mask, config)

    patch.setattr(deterministic, "act", dropped)


def no_dropout(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["dropout"] = 0.0


def dropout_keeps_the_scale(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for layer in (1, 2):
        key = f"actor.net.layers.{layer}.weight"
        params[key] = params[key] * (1.0 - config["dropout"])


def data_action_penalised(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = spot.distance

    def wrong(params: Any, obs: Any, act: Any, draws: Any, config: Any) -> float:
        (row,) = np.flatnonzero((rows["obs"] == obs).all(1))
        return right(params, obs, [float(x) for x in rows["act"][row]], draws, config)

    patch.setattr(spot, "distance", wrong)


def one_draw(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["u_latent"] = rows["u_latent"][:, :1]


def diagonal_counts(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["obs"] = np.concatenate((rows["obs"], rows["obs"]))
    for name in ("act", "reward", "next_obs", "terminated"):
        rows[name] = np.concatenate((rows[name], rows[name]))
    rows["length"] = 2 * rows["length"]


def scaling_of_others(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    params["obs_high"] = params["obs_high"] + 0.5


def cubes_are_squares(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = quasi_optimal.features
    patch.setattr(quasi_optimal, "features", lambda s: [f ** (2.0 / 3.0) for f in right(s)])


def w_forgotten(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    params["w"] = np.zeros_like(params["w"])


BOTH = {"critic", "actor"}
MISTAKES: list[tuple[str, cases.Config, cases.Mistake, set[str]]] = [
    ("bc", BC, cases.setting(log_std_max=-3.0), {"actor"}),
    ("bc", BC, cases.without_tanh, {"actor"}),
    ("bc", BC | {"policy_family": "point"}, cases.without_tanh, {"actor"}),
    ("td3_bc", TD3_BC, cases.discount_sign, {"critic"}),
    ("td3_bc", TD3_BC, cases.no_terminal_mask, {"critic"}),
    ("td3_bc", TD3_BC, cases.larger_critic, {"critic"}),
    ("td3_bc", TD3_BC, cases.targets_are_online, {"critic"}),
    ("td3_bc", TD3_BC, cases.actor_target_is_online, {"critic"}),
    ("td3_bc", TD3_BC, cases.noise_negated, {"critic"}),
    ("td3_bc", TD3_BC, cases.setting(noise_clip=9.0), {"critic"}),
    ("td3_bc", TD3_BC, cases.setting(alpha=2.4), {"actor"}),
    ("td3_bc", TD3_BC, cases.without_tanh, BOTH),
    ("rebrac", REBRAC, cases.discount_sign, {"critic"}),
    ("rebrac", REBRAC, cases.no_terminal_mask, {"critic"}),
    ("rebrac", REBRAC, cases.larger_critic, BOTH),
    ("rebrac", REBRAC, cases.targets_are_online, {"critic"}),
    ("rebrac", REBRAC, cases.actor_target_is_online, {"critic"}),
    ("rebrac", REBRAC, cases.next_act_of_another_episode, {"critic"}),
    ("rebrac", REBRAC, cases.act_for_next_act, {"critic"}),
    ("rebrac", REBRAC, cases.setting(critic_penalty=-0.4), {"critic"}),
    ("rebrac", REBRAC, cases.setting(normalise_q=False), {"actor"}),
    ("rebrac", REBRAC, cases.setting(actor_penalty=0.2), {"actor"}),
    ("spot", SPOT, cases.discount_sign, {"critic"}),
    ("spot", SPOT, cases.no_terminal_mask, {"critic"}),
    ("spot", SPOT, cases.larger_critic, {"critic"}),
    ("spot", SPOT, cases.actor_target_is_online, {"critic"}),
    ("spot", SPOT, dropout_in_the_target, {"critic"}),
    ("spot", SPOT, no_dropout, {"actor"}),
    ("spot", SPOT, dropout_keeps_the_scale, {"actor"}),
    ("spot", SPOT, data_action_penalised, {"actor"}),
    ("spot", SPOT, one_draw, {"actor"}),
    ("spot", SPOT, cases.setting(density="importance"), {"actor"}),
    ("spot", SPOT, cases.setting(normalise_q=False), {"actor"}),
    ("spot", SPOT | {"density": "gaussian"}, cases.setting(density="gaussian", vae_beta=0.6), {"actor"}),
    ("spot", SPOT | {"target_dropout": True}, cases.setting(target_dropout=False), {"critic"}),
    ("spot soft", SOFT, cases.discount_sign, {"critic"}),
    ("spot soft", SOFT, cases.no_terminal_mask, {"critic"}),
    ("spot soft", SOFT, cases.targets_are_online, {"critic"}),
    ("spot soft", SOFT, cases.larger_critic, BOTH),
    ("spot soft", SOFT, cases.setting(penalty=0.4), {"actor"}),
    ("spot vae", SPOT, cases.no_divergence, {"vae"}),
    ("quasi_optimal", QUASI, cases.discount_sign, {"residual"}),
    ("quasi_optimal", QUASI, cases.no_terminal_mask, {"residual"}),
    ("quasi_optimal", QUASI, cases.setting(support_multiplier="released"), {"residual"}),
    ("quasi_optimal", QUASI, cases.setting(value_multiplier="exact"), {"residual"}),
    ("quasi_optimal", QUASI, cases.setting(state_bandwidth=0.7), {"residual"}),
    ("quasi_optimal", QUASI, cases.setting(dose_bandwidth=0.5), {"residual"}),
    ("quasi_optimal", QUASI, cases.setting(regularisation=0.06), {"residual"}),
    ("quasi_optimal", QUASI, diagonal_counts, {"residual"}),
    ("quasi_optimal", QUASI, scaling_of_others, {"residual"}),
    ("quasi_optimal", QUASI, cubes_are_squares, {"residual"}),
    ("quasi_optimal", QUASI, w_forgotten, {"residual"}),
]


@cases.each_mistake(MISTAKES)
def test_a_mistake_is_seen(
    key: str, config: cases.Config, mistake: cases.Mistake, reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(ORACLES[key], key.split()[0], config, mistake, reached, monkeypatch)


# Gradients

CASES: list[tuple[str, cases.Config]] = [
    ("bc", BC),
    ("bc", BC | {"policy_family": "point"}),
    ("td3_bc", TD3_BC),
    ("rebrac", REBRAC),
    ("rebrac", REBRAC | {"normalise_q": False}),
    ("spot", SPOT),
    ("spot", SPOT | {"density": "importance", "normalise_q": False, "dropout": 0.0}),
    ("spot", SPOT | {"density": "gaussian", "target_dropout": True}),
    ("spot soft", SOFT),
    ("spot soft", SOFT | {"density": "gaussian"}),
    ("spot behaviour", SPOT | {"density": "gaussian"}),
    ("spot vae", SPOT),
    ("quasi_optimal", QUASI),
    ("quasi_optimal", QUASI | {"support_multiplier": "released"}),
]


@pytest.mark.long
@cases.each_case(CASES)
def test_gradients_equal_finite_differences_of_the_equations(key: str, config: cases.Config) -> None:
    cases.assert_gradients(ORACLES[key], key.split()[0], config)


@cases.each_case(CASES)
def test_each_loss_reaches_its_own_network_only(key: str, config: cases.Config) -> None:
    cases.assert_routed(ORACLES[key], key.split()[0], config)


# Delayed and phased updates

PHASED = [
    ("td3_bc", TD3_BC | {"actor_every": 3}, ["critic", "critic", "all"] * 2),
    ("rebrac", REBRAC, ["critic", "all"] * 3),
    ("spot", SPOT | {"vae_steps": 3}, ["vae"] * 3 + ["critic", "all"] * 2),
]


@pytest.mark.parametrize(("name", "config", "phases"), PHASED, ids=[name for name, _, _ in PHASED])
def test_an_update_moves_what_its_phase_moves_and_nothing_else(
    name: str, config: cases.Config, phases: list[str]
) -> None:
    moving = {
        "vae": ("vae.",),
        "critic": ("critic.",),
        "all": ("critic.", "actor.", "critic_target.", "actor_target."),
    }
    reported = {"vae": {"vae"}, "critic": {"critic"}, "all": {"critic", "actor"}}
    agent = cases.build(name, config)
    for step, phase in enumerate(phases):
        before = {key: value.clone() for key, value in agent.state_dict().items()}
        report = agent.update(cases.make_batch(agent, step))
        assert {k[5:] for k in report if k.startswith("loss/")} == reported[phase]
        for key, value in agent.state_dict().items():
            assert torch.equal(value, before[key]) != key.startswith(moving[phase]), f"{key} in update {step}"


@pytest.mark.parametrize("name", ["td3_bc", "rebrac", "spot"])
def test_targets_follow_by_polyak_averaging(name: str) -> None:
    config = {"td3_bc": TD3_BC, "rebrac": REBRAC, "spot": SPOT}[name] | {"target_rate": 0.3}
    agent = cases.build(name, config)
    cases.assert_targets_follow(agent, cases.make_batch(agent, ORACLES[name].step))


# %BC


def episodes(rewards: list[list[float]]) -> Dataset:
    """A data set with these rewards."""
    lengths = [len(part) for part in rewards]
    m = sum(lengths)
    zeros = torch.zeros(m)
    return Dataset(
        obs=zeros[:, None],
        act=zeros[:, None],
        reward=torch.tensor([x for part in rewards for x in part]),
        next_obs=zeros[:, None],
        terminated=zeros,
        starts=torch.tensor([0, *np.cumsum(lengths)]),
        transform=Transform((0.0,), (1.0,), (-1.0,), (1.0,)),
    )


REWARDS = [[1.0, 1.0], [5.0], [0.0, 0.0, 1.5], [-1.0, 3.0], [9.0, -8.0], [2.0, 0.0, 0.0]]
"""Returns 2, 5, 1.5, 2, 1, 2."""


@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 6, 0.34, 0.5, 0.7, 1.0])
def test_percent_bc_keeps_the_best_episodes(share: float) -> None:
    data = episodes(REWARDS)
    agent = cases.build("pct_bc", BC | {"best_share": share})
    wanted = bc.best_rows(data.reward.tolist(), data.starts.tolist(), share)
    chosen = agent.rows(data)
    assert chosen is not None
    assert chosen.tolist() == wanted


def test_percent_bc_at_known_shares() -> None:
    def kept(share: float) -> list[int]:
        rows = cases.build("pct_bc", BC | {"best_share": share}).rows(episodes(REWARDS))
        assert rows is not None
        return rows.tolist()

    assert kept(1 / 6) == [2]
    assert kept(0.5) == [0, 1, 2, 6, 7]  # of the equal returns 2 the earlier two
    assert kept(1.0) == list(range(13))
    assert cases.build("bc", BC).rows(episodes(REWARDS)) is None


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("bc", {"log_std_min": 3.0}),
        ("pct_bc", {"best_share": 0.0}),
        ("pct_bc", {"best_share": 1.1}),
        ("td3_bc", {"alpha": -1.0}),
        ("td3_bc", {"actor_every": 0}),
        ("td3_bc", {"target_noise": -0.1}),
        ("rebrac", {"critic_penalty": -0.1}),
        ("rebrac", {"actor_penalty": -0.1}),
        ("rebrac", {"noise_clip": -0.1}),
        ("spot", {"penalty": -1.0}),
        ("spot", {"n_samples": 0}),
        ("spot", {"vae_steps": 0}),
        ("spot", {"dropout": 1.0}),
        ("spot", {"density": "kernel"}),
        ("spot", {"actor_learning_rate": 0.0}),
        ("spot", {"actor_last_bound": -1e-3}),
        ("spot", {"critic_last_bound": 0.0}),
        ("spot", {"vae_beta": 0.0}),
        ("spot", {"vae_hidden": ()}),
        ("spot", {"vae_learning_rate": 0.0}),
        ("quasi_optimal", {"regularisation": 0.0}),
        ("quasi_optimal", {"state_bandwidth": 0.0}),
        ("quasi_optimal", {"episodes": 0}),
        ("quasi_optimal", {"learning_rate_decay": -1.0}),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, wrong: dict[str, Any]) -> None:
    (key,) = wrong
    with pytest.raises(UserError, match=key):
        cases.build(name, wrong, 1)
