"""Every loss of IQL and FtTPO equals its equations written out in loops, in value and in gradient.

Where FtTPO draws, the oracle receives noise that is obtained from the same uniform numbers through formulas
of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq

from dosing.models.batch import Batch
from dosing.models.policy_heads import Family
from tests.agents import oracle_cases as cases
from tests.oracles import fttpo, iql
from tests.oracles import mlp as nets

IQL = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "expectile": 0.8,
    "inverse_temperature": 2.0,
    "weight_clip": 100.0,
    "log_std_min": -5.0,
    "log_std_max": 2.0,
}
FTTPO = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "temperature": 2.0,
    "q_proposal": 2.0,
    "q_actor": 0.0,
    "weight_clip": 1e4,
    "bootstrap": "actor",
    "actor_loss": "reverse_kl",
    "share_mean": True,
}


def standard_noise(uniform: np.ndarray, q: float) -> float:
    """One standard q-Gaussian draw: the inverse distribution function, or the generalised Box-Muller form.

    Thistleton, Marsh, Nelson, Tsallis 2007: z = sqrt(-2 ln_qhat(U1)) cos(2 pi U2), qhat = (1 + q)/(3 - q).
    """
    if q == 0.0:
        (u,) = uniform
        w = brentq(lambda w: (2.0 + 3.0 * w - w**3) / 4.0 - u, -1.0, 1.0, xtol=1e-15, rtol=1e-15)
        return math.sqrt(3.0) * float(w)
    if q == 1.0:
        (u,) = uniform
        return float(stats.norm.ppf(u))
    if q == 2.0:
        (u,) = uniform
        return float(stats.cauchy.ppf(u))
    u1, u2 = uniform
    index = (1.0 + q) / (3.0 - q)
    log_q = (u1 ** (1.0 - index) - 1.0) / (1.0 - index)
    return math.sqrt(-2.0 * log_q) * math.cos(2.0 * math.pi * u2)


def fttpo_rows(batch: Batch, seed: int, config: cases.Config) -> nets.Arrays:
    """The batch of one seed, noise as standard q-Gaussian draws."""
    rows = cases.seed_rows(batch, seed, config)
    for name in batch.noise:
        actor = name == "act" or config["bootstrap"] == "actor"
        q = config["q_actor"] if actor else config["q_proposal"]
        rows[f"z_{name}"] = np.array([[standard_noise(u, q) for u in row] for row in rows.pop(f"u_{name}")])
    return rows


ORACLES = {
    "iql": cases.Oracle(iql.losses, {"critic": ("critic.",), "value": ("value.",), "actor": ("actor.",)}),
    "fttpo": cases.Oracle(
        fttpo.losses,
        {"critic": ("critic.",), "value": ("value.",), "proposal": ("proposal.",), "actor": ("actor.",)},
        fttpo_rows,
    ),
}


# Values


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize("expectile", [0.5, 0.9])
@pytest.mark.parametrize("inverse_temperature", [0.0, 3.0])
def test_iql_losses(n_act: int, expectile: float, inverse_temperature: float) -> None:
    config = IQL | {"expectile": expectile, "inverse_temperature": inverse_temperature}
    agent = cases.build("iql", config, n_act)
    cases.assert_same(ORACLES["iql"], agent, cases.make_batch(agent), config)


@pytest.mark.parametrize("family", get_args(Family))
def test_iql_losses_of_every_policy_family(family: str) -> None:
    config = IQL | {"policy_family": family}
    agent = cases.build("iql", config)
    cases.assert_same(ORACLES["iql"], agent, cases.make_batch(agent), config)


@pytest.mark.parametrize(
    ("bootstrap", "actor_loss", "share_mean"),
    list(itertools.product(("actor", "proposal"), ("reverse_kl", "detached_k3"), (True, False))),
)
@pytest.mark.parametrize("q_actor", [-1.0, 0.0, 0.5])
@pytest.mark.parametrize("q_proposal", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("n_act", [1, 3])
def test_fttpo_losses(
    n_act: int, q_proposal: float, q_actor: float, bootstrap: str, actor_loss: str, share_mean: bool
) -> None:
    config = FTTPO | {
        "q_proposal": q_proposal,
        "q_actor": q_actor,
        "bootstrap": bootstrap,
        "actor_loss": actor_loss,
        "share_mean": share_mean,
    }
    agent = cases.build("fttpo", config, n_act)
    cases.assert_same(ORACLES["fttpo"], agent, cases.make_batch(agent), config)


def test_iql_bounds() -> None:
    """Both bounds of the log standard deviation and of the weight, reached and passed."""
    config = IQL | {"weight_clip": 0.05}
    agent = cases.build("iql", config)
    with torch.no_grad():
        agent.state_dict()["actor.scale"].copy_(torch.tensor([[-7.0, 3.0]]))
    batch = cases.make_batch(agent)
    cases.assert_same(ORACLES["iql"], agent, batch, config)
    unbounded = ORACLES["iql"].expected(agent, batch, config | {"weight_clip": math.inf})
    assert (unbounded["actor"] != ORACLES["iql"].expected(agent, batch, config)["actor"]).all(), (
        "no weight was clipped"
    )
    for bound in ({"log_std_min": -9.0}, {"log_std_max": 9.0}):
        loose = ORACLES["iql"].expected(agent, batch, config | bound)
        assert (loose["actor"] != cases.result(agent, batch)["actor"]).all(), f"{bound} was not reached"


def test_fttpo_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of the weight, of the proposal's scale, of the actor's width and of the density ratio."""
    config = FTTPO | {"weight_clip": 0.5}
    agent = cases.build("fttpo", config)
    batch = cases.make_batch(agent)
    with torch.no_grad():
        weights = agent.state_dict()
        weights["proposal.log_variance.bias"].copy_(torch.tensor([[-40.0, 40.0]]))
        weights["actor.width.bias"].copy_(torch.tensor([[-40.0, 40.0]]))
    cases.assert_same(ORACLES["fttpo"], agent, batch, config)
    looser = ORACLES["fttpo"].expected(agent, batch, config | {"weight_clip": 1e4})
    assert (looser["proposal"] != ORACLES["fttpo"].expected(agent, batch, config)["proposal"]).any()

    # Wide actor, narrow proposal, draws at the mean: with eight dimensions the ratio passes its bound.
    config = FTTPO | {"actor_loss": "detached_k3"}
    agent = cases.build("fttpo", config, n_act=8)
    batch = cases.make_batch(agent)
    with torch.no_grad():
        weights = agent.state_dict()
        weights["proposal.mean.weight"].mul_(0.1)
        weights["proposal.log_variance.bias"].fill_(-40.0)
        weights["actor.width.bias"].fill_(40.0)
        batch.noise["act"].fill_(0.5)
    cases.assert_same(ORACLES["fttpo"], agent, batch, config)
    monkeypatch.setattr(fttpo, "MAX_RATIO", math.inf)
    assert (
        ORACLES["fttpo"].expected(agent, batch, config)["actor"] > 2.0 * cases.result(agent, batch)["actor"]
    ).all()


def test_both_branches_are_compared() -> None:
    """The transitions above lie on both sides of FtTPO's cut-off and of IQL's expectile."""
    for name, config, members, cut in (("fttpo", FTTPO, "critic", -0.5), ("iql", IQL, "critic_target", 0.0)):
        agent = cases.build(name, config)
        sides = set()
        for seed in range(len(cases.SEEDS)):
            params, rows = (
                cases.seed_params(agent, seed),
                ORACLES[name].rows(cases.make_batch(agent), seed, config),
            )
            for obs, act in zip(rows["obs"], rows["act"], strict=True):
                low = nets.pessimistic(nets.action_values(params, f"{members}.net", obs, list(act)))
                sides.add(low - nets.state_value(params, obs) > cut)
        assert sides == {True, False}, name


# Teeth: an oracle with one mistake disagrees with the agent, in exactly the losses that the mistake reaches.


def expectile_mirrored(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["expectile"] = 1.0 - config["expectile"]


def proposal_bootstraps(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["bootstrap"] = "proposal"


def noise_swapped(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["z_act"], rows["z_next_act"] = rows["z_next_act"], rows["z_act"]


def variance_as_scale(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    for part in ("weight", "bias"):
        params[f"proposal.log_variance.{part}"] = 2.0 * params[f"proposal.log_variance.{part}"]


def proposal_not_normalised(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    right = fttpo.normaliser
    patch.setattr(fttpo, "normaliser", lambda q: right(q) * (math.sqrt(2.0) if q > 1.0 else 1.0))


@pytest.mark.parametrize(
    ("name", "mistake", "reached"),
    [
        ("iql", cases.discount_sign, {"critic"}),
        ("iql", cases.no_terminal_mask, {"critic"}),
        ("iql", cases.larger_critic, {"value", "actor"}),
        ("iql", cases.targets_are_online, {"value", "actor"}),
        ("iql", expectile_mirrored, {"value"}),
        ("iql", cases.without_tanh, {"actor"}),
        ("fttpo", cases.discount_sign, {"critic"}),
        ("fttpo", cases.no_terminal_mask, {"critic"}),
        ("fttpo", cases.larger_critic, {"value", "critic", "proposal"}),
        ("fttpo", cases.targets_are_online, {"value", "critic"}),
        ("fttpo", proposal_bootstraps, {"critic"}),
        ("fttpo", noise_swapped, {"value", "critic", "actor"}),
        ("fttpo", variance_as_scale, {"proposal", "actor"}),
        ("fttpo", proposal_not_normalised, {"proposal", "actor"}),
    ],
)
def test_a_mistake_is_seen(
    name: str, mistake: Callable[..., None], reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(ORACLES[name], name, IQL if name == "iql" else FTTPO, mistake, reached, monkeypatch)


# Gradients


CASES: list[tuple[str, dict[str, Any]]] = [
    ("iql", IQL),
    ("fttpo", FTTPO),
    ("fttpo", FTTPO | {"share_mean": False, "q_actor": 0.5, "q_proposal": 1.5}),
    ("fttpo", FTTPO | {"actor_loss": "detached_k3", "bootstrap": "proposal"}),
    ("fttpo", FTTPO | {"actor_loss": "detached_k3", "share_mean": False, "q_actor": -1.0, "q_proposal": 1.0}),
]
CASE_IDS = ["iql", "fttpo-shared-kl", "fttpo-own-kl", "fttpo-shared-k3", "fttpo-own-k3"]


@pytest.mark.long
@pytest.mark.parametrize(("name", "config"), CASES, ids=CASE_IDS)
def test_gradients_equal_finite_differences_of_the_equations(name: str, config: dict[str, Any]) -> None:
    cases.assert_gradients(ORACLES[name], name, config)


@pytest.mark.parametrize(("name", "config"), CASES, ids=CASE_IDS)
def test_each_loss_reaches_its_own_network_only(name: str, config: dict[str, Any]) -> None:
    cases.assert_routed(ORACLES[name], name, config)


# The one-sample reverse KL is unbiased


@pytest.mark.parametrize("share_mean", [True, False])
@pytest.mark.parametrize("q_proposal", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("q_actor", [-1.0, 0.0, 0.5])
def test_reverse_kl_loss_averages_to_the_divergence(
    q_actor: float, q_proposal: float, share_mean: bool
) -> None:
    """Averaged over evenly spread noise, the loss is the divergence obtained by quadrature."""
    config = FTTPO | {"q_actor": q_actor, "q_proposal": q_proposal, "share_mean": share_mean}
    agent = cases.build("fttpo", config, n_act=1)
    n_uniforms = agent.noise(1)["act"].shape[-1]
    points = stats.qmc.Sobol(n_uniforms, scramble=False).random_base2(14) + 2.0**-15  # centred in their cells
    n_rows = len(points)
    obs = np.broadcast_to(
        np.random.default_rng(8).standard_normal(cases.N_OBS), (len(cases.SEEDS), n_rows, cases.N_OBS)
    )
    zeros = torch.zeros(len(cases.SEEDS), n_rows, dtype=torch.float64)
    noise = torch.from_numpy(
        np.ascontiguousarray(np.broadcast_to(points, (len(cases.SEEDS), n_rows, n_uniforms)))
    )
    next_uniforms = agent.noise(1)["next_act"].shape[-1]
    batch = Batch(
        obs=torch.from_numpy(np.ascontiguousarray(obs)),
        act=zeros.unsqueeze(-1),
        reward=zeros,
        next_obs=torch.from_numpy(np.ascontiguousarray(obs)),
        terminated=zeros,
        noise={
            "act": noise.unsqueeze(2),
            "next_act": torch.full((len(cases.SEEDS), n_rows, 1, next_uniforms), 0.5, dtype=torch.float64),
        },
    )
    with torch.no_grad():
        losses = agent.losses(batch)["actor"].numpy()
    for seed in range(len(cases.SEEDS)):
        params = cases.seed_params(agent, seed)
        (mean,), (scale,) = fttpo.actor(params, params, obs[0, 0], config)
        (location,), (spread,) = fttpo.proposal(params, obs[0, 0])
        divergence = fttpo.reverse_kl(mean, scale, q_actor, location, spread, q_proposal)
        # The quadrature is good to 1e-10; 2^14 evenly spread points average a smooth function to 1e-4.
        assert losses[seed] == pytest.approx(divergence, abs=2e-4)
        assert divergence > 2e-3, "too small a divergence to be compared"
