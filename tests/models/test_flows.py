"""Flows of doses: the matching loss by hand, Euler steps on flows with a known end, points of noise."""

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.models.flows import DRAWS, FAR, OneStep, Velocity, euler, matching_loss, points, spread
from dosing.models.networks import Initialiser
from dosing.models.regularisation import Regularisation
from dosing.types import Problem

SEEDS = (0, 4)
PROBLEM = Problem(n_obs=3, n_act=2)


def inputs(rows: int = 5) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape))

    time = torch.from_numpy(rng.random((2, rows, 1)))
    return {"obs": normal(2, rows, 3), "act": normal(2, rows, 2), "noise": normal(2, rows, 2), "time": time}


def test_the_matching_loss_is_the_mean_square_distance_to_the_straight_line() -> None:
    velocity = Velocity(Initialiser(SEEDS, dtype=torch.float64), PROBLEM, (8, 8), layer_norm=True)
    x = inputs()
    result = matching_loss(velocity, **x)
    for s in range(2):
        total = 0.0
        for b in range(5):
            obs, act, noise, t = (x[name][s, b].numpy() for name in ("obs", "act", "noise", "time"))
            between = torch.from_numpy((1.0 - t) * noise + t * act)
            v = velocity(*(torch.as_tensor(part).expand(2, 1, -1) for part in (obs, between, t)))
            total += float(((v[s, 0].detach().numpy() - (act - noise)) ** 2).sum())
        assert float(result[s].detach()) == pytest.approx(total / (5 * 2), rel=1e-12)


def test_euler_steps_follow_known_flows() -> None:
    x = inputs()
    constant = euler(lambda obs, at, time: torch.full_like(at, 0.25), x["obs"], 0.1 * x["noise"], 10)
    torch.testing.assert_close(constant, (0.1 * x["noise"] + 0.25).clamp(-1.0, 1.0))
    growing = euler(lambda obs, at, time: at, x["obs"], 0.01 * x["noise"], 10)
    torch.testing.assert_close(growing, (0.01 * x["noise"] * 1.1**10).clamp(-1.0, 1.0))
    timed = euler(lambda obs, at, time: time.expand_as(at), x["obs"], 0.0 * x["noise"], 4)
    torch.testing.assert_close(timed, torch.full_like(timed, (0.0 + 0.25 + 0.5 + 0.75) / 4))


@pytest.mark.parametrize(("width", "share"), [(1.0, 0.88), (0.2, 0.77), (0.05, 0.40)])
def test_ten_steps_narrow_a_normal_distribution_by_a_known_share(width: float, share: float) -> None:
    """The exact velocity of the flow from N(0, 1) to N(0, width^2) is linear in x."""

    def velocity(obs: torch.Tensor, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        rest = 1.0 - time
        return (time * width**2 - rest) / (rest**2 + (time * width) ** 2) * x

    start = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    ends = [float(euler(velocity, start, start, steps)) / (0.5 * width) for steps in (10, 2000)]
    assert ends == pytest.approx([share, 1.0], abs=6e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_flow_that_diverges_ends_at_a_limit(sign: float) -> None:
    """Held within ``FAR`` on its way, it never overflows, and comes back if it is called back."""
    obs, start = torch.zeros(2, 5, 3), torch.full((2, 5, 2), 0.5)
    far = euler(lambda obs, at, time: sign * 1e30 * at, obs, start, 7)  # an odd number of changes of sign
    torch.testing.assert_close(far, torch.full_like(far, sign))
    back = euler(lambda obs, at, time: torch.where(time < 0.5, 1e30, -2.0 * FAR), obs, start, 2)
    torch.testing.assert_close(back, torch.zeros_like(back))


@pytest.mark.parametrize("count", [10, 64])
def test_points_of_noise_are_standard_normal_and_always_the_same(count: int) -> None:
    result = points(count, 2, torch.empty(0, dtype=torch.float64))
    assert result.shape == (count, 2)
    assert torch.equal(result, points(count, 2, torch.empty(0, dtype=torch.float64)))
    for column in result.T.numpy():
        assert stats.kstest(column, "norm").statistic < 1.2 / np.sqrt(count)
    assert float(points(1024, 1, result).mean()) == pytest.approx(0.0, abs=5e-3)


def test_pushing_many_points_equals_pushing_each(monkeypatch: pytest.MonkeyPatch) -> None:
    net = OneStep(Initialiser(SEEDS, dtype=torch.float64), PROBLEM, (8,))
    obs, noise = inputs()["obs"], points(4, 2, inputs()["obs"])
    whole = spread(net, obs, noise)
    assert whole.shape == (2, 5, 4, 2)
    for m in range(4):
        torch.testing.assert_close(whole[:, :, m], net(obs, noise[m].expand(2, 5, 2)))
    monkeypatch.setattr("dosing.models.flows.CHUNK", 9)  # one state at a time
    with torch.no_grad():
        torch.testing.assert_close(spread(net, obs, noise), whole)
        own = torch.randn(2, 5, 3, 2, dtype=torch.float64)
        torch.testing.assert_close(
            spread(net, obs, own)[1, 2], net(obs[:, 2:3].expand(-1, 3, -1), own[:, 2])[1]
        )


def test_the_distribution_of_a_one_step_map_is_that_of_its_clipped_doses() -> None:
    """Against many draws: the distribution function of 64 points is within a few of 64 parts."""
    net = OneStep(Initialiser(SEEDS, dtype=torch.float64), Problem(3, 1), (8,))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.5)
    obs = inputs()["obs"]
    distribution = net.distribution(obs)
    assert distribution.batch_shape == (2, 5)
    assert distribution.event_shape == (1,)
    base = distribution.base_dist  # type: ignore[attr-defined]
    assert base.kind == "samples"
    assert base.values.shape == (2, 5, 1, DRAWS)
    many = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    doses = spread(net, obs, many).clamp(-1.0, 1.0).detach()
    assert 0.0 < float((doses.abs() == 1.0).double().mean()) < 1.0
    for level in (-0.5, 0.0, 0.5, 0.999):
        share = (doses <= level).double().mean(2)
        result = base.cdf(torch.full((2, 5, 1), level).double())
        torch.testing.assert_close(result, share, atol=2.5 / DRAWS, rtol=0.0)


def test_a_one_step_map_starts_at_a_prior_dose() -> None:
    """The dose itself is added, not what tanh would make of it."""
    init = Initialiser(SEEDS, dtype=torch.float64, regularisation=Regularisation(prior="constant_dose"))
    net, plain = OneStep(init, PROBLEM, (8,)), OneStep(Initialiser(SEEDS, dtype=torch.float64), PROBLEM, (8,))
    x, prior = inputs(), torch.tensor([0.3, -1.0], dtype=torch.float64)
    torch.testing.assert_close(net(x["obs"], x["noise"]), plain(x["obs"], x["noise"]))
    net.prior.centre(prior)
    torch.testing.assert_close(net(x["obs"], x["noise"]), plain(x["obs"], x["noise"]) + prior)
