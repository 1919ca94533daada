"""Every proposal, actor and actor loss of FtTPO: values, gradients, stacks, refusals, dose sets."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq
from torch import Tensor

import agents
from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.training.checkpoint import training_state
from dosing.types import Problem
from tests.agents import oracle_cases as cases
from tests.oracles import fttpo, fttpo_released
from tests.oracles import mlp as nets

BASE: dict[str, Any] = {
    "hidden": cases.HIDDEN,
    "discount": 0.9,
    "temperature": 2.0,
    "q_proposal": 2.0,
    "q_actor": 0.0,
    "weight_clip": 1e4,
    "bootstrap": "actor",
    "actor_loss": "reverse_kl",
    "share_mean": True,
    "proposal": "q_gaussian",
    "actor": "sparse",
    "rho": 0.5,
    "candidates": 6,
    "nodes": 160,
}
LOSSES = (
    "reverse_kl",
    "quadrature_kl",
    "closed_form_width",
    "detached_k3",
    "max_likelihood",
    "copy_mu",
    "spot",
    "gac",
    "tawac",
)
FAMILIES = ("q_gaussian", "squashed_gaussian", "student_t")


def possible(config: cases.Config) -> bool:
    """Whether the combination is a method."""
    if config["actor"] == "gaussian" and config["proposal"] == "squashed_gaussian":
        return False
    return config["actor_loss"] != "closed_form_width" or config["proposal"] == "q_gaussian"


def options(**changes: Any) -> dict[str, Any]:
    """The settings above, changed; critics wide enough that no two candidates of gac have one value."""
    wide = {"hidden": (24, 16)} if changes.get("actor_loss") == "gac" else {}
    return BASE | wide | changes


EVERY = [
    options(actor_loss=loss, proposal=family, actor=actor)
    for loss, family, actor in itertools.product(LOSSES, FAMILIES, ("sparse", "gaussian"))
    if possible(options(actor_loss=loss, proposal=family, actor=actor))
]


def name_of(config: cases.Config) -> str:
    return "-".join(str(config[key]) for key in ("actor_loss", "proposal", "actor"))


def standard(u: np.ndarray, q: float) -> float:
    """One standard q-Gaussian draw by quantiles, or by the generalised Box-Muller form."""
    if q == 0.0:
        w = brentq(lambda w: (2.0 + 3.0 * w - w**3) / 4.0 - u[0], -1.0, 1.0, xtol=1e-15, rtol=1e-15)
        return math.sqrt(3.0) * float(w)
    if q in (1.0, 2.0):
        return float((stats.norm if q == 1.0 else stats.cauchy).ppf(u[0]))
    k = (1.0 + q) / (3.0 - q)
    return math.sqrt(-2.0 * (u[0] ** (1.0 - k) - 1.0) / (1.0 - k)) * math.cos(2.0 * math.pi * u[1])


def draws(uniform: np.ndarray, q: float) -> np.ndarray:
    """Standard draws ``[...]`` of uniform numbers ``[..., n]``."""
    flat = uniform.reshape(-1, uniform.shape[-1])
    return np.array([standard(u, q) for u in flat]).reshape(uniform.shape[:-1])


def rows(batch: Batch, seed: int, config: cases.Config) -> nets.Arrays:
    """The batch of one seed, the actor's noise as standard draws."""
    result = cases.seed_rows(batch, seed, config)
    own = fttpo.index_of_actor(dict(config))
    for name in batch.noise:
        if name != "next_act" or config["bootstrap"] == "actor":
            result[f"z_{name}"] = draws(result.pop(f"u_{name}"), own)
        elif config["proposal"] == "q_gaussian":
            result[f"z_{name}"] = draws(result.pop(f"u_{name}"), config["q_proposal"])
    return result


OWN = {name: (f"{name}.",) for name in ("critic", "value", "proposal", "actor", "behaviour")}
ORACLE = cases.Oracle(fttpo.losses, OWN, rows)
RELEASED = cases.Oracle(fttpo_released.losses, OWN)


# Values and gradients


@pytest.mark.parametrize("config", EVERY, ids=name_of)
def test_losses(config: cases.Config) -> None:
    agent = cases.build("fttpo", config)
    if config["actor"] == "gaussian" and config["actor_loss"] in ("quadrature_kl", "gac"):
        with (
            torch.no_grad()
        ):  # wide normal distributions need more nodes, and clipped candidates have one value
            agent.state_dict()["actor.width.bias"].sub_(3.0)
    cases.assert_same(ORACLE, agent, cases.make_batch(agent), config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share_mean", [True, False])
@pytest.mark.parametrize("loss", ["quadrature_kl", "spot", "gac", "tawac"])
def test_losses_of_other_indices_and_bootstraps(loss: str, share_mean: bool, family: str) -> None:
    config = options(
        actor_loss=loss,
        proposal=family,
        share_mean=share_mean,
        bootstrap="proposal",
        q_actor=-1.0 if share_mean else 0.5,
        q_proposal=1.5,
        temperature=0.7,
    )
    for n_act in (1, 3):
        agent = cases.build("fttpo", config, n_act)
        cases.assert_same(ORACLE, agent, cases.make_batch(agent), config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share_mean", [True, False])
def test_losses_of_spot_with_its_own_density(share_mean: bool, family: str) -> None:
    config = options(
        actor_loss="spot", spot_density="behaviour", proposal=family, share_mean=share_mean, q_proposal=1.5
    )
    for n_act in (1, 3):
        agent = cases.build("fttpo", config, n_act)
        cases.assert_same(ORACLE, agent, cases.make_batch(agent), config)


GRADIENT_CASES = [  # beside those of test_oracles
    *(options(actor_loss=loss) for loss in LOSSES if loss not in ("reverse_kl", "detached_k3", "tawac")),
    *(options(proposal=family) for family in FAMILIES[1:]),
    *(options(actor_loss=loss, share_mean=False) for loss in ("quadrature_kl", "spot", "gac")),
    options(actor_loss="spot", spot_density="behaviour", share_mean=False),
    options(actor="gaussian"),
    options(actor="gaussian", actor_loss="spot", share_mean=False),
    options(actor="gaussian", actor_loss="tawac"),  # a sparse one has a slope at few recorded doses
    options(actor="gaussian", actor_loss="tawac", share_mean=False, proposal="student_t"),
]


def case_name(config: cases.Config) -> str:
    density = f"-{config['spot_density']}" if "spot_density" in config else ""
    return name_of(config) + ("" if config["share_mean"] else "-own") + density


@pytest.mark.long
@pytest.mark.parametrize("config", GRADIENT_CASES, ids=case_name)
def test_gradients_equal_finite_differences_of_the_equations(config: cases.Config) -> None:
    cases.assert_gradients(ORACLE, "fttpo", config)


@pytest.mark.parametrize("config", GRADIENT_CASES, ids=case_name)
def test_each_loss_reaches_its_own_network_only(config: cases.Config) -> None:
    cases.assert_routed(ORACLE, "fttpo", config)


def test_tawac_of_a_sparse_actor_learns_from_doses_inside_its_support_alone() -> None:
    """Central differences of the oracle by the width, at recorded doses of which some are inside."""
    config = options(actor_loss="tawac")
    agent = cases.build("fttpo", config, n_act=1)
    batch = cases.make_batch(agent)
    distribution: Any = agent.policy(batch.obs).base_dist  # type: ignore[attr-defined]
    with torch.no_grad():
        batch.act.copy_(distribution.loc + 0.5 * distribution.radius * distribution.scale)
        batch.act[:, :3] += distribution.radius * distribution.scale[:, :3]
    losses, bias = agent.losses(batch)["actor"], dict(agent.named_parameters())["actor.width.bias"]
    (gradient,) = torch.autograd.grad(losses.sum(), bias)
    np.testing.assert_allclose(losses.detach(), ORACLE.expected(agent, batch, config)["actor"], rtol=1e-9)
    for seed in range(len(cases.SEEDS)):
        frozen = cases.seed_params(agent, seed)
        ends = []
        for sign in (1.0, -1.0):
            live = frozen | {"actor.width.bias": frozen["actor.width.bias"] + sign * 1e-6}
            ends.append(fttpo.losses(live, rows(batch, seed, config), config, frozen)["actor"])
        assert gradient[seed].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert bool((gradient != 0.0).all())


def test_both_sides_of_every_edge_are_compared() -> None:
    """Recorded doses inside and outside the support, candidates beyond the last inner point, kept or not."""
    config = options(actor_loss="tawac", q_actor=0.0)
    agent = cases.build("fttpo", config)
    batch = cases.make_batch(agent)
    distribution: Any = agent.policy(batch.obs).base_dist  # type: ignore[attr-defined]
    inside = (
        (batch.act > distribution.support.lower_bound) & (batch.act < distribution.support.upper_bound)
    ).all(-1)
    assert bool(inside.any())
    assert not bool(inside.all())

    config = options(actor_loss="gac")
    agent = cases.build("fttpo", config)
    batch = cases.make_batch(agent)
    with torch.no_grad():
        batch.noise["candidates"].view(-1)[:] = torch.tensor([0.0, 1.0 - 1e-12]).repeat(
            batch.noise["candidates"].numel() // 2
        )
    cases.assert_same(ORACLE, agent, batch, config)
    assert bool(agent.losses(batch)["actor"].isfinite().all())


# Teeth: equations with one mistake disagree with the agent, in exactly the losses that the mistake reaches.


def doubled(*names: str) -> Callable[..., None]:
    """Twice the raw output of a head: a scale where a squared scale is meant, or the other way round."""

    def mistake(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        for name, part in itertools.product(names, ("weight", "bias")):
            params[f"{name}.{part}"] = 2.0 * params[f"{name}.{part}"]

    return mistake


def another(**changes: Any) -> Callable[..., None]:
    """Another setting."""

    def mistake(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        config.update(changes)

    return mistake


def replaced(name: str, value: Any) -> Callable[..., None]:
    """Another constant or function of the equations."""

    def mistake(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(fttpo, name, value)

    return mistake


def swapped(first: str, second: str) -> Callable[..., None]:
    """The noise of one draw taken for the other."""

    def mistake(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        rows[first], rows[second] = rows[second], rows[first]

    return mistake


@pytest.mark.parametrize(
    ("changes", "mistake", "reached"),
    [
        ({"proposal": "student_t"}, replaced("softplus", math.exp), {"proposal", "actor"}),
        ({"proposal": "student_t"}, doubled("proposal.log_std"), {"proposal", "actor"}),
        ({"proposal": "squashed_gaussian"}, doubled("proposal.log_std"), {"proposal", "actor"}),
        (
            {"proposal": "squashed_gaussian"},
            replaced("recorded", lambda act, _: [0.99 * a for a in act]),
            {"proposal"},
        ),
        ({"actor": "gaussian"}, another(actor="sparse"), {"value", "critic", "actor"}),
        ({"actor": "gaussian"}, replaced("executed", list), {"value", "critic"}),
        ({"actor_loss": "quadrature_kl"}, replaced("entropy", lambda *_: 0.0), {"actor"}),
        ({"actor_loss": "quadrature_kl"}, swapped("z_act", "z_next_act"), {"value", "critic"}),
        ({"actor_loss": "closed_form_width"}, replaced("width_ratio", lambda *_: 0.3), {"value", "critic"}),
        ({"actor_loss": "max_likelihood"}, another(actor_loss="reverse_kl", share_mean=False), {"actor"}),
        ({"actor_loss": "spot"}, another(actor_loss="copy_mu"), {"actor"}),
        (
            {"actor_loss": "spot", "spot_density": "behaviour"},
            doubled("behaviour.mean"),
            {"behaviour", "actor"},
        ),
        (
            {"actor_loss": "spot", "spot_density": "behaviour", "proposal": "student_t"},
            replaced("density_of_spot", lambda params, _: params),
            {"behaviour", "actor"},
        ),
        ({"actor_loss": "gac"}, another(rho=0.34), {"actor"}),
        ({"actor_loss": "gac"}, replaced("INNER", 0.3), {"actor"}),
        ({"actor_loss": "tawac"}, replaced("OUTSIDE", -20.0), {"actor"}),
    ],
)
def test_a_mistake_is_seen(
    changes: dict[str, Any],
    mistake: Callable[..., None],
    reached: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases.assert_seen(ORACLE, "fttpo", options(**changes), mistake, reached, monkeypatch)


# Quadrature and closed form are the limits of the sampled loss


def toy(
    config: dict[str, Any],
    scales: tuple[float, ...],
    location: float,
    n: int = 16,
    name: str = "fttpo",
) -> tuple[Agent, Batch]:
    """A stack whose proposal has the given scale, one per seed, at one location, for every observation."""
    small = {"hidden": (8,), "target_rate": 0.05}
    agent = agents.build(name, small | config, Problem(1, 1), range(len(scales)), dtype=torch.float64)
    logs = torch.tensor(scales, dtype=torch.float64).log().view(-1, 1, 1)
    with torch.no_grad():
        for key, value in agent.state_dict().items():
            if key.startswith(("proposal.", "actor.")) and "trunk" not in key:
                value.zero_()
            if key.endswith(".mean.bias"):
                value.fill_(math.atanh(location / 0.999))
            if key == "proposal.log_variance.bias":
                value.copy_(2.0 * logs)
            if key == "proposal.log_std.bias":
                value.copy_(logs)
    noise = {
        name: ((torch.arange(n, dtype=torch.float64) + 0.5) / n)
        .view(1, n, *(1,) * (len(plan.shape) - 1))
        .expand(len(scales), *plan.shape)
        for name, plan in agent.noise(n).items()
    }
    zeros = torch.zeros(len(scales), n, dtype=torch.float64)
    return agent, Batch(zeros[..., None], zeros[..., None], zeros, zeros[..., None], zeros, noise)


def width(agent: Agent, batch: Batch) -> np.ndarray:
    """Half-width of a bounded actor, scale of a Gaussian one, ``[S]``."""
    with torch.no_grad():
        distribution: Any = agent.policy(batch.obs[:, :1]).base_dist  # type: ignore[attr-defined]
        radius = distribution.radius if distribution.q < 1.0 else 1.0
        return np.asarray((distribution.scale * radius).flatten())


def settle(agent: Agent, batch: Batch, low: float, high: float) -> None:
    """Put the bias of the actor's width where its loss has no slope, by bisection, every seed at once."""
    bias = dict(agent.named_parameters())["actor.width.bias"]
    ends = [torch.full_like(bias, end).detach() for end in (low, high)]
    for _ in range(45):
        with torch.no_grad():
            bias.copy_(0.5 * (ends[0] + ends[1]))
        (slope,) = torch.autograd.grad(agent.losses(batch)["actor"].sum(), bias)
        ends = [
            torch.where(slope < 0.0, bias, ends[0]).detach(),
            torch.where(slope < 0.0, ends[1], bias).detach(),
        ]


SCALES = (0.05, 0.08, 3.0)
LOCATION = 0.4
TABLE = {2.0: 3.2579, 1.0: math.sqrt(5.0)}


@pytest.mark.parametrize("q_proposal", [2.0, 1.0])
def test_quadrature_finds_the_published_width_without_noise(q_proposal: float) -> None:
    agent, batch = toy({"actor_loss": "quadrature_kl", "q_proposal": q_proposal}, SCALES, LOCATION)
    settle(agent, batch, -8.0, 8.0)
    widths = width(agent, batch)
    np.testing.assert_allclose(widths[:2], TABLE[q_proposal] * np.array(SCALES[:2]), rtol=1e-4)
    assert 0.97 * 0.6 < widths[2] < 0.6, "the box stops the widest"


@pytest.mark.parametrize("q_proposal", [2.0, 1.0])
def test_the_width_in_closed_form_is_the_published_one_or_the_box(q_proposal: float) -> None:
    agent, batch = toy({"actor_loss": "closed_form_width", "q_proposal": q_proposal}, SCALES, LOCATION)
    widths = width(agent, batch)
    np.testing.assert_allclose(widths[:2], TABLE[q_proposal] * np.array(SCALES[:2]), rtol=2e-5)
    assert widths[2] == pytest.approx(0.6 * (1.0 - 1e-3))
    assert "actor" not in agent.losses(batch)
    assert not [key for key, _ in agent.named_parameters() if key.startswith("actor.")]


@pytest.mark.parametrize(("q_proposal", "ratio"), [(1.0, 1.0), (2.0, 1.633978)])
def test_the_gaussian_twin_settles_at_its_own_ratio(q_proposal: float, ratio: float) -> None:
    """Beside a normal proposal it becomes the proposal."""
    assert fttpo.width_ratio(1.0, q_proposal) == pytest.approx(ratio, abs=1e-6)
    config = {"actor": "gaussian", "q_proposal": q_proposal}
    scales = (0.05, 0.08, 0.3)
    trained, batch = toy(config | {"actor_loss": "quadrature_kl", "nodes": 160}, scales, LOCATION)
    settle(trained, batch, -4.9, 1.9)
    np.testing.assert_allclose(width(trained, batch), ratio * np.array(scales), rtol=1e-4)
    closed, batch = toy(config | {"actor_loss": "closed_form_width"}, scales, LOCATION)
    np.testing.assert_allclose(width(closed, batch), ratio * np.array(scales), rtol=1e-6)


@pytest.mark.parametrize("loss", ["max_likelihood", "copy_mu", "spot"])
def test_without_entropy_every_width_is_too_wide(loss: str) -> None:
    """The loss grows with the width from the narrowest on; so does that of spot where Q is constant."""
    agent, batch = toy({"actor_loss": loss}, SCALES[:2], LOCATION)
    with torch.no_grad():
        for key, value in agent.state_dict().items():
            if key.startswith("critic."):
                value.fill_(1.0 if key.endswith("layers.1.bias") else 0.0)
    bias = dict(agent.named_parameters())["actor.width.bias"]
    for at in np.linspace(-6.0, 6.0, 9):
        with torch.no_grad():
            bias.fill_(at)
        (slope,) = torch.autograd.grad(agent.losses(batch)["actor"].sum(), bias)
        assert bool((slope > 0.0).all())


def test_the_twin_differs_in_its_distribution_only() -> None:
    """Same names, shapes and initial weights; the same critics at the same draws of a point-like width."""
    sparse, twin = (
        agents.build("fttpo", {"hidden": cases.HIDDEN, "actor": actor}, Problem(4, 2), cases.SEEDS)
        for actor in ("sparse", "gaussian")
    )
    own, other = sparse.state_dict(), twin.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)
    obs = torch.randn(len(cases.SEEDS), 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sparse.policy(obs).mode, twin.policy(obs).mode)
    bounded, tails = (agent.policy(obs).base_dist.support for agent in (sparse, twin))  # type: ignore[attr-defined]
    assert hasattr(bounded, "lower_bound")
    assert not hasattr(tails, "lower_bound")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_draw_averages_to_the_quadrature(family: str) -> None:
    """Midpoints of 4096 equal cells of the noise against the integral, for every proposal."""
    config = {"proposal": family, "hidden": (8,), "nodes": 64}
    sampled, exact = (
        agents.build("fttpo", config | {"actor_loss": loss}, Problem(1, 1), (0,), dtype=torch.float64)
        for loss in ("reverse_kl", "quadrature_kl")
    )
    n = 4096
    u = ((torch.arange(n, dtype=torch.float64) + 0.5) / n).view(1, n, 1, 1)
    zeros = torch.zeros(1, n, dtype=torch.float64)
    obs = torch.full((1, n, 1), 0.3, dtype=torch.float64)
    batch = Batch(obs, obs, zeros, obs, zeros, {"act": u, "next_act": u})
    with torch.no_grad():
        assert sampled.losses(batch)["actor"].item() == pytest.approx(
            exact.losses(batch)["actor"].item(), abs=1e-5
        )


# Stacks


@pytest.mark.long
@pytest.mark.parametrize("config", EVERY, ids=case_name)
def test_a_stacked_seed_is_the_seed_alone_and_an_update_is_its_batch(config: cases.Config) -> None:
    """Four updates; the same again from a copy; the losses of a batch change nothing."""
    config = dict(config) | {"nodes": 16}
    both = agents.build("fttpo", config, Problem(4, 2), cases.SEEDS, dtype=torch.float64)
    batches = [cases.make_batch(both, step) for step in range(4)]
    again = copy.deepcopy(both)
    for batch in batches:
        before = copy.deepcopy(training_state(both))
        both.losses(batch)
        assert all(torch.equal(value, before[key]) for key, value in training_state(both).items())
        report = both.update(batch)
        repeated = again.update(batch)
        assert all(torch.equal(report[key], repeated[key]) for key in report)
        assert all(bool(value.isfinite().all()) for value in report.values())
    for k, seed in enumerate(cases.SEEDS):
        alone = agents.build("fttpo", config, Problem(4, 2), (seed,), dtype=torch.float64)
        for batch in batches:
            alone.update(only(batch, k))
        state = training_state(alone)
        for key, value in training_state(both).items():
            if value.dim() > 0:
                torch.testing.assert_close(value[k], state[key][0], rtol=1e-12, atol=1e-12, msg=key)


def only(batch: Batch, k: int) -> Batch:
    """The batch of seed number ``k`` alone."""

    def part(value: Tensor) -> Tensor:
        return value[k : k + 1]

    return Batch(
        *(part(x) for x in (batch.obs, batch.act, batch.reward, batch.next_obs, batch.terminated)),
        {key: part(value) for key, value in batch.noise.items()},
        {},
        batch.step,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"actor_loss": "quadrature_kl", "proposal": "squashed_gaussian"},
        {"actor_loss": "closed_form_width"},
        {"actor_loss": "gac", "proposal": "student_t"},
        {"actor_loss": "spot", "actor": "gaussian"},
    ],
    ids=str,
)
def test_losses_compile_into_one_graph(changes: dict[str, Any]) -> None:
    torch.compiler.reset()
    agent = cases.build("fttpo", options(**changes))
    batch = cases.make_batch(agent)
    compiled = torch.compile(agent.losses_and_metrics, fullgraph=True, backend="aot_eager")
    expected = agent.losses(batch)
    for key, value in compiled(batch)[0].items():
        torch.testing.assert_close(value, expected[key])


# Refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q_actor": 1.0}, "q_actor"),
        ({"q_proposal": 3.0}, "q_proposal"),
        ({"q_proposal": 0.5}, "q_proposal"),
        ({"temperature": 0.0}, "temperature"),
        ({"nodes": 0}, "nodes"),
        ({"candidates": 0}, "candidates"),
        ({"rho": 0.05}, "rho"),
        ({"rho": 1.5}, "rho"),
        ({"actor": "gaussian", "proposal": "squashed_gaussian"}, "outside the box"),
        ({"actor_loss": "copy_mu", "share_mean": False}, "share_mean"),
        ({"spot_density": "behaviour"}, "needs actor_loss 'spot'"),
        ({"actor_loss": "closed_form_width", "proposal": "student_t"}, "closed_form_width"),
        ({"actor_loss": "closed_form_width", "share_mean": False}, "closed_form_width"),
    ],
    ids=str,
)
def test_what_makes_no_method_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        agents.build("fttpo", changes, Problem(4, 1), (0,))


# The dose set


@pytest.mark.parametrize("loss", ["reverse_kl", "closed_form_width", "max_likelihood"])
@pytest.mark.parametrize("n_act", [1, 2])
@pytest.mark.parametrize("q_actor", [-1.0, 0.0, 0.5, 0.9])
def test_no_dose_leaves_the_box_and_the_density_is_whole(q_actor: float, n_act: int, loss: str) -> None:
    """Random weights from tame to huge, random and adversarial states, single precision, extreme noise."""
    rng = np.random.default_rng(0)
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for factor in (1.0, 30.0, 1e3):
        config = {"hidden": cases.HIDDEN, "q_actor": q_actor, "actor_loss": loss}
        agent = agents.build("fttpo", config, Problem(3, n_act), cases.SEEDS)
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.copy_(torch.from_numpy(factor * rng.standard_normal(parameter.shape)))
            obs = torch.from_numpy(rng.standard_normal((len(cases.SEEDS), 40, 3)).astype(np.float32))
            obs[:, 10:20] *= 1e4
            obs[:, 20:30] = torch.randint(-1, 2, (len(cases.SEEDS), 10, 3)) * 1e8
            distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
            low, high = distribution.support.lower_bound, distribution.support.upper_bound
            assert bool((low > -1.0).all())
            assert bool((high < 1.0).all())
            assert bool((low < high).all())
            for u in (*rng.random(4), 0.0, 2.0**-25, 1.0 - 2.0**-24, 1.0):
                drawn = distribution.rsample_from(
                    torch.full((*distribution.batch_shape, distribution.n_uniforms), float(u))
                )
                assert bool(((drawn >= low) & (drawn <= high)).all())
            # w = sin(t) takes the root at the edge of a flat distribution out of the integral
            double = type(distribution)(distribution.loc.double(), distribution.scale.double(), q_actor)
            t = torch.from_numpy(0.5 * math.pi * nodes).view(-1, 1, 1, 1)
            reach = double.radius * double.scale
            density = double.log_prob(double.loc + reach * torch.sin(t)).exp() * reach * torch.cos(t)
            mass = (density * torch.from_numpy(0.5 * math.pi * weights).view(-1, 1, 1, 1)).sum(0)
            np.testing.assert_allclose(mass.numpy(), 1.0, atol=1e-9)
            ends = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, *distribution.batch_shape)
            assert bool((distribution.log_prob(ends) == -math.inf).all())


# The released code


PUBLISHED = {
    name: BASE[name]
    for name in ("hidden", "discount", "temperature", "q_proposal", "q_actor", "weight_clip", "proposal")
}


def test_the_released_code_is_not_regularised() -> None:
    for option in ({"dropout": 0.1}, {"prior": "constant_dose"}):
        with pytest.raises(UserError, match=f"as released .* got {next(iter(option))}"):
            agents.build("fttpo_released", {}, Problem(4, 1), (0,), regularisation=option)


@pytest.mark.parametrize("changes", [{"q_actor": 1.0}, {"q_proposal": 1.0}, {"q_proposal": 3.0}], ids=str)
def test_a_released_index_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(changes))):
        agents.build("fttpo_released", changes, Problem(4, 1), (0,))


@pytest.mark.parametrize(
    ("mistake", "reached"),
    [
        (doubled("proposal.log_variance"), {"critic", "proposal", "actor"}),
        (swapped("u_act", "u_value_act"), {"value", "actor"}),
        (another(q_actor=0.5), {"value", "actor"}),
    ],
)
def test_a_mistake_in_the_released_code_is_seen(
    mistake: Callable[..., None], reached: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.assert_seen(RELEASED, "fttpo_released", PUBLISHED, mistake, reached, monkeypatch)


@pytest.mark.parametrize("n_act", [1, 2, 3])
@pytest.mark.parametrize(
    ("q_proposal", "q_actor", "family"),
    [(2.0, 0.0, "q_gaussian"), (1.5, 0.5, "q_gaussian"), (2.0, 0.0, "squashed_gaussian")],
)
def test_published_losses(q_proposal: float, q_actor: float, family: str, n_act: int) -> None:
    config = PUBLISHED | {"q_proposal": q_proposal, "q_actor": q_actor, "proposal": family}
    agent = cases.build("fttpo_released", config, n_act)
    cases.assert_same(RELEASED, agent, cases.make_batch(agent), config)


@pytest.mark.long
@pytest.mark.parametrize("family", ["q_gaussian", "squashed_gaussian"])
def test_published_gradients_and_routes(family: str) -> None:
    config = PUBLISHED | {"proposal": family}
    cases.assert_gradients(RELEASED, "fttpo_released", config)
    agent = cases.build("fttpo_released", config)
    batch = cases.make_batch(agent)
    named = {key: p for key, p in agent.named_parameters() if p.requires_grad}
    for loss, value in agent.losses(batch).items():
        gradients = torch.autograd.grad(value[0], list(named.values()), allow_unused=True, retain_graph=True)
        reached = {key for key, g in zip(named, gradients, strict=True) if g is not None and bool(g.any())}
        assert reached
        assert all(key.startswith(OWN[loss]) for key in reached)


def test_the_published_mean_learns_nothing_from_draws_inside_the_box() -> None:
    agent = cases.build("fttpo_released", PUBLISHED, n_act=1)
    with torch.no_grad():
        agent.state_dict()["actor.width.bias"].fill_(-9.0)  # narrow: no draw is clamped
        agent.state_dict()["actor.width.weight"].zero_()
        agent.state_dict()["actor.mean.weight"].mul_(0.1)
    head = dict(agent.named_parameters())["actor.mean.weight"]
    loss = agent.losses(cases.make_batch(agent))["actor"].sum()
    (gradient,) = torch.autograd.grad(loss, head)
    assert gradient.abs().max().item() < 1e-12


def test_published_updates_step_in_turn_and_copy_before_the_actor() -> None:
    """After an update the actor's mean is one Adam step from the proposal's, and moments accumulate."""
    agent = cases.build("fttpo_released", PUBLISHED)
    rate = agent.config.learning_rate  # type: ignore[union-attr]
    for step in range(2):
        batch = cases.make_batch(agent)
        reported = agent.update(batch)
        state = agent.state_dict()
        for part in ("trunk.layers.0.weight", "trunk.layers.1.weight"):
            apart = (state[f"actor.{part}"] - state[f"proposal.{part}"]).abs().max().item()
            assert 0.0 < apart < 1.01 * (step + 1) * rate, (
                "the copy precedes the step, and does not follow it"
            )
    moments = agent.optimizers["actor"].state_dict()["state"]
    assert all(float(m["step"]) == 2.0 for m in moments.values())
    alone = cases.build("fttpo_released", PUBLISHED)
    at_once = alone.losses(cases.make_batch(alone))
    first = cases.build("fttpo_released", PUBLISHED).update(cases.make_batch(alone))
    assert torch.equal(first["loss/value"], at_once["value"])
    assert torch.equal(first["loss/critic"], at_once["critic"])
    assert not torch.equal(first["loss/proposal"], at_once["proposal"]), "its weight is of stepped critics"
    assert set(reported) >= {"loss/value", "loss/critic", "loss/proposal", "loss/actor"}


def test_published_density_integrates_to_the_square_root_of_two_and_its_draws_are_normal() -> None:
    agent = cases.build("fttpo_released", PUBLISHED, n_act=1)
    params, obs = cases.seed_params(agent, 0), np.zeros(4)
    fat: Any = fttpo_released.Fat(params, obs, PUBLISHED)
    fat.mean, fat.sigma = [0.0], [1e-3**2]  # so narrow that the box holds all but 1e-3 of it
    grid = np.tan(np.linspace(-0.5, 0.5, 200_001)[1:-1] * math.pi) * 1e-3 * math.sqrt(2.0)
    grid = grid[np.abs(grid) < 0.999]
    values = np.array([math.exp(fat.log_prob([float(x)])) for x in grid[::50]])
    assert np.trapezoid(values, grid[::50]) == pytest.approx(math.sqrt(2.0), rel=3e-3)
    uniform = np.random.default_rng(0).random((4000, 1, 2))
    drawn = np.array([fat.draw(u)[0] for u in uniform]) / 1e-3
    assert stats.kstest(drawn, "norm").pvalue > 0.01


@pytest.mark.long
def test_published_actor_settles_where_its_ratio_averages_one() -> None:
    """h = 2.8539 sigma_phi: the width that only the factor sqrt(2) in the proposal's density makes finite."""
    scales = (0.05, 0.08)
    agent, batch = toy({}, scales, 0.0, n=4096, name="fttpo_released")
    n = batch.reward.shape[1]
    sides = torch.where(torch.arange(n) % 2 == 0, 0.25, 0.75).double()
    cells = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    noise = dict(batch.noise) | {"act": torch.stack((cells, sides), -1).expand(len(scales), n, 2)}
    settle(agent, dataclasses.replace(batch, noise=noise), -13.0, -0.01)
    np.testing.assert_allclose(width(agent, batch), 2.8539 * np.array(scales), rtol=6e-3)


def test_published_policy_has_the_edges_of_the_joint_distribution() -> None:
    """In two dimensions the marginal of the elliptical distribution: mass by rings of the ellipse, and its
    extent."""
    agent = cases.build("fttpo_released", PUBLISHED, n_act=2)
    obs = cases.make_batch(agent).obs
    with torch.no_grad():
        distribution: Any = agent.policy(obs).base_dist  # type: ignore[attr-defined]
        state = cases.seed_params(agent, 0)
        thin = fttpo_released.Thin(state, obs[0, 0].numpy(), PUBLISHED)
        reach = (distribution.support.upper_bound - distribution.support.lower_bound)[0, 0] / 2.0
        np.testing.assert_allclose(reach, thin.half_widths(), rtol=1e-12)
        # marginal density of the first axis at its centre: the joint density integrated over the second
        nodes, weights = np.polynomial.legendre.leggauss(60)
        second = thin.mean[1] + nodes * thin.half_widths()[1]
        joint = [math.exp(thin.log_prob([thin.mean[0], float(y)])) for y in second]
        wanted = float(np.dot(joint, weights)) * thin.half_widths()[1]
        assert distribution.log_prob(distribution.loc)[0, 0, 0].exp().item() == pytest.approx(
            wanted, rel=1e-9
        )
