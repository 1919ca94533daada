"""CQL and Cal-QL: where their networks start."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import agents
from dosing.types import Problem

N_OBS, N_ACT, WIDTH = 11, 3, 256
SEEDS = tuple(range(8))


def layered(n_in: int, n_out: int) -> nn.Sequential:
    """Three hidden layers of torch's own."""
    widths = [n_in, WIDTH, WIDTH, WIDTH]
    hidden = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, n_out))


def released_critic() -> nn.Sequential:
    """As CORL starts it: orthogonal with gain sqrt 2, the last layer with gain 0.01, no bias."""
    net = layered(N_OBS + N_ACT, 1)
    linear = [m for m in net if isinstance(m, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, gain=0.01 if layer is linear[-1] else 2.0**0.5)
        nn.init.zeros_(layer.bias)
    return net


def released_policy() -> nn.Sequential:
    """As CORL starts it: torch's own layers, the last Glorot uniform with gain 0.01, no bias."""
    net = layered(N_OBS, 2 * N_ACT)
    nn.init.xavier_uniform_(net[-1].weight, gain=0.01)  # type: ignore[arg-type]
    nn.init.zeros_(net[-1].bias)  # type: ignore[arg-type]
    return net


@pytest.mark.long
@pytest.mark.parametrize("name", ["cql", "cal_ql"])
def test_a_small_start_is_that_of_the_released_code(name: str) -> None:
    """Spread over states of the first values, means and scales, of eight networks each."""
    config = {"hidden": (WIDTH,) * 3, "small_start": True, "log_std_min": -20.0}
    agent: Any = agents.build(name, config, Problem(N_OBS, N_ACT), SEEDS)
    torch.manual_seed(0)
    obs = torch.randn(1, 500, N_OBS)
    act = torch.rand(1, 500, N_ACT) * 2.0 - 1.0
    each, acts = obs.expand(len(SEEDS), -1, -1), act.expand(len(SEEDS), -1, -1)
    with torch.no_grad():
        values = agent.critic(each, acts)  # [S, 2, 500]
        wanted = torch.stack([released_critic()(torch.cat((obs[0], act[0]), -1))[:, 0] for _ in range(16)])
        assert float(values.std()) == pytest.approx(float(wanted.std()), rel=0.25)
        assert float(values.std()) < 0.02
        features = agent.actor.trunk(each)
        loc, log_scale = agent.actor.loc(features), agent.actor.scale(features)
        policies = torch.stack([released_policy()(obs[0]) for _ in range(8)])
        assert float(loc.std()) == pytest.approx(float(policies[..., :N_ACT].std()), rel=0.25)
        torch.testing.assert_close(log_scale, torch.full_like(log_scale, -1.0), atol=0.02, rtol=0.0)


def test_the_usual_start_is_wide() -> None:
    agent: Any = agents.build("cql", {"hidden": (WIDTH,) * 3}, Problem(N_OBS, N_ACT), (0,))
    torch.manual_seed(0)
    obs, act = torch.randn(1, 500, N_OBS), torch.rand(1, 500, N_ACT) * 2.0 - 1.0
    with torch.no_grad():
        assert float(agent.critic(obs, act).std()) > 0.1
        scale = agent.actor.scale(agent.actor.trunk(obs)).exp()
    assert float((scale - 1.0).abs().max()) < 0.3
