import numpy as np
from scipy import stats

from simulator.engine.covariance import (
    contrasts,
    correlate,
    lkj_rows,
    matrices,
    published_rows,
    shared_lkj_factor,
)

RNG = np.random.default_rng(7)
N = 20_000


def lkj_correlations() -> np.ndarray:
    factors = matrices(lkj_rows(RNG.standard_normal((8, 9, N), dtype=np.float32))).astype(np.float64)
    return 2 * factors @ factors.swapaxes(1, 2)


def test_lkj_is_a_lower_triangular_factor_of_a_correlation_matrix() -> None:
    factors = matrices(lkj_rows(RNG.standard_normal((8, 9, 50), dtype=np.float32)))
    assert np.all(np.triu(factors, 1) == 0)
    assert np.all(np.diagonal(factors, axis1=1, axis2=2) > 0)
    np.testing.assert_allclose(np.square(factors).sum(axis=2), 0.5, rtol=1e-6)


def test_every_lkj_correlation_has_its_exact_marginal_scenario() -> None:
    # LKJ(1) in dimension 8: (r + 1)/2 ~ Beta(4, 4) for every pair. 28 tests at 1e-4 each: a wrong exponent in
    # any row fails by far, chance fails once in 350 changes of the seed.
    corr = lkj_correlations()
    for i in range(8):
        for j in range(i):
            assert stats.kstest(corr[:, i, j], stats.beta(4, 4, loc=-1, scale=2).cdf).pvalue > 1e-4, (i, j)


def test_lkj_determinant_has_its_exact_mean() -> None:
    # Joe 2006: det R is a product of independent 1 - y_i, y_i ~ Beta(i/2, (9 - i)/2), with mean 1 - i/9.
    det = np.linalg.det(lkj_correlations())
    expected = np.prod([1 - i / 9 for i in range(1, 8)])
    assert abs(det.mean() - expected) < 4 * det.std() / np.sqrt(N)


def test_lkj_mean_absolute_correlation_is_the_published_027() -> None:
    off = lkj_correlations()[:, *np.tril_indices(8, -1)]
    assert abs(np.abs(off).mean() - 0.27) < 0.005


def test_published_factor_is_exactly_the_sample_correlation_over_two() -> None:
    x = RNG.random((8, 8, 40))
    factors = matrices(published_rows(x.astype(np.float32))).astype(np.float64)
    for patient in range(40):
        covariance = factors[patient] @ factors[patient].T
        np.testing.assert_allclose(covariance, np.corrcoef(x[:, :, patient], rowvar=False) / 2, atol=1e-6)


def test_published_covariance_has_rank_seven_and_correlation_031() -> None:
    factors = matrices(published_rows(RNG.random((8, 8, 5000), dtype=np.float32))).astype(np.float64)
    assert factors.shape == (5000, 8, 7)
    corr = 2 * factors @ factors.swapaxes(1, 2)
    assert np.abs(np.linalg.eigvalsh(corr[:100])[:, 0]).max() < 1e-6
    assert abs(np.abs(corr[:, *np.tril_indices(8, -1)]).mean() - 0.31) < 0.005


def test_helmert_contrasts_are_orthonormal_and_sum_to_zero() -> None:
    a = contrasts(np.eye(8, dtype=np.float32)).astype(np.float64)  # [contrast, entry]
    np.testing.assert_allclose(a @ a.T, np.eye(7), atol=1e-6)
    np.testing.assert_allclose(a.sum(axis=1), 0, atol=1e-6)


def test_correlate_is_the_matrix_product_for_each_patient() -> None:
    normals = RNG.standard_normal((8, 5), dtype=np.float32)
    rows = lkj_rows(RNG.standard_normal((8, 9, 5), dtype=np.float32))
    out = np.empty((8, 5), dtype=np.float32)
    correlate(rows, normals, out)
    np.testing.assert_allclose(out.T, np.einsum("pij,jp->pi", matrices(rows), normals), rtol=1e-5, atol=1e-6)


def test_shared_factor_is_one_matrix() -> None:
    factor = shared_lkj_factor(np.random.default_rng(0), 8)
    assert factor.shape == (8, 8)
    np.testing.assert_allclose(np.diag(factor @ factor.T), 0.5, rtol=1e-6)
