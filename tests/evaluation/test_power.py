"""dosing.evaluation.power against closed forms, a published table and simulated studies."""

import numpy as np
import pytest
import scipy.stats

from dosing.errors import UserError
from dosing.evaluation.power import minimum_detectable_difference, standard_error
from dosing.evaluation.statistics import paired_difference, verdict


def test_the_standard_error_adds_two_variances():
    assert standard_error(3.0, 0.0, seeds=1, patients=9) == pytest.approx(1.0)
    assert standard_error(0.0, 2.0, seeds=4, patients=7) == pytest.approx(1.0)
    assert standard_error(6.0, 1.0, seeds=5, patients=9) == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "d"), [(34, 0.5), (10, 1.0), (199, 0.2)])
def test_published_sample_sizes_of_the_one_sample_t_test(n, d):
    """Pairs that a power of 0.8 needs beside an effect of d standard deviations (Cohen 1988; G*Power)."""
    found = [minimum_detectable_difference(1.0, 0.0, seeds=1, patients=p) for p in (n, n - 1)]
    assert found[0] <= d < found[1]


def test_of_many_patients_it_is_the_normal_one():
    z = scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)
    found = minimum_detectable_difference(2.0, 0.0, seeds=1, patients=1_000_000)
    assert found == pytest.approx(2.0 * z / 1000, rel=1e-4)


@pytest.mark.parametrize("seeds", [2, 5])
def test_simulated_studies_find_it_as_often_as_said(seeds):
    patient_sd, seed_sd, patients = 3.0, 0.4, 50
    true = minimum_detectable_difference(patient_sd, seed_sd, seeds=seeds, patients=patients)
    rng, found = np.random.default_rng(0), 0
    for _ in range(2000):
        shift = true + seed_sd * rng.normal(size=(seeds, 1))
        x = shift + patient_sd * rng.normal(size=(seeds, patients))
        found += verdict(paired_difference(x, np.zeros_like(x))) == "better"
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_more_comparisons_more_power_or_fewer_seeds_want_more():
    least = minimum_detectable_difference(1.0, 0.1, seeds=5, patients=100)
    assert minimum_detectable_difference(1.0, 0.1, seeds=5, patients=100, alpha=0.05 / 30) > 2 * least
    assert minimum_detectable_difference(1.0, 0.1, seeds=5, patients=100, power=0.99) > least
    assert minimum_detectable_difference(1.0, 0.1, seeds=3, patients=100) > least
    assert minimum_detectable_difference(0.0, 0.0, seeds=5, patients=100) == 0.0
    assert minimum_detectable_difference(1.0, 0.0, seeds=2, patients=10, alpha=1e-4, power=0.999) > 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patient_sd": -1.0}, "at least 0"),
        ({"seed_sd": float("nan")}, "at least 0"),
        ({"seeds": 0}, "1 or more seeds"),
        ({"seeds": 1, "patients": 1}, "one patient of one seed"),
        ({"power": 1.0}, "alpha < power < 1"),
        ({"alpha": 0.9}, "alpha < power < 1"),
    ],
)
def test_refused_in_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        minimum_detectable_difference(
            **({"patient_sd": 1.0, "seed_sd": 0.0, "seeds": 3, "patients": 5} | change)
        )
