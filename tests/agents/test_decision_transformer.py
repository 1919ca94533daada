"""Decision Transformer: its loss, what a token can see, what it aims at, and how it looks back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv

import agents
from dosing.agent import History, policy_after
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.evaluation.history_policy import HistoryPolicy
from dosing.evaluation.rollout import evaluate, rollout
from dosing.evaluation.rules import following
from dosing.ope.targets import target as ope_target
from dosing.policy import DosePolicy
from dosing.safety import DoseLimits
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Problem
from tests.agents import oracle_cases as cases
from tests.oracles import decision_transformer as oracle
from tests.support.samples import cohort, stack

NAME = "decision_transformer"
CONFIG: cases.Config = {
    "context": 3,
    "width": 6,
    "layers": 2,
    "heads": 2,
    "residual_dropout": 0.3,
    "max_visits": 6,
}
ORACLE = cases.Oracle(oracle.losses, {"actor": ("actor.",)})


# The loss


@pytest.mark.parametrize("n_act", [1, 3])
@pytest.mark.parametrize(
    "option", [{}, {"heads": 1}, {"heads": 3}, {"layers": 1}, {"residual_dropout": 0.0}], ids=str
)
def test_losses(n_act: int, option: dict[str, Any]) -> None:
    config = {**CONFIG, **option}
    agent = cases.build(NAME, config, n_act)
    agent.get_buffer("spread")[:] = torch.tensor([[2.0], [0.3]])
    cases.assert_same(ORACLE, agent, cases.make_batch(agent), config)


def test_shifted_rewards_are_refused() -> None:
    recorded = cohort()
    data = Dataset.from_episodes(recorded, Transform.fit(recorded, shift_reward=-1.0))
    with pytest.raises(UserError, match="leave shift_reward out"):
        stack("decision_transformer").prepare(data)


@pytest.mark.long
def test_gradients() -> None:
    cases.assert_gradients(ORACLE, NAME, CONFIG)


def test_routing() -> None:
    cases.assert_routed(ORACLE, NAME, CONFIG)


def sees_the_future(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    usual = oracle.attention

    def every(q: Any, k: Any, v: Any, heads: int) -> Any:
        """As the last token sees them all, for every token."""
        return [usual([*q[:-1], row], k, v, heads)[-1] for row in q]

    patch.setattr(oracle, "attention", every)


def read_at(token: int) -> Callable[..., None]:
    def mistake(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(oracle, "STATE", token)

    return mistake


def padding_counts(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["mask"] = np.ones_like(rows["mask"])


def a_visit_early(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    rows["time_step"] = rows["time_step"] - 1.0


def no_dropout(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    config["residual_dropout"] = 0.0


def no_residual(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(oracle, "plus", lambda a, b: b)


def other_scale(config: Any, params: Any, rows: Any, patch: pytest.MonkeyPatch) -> None:
    params["spread"] = np.array([2.0])


@pytest.mark.parametrize(
    "mistake",
    [
        sees_the_future,
        read_at(0),
        read_at(2),
        padding_counts,
        a_visit_early,
        no_dropout,
        no_residual,
        other_scale,
    ],
)
def test_a_mistake_is_seen(mistake: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    cases.assert_seen(ORACLE, NAME, CONFIG, mistake, {"actor"}, monkeypatch)


def test_heads_share_nothing_and_are_scaled_by_their_size() -> None:
    """With attention sharp enough to show it."""
    agent: Any = cases.build(NAME, CONFIG)
    with torch.no_grad():
        for layer in agent.actor.layers:
            layer.qkv.weight.mul_(6.0)
    batch = cases.make_batch(agent)
    cases.assert_same(ORACLE, agent, batch, CONFIG)
    ours = ORACLE.expected(agent, batch, CONFIG)["actor"]
    assert bool(
        (abs(ORACLE.expected(agent, batch, {**CONFIG, "heads": 1})["actor"] / ours - 1.0) > 1e-3).all()
    )


# What a token sees


Inputs = dict[str, torch.Tensor]


def inputs(visits: int = 3, windows: int = 2, n_act: int = 2) -> Inputs:
    rng = torch.Generator().manual_seed(2)
    shape = (len(cases.SEEDS), windows, visits)

    def normal(*rest: int) -> torch.Tensor:
        return torch.randn(*shape, *rest, dtype=torch.float64, generator=rng)

    return {
        "return_to_go": normal(),
        "obs": normal(cases.N_OBS),
        "act": normal(n_act),
        "time_step": torch.arange(visits).expand(shape),
    }


@pytest.mark.parametrize("masked", [False, True])
def test_a_later_token_never_changes_an_earlier_action(masked: bool) -> None:
    agent: Any = cases.build(NAME, CONFIG)
    usual = inputs()
    mask = torch.ones(len(cases.SEEDS), 2, 3) if masked else None
    before = agent.actor(**usual, mask=mask)
    for visit in range(3):
        for name in usual:
            changed = {key: x.clone() for key, x in usual.items()}
            changed[name][:, :, visit] += 1
            after = agent.actor(**changed, mask=mask)
            first = visit + (name == "act")  # the dose of a visit is known from the next visit on
            assert torch.equal(after[:, :, :first], before[:, :, :first]), name
            if first < 3:
                assert bool((after[:, :, first:] != before[:, :, first:]).all()), name


@pytest.mark.parametrize("missing", [1, 2])
def test_padding_is_as_if_it_were_not_there(missing: int) -> None:
    """Whatever stands in it, also infinite numbers' neighbours: huge ones."""
    agent: Any = cases.build(NAME, CONFIG)
    whole = inputs()
    short = {key: x[:, :, missing:] for key, x in whole.items()}
    mask = torch.ones(len(cases.SEEDS), 2, 3)
    mask[:, :, :missing] = 0.0
    expected = agent.actor(**short)
    for filling in (0, 1000):
        padded = {key: x.clone() for key, x in whole.items()}
        for key in ("return_to_go", "obs", "act"):
            padded[key][:, :, :missing] = filling
        result = agent.actor(**padded, mask=mask)
        assert bool(result.isfinite().all())
        torch.testing.assert_close(result[:, :, missing:], expected, rtol=1e-12, atol=1e-12)


def test_windows_and_their_seeds_know_nothing_of_each_other() -> None:
    agent: Any = cases.build(NAME, CONFIG)
    usual = inputs()
    before = agent.actor(**usual)
    changed = {key: x.clone() for key, x in usual.items()}
    changed["obs"][0, 1] += 1.0
    same = agent.actor(**changed) == before
    assert bool(same[0, 0].all())
    assert bool(same[1].all())
    assert not bool(same[0, 1].any())


def test_dropout_is_in_the_loss_alone() -> None:
    agent = cases.build(NAME, CONFIG)
    batch = cases.make_batch(agent)
    other = dataclasses.replace(batch, noise={"dropout": 1.0 - batch.noise["dropout"]})
    assert bool((agent.losses(batch)["actor"] != agent.losses(other)["actor"]).all())
    assert torch.equal(agent.train().policy(batch.obs).mode, agent.eval().policy(batch.obs).mode)
    assert cases.build(NAME, {**CONFIG, "residual_dropout": 0.0}).noise(6) == {}


# Updates


def test_every_gradient_is_clipped_by_the_norm_of_its_own_seed() -> None:
    """As torch clips a seed that is alone; a seed with a thousandfold gradient takes nothing from another."""
    largest = 0.05
    agent = cases.build(NAME, {**CONFIG, "gradient_clip": largest})
    free = copy.deepcopy(agent)
    batch = cases.make_batch(agent)
    factor = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    losses = [factor * agent.losses(batch)["actor"]]
    agent.descend(losses, agent.optimizers.values())
    gradients = torch.autograd.grad((factor * free.losses(batch)["actor"]).sum(), list(free.parameters()))
    for seed in range(len(cases.SEEDS)):
        alone = [torch.nn.Parameter(torch.zeros_like(g[seed])) for g in gradients]
        for parameter, g in zip(alone, gradients, strict=True):
            parameter.grad = g[seed].clone()
        norm = torch.nn.utils.clip_grad_norm_(alone, largest)
        assert bool(norm > largest) == (seed == 0)
        for parameter, own in zip(alone, agent.parameters(), strict=True):
            assert own.grad is not None
            torch.testing.assert_close(own.grad[seed], parameter.grad)


def test_the_step_size_warms_up_and_stays() -> None:
    agent = agents.build(NAME, {"learning_rate": 0.1, "warm_up_steps": 4}, Problem(2, 1, 3), (0,))
    result = []
    for step in (0, 1, 2, 3, 4, 500):
        agent.schedule(step)
        result.append(agent.optimizers["actor"].param_groups[0]["lr"])
    assert result == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_every_parameter_decays() -> None:
    agent = agents.build(NAME, {"decay": 0.5}, Problem(2, 1, 3), (0, 1))
    (group,) = agent.optimizers["actor"].param_groups
    assert (group["weight_decay"], len(group["params"])) == (0.5, len(list(agent.parameters())))
    assert isinstance(agent.optimizers["actor"], torch.optim.AdamW)


# The return aimed at


VISITS = 2


def chain(count: int = 512, seed: int = 0, reward_scale: float = 2.0) -> Dataset:
    """Episodes of two visits with a level s of -1/4 or 1/4 as their state, doses uniform, rewards a - s."""
    rng = np.random.default_rng(seed)
    level = np.repeat(0.25 * np.sign(rng.standard_normal(count)), VISITS)
    act = rng.uniform(-1.0, 1.0, VISITS * count)
    obs = torch.from_numpy(level).float()[:, None]
    return Dataset(
        obs=obs,
        act=torch.from_numpy(act).float()[:, None],
        reward=torch.from_numpy((act - level) / reward_scale).float(),
        next_obs=obs,
        terminated=torch.zeros(VISITS * count),
        starts=torch.arange(0, VISITS * count + 1, VISITS),
        transform=Transform((0.0,), (1.0,), (-1.0,), (1.0,), reward_scale),
    )


def chain_agent(seeds: tuple[int, ...] = (0, 1), **config: Any) -> Any:
    small = {"width": 16, "layers": 1, "residual_dropout": 0.0, "warm_up_steps": 20}
    return agents.build(NAME, {**small, **config}, Problem(1, 1, VISITS), seeds)


def test_the_target_is_a_quantile_of_the_recorded_returns() -> None:
    data, agent = chain(), chain_agent(target_quantile=0.8)
    assert agent.context == VISITS  # of the 20 by default no more than an episode has
    agent.prepare(data)
    returns = data.reward.view(-1, VISITS).sum(1).numpy()
    expected = [returns.min(), np.quantile(returns, 0.8), returns.max()]
    np.testing.assert_allclose(agent.targets.numpy(), [expected] * 2, rtol=1e-6)
    to_go = np.stack((returns, data.reward.view(-1, VISITS)[:, 1]), 1)
    np.testing.assert_allclose(agent.spread.numpy(), to_go.std(), rtol=1e-5)


def test_a_target_is_set_in_the_worlds_unit() -> None:
    agent = chain_agent(target_return=1.5)
    agent.prepare(chain(reward_scale=2.0))
    assert agent.targets[:, 1].tolist() == [0.75] * 2
    policy = DosePolicy(agent, chain(reward_scale=2.0).transform)
    assert policy.targets is not None
    assert policy.targets[:, 1].tolist() == [1.5] * 2


def test_every_seed_aims_at_a_return_of_its_own_replicate() -> None:
    own = [chain(seed=1), chain(seed=2)]
    agent = chain_agent()
    agent.prepare(Dataset.join(own))
    for k, data in enumerate(own):
        alone = chain_agent((7,))
        alone.prepare(data)
        assert torch.equal(agent.targets[k], alone.targets[0])
        torch.testing.assert_close(agent.spread[k], alone.spread[0])
    assert not torch.equal(agent.targets[0], agent.targets[1])


def test_the_target_is_taken_once_and_saved() -> None:
    agent = chain_agent()
    agent.prepare(chain(seed=1))
    kept = copy.deepcopy(agent.state_dict())
    agent.prepare(chain(seed=2))
    loaded = chain_agent()
    loaded.load_state_dict(agent.state_dict())
    loaded.prepare(chain(seed=2))
    for result in (agent, loaded):
        for name in ("aim", "spread"):
            assert torch.equal(result.state_dict()[name], kept[name])


@pytest.fixture(scope="module")
def trained() -> Any:
    """Two seeds on the chain, the last third of the updates at a tenth of the step size."""
    data, agent = chain(), chain_agent(learning_rate=1e-2, target_quantile=0.9)
    sampler, take = Sampler(data, agent, 256), updater(agent)
    for step in range(400):
        if step == 266:
            agent.config = dataclasses.replace(agent.config, learning_rate=1e-3)
        take(sampler(step))
    return DosePolicy(agent, data.transform)


def test_a_return_names_its_dose(trained: DosePolicy) -> None:
    """At the first of two visits the mean dose of episodes with return R is R / 2 + s, at the last R + s."""
    target = np.linspace(-1.0, 1.0, 9)
    for level in (-0.25, 0.25):
        result = trained.aimed_at(target).recommended(np.full((2, 9, 1), level, dtype=np.float32))
        assert result.shape == (2, 9, 1)
        # Observed errors are 0.10 at the ends and less between; a policy blind to the target misses by 0.5.
        np.testing.assert_allclose(result[..., 0], np.tile(target / 2.0 + level, (2, 1)), atol=0.15)


class Chain(VectorEnv[Any, Any, Any]):
    """The episodes of :func:`chain`: levels alternate by patient; doses beyond the limits are held there."""

    def __init__(self, patients: int, first: int, reach: float) -> None:
        self.level, self.reach = 0.25 * (-1.0) ** np.arange(first, first + patients), reach
        self.seen: list[tuple[Any, Any]] = []

    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return self.level[:, None].astype(np.float32), {}

    def step(self, dose: Any) -> Any:
        delivered = np.clip(dose, -self.reach, self.reach)
        reward = delivered[:, 0].astype(np.float64) - self.level
        nothing = np.zeros(len(self.level))
        self.seen.append((delivered, reward))
        return (
            self.reset()[0],
            reward,
            nothing > 0,
            nothing > 0,
            {"cost": nothing, "limited_by": nothing, "dose_delivered": delivered},
        )


class Chains:
    """Factory of the above; keeps the environments it built."""

    def __init__(self, horizon: int = VISITS, reach: float = 1.0) -> None:
        self.horizon, self.reach = horizon, reach
        self.limits = DoseLimits((-reach,), (reach,))
        self.patients, self.searched = 10, 10
        self.built: list[Chain] = []

    def __call__(self, patients: int, first_patient: int) -> Chain:
        self.built.append(Chain(patients, first_patient, self.reach))
        return self.built[-1]


def test_followed_on_new_episodes_it_reaches_the_return_it_aims_at(trained: DosePolicy) -> None:
    assert trained.targets is not None
    for outcomes in evaluate(trained, Chains(), 6).values():
        # Observed errors are 0.02; the mean dose of the data would miss by 1.2.
        np.testing.assert_allclose(outcomes.returns, trained.targets[:, 1:2].repeat(6, 1), atol=0.06)


# Looking back


def long_agent(context: int = 3) -> Any:
    """Two seeds with random weights for episodes of six visits."""
    return cases.build(NAME, {**CONFIG, "context": context}, n_act=1)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_episode_is_that_of_a_loop_by_hand(sampled: bool) -> None:
    """With limits that hold doses back and other units of observation, dose and reward than the agent's.

    Visit by visit and patient by patient, by the oracle, from what the environment delivered and paid.
    """
    config = {**CONFIG, "residual_dropout": 0.0}
    agent: Any = agents.build(NAME, config, Problem(1, 1), cases.SEEDS, dtype=torch.float64)
    with torch.no_grad():
        rng = torch.Generator().manual_seed(4)
        for parameter in agent.parameters():
            parameter += 0.6 * torch.randn(parameter.shape, dtype=torch.float64, generator=rng)
        agent.aim[:] = torch.tensor([[0.0, 2.0, 5.0], [0.0, -1.0, 5.0]])
        agent.spread[:] = torch.tensor([[2.0], [0.5]])
    transform = Transform((0.5,), (2.0,), (-1.0,), (3.0,), 4.0)
    factory, patients = Chains(horizon=5, reach=1.2), 3
    rollout(factory, following(DosePolicy(agent, transform), sampled=sampled), (0, 1), patients)
    (env,) = factory.built  # consecutive seeds share one
    limited = 0
    for seed in range(2):
        params = cases.seed_params(agent, seed)
        for p in range(seed * patients, (seed + 1) * patients):
            to_go, visits = [0.0, 2.0, -1.0][seed + 1], []
            for t in range(factory.horizon):
                obs = (env.level[p] - 0.5) / 2.0
                scaled = np.array([to_go / [2.0, 0.5][seed]])
                now = {"return_to_go": scaled, "obs": np.array([obs]), "time_step": np.array(t)}
                visits.append({**now, "act": np.zeros(1)})
                unit = oracle.predictions(params, visits[-3:], config)[-1][0]
                delivered, reward = (x[p] for x in env.seen[t])
                dose = 1.0 + 2.0 * unit
                limited += abs(dose) > 1.2
                assert delivered[0] == pytest.approx(np.clip(dose, -1.2, 1.2), abs=1e-6)
                visits[-1]["act"] = (delivered - 1.0) / 2.0
                to_go -= reward / 4.0
    assert 0 < limited < 30


def test_with_a_context_of_one_visit_it_still_hears_of_rewards() -> None:
    """It learns from visits one by one, and asks for what is left of the return."""
    agent = chain_agent(context=1)
    batch = Sampler(chain(), agent, 8)(0)
    assert batch.length == 1
    assert bool((batch.extra["mask"] == 1.0).all())
    assert bool(agent.update(batch)["loss/actor"].isfinite().all())
    policy = DosePolicy(agent, chain().transform)
    assert policy.looks_back
    obs, doses = np.ones((2, 1, 1), dtype=np.float32), []
    for reward in (0.0, 3.0):
        episode = following(policy)
        episode(obs, 0)
        episode.observe(np.zeros((2, 1, 1)), np.full((2, 1), reward))  # type: ignore[attr-defined]
        doses.append(episode(obs, 1))
    assert not np.array_equal(*doses)


def test_a_second_episode_knows_nothing_of_the_first() -> None:
    policy = DosePolicy(long_agent(), Transform((0.0,) * cases.N_OBS, (1.0,) * cases.N_OBS, (-1.0,), (1.0,)))
    obs = np.ones((2, 4, cases.N_OBS), dtype=np.float32)
    episode = following(policy)
    first = episode(obs, 0)
    assert isinstance(episode, HistoryPolicy)
    np.testing.assert_array_equal(first, policy.recommended(obs))
    episode.observe(first, np.ones((2, 4)))
    assert not np.array_equal(episode(obs, 1), first)
    np.testing.assert_array_equal(episode(obs, 0), first)


def test_a_episode_out_of_order_is_refused() -> None:
    policy = DosePolicy(long_agent(), Transform((0.0,) * cases.N_OBS, (1.0,) * cases.N_OBS, (-1.0,), (1.0,)))
    obs, episode = np.ones((2, 4, cases.N_OBS), dtype=np.float32), HistoryPolicy(policy)
    outcome = np.zeros((2, 4, 1)), np.zeros((2, 4))
    with pytest.raises(UserError, match="before visit 2"):
        episode(obs, 1)
    with pytest.raises(UserError, match="no visit to hear of"):
        episode.observe(*outcome)
    episode(obs, 0)
    with pytest.raises(UserError, match="hear what came of it"):
        episode(obs, 1)
    episode.observe(*outcome)
    with pytest.raises(UserError, match="no visit to hear of"):
        episode.observe(*outcome)


def test_many_episodes_are_the_episodes_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = long_agent()
    rng = torch.Generator().manual_seed(0)
    shape = (2, 5, 4)
    history = History(
        torch.randn(*shape, cases.N_OBS, dtype=torch.float64, generator=rng),
        torch.randn(2, 5, 3, 1, dtype=torch.float64, generator=rng),
        torch.randn(2, 5, 3, dtype=torch.float64, generator=rng),
    )
    whole = agent.policy_after(history).mode
    monkeypatch.setattr("agents.decision_transformer.EPISODES", 2)
    torch.testing.assert_close(agent.policy_after(history).mode, whole, rtol=1e-12, atol=1e-12)


def test_a_method_without_memory_looks_at_the_last_state() -> None:
    agent = stack("td3_bc")
    obs = torch.randn(2, 3, 4, 8)
    history = History(obs, torch.zeros(2, 3, 3, 1), torch.zeros(2, 3, 3))
    assert torch.equal(policy_after(agent, history).mode, agent.policy(obs[:, :, 3]).mode)
    policy = DosePolicy(agent, Transform.fit(cohort()))
    assert not policy.looks_back
    assert policy.targets is None
    with pytest.raises(UserError, match="not conditioned on a return"):
        policy.aimed_at(np.zeros(2))


def test_off_policy_evaluation_takes_no_policy_that_looks_back(trained: DosePolicy) -> None:
    with pytest.raises(UserError, match="looks back"):
        ope_target(trained, trained.transform, sampled=False, bandwidth=0.2)


# Refusals


def test_a_episode_longer_than_the_time_steps_is_refused() -> None:
    with pytest.raises(UserError, match="for 1 visits, an episode has 2"):
        Sampler(chain(), agents.build(NAME, {}, Problem(1, 1, 1), (0,)), 8)
    agent = long_agent()
    history = History(torch.zeros(2, 1, 7, cases.N_OBS), torch.zeros(2, 1, 6, 1), torch.zeros(2, 1, 6))
    with pytest.raises(UserError, match="for 6 visits, got 7"):
        agent.policy_after(history)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"heads": 3, "width": 16}, r"width must be a multiple of heads \(3\), got 16"),
        ({"warm_up_steps": 0}, "warm_up_steps must be at least 1"),
        ({"max_visits": 0}, "max_visits must be at least 1"),
        ({"decay": -1.0}, "decay must be at least 0"),
        ({"gradient_clip": 0.0}, "gradient_clip must be above 0"),
        ({"residual_dropout": 1.0}, "residual_dropout must be at least 0 and below 1"),
        ({"target_quantile": 1.1}, "target_quantile must be between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        agents.build(NAME, wrong, Problem(2, 1), (0,))
