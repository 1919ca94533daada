"""The thin law's losses against their equations, and where they settle beside policies that are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from dosing.agent import Agent
from dosing.distributions.bounded import TanhNormal, TruncatedNormal
from dosing.distributions.draws import Draws
from dosing.distributions.point import Point
from dosing.distributions.q_gaussian import QGaussian, from_uniform, support_radius
from dosing.distributions.quadrature import standard_nodes
from dosing.distributions.scaled_beta import ScaledBeta
from dosing.distributions.univariate import Univariate
from dosing.models import thin
from dosing.models.batch import Batch
from dosing.models.critics import Critic
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.regularisation import Regularisation
from dosing.training.thin_agent import NODES, Thinned, thinned
from dosing.types import Problem
from tests.oracles import thin as oracle
from tests.oracles.distributions import numerical_slope

Law = Callable[[Tensor], Univariate]


def tensor(value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def cell(value: float) -> Tensor:
    """One number at one state of one seed."""
    return torch.full((1, 1, 1), value, dtype=torch.float64)


def sparse(q: float, mean: Tensor, half_width: Tensor) -> QGaussian:
    return QGaussian(mean, half_width / support_radius(q), q, validate_args=False)


def nodes(q: float) -> tuple[Tensor, Tensor]:
    points, weights = (tensor(x).view(-1, 1, 1, 1) for x in standard_nodes(q, NODES))
    return points, weights


def quadrature(q: float, mean: Tensor, half_width: Tensor, fat: Univariate) -> Tensor:
    return thin.divergence(sparse(q, mean, half_width), fat, *nodes(q)).sum()


FATS: dict[str, tuple[Univariate, oracle.LogDensity]] = {
    "normal": (QGaussian(cell(0.1), cell(0.2), 1.0), oracle.normal(0.1, 0.2)),
    "Cauchy": (QGaussian(cell(0.1), cell(0.2), 2.0), oracle.cauchy(0.1, 0.2)),
    "squashed": (TanhNormal(cell(0.1), cell(0.4)), oracle.squashed(0.1, 0.4)),
    "truncated": (TruncatedNormal(cell(0.1), cell(0.5)), oracle.truncated(0.1, 0.5)),
    "beta": (ScaledBeta(cell(3.0), cell(2.0), -1.0, 1.0), oracle.beta(3.0, 2.0)),
}


@pytest.mark.parametrize("fat", FATS)
@pytest.mark.parametrize("q", [-1.0, 0.0, 0.5])
def test_the_divergence_is_that_of_slow_quadrature_and_so_is_its_slope(fat: str, q: float) -> None:
    law, log_fat = FATS[fat]
    mean, half_width = cell(0.2).requires_grad_(), cell(0.5).requires_grad_()
    loss = quadrature(q, mean, half_width, law)
    assert float(loss.detach()) == pytest.approx(oracle.reverse_kl(q, 0.2, 0.5, log_fat), abs=1e-9)
    slopes = torch.autograd.grad(loss, (mean, half_width))
    by_mean = numerical_slope(lambda m: oracle.reverse_kl(q, m, 0.5, log_fat), 0.2, 1e-4)
    by_width = numerical_slope(lambda h: oracle.reverse_kl(q, 0.2, h, log_fat), 0.5, 1e-4)
    assert [float(x) for x in slopes] == pytest.approx([by_mean, by_width], abs=1e-5)


def test_the_divergence_of_several_doses_is_the_sum_over_them() -> None:
    fat = QGaussian(tensor([[[0.1, -0.4]]]), tensor([[[0.2, 0.1]]]), 1.0)
    law = sparse(0.0, tensor([[[0.0, -0.3]]]), tensor([[[0.4, 0.2]]]))
    parts = [
        oracle.reverse_kl(0.0, 0.0, 0.4, oracle.normal(0.1, 0.2)),
        oracle.reverse_kl(0.0, -0.3, 0.2, oracle.normal(-0.4, 0.1)),
    ]
    assert float(thin.divergence(law, fat, *nodes(0.0))) == pytest.approx(sum(parts), abs=1e-6)


def some_draws(n_act: int, count: int = 24) -> Tensor:
    rng = np.random.default_rng(n_act)
    peak = rng.integers(0, 2, (count, 1, 1, 1)) - 0.5
    return tensor(peak + 0.1 * rng.standard_normal((count, 1, 1, n_act)))


@pytest.mark.parametrize("n_act", [1, 2])
def test_a_kernel_estimate_is_that_of_loops(n_act: int) -> None:
    draws = some_draws(n_act)
    listed = draws[:, 0, 0].tolist()
    width = thin.bandwidth(draws)
    expected = [oracle.bandwidth([x[d] for x in listed], n_act) for d in range(n_act)]
    assert width[0, 0].tolist() == pytest.approx(expected, rel=1e-9)
    at = np.linspace(-0.7, 0.6, 5 * n_act).reshape(5, n_act)
    density = thin.kernel_log_density(tensor(at)[:, None, None], draws, width)
    loops = [oracle.kernel_log_density(dose, listed) for dose in at.tolist()]
    assert density[:, 0, 0].tolist() == pytest.approx(loops, rel=1e-9)


def test_draws_that_are_one_dose_have_the_least_bandwidth() -> None:
    assert float(thin.bandwidth(torch.full((8, 1, 1, 1), 0.3))) == pytest.approx(0.01)


def test_the_divergence_from_draws_is_that_from_their_kernel_estimate() -> None:
    draws = some_draws(1)
    listed = draws[:, 0, 0].tolist()
    points, weights = nodes(0.0)
    law = sparse(0.0, cell(0.4), cell(0.3))
    loss = thin.divergence_from_draws(law, draws, points, weights.squeeze(-1))
    exact = oracle.reverse_kl(0.0, 0.4, 0.3, lambda x: oracle.kernel_log_density([x], listed))
    assert float(loss.detach()) == pytest.approx(exact, abs=1e-4)


def test_by_draws_of_the_thin_law_the_divergence_of_two_doses_has_the_mean_of_a_product_rule() -> None:
    draws, law = some_draws(2), sparse(0.0, tensor([[[0.4, 0.5]]]), tensor([[[0.3, 0.4]]]))
    z, w = standard_nodes(0.0, 24)
    grid = tensor(np.stack(np.meshgrid(z, z, indexing="ij"), -1).reshape(-1, 1, 1, 2))
    product = tensor(np.outer(w, w).reshape(-1, 1, 1))
    exact = float(thin.divergence_from_draws(law, draws, grid, product))
    u = torch.from_numpy(np.random.default_rng(0).random((20_000, 1, 1, 2, 1)))
    points = from_uniform(u, 0.0)
    mean = float(thin.divergence_from_draws(law, draws, points, torch.full((1, 1, 1), 1.0 / 20_000)))
    doses = law.loc + law.scale * points
    spread = thin.kernel_log_density(doses, draws, thin.bandwidth(draws)).std().item()
    assert mean == pytest.approx(exact, abs=4.0 * spread / math.sqrt(20_000))


class Known(Agent):
    """An agent whose policy is given, and has nothing to learn."""

    def __init__(self, init: Initialiser, n_act: int, law: Law, critic: nn.Module | None = None) -> None:
        super().__init__(Problem(1, n_act, 4), init.seeds)
        self.law, self.weight = law, init.constant(1.0, 1)
        if critic is not None:
            self.critic = critic
        self.optimizers = {"own": adam([self.weight], 1e-3)}

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"own": self.weight.square().sum(-1)}, {}

    def policy(self, obs: Tensor) -> Distribution:
        return Independent(self.law(obs), 1, validate_args=False)


def at_every_state(values: Any, obs: Tensor) -> Tensor:
    """``[A]`` or ``[A, M]`` at the states ``[S, B, O]``."""
    values = tensor(values)
    return values.expand(*obs.shape[:2], *values.shape)


class Tops(Critic):
    """Critics that are parabolas with given tops, and so is a given policy."""

    tops: Tensor

    def __init__(self, init: Initialiser, tops: list[float]) -> None:
        super().__init__(init, 1, 1, (), members=len(tops))
        self.tops = tensor(tops).view(1, -1, 1)

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        return 3.0 - 2.0 * (act.squeeze(-1).unsqueeze(1) - self.tops).square()


def initialiser(**options: Any) -> Initialiser:
    return Initialiser((5,), dtype=torch.float64, regularisation=Regularisation(**options))


def settled(
    law: Law, n_act: int = 1, updates: int = 150, start: float = 0.0, tops: Any = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Mean and half-width ``[A]`` after some updates; a mean of its own starts moved by ``start``."""
    init = initialiser(**{"thin": 0.0} | options)
    agent = Known(init, n_act, law, Tops(init, tops) if tops else None)
    agent.regularisation = init.regularisation
    wrapped = thinned(agent, init)
    assert isinstance(wrapped, Thinned)
    if wrapped.thin.shift is not None:
        with torch.no_grad():
            wrapped.thin.shift.bias += start
    obs, rng = torch.ones(1, 2, 1, dtype=torch.float64), np.random.default_rng(0)
    none = torch.zeros(1, 2, dtype=torch.float64)
    wrapped.own.param_groups[0]["lr"] = 5e-3
    for step in range(updates):
        if step == 2 * updates // 3:
            wrapped.own.param_groups[0]["lr"] *= 0.1
        drawn = {k: torch.from_numpy(rng.random((1, *n.shape))) for k, n in wrapped.noise(2).items()}
        act = torch.zeros(1, 2, n_act, dtype=torch.float64)
        wrapped.update(Batch(obs, act, none, obs, none, drawn, step=step))
    with torch.no_grad():
        end: Any = wrapped.policy(obs).base_dist  # type: ignore[attr-defined]
    return end.loc[0, 0], (end.radius * end.scale)[0, 0]


@pytest.mark.long
@pytest.mark.parametrize("q", [0.0, 0.5])
@pytest.mark.parametrize("mean", ["shared", "free"])
def test_beside_a_gaussian_the_mean_is_its_and_the_width_is_that_of_least_divergence(
    q: float, mean: str
) -> None:
    loc, half_width = settled(
        lambda obs: QGaussian(at_every_state([0.2], obs), at_every_state([0.15], obs), 1.0),
        thin=q,
        thin_mean=mean,
    )
    assert float(loc) == pytest.approx(0.2, abs=0.003)
    assert float(half_width) == pytest.approx(
        oracle.best_half_width(q, 0.2, oracle.normal(0.2, 0.15)), rel=0.02
    )
    if q == 0.0:
        assert float(half_width) == pytest.approx(math.sqrt(5.0) * 0.15, rel=0.02)


@pytest.mark.long
def test_beside_a_skewed_law_a_free_mean_goes_where_the_divergence_is_least() -> None:
    loc, half_width = settled(
        lambda obs: ScaledBeta(at_every_state([9.0], obs), at_every_state([5.0], obs), -1.0, 1.0),
        thin_mean="free",
    )
    best = oracle.best_law(0.0, oracle.beta(9.0, 5.0), (0.3, 0.5))
    mode = 2.0 * 8.0 / 12.0 - 1.0
    assert abs(best[0] - mode) > 0.025
    assert [float(loc), float(half_width)] == pytest.approx(best, abs=0.01)


def quantiles(parts: list[tuple[float, float, float]], count: int = 64) -> np.ndarray:
    """Doses of a mixture at the middles of equal parts of its probability, in random order."""
    grid = np.linspace(-1.0, 1.0, 20_001)
    below = sum(share * stats.norm(m, sd).cdf(grid) for share, m, sd in parts)
    doses = np.interp((np.arange(count) + 0.5) / count, below, grid)
    return np.random.default_rng(0).permutation(doses)


def drawn(doses: np.ndarray) -> Law:
    return lambda obs: Draws(at_every_state(doses[None], obs), validate_args=False)


@pytest.mark.long
def test_beside_draws_of_a_gaussian_the_law_is_within_a_tenth_of_that_beside_its_density() -> None:
    """The kernel widens it: by sqrt(1 + 0.46^2) for 64 draws, were their spread known."""
    loc, half_width = settled(drawn(quantiles([(1.0, 0.1, 0.15)])), thin_mean="free")
    assert float(loc) == pytest.approx(0.1, abs=0.02)
    assert math.sqrt(5.0) * 0.15 * 0.9 < float(half_width) < math.sqrt(5.0) * 0.15 * 1.12


PEAKS = [(0.5, -0.5, 0.1), (0.5, 0.5, 0.1)]


@pytest.mark.long
@pytest.mark.parametrize("parts", [PEAKS, [(0.7, -0.5, 0.1), (0.3, 0.4, 0.1)]], ids=["even", "uneven"])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_beside_two_peaks_the_law_ends_on_the_one_it_starts_from_and_never_in_the_valley(
    parts: list[tuple[float, float, float]], side: float
) -> None:
    doses = quantiles(parts)
    mode = float(settled(drawn(doses), updates=0)[0])
    peak = parts[0][1] if side < 0.0 else parts[1][1]
    move = math.atanh(peak) - math.atanh(mode)
    loc, half_width = settled(drawn(doses), start=move, updates=240, thin_mean="free")
    sd = 0.1
    assert float(loc) == pytest.approx(peak, abs=0.04)
    assert 0.9 * math.sqrt(5.0) * sd < float(half_width) < 1.45 * math.sqrt(5.0) * sd
    assert abs(float(loc)) - float(half_width) > 0.0, "it reaches into the middle of the valley"


@pytest.mark.long
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_from_near_the_middle_of_the_valley_the_law_goes_to_the_nearer_peak(side: float) -> None:
    doses = quantiles(PEAKS)
    mode = float(settled(drawn(doses), updates=0)[0])
    start = 0.05 * side - math.atanh(mode)
    loc, half_width = settled(drawn(doses), start=start, updates=300, thin_mean="free")
    assert float(loc) == pytest.approx(0.5 * side, abs=0.05)
    assert float(half_width) < 0.35


@pytest.mark.long
def test_two_doses_that_belong_together_are_thinned_together() -> None:
    """Peaks at (-0.5, -0.5) and (0.5, 0.5): a product of the doses' own estimates would have four."""
    rng = np.random.default_rng(1)
    sign = np.repeat([-1.0, 1.0], 32)[:, None]
    doses = (0.5 * sign + 0.08 * rng.standard_normal((64, 2))).T  # [A, M]
    law: Law = lambda obs: Draws(at_every_state(doses, obs), validate_args=False)  # noqa: E731
    mode = settled(law, n_act=2, updates=0)[0]
    loc, half_width = settled(law, n_act=2, updates=240, thin_mean="free")
    assert loc.tolist() == pytest.approx((0.5 * mode.sign()).tolist(), abs=0.1)
    assert bool((half_width < 0.4).all())


def one_dose(dose: float) -> Law:
    return lambda obs: Point(at_every_state([dose], obs), validate_args=False)


@pytest.mark.long
def test_beside_one_dose_the_law_has_the_standard_deviation_of_the_critics_best_doses() -> None:
    loc, half_width = settled(one_dose(0.1), tops=[0.05, 0.25])
    assert float(loc) == 0.1
    assert float(half_width) / math.sqrt(5.0) == pytest.approx(0.1, rel=0.02)


@pytest.mark.long
def test_beside_one_dose_that_the_critics_agree_on_the_law_is_narrow() -> None:
    assert float(settled(one_dose(0.1), tops=[0.2, 0.2])[1]) < 0.03


@pytest.mark.parametrize("tops", [[0.05, 0.25], [-0.9, 0.2], [0.6, 0.9], [0.1, 0.2, 0.3]])
@pytest.mark.parametrize("dose", [0.1, -0.95])
def test_the_disagreement_is_that_of_fitted_parabolas(tops: list[float], dose: float) -> None:
    critic, obs = Tops(initialiser(), tops), torch.ones(1, 1, 1, dtype=torch.float64)
    variance = thin.disagreement(critic, obs, cell(dose))
    expected = oracle.disagreement([lambda x, t=t: 3.0 - 2.0 * (x - t) ** 2 for t in tops], dose, thin.REACH)
    assert float(variance) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_critics_without_a_top_move_the_dose_as_far_as_they_look(sign: float) -> None:
    class Slopes(Tops):
        def forward(self, obs: Tensor, act: Tensor) -> Tensor:
            rise = torch.stack((act.squeeze(-1), sign * act.squeeze(-1)), 1)
            return rise + 0.1 * rise.square()

    variance = thin.disagreement(Slopes(initialiser(), [0.0, 0.0]), torch.ones(1, 1, 1), cell(0.0).float())
    assert float(variance) == pytest.approx(0.0 if sign > 0.0 else thin.REACH**2, abs=1e-9)


def test_every_dose_dimension_has_its_own_disagreement() -> None:
    class Two(Tops):
        def forward(self, obs: Tensor, act: Tensor) -> Tensor:
            tops = tensor([[0.1, 0.3], [0.2, -0.1]])[None, :, None]  # [1, E, 1, A]
            return -(act.unsqueeze(1) - tops).square().sum(-1)

    dose = tensor([[[0.1, 0.1]]])
    variance = thin.disagreement(Two(initialiser(), [0.0, 0.0]), torch.ones(1, 1, 1).double(), dose)
    assert variance[0, 0].tolist() == pytest.approx([0.05**2, 0.2**2], abs=1e-9)
