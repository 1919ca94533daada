"""What agents can have beyond their method: each option against its definition, and on every agent."""

import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.critics import Critic, frozen
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.optimisers import adam
from dosing.models.policy_heads import PointPolicy, Policy
from dosing.models.prior import Centred, constant_dose
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.compilation import updater
from dosing.training.regularised import UNITS, noise_plan, take_step
from dosing.training.sampler import Sampler
from tests.support.samples import PROBLEM, dataset, long_for_most, small, stack

SEEDS = (0, 3)
EVERYTHING: dict[str, Any] = {
    "critics": 3,
    "pessimism": 0.5,
    "dose_quadratic": True,
    "layer_norm": True,
    "dropout": 0.25,
    "weight_decay": 2.0,
    "prior": "constant_dose",
    "scale_advantage": True,
}
every_agent = pytest.mark.parametrize("name", list(agents.AGENTS))


def built(name: str, seeds: tuple[int, ...] = SEEDS, **options: Any) -> Agent:
    return agents.build(name, small(name), PROBLEM, seeds, dtype=torch.float64, regularisation=options)


def initialiser(seeds: tuple[int, ...] = SEEDS, **options: Any) -> Initialiser:
    return Initialiser(seeds, dtype=torch.float64, regularisation=Regularisation(**options))


def trained(agent: Agent, steps: int = 5) -> list[dict[str, torch.Tensor]]:
    take, sampler = updater(agent), Sampler(dataset(dtype=torch.float64), agent, 32)
    return [take(sampler(step)) for step in range(steps)]


@functools.cache
def everything(name: str) -> dict[str, Any]:
    """All options but those that mean nothing to the agent: each of these it refuses, saying which."""
    options = dict(EVERYTHING)
    for option, value in EVERYTHING.items():
        try:
            built(name, **{option: value})
        except UserError as refusal:
            if option.split("_")[0] not in str(refusal):
                raise
            del options[option]
    return options


# Every agent


@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_with_everything_on_an_agent_learns_and_a_seed_equals_itself_alone(name: str) -> None:
    together, alone = built(name, (0, 3), **everything(name)), built(name, (3,), **everything(name))
    before = copy.deepcopy(together.state_dict())
    for both, one in zip(trained(together), trained(alone), strict=True):
        for key, value in both.items():
            torch.testing.assert_close(value[1:], one[key], rtol=1e-8, atol=1e-10)
    for key, value in together.state_dict().items():
        if value.shape[0] == len(SEEDS):
            torch.testing.assert_close(value[1:], alone.state_dict()[key], rtol=1e-8, atol=1e-10)
    assert any(not torch.equal(value, before[key]) for key, value in together.state_dict().items())


@every_agent
def test_everything_kept_has_the_seeds_first(name: str) -> None:
    """The training loop looks for damage seed by seed."""
    agent = built(name, **everything(name))
    trained(agent, 1)
    state = training_state(agent)
    assert {key for key, x in state.items() if x.dim() > 0 and (x.dim() < 2 or len(x) != len(SEEDS))} == set()


@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_a_stack_with_everything_on_is_resumed_exactly(name: str) -> None:
    straight, first = built(name, **everything(name)), built(name, **everything(name))
    trained(straight, 6)
    trained(first, 3)
    second = built(name, **everything(name))
    load_training_state(second, copy.deepcopy(training_state(first)))
    take, sampler = updater(second), Sampler(dataset(dtype=torch.float64), second, 32)
    for step in range(3, 6):
        take(sampler(step))
    for key, value in training_state(straight).items():
        assert torch.equal(value, training_state(second)[key]), key


@every_agent
def test_nothing_is_the_method_itself(name: str) -> None:
    plain, told = stack(name, SEEDS), agents.build(name, small(name), PROBLEM, SEEDS, regularisation=PLAIN)
    assert plain.state_dict().keys() == told.state_dict().keys()
    assert all(torch.equal(value, told.state_dict()[key]) for key, value in plain.state_dict().items())
    assert UNITS not in noise_plan(told, 4)


@every_agent
def test_linear_networks_learn(name: str) -> None:
    if not hasattr(small(name), "hidden"):
        pytest.skip("has no hidden widths")
    config = dataclasses.replace(small(name), hidden=())
    options = {key: value for key, value in everything(name).items() if key == "dose_quadratic"}
    agent = agents.build(name, config, PROBLEM, SEEDS, dtype=torch.float64, regularisation=options)
    reports = trained(agent)
    assert all(bool(value.isfinite().all()) for report in reports for value in report.values())
    quadratic = (module for module in agent.modules() if isinstance(module, Critic) and options)
    for critic in quadratic:
        width = next(critic.parameters()).shape[-2]  # the state and, for some, the noise
        a, b = torch.randn(2, len(SEEDS), 1, width, dtype=torch.float64)
        act = torch.full((len(SEEDS), 1, 1), 0.3, dtype=torch.float64)
        middle = critic(0.5 * (a + b), act)
        torch.testing.assert_close(middle, 0.5 * (critic(a, act) + critic(b, act)))  # linear in the state


# Critics


@pytest.mark.parametrize("n_act", [1, 3])
def test_a_dose_quadratic_critic_is_a_quadratic_form(n_act: int) -> None:
    critic = Critic(initialiser(dose_quadratic=True, critics=3), 2, n_act, (8,))
    obs, act = torch.randn(2, 5, 2, dtype=torch.float64), torch.randn(2, 5, n_act, dtype=torch.float64)
    values = critic(obs, act).detach()
    assert values.shape == (2, 3, 5)
    head = critic.net(obs).detach()
    for s in range(2):
        for e in range(3):
            for b in range(5):
                c, *rest = head[s, e, b].tolist()
                a = act[s, b].tolist()
                expected = c + sum(w * x for w, x in zip(rest, a, strict=False))
                squares = rest[n_act:]
                pairs = [(i, j) for i in range(n_act) for j in range(i, n_act)]
                expected += sum(w * a[i] * a[j] for w, (i, j) in zip(squares, pairs, strict=True))
                assert float(values[s, e, b]) == pytest.approx(expected, abs=1e-12)


def test_the_value_of_an_ensemble() -> None:
    values = torch.tensor([[[1.0, 5.0], [3.0, 2.0], [8.0, 2.0]]], dtype=torch.float64)  # [1, 3, 2]
    least = Critic(initialiser((0,)), 2, 1, (4,))
    mean = Critic(initialiser((0,)), 2, 1, (4,), aggregate="mean")
    bound = Critic(initialiser((0,), pessimism=2.0), 2, 1, (4,), aggregate="mean")
    assert least.lower(values).tolist() == [[1.0, 2.0]]
    assert mean.lower(values).tolist() == [[4.0, 3.0]]
    spread = ((9.0 + 1.0 + 16.0) / 3) ** 0.5, 2.0**0.5
    expected = [[4.0 - 2.0 * spread[0], 3.0 - 2.0 * spread[1]]]
    torch.testing.assert_close(bound.lower(values), torch.tensor(expected, dtype=torch.float64))


# Dropout


def test_dropout_leaves_units_out_of_one_update_and_keeps_their_mean() -> None:
    net = Mlp(initialiser(dropout=0.25), [3, 40, 40, 1], members=2)
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    whole = net(x)
    net.drop(torch.rand(net.masks.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    kept = net.masks[net.masks > 0]
    assert torch.allclose(kept, torch.full_like(kept, 4 / 3))
    assert 0.6 < len(kept) / net.masks.numel() < 0.9
    assert not torch.allclose(net(x), whole)
    one = frozen(net, x, members=1)  # the mask of the first member goes with its weights
    torch.testing.assert_close(one, net(x)[:, :1])
    net.masks.fill_(1.0)
    torch.testing.assert_close(net(x), whole)


def test_an_update_drops_units_of_trained_networks_and_puts_them_back() -> None:
    agent = built("iql", dropout=0.5)
    sampler = Sampler(dataset(dtype=torch.float64), agent, 8)
    batch = sampler(0)
    units = 16 * 2 * (2 + 1 + 1)  # two layers of twin critics, value, policy
    assert batch.noise[UNITS].shape == (len(SEEDS), units)
    whole = agent.losses(batch)
    seen: list[dict[str, torch.Tensor]] = []
    losses = agent.losses_and_metrics
    agent.losses_and_metrics = lambda b: (seen.append(losses(b)[0]), losses(b))[1]  # type: ignore[method-assign]
    take_step(agent, batch)
    assert not torch.allclose(seen[0]["critic"], whole["critic"])
    networks = [module for module in agent.modules() if isinstance(module, Mlp)]
    assert networks
    assert all(bool((network.masks == 1.0).all()) for network in networks)


# Decay


def test_weights_decay_by_their_rate_times_the_step_size_and_biases_do_not() -> None:
    layer = Linear(initialiser(weight_decay=3.0), 4, 2)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = adam(layer, 0.01)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), weight * (1.0 - 0.03))
    assert torch.equal(layer.bias.detach(), bias)


# Prior


def patients(data: Dataset) -> Any:
    """Number of each visit's patient."""
    return np.arange(len(data.starts) - 1).repeat(np.diff(data.starts.numpy()))


@pytest.mark.parametrize("family", ["clipped_gaussian", "squashed_gaussian", "student_t", "point"])
def test_a_policy_starts_at_the_constant_dose_of_the_data(family: Any) -> None:
    data = dataset(32, dtype=torch.float64)
    best = constant_dose(data.act[:, 0].numpy(), data.reward.numpy(), patients(data)).dose
    init = initialiser(prior="constant_dose")
    make = PointPolicy if family == "point" else Policy
    policy = make(init, PROBLEM, (8,), *([] if family == "point" else [family]))
    head = policy.net.layers[-1] if isinstance(policy, PointPolicy) else policy.loc
    with torch.no_grad():
        head.weight.zero_()  # type: ignore[union-attr, operator]
        head.bias.zero_()  # type: ignore[union-attr, operator]
    policy.prior.centre(torch.tensor([float(best)]))
    distribution = policy(data.obs[None].expand(2, -1, -1)).base_dist
    loc = (
        torch.tanh(distribution.loc) if family == "squashed_gaussian" else getattr(distribution, "loc", None)
    )
    dose = distribution.value if loc is None else loc
    torch.testing.assert_close(dose, torch.full_like(dose, float(best)))
    policy.prior.centre(torch.tensor([0.9]))  # the first one stays
    assert policy.prior.offset.flatten().tolist() == pytest.approx([float(np.arctanh(best))] * 2)


def test_the_prior_is_taken_from_the_data_once_and_saved() -> None:
    agent = built("fttpo", prior="constant_dose", weight_decay=1.0)
    Sampler(dataset(32, dtype=torch.float64), agent, 8)
    data = dataset(32)
    act, reward = data.act[:, 0].double().numpy(), data.reward.double().numpy()
    best = constant_dose(act, reward, patients(data)).dose
    offset = agent.state_dict()["proposal.prior.offset"]
    assert torch.tanh(offset).flatten().tolist() == pytest.approx([float(best)] * 2, abs=1e-6)
    Sampler(dataset(8, dtype=torch.float64), agent, 8)
    assert torch.equal(agent.state_dict()["proposal.prior.offset"], offset)
    loaded = built("fttpo", prior="constant_dose", weight_decay=1.0)
    loaded.load_state_dict(agent.state_dict())
    centred = [module for module in loaded.modules() if isinstance(module, Centred)]
    assert centred
    assert all(bool(module.known.all()) for module in centred)


def test_a_distribution_without_a_mean_of_its_own_has_no_prior_dose() -> None:
    with pytest.raises(UserError, match="Beta"):
        agents.build(
            "iql", {"policy_family": "beta"}, PROBLEM, SEEDS, regularisation={"prior": "constant_dose"}
        )


# Advantages


def test_advantages_are_divided_by_their_spread_within_a_seed() -> None:
    agent = built("iql", scale_advantage=True)
    advantage = torch.randn(2, 50, dtype=torch.float64) * torch.tensor([[0.1], [7.0]])
    torch.testing.assert_close(
        agent.scaled(advantage).std(-1), torch.ones(2, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert built("iql").scaled(advantage) is advantage


def test_the_scale_of_rewards_no_longer_matters_to_the_policy() -> None:
    """Weights of a policy with scaled advantages do not change when every value is ten times as large."""
    agent = built("tawac", scale_advantage=True)
    advantage = torch.randn(2, 50, dtype=torch.float64)
    torch.testing.assert_close(agent.scaled(advantage), agent.scaled(10.0 * advantage), rtol=1e-4, atol=1e-6)


# Input


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"critics": 0}, "critics must be at least 1, got 0"),
        ({"pessimism": -1.0}, "pessimism must be at least 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0"),
        ({"prior": "mean_dose"}, "prior must be one of none, constant_dose"),
        ({"drop_out": 0.1}, "no such option"),
    ],
)
def test_impossible_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        built("iql", **wrong)


def test_only_what_differs_is_written_down() -> None:
    assert PLAIN.changed() == {}
    options = Regularisation(dropout=0.1, prior="constant_dose")
    assert Regularisation.of(options.changed()) == options
