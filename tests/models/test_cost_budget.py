"""Costs within a budget: dual ascent, the cost critic and trimmed supports against what is known exactly."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Independent

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.distributions import Parabola, QGaussian
from dosing.distributions.double import in_double
from dosing.distributions.truncated import Truncated
from dosing.errors import UserError
from dosing.models import cost_budget
from dosing.models.batch import Batch
from dosing.models.cost_budget import CostBudget, admissible
from dosing.models.networks import Initialiser
from dosing.policy import DosePolicy
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.compilation import updater
from dosing.training.sampler import Lookahead, Sampler
from dosing.types import Problem
from tests.support.samples import PROBLEM, cohort, dataset, long_for_most, small

SEEDS = (0, 3)
BUDGET = 1.0
DTYPE = torch.float64


def built(name: str, seeds: tuple[int, ...] = SEEDS, budget: float | None = BUDGET, **options: Any) -> Agent:
    fields = {"cost_budget": budget} | options
    return agents.build(name, small(name), PROBLEM, seeds, dtype=DTYPE, regularisation=fields)


def trained(agent: Agent, steps: int = 5, data: Dataset | None = None) -> list[dict[str, torch.Tensor]]:
    sampler, take = Sampler(data or dataset(dtype=DTYPE), agent, 32), updater(agent)
    return [take(sampler(step)) for step in range(steps)]


def able() -> list[str]:
    """Agents that can be trained within a budget; the released code takes no options at all."""
    classes = {name: spec.agent_class() for name, spec in agents.AGENTS.items() if name != "fttpo_released"}
    return [name for name, kind in classes.items() if kind.rewards == "any"]


# The budget against what is known


class Climber:
    """A deterministic policy of one number that climbs the charged reward, fitted to the batch's rows."""

    def __init__(self, seeds: int) -> None:
        self.dose = torch.zeros(seeds, 1, dtype=DTYPE)

    def __call__(self, obs: torch.Tensor) -> Independent:
        loc = self.dose.unsqueeze(1).expand(len(obs), obs.shape[1], 1)
        return Independent(QGaussian(loc, torch.full_like(loc, 0.1), 0.0), 1)


@pytest.mark.long
@pytest.mark.parametrize(("budget", "dose", "price"), [(2.0, 0.4, 0.8), (6.0, 0.8, 0.0)])
def test_dual_ascent_finds_the_multiplier_of_a_constrained_bandit(
    budget: float, dose: float, price: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward 1 - (a - 0.8)^2, cost (a + 1) in [0, 2] less 0.4 per visit, two visits an episode.

    Without a budget the best dose is 0.8. The cost of an episode is 2 (a + 0.6) = 2 at a = 0.4; there the
    slope of the reward, 2 (0.8 - 0.4) = 0.8, is lambda times that of the cost, 1.
    """
    monkeypatch.setattr(cost_budget, "LEARNING_RATE", 1e-2)
    monkeypatch.setattr(cost_budget, "HIDDEN", (8,))
    problem, rows = Problem(1, 1, 2), 64
    rng = np.random.default_rng(0)
    act = torch.as_tensor(rng.uniform(-0.6, 1.0, (2, rows, 1)))
    obs = torch.zeros(2, rows, 1, dtype=DTYPE)
    reward, cost = 1.0 - (act[..., 0] - 0.8).square(), act[..., 0] + 0.6
    data = bandit(act[0], cost[0])
    own = CostBudget(Initialiser((0, 1), dtype=DTYPE), problem, budget, discount=0.0)
    own.prepare(data)
    policy = Climber(2)
    batch = Batch(obs, act, reward, obs, torch.ones_like(reward), extra={"cost": cost.unsqueeze(-1)})
    for _ in range(1500):
        charged = own.charged(batch)
        # the exact least-squares parabola of what the agent sees, and one step towards its top
        powers = torch.cat((torch.ones_like(act), act, act.square()), -1)
        fit = torch.linalg.lstsq(powers, charged.reward.unsqueeze(-1)).solution[..., 0]
        top = -fit[:, 1:2] / (2.0 * fit[:, 2:3])
        policy.dose = torch.lerp(policy.dose, top, 0.2)
        metrics = own.update(batch, policy)
    torch.testing.assert_close(policy.dose, torch.full((2, 1), dose, dtype=DTYPE), rtol=0.0, atol=0.02)
    torch.testing.assert_close(own.price, torch.full((2,), price, dtype=DTYPE), rtol=0.0, atol=0.04)
    expected = 2.0 * (dose + 0.6)
    torch.testing.assert_close(
        metrics["cost/predicted"], torch.full((2,), expected, dtype=DTYPE), rtol=0.0, atol=0.05
    )


def bandit(act: torch.Tensor, cost: torch.Tensor) -> Dataset:
    """Episodes of two visits with these doses and costs."""
    rows = len(act)
    return Dataset(
        obs=torch.zeros(rows, 1, dtype=DTYPE),
        act=act,
        reward=torch.zeros(rows, dtype=DTYPE),
        next_obs=torch.zeros(rows, 1, dtype=DTYPE),
        terminated=torch.ones(rows, dtype=DTYPE),
        starts=torch.arange(0, rows + 1, 2),
        transform=Transform((0.0,), (1.0,), (-1.0,), (1.0,)),
        cost=cost,
    )


@pytest.mark.long
def test_the_cost_critic_is_the_exact_evaluation_of_a_policy_on_a_chain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three states one-hot; state k costs k and the dose; state 2 ends with probability 1/2.

    C = (1 - gamma) (I - gamma P_pi)^-1 c_pi by linear algebra, and C(s, a) for another first dose.
    """
    monkeypatch.setattr(cost_budget, "LEARNING_RATE", 5e-3)
    monkeypatch.setattr(cost_budget, "HIDDEN", (16,))
    gamma, follows = 0.8, np.array([0.5, -0.25, 0.0])
    transition = np.array([[0.2, 0.8, 0.0], [0.0, 0.3, 0.7], [0.25, 0.0, 0.25]])  # the rest of state 2 ends

    def cost_of(state: Any, dose: Any) -> Any:
        return state + (dose + 1.0) ** 2

    values = np.linalg.solve(np.eye(3) - gamma * transition, cost_of(np.arange(3), follows))
    own = CostBudget(Initialiser((0, 5), dtype=DTYPE), Problem(3, 1), 1.0, gamma)

    class Fixed:
        def __call__(self, obs: torch.Tensor) -> Independent:
            loc = (obs @ torch.as_tensor(follows)).unsqueeze(-1)
            return Independent(QGaussian(loc, torch.full_like(loc, 0.1), 0.0), 1)

    # every state with doses of a grid and every following state, in the right shares
    rows = []
    for state in range(3):
        shares = [*transition[state], 1.0 - transition[state].sum()]
        for dose in np.linspace(-1.0, 1.0, 5):
            for following, share in enumerate(shares):
                rows += [(state, dose, min(following, 2), following == 3)] * round(20 * share)
    state, dose, following, ended = (torch.as_tensor(np.array(x)) for x in zip(*rows, strict=True))
    one_hot = torch.eye(3, dtype=DTYPE)
    cost = cost_of(state, dose)
    own.prepare(dataclasses.replace(bandit(dose[:, None], cost), starts=torch.tensor([0, len(cost)])))

    def both(x: torch.Tensor) -> torch.Tensor:
        return x.expand(2, *x.shape)

    batch = Batch(
        both(one_hot[state]),
        both(dose[:, None]),
        both(cost),
        both(one_hot[following]),
        both(ended.to(DTYPE)),
        extra={"cost": both(cost[:, None])},
    )
    for _ in range(2500):
        own.update(batch, Fixed())
    tried = torch.tensor([[-1.0], [0.5], [1.0]], dtype=DTYPE)
    obs = both(one_hot.repeat_interleave(3, 0))
    told = own.predicted(obs, both(tried.repeat(3, 1))).detach() / len(cost)
    first = cost_of(np.arange(3)[:, None], tried.numpy()[:, 0]) + gamma * (transition @ values)[:, None]
    np.testing.assert_allclose(
        told.unflatten(1, (3, 3)).numpy(), (1 - gamma) * np.stack([first] * 2), rtol=0.02
    )


# Trimmed supports


def laws(count: int = 400) -> list[tuple[Any, tuple[torch.Tensor, ...]]]:
    """Laws with quadratics of every kind: no, one and two crossings, open upwards, downwards and straight."""
    rng = np.random.default_rng(1)
    loc, scale = (torch.as_tensor(x) for x in (rng.uniform(-0.5, 0.5, count), rng.uniform(0.01, 0.2, count)))
    c, b, a = (torch.as_tensor(rng.normal(0.0, s, count)) for s in (0.1, 0.6, 2.0))
    a, b = a.clone(), b.clone()
    a[:60] = 0.0
    b[:20] = 0.0
    return [
        (law, (c, b, a))
        for law in (QGaussian(loc, scale, 0.0), QGaussian(loc, scale, 0.7), Parabola(loc, 3.0))
    ]


@pytest.mark.long
@pytest.mark.parametrize(("law", "quadratic"), laws())
def test_a_trimmed_support_is_the_admissible_part_of_highest_density(
    law: Any, quadratic: tuple[torch.Tensor, ...]
) -> None:
    """Against a fine grid of doses of every support."""
    c, b, a = quadratic
    piece = admissible(law, c, b, a)
    low, high = law.support.lower_bound, law.support.upper_bound
    grid = low + (high - low) * torch.linspace(0.0, 1.0, 4001, dtype=DTYPE)[:, None]  # [K, M]
    cost = c + grid * (b + a * grid)
    density = law.log_prob(grid).masked_fill(cost > 0.0, -math.inf)
    step = (high - low) / 4000.0
    for k in range(len(c)):
        if bool(piece.empty[k]):
            assert int((cost[:, k] <= 0.0).sum()) <= 1
            least = float(grid[cost[:, k].argmin(), k])
            assert piece.low[k] - step[k] <= least <= piece.high[k] + step[k]
            assert float(piece.high[k] - piece.low[k]) == pytest.approx(1e-3 * float(high[k] - low[k]))
            continue
        best = int(density[:, k].argmax())
        if density[best, k] == -math.inf:
            assert float(piece.high[k] - piece.low[k]) <= 2.0 * float(step[k])
            continue
        start = end = best
        while start > 0 and cost[start - 1, k] <= 0.0:
            start -= 1
        while end < 4000 and cost[end + 1, k] <= 0.0:
            end += 1
        tolerance = 1.01 * float(step[k])
        assert float(piece.low[k]) == pytest.approx(float(grid[start, k]), abs=tolerance)
        assert float(piece.high[k]) == pytest.approx(float(grid[end, k]), abs=tolerance)
        ends = torch.stack((piece.low[k], piece.high[k]))
        assert bool((c[k] + ends * (b[k] + a[k] * ends) <= 1e-12).all())


@pytest.mark.long
@pytest.mark.parametrize("q", [-1.0, 0.0, 0.5])
def test_a_truncated_law_has_no_density_outside_and_the_mass_of_one_inside(q: float) -> None:
    rng = np.random.default_rng(2)
    loc, scale = torch.as_tensor(rng.uniform(-0.5, 0.5, 50)), torch.as_tensor(rng.uniform(0.05, 0.2, 50))
    base = QGaussian(loc, scale, q)
    span = base.support.upper_bound - base.support.lower_bound  # type: ignore[attr-defined]
    ends = np.sort(rng.uniform(0.02, 0.98, (2, 50)), 0)
    low, high = (base.support.lower_bound + torch.as_tensor(x) * span for x in ends)  # type: ignore[attr-defined]
    law = Truncated(base, low, high)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = low + (high - low) * torch.as_tensor(0.5 * (nodes + 1.0))[:, None]
    total = (torch.as_tensor(0.5 * weights)[:, None] * law.log_prob(x).exp()).sum(0) * (high - low)
    torch.testing.assert_close(total, torch.ones(50, dtype=DTYPE), rtol=0.0, atol=1e-10)
    inside = (base.cdf(high) - base.cdf(low)).unsqueeze(0)
    torch.testing.assert_close(law.log_prob(x).exp() * inside, base.log_prob(x).exp())
    for beyond in (torch.nextafter(low, low - 1.0), torch.nextafter(high, high + 1.0), low - 1.0, high + 1.0):
        assert bool((law.log_prob(beyond) == -math.inf).all())
        assert bool(((law.cdf(beyond) == 0.0) | (law.sf(beyond) == 0.0)).all())
    extremes = torch.cat(
        (torch.zeros(1, dtype=DTYPE), torch.rand(2000, dtype=DTYPE), torch.ones(1, dtype=DTYPE))
    )
    drawn = law.rsample_from(extremes[:, None, None].expand(-1, 50, 1))
    assert bool(((drawn >= low) & (drawn <= high)).all())
    p = torch.linspace(0.0, 1.0, 101, dtype=DTYPE)[:, None]
    torch.testing.assert_close(law.cdf(law.icdf(p)), p.expand(-1, 50), rtol=0.0, atol=1e-9)
    torch.testing.assert_close(law.cdf(x) + law.sf(x), torch.ones_like(x))
    wide = law.expand((3, 50))
    torch.testing.assert_close(wide.log_prob(x[:, None]), law.log_prob(x)[:, None].expand(-1, 3, -1))
    assert law.kind == "interval"
    assert bool((law.mode == torch.minimum(torch.maximum(loc, low), high)).all())


@pytest.mark.parametrize("q", [0.0, 0.8, 0.9])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_quantiles_are_exact_far_out_on_either_side(q: float, side: float) -> None:
    """In the last thousandth of the support, where one tail's probability is lost beside 1."""
    zero, scale = torch.zeros(1, dtype=DTYPE), torch.full((1,), 0.1, dtype=DTYPE)
    base = QGaussian(zero, scale, q)
    edge = float(base.support.upper_bound)  # type: ignore[attr-defined]
    ends = sorted((side * 0.999 * edge, side * 0.9999 * edge))
    law = Truncated(base, zero + ends[0], zero + ends[1])
    p = torch.tensor([0.0, 0.01, 0.3, 0.5, 0.99, 1.0], dtype=DTYPE)
    torch.testing.assert_close(law.cdf(law.icdf(p)), p, rtol=0.0, atol=1e-6)


def test_a_truncated_law_of_no_width_is_refused() -> None:
    zero = torch.zeros(1, dtype=DTYPE)
    with pytest.raises(UserError, match="low must be below high"):
        Truncated(QGaussian(zero, zero + 0.1, 0.0), zero, zero)


@pytest.mark.long
@pytest.mark.parametrize("name", ["fttpo", "quasi_optimal"])
@pytest.mark.parametrize("budget", [0.0, 0.3, 1.0])
def test_doses_predicted_beyond_the_budget_have_no_density_in_the_policy(name: str, budget: float) -> None:
    agent = built(name, budget=budget)
    trained(agent, 30)
    data, episodes = dataset(dtype=DTYPE), cohort()
    policy = DosePolicy(agent, data.transform)
    obs = np.broadcast_to(episodes.obs, (2, *episodes.obs.shape))
    over = policy.over_budget(obs)
    assert over is not None
    law, unit = in_double(policy.distribution(obs)), torch.linspace(-1.0, 1.0, 201, dtype=DTYPE)
    seen = policy._obs(obs)
    assert agent.budget is not None
    with torch.no_grad():
        cost = torch.stack([agent.budget.predicted(seen, x.expand(2, len(data), 1)) for x in unit])
    density = law.log_prob(unit[:, None, None, None]).exp()[..., 0]
    dear = (cost > budget + 1e-9) & ~torch.as_tensor(over)
    assert bool((density[dear] == 0.0).all())
    sampled = policy.sampled(obs, 0)
    for dose in (policy.recommended(obs), sampled):
        predicted = policy.predicted_cost(obs, dose)
        assert predicted is not None
        assert (predicted[~over] <= budget + 1e-6).all()
        sets = policy.dose_set(obs)
        assert ((dose >= sets.low - 1e-12) & (dose <= sets.high + 1e-12)).all()


# The agent around it


@pytest.mark.parametrize("name", long_for_most(able()))
def test_within_a_budget_a_seed_of_a_stack_is_the_seed_alone(name: str) -> None:
    together, alone = built(name, (0, 3)), built(name, (3,))
    for both, one in zip(trained(together), trained(alone), strict=True):
        for key, value in both.items():
            torch.testing.assert_close(value[1:], one[key], rtol=1e-8, atol=1e-10)
    for key, value in training_state(together).items():
        if value.dim() > 0:
            torch.testing.assert_close(value[1:], training_state(alone)[key], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", long_for_most(able()))
def test_within_a_budget_a_stack_is_resumed_exactly(name: str) -> None:
    straight, first, second = (built(name, budget=0.0) for _ in range(3))
    trained(straight, 6)
    trained(first, 3)
    load_training_state(second, copy.deepcopy(training_state(first)))
    take, sampler = updater(second), Sampler(dataset(dtype=DTYPE), second, 32)
    for step in range(3, 6):
        take(sampler(step))
    for key, value in training_state(straight).items():
        assert torch.equal(value, training_state(second)[key]), key
    assert {key for key, x in training_state(straight).items() if x.dim() == 1} == set()


@pytest.mark.parametrize("name", long_for_most(able()))
def test_a_budget_that_never_binds_changes_nothing(name: str) -> None:
    plain, infinite, wide = built(name, budget=None), built(name, budget=math.inf), built(name, budget=1e9)
    assert infinite.budget is None
    assert plain.state_dict().keys() == infinite.state_dict().keys()
    assert wide.budget is not None
    for agent in (plain, infinite, wide):
        trained(agent)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, infinite.state_dict()[key]), key
        assert torch.equal(value, wide.state_dict()[key]), key


def test_the_multiplier_waits_while_the_policy_cannot_answer() -> None:
    """The cost critic learns from the start."""
    agent = built("spot", budget=0.0)
    assert agent.warm_up > 2
    assert agent.budget is not None
    start = copy.deepcopy(agent.budget.critic.state_dict())
    trained(agent, 2)
    assert bool((agent.budget.multiplier == 0.0).all())
    assert any(not torch.equal(start[name], x) for name, x in agent.budget.critic.state_dict().items())
    sampler, take = Sampler(dataset(dtype=DTYPE), agent, 32), updater(agent)
    for step in range(2, agent.warm_up + 3):
        take(sampler(step))
    assert bool((agent.budget.multiplier > 0.0).any())


def test_a_price_changes_what_is_learned_also_in_sums_of_rewards() -> None:
    for name in ("iql", "cal_ql"):
        free, dear = built(name, budget=None), built(name)
        assert dear.budget is not None
        dear.budget.multiplier.fill_(2.0)
        trained(free)
        trained(dear)
        assert not torch.equal(
            free.state_dict()["critic.net.layers.0.weight"], dear.state_dict()["critic.net.layers.0.weight"]
        )
    data, agent = dataset(dtype=DTYPE), built("cal_ql")
    assert agent.budget is not None
    sampler = Sampler(data, agent, 64)
    agent.budget.multiplier.fill_(2.0)
    batch = sampler(0)
    charged = agent.budget.charged(batch)
    price = (2.0 / agent.budget.scale).unsqueeze(-1)
    both = charged.extra["discounted_return"] + price * batch.extra["discounted_cost"]
    torch.testing.assert_close(both, batch.extra["discounted_return"])
    torch.testing.assert_close(charged.reward, batch.reward - price[..., 0] * batch.extra["cost"][..., 0])


def test_costs_are_summed_over_visits_as_rewards_are() -> None:
    """With rewards in place of the costs, the columns are the same."""
    data = dataset(dtype=DTYPE)
    twin = dataclasses.replace(data, cost=data.reward.abs(), reward=data.reward.abs())
    sampler = Sampler(twin, built("cal_ql"), 64, lookahead=Lookahead(4, 0.7))
    for step in range(3):
        batch = sampler(step)
        torch.testing.assert_close(batch.extra["cost"][..., 0], batch.reward)
        torch.testing.assert_close(batch.extra["discounted_cost"], batch.extra["discounted_return"])


def test_replicates_have_their_own_spread_of_costs() -> None:
    sets = [Dataset.from_episodes(cohort(6, seed), dtype=DTYPE) for seed in range(2)]
    joined, agent = Dataset.join(sets), built("iql")
    trained(agent, 1, joined)
    assert agent.budget is not None
    expected = torch.stack([data.cost.std(correction=0) for data in sets if data.cost is not None])
    torch.testing.assert_close(agent.budget.scale[:, 0], expected)
    assert agent.budget.visits.tolist() == [[24.0], [24.0]]


# Refusals


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("bc", {}, "BC learns from doses alone"),
        ("pct_bc", {}, "PercentBC takes something from the recorded rewards"),
        ("c51", {}, "C51 takes something from the recorded rewards"),
        ("decision_transformer", {}, "DecisionTransformer takes something from the recorded rewards"),
        ("fttpo_released", {}, "without regularisation; got cost_budget"),
        ("response_model", {}, "ResponseModel takes something from the recorded rewards"),
        ("iql", {"advantage": "model"}, "IQL on a belief learns advantages in a model of the reward alone"),
        ("iql", {"budget": -1.0}, "cost_budget must be at least 0, got -1.0"),
        ("iql", {"budget": math.nan}, "cost_budget must be at least 0, got nan"),
    ],
)
def test_who_cannot_keep_a_budget_says_so(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        built(name, **options)


def test_a_discount_of_one_is_refused() -> None:
    config = dataclasses.replace(small("iql"), discount=1.0)
    with pytest.raises(UserError, match="a cost budget needs a discount below 1"):
        agents.build("iql", config, PROBLEM, SEEDS, regularisation={"cost_budget": 1.0})


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        (None, "row 0 of the data set has none"),
        (math.nan, "row 5 of the data set has none"),
        (-1.0, "the cost of row 5 of the data set is -1"),
    ],
)
def test_visits_without_a_cost_are_refused(cost: float | None, told: str) -> None:
    data = dataset(dtype=DTYPE)
    assert data.cost is not None
    costs = data.cost.clone()
    if cost is not None:
        costs[5] = cost
    with pytest.raises(UserError, match=told):
        Sampler(dataclasses.replace(data, cost=None if cost is None else costs), built("iql"), 32)
