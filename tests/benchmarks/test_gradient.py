"""The page on truncated tails: its integrals against closed forms, against draws, and against autograd."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from benchmarks.experiments import gradient
from benchmarks.experiments.gradient import RESULTS, SPREAD, measure, q_gaussian, reward, slope, truncated
from dosing.distributions.q_gaussian import QGaussian, support_radius


def test_the_slope_is_that_of_the_target() -> None:
    dose, step = np.linspace(-1.0, 2.0, 301), 1e-6
    for temperature in (0.1, 2.0):
        up, down = (reward(d) / temperature - d**2 / 2 for d in (dose + step, dose - step))
        np.testing.assert_allclose(slope(dose, temperature), (up - down) / (2 * step), atol=1e-6)


@pytest.mark.parametrize("law", [truncated(1.3), truncated(math.inf), q_gaussian(-1.0), q_gaussian(0.5)])
def test_a_law_is_a_law(law: gradient.Law) -> None:
    assert law.weight.sum() == pytest.approx(1.0, abs=1e-6)
    assert law.weight @ law.at == pytest.approx(0.0, abs=1e-9)
    if not law.name.startswith("normal, cut"):
        assert law.weight @ law.at**2 == pytest.approx(SPREAD**2, rel=1e-5)
    inside = abs(law.at) < 0.95 * min(law.half, 8.0) * SPREAD
    numeric = np.gradient(law.log[inside], law.at[inside])[1:-1:1000]  # the score of a mean is minus that
    np.testing.assert_allclose(law.score[inside][1:-1:1000], -numeric, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cut", [0.5, 1.5, 2.5])
def test_bias_is_what_was_removed_times_how_it_differs(cut: float) -> None:
    fat, line = truncated(math.inf), measure(truncated(cut), 0.5)
    psi, outside = slope(fat.at, 0.5), abs(fat.at) > cut * SPREAD
    removed = fat.weight[outside].sum()
    out, kept = (fat.weight[w] @ psi[w] / fat.weight[w].sum() for w in (outside, ~outside))
    assert line.removed == pytest.approx(removed, rel=1e-3)
    assert line.bias == pytest.approx(removed * (out - kept), rel=1e-3)


@pytest.mark.parametrize("cut", [0.5, 1.5, 2.25])
def test_the_score_functions_own_bias_is_what_crosses_the_ends(cut: float) -> None:
    law, end = truncated(cut), cut * SPREAD
    loss = np.interp([-end, end], law.at, law.log - (reward(law.at) / 0.5 - law.at**2 / 2))
    density = math.exp(law.log[0])
    assert measure(law, 0.5).score_bias == pytest.approx(-density * (loss[1] - loss[0]), rel=1e-4)


@pytest.mark.long
def test_a_score_has_a_variance_above_q_of_nought_alone() -> None:
    for q in (0.25, 0.5, 0.9):
        law, power = q_gaussian(q), 1.0 / (1.0 - q)
        beta = math.exp(
            math.lgamma(1.5) + math.lgamma(power - 1.0) - math.lgamma(power + 0.5)
            - math.lgamma(0.5) - math.lgamma(power + 1.0) + math.lgamma(power + 1.5)
        )  # fmt: skip
        known = 4.0 * power**2 / (law.half * SPREAD) ** 2 * beta
        assert law.weight @ law.score**2 == pytest.approx(known, rel=1e-6)
        assert math.isfinite(measure(law, 0.5).score)
    assert [math.isinf(measure(q_gaussian(q), 0.5).score) for q in (-1.0, 0.0)] == [True, True]


@pytest.mark.long
@pytest.mark.parametrize("q", [-1.0, 0.0, 0.5])
def test_draws_of_the_products_own_law_agree(q: float) -> None:
    """Autograd through the sampler, for the reverse KL divergence as agents compute it."""
    torch.manual_seed(0)
    line, draws, temperature = measure(q_gaussian(q), 2.0), 400_000, 2.0
    scale = line.half * SPREAD / support_radius(q)
    mean = torch.zeros(draws, dtype=torch.float64, requires_grad=True)
    law = QGaussian(mean, torch.full_like(mean, scale), q)
    dose = law.rsample()
    hill = torch.exp(-0.5 * ((dose - gradient.HILL) / gradient.WIDE) ** 2)
    harm = torch.special.ndtr((dose - gradient.HARM) / gradient.STEEP)
    target = (hill - gradient.GRAVE * harm) / temperature - dose**2 / 2
    (law.log_prob(dose) - target).sum().backward()
    estimates = mean.grad
    assert estimates is not None
    error = line.pathwise / math.sqrt(draws)
    assert float(estimates.mean()) == pytest.approx(line.gradient, abs=4 * error)
    assert float(estimates.std()) == pytest.approx(line.pathwise, rel=0.02)


@pytest.mark.long
def test_the_page_tells_the_numbers(tmp_path: Path) -> None:
    lines = gradient.measured()
    kept = json.loads((RESULTS / "gradient.json").read_text())
    assert len(kept["lines"]) == len(lines)
    for old, new in zip(kept["lines"], lines, strict=True):
        assert old["name"] == new.name
        assert old["gradient"] == pytest.approx(new.gradient, rel=1e-9)
        assert old["pathwise"] == pytest.approx(new.pathwise, rel=1e-9)
    told = [
        gradient.Line(**{k: math.inf if v is None else v for k, v in line.items()}) for line in kept["lines"]
    ]
    assert (RESULTS / "gradient.md").read_text() == gradient.page(told, kept["draws"])
    assert ElementTree.fromstring((RESULTS / "gradient.svg").read_text()).tag.endswith("svg")
