"""The page on the width of FtTPO's dose set: its closed forms, and that it is made from end to end."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from benchmarks.experiments import width


@pytest.mark.parametrize("s", [0.02, 0.15])
def test_a_parabola_loses_a_fifth_of_its_squared_half_width(s: float) -> None:
    assert width.half_width(s) == pytest.approx(3.2579 * s, rel=2e-5)
    assert width.lost("parabola", s) == pytest.approx(width.half_width(s) ** 2 / 5.0, rel=1e-6)
    assert width.lost("Gaussian counterpart", s) == pytest.approx((1.633978 * s) ** 2, rel=1e-3)
    assert width.lost("Cauchy proposal", s) > 2.0 * width.lost("Gaussian counterpart", s)


def test_the_divergence_is_least_at_the_half_width_of_the_table() -> None:
    best = width.half_width(0.1)
    assert width.divergence(best, 0.1) == pytest.approx(0.29594, abs=5e-6)
    assert all(width.divergence(h * best, 0.1) > width.divergence(best, 0.1) for h in (0.9, 1.1))


@pytest.mark.long
def test_wider_draws_lose_more_of_a_episode() -> None:
    mean, value, result = width.episodes(200)
    assert 0.2 < mean < 0.7
    assert value > 0.0
    lost = {(c.distribution, c.s): c.lost for c in result}
    for distribution in width.DISTRIBUTIONS:
        assert lost[distribution, 0.02] < lost[distribution, 0.15]
    assert lost["parabola", 0.15] < lost["Cauchy proposal", 0.15]


@pytest.mark.long
def test_the_page_is_made_from_end_to_end() -> None:
    words, drawn = width.page(20, 4, draws=3)
    picture = ElementTree.fromstring(drawn)
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == len(width.DISTRIBUTIONS) + len(width.LOSSES)
    (quadrature,) = [line for line in words.splitlines() if line.startswith("| quadrature_kl | 0.00e+00")]
    (sampled,) = [line for line in words.splitlines() if line.startswith("| reverse_kl") and "e-" in line]
    assert float(sampled.split("|")[2]) > 0.0, "the sampled loss has noise"
    assert float(quadrature.split("|")[3]) > 0.0, "batches differ"
    assert "nan" not in words
    assert math.isfinite(float(sampled.split("|")[4]))
