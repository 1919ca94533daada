"""dosing.evaluation.aggregates against loops, exact enumeration, closed forms, and coverage."""

import numpy as np
import pytest
import scipy.stats

from dosing.errors import UserError
from dosing.evaluation import aggregates as ag
from dosing.evaluation import statistics as st
from tests.oracles import aggregates as slow


def table(seeds, strata, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=(seeds, strata)) * np.arange(1, strata + 1) + np.arange(strata), decimals)


# ---------------------------------------------------------------- stratified bootstrap


@pytest.mark.parametrize("shape", [(2, 1), (5, 1), (3, 2), (7, 4)])
def test_the_point_is_the_interquartile_mean_of_all_cells(shape):
    x = table(*shape)
    e = ag.stratified_bootstrap(x)
    assert e.value == pytest.approx(slow.interquartile_mean(x.ravel().tolist()))
    assert e.value == pytest.approx(scipy.stats.trim_mean(x.ravel(), 0.25))
    assert (e.n, e.n_seeds) == (x.size, len(x))


@pytest.mark.parametrize("shape", [(4, 1), (3, 2)])
def test_the_interval_is_that_of_all_resamples_within_strata(shape):
    x = table(*shape, decimals=6)

    def mean(rows):
        return float(np.mean(rows))

    exact = slow.bootstrap_distribution(x.tolist(), mean)
    drawn = ag._resampled((x,), lambda t: t.mean((-2, -1)), x.size, 40_000, 0, 0.95)
    assert set(np.round(drawn, 9)) <= set(np.round(exact, 9))  # no resample crosses a stratum
    for q in (0.025, 0.25, 0.5, 0.9, 0.975):  # the share below each exact quantile, to Monte Carlo error
        edge = np.quantile(exact, q, method="lower")
        assert np.mean(drawn <= edge + 1e-9) == pytest.approx(np.mean(exact <= edge + 1e-9), abs=0.01)


def test_strata_are_not_mixed():
    x = np.array([[0.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
    e = ag.stratified_bootstrap(x, lambda t: t.mean((-2, -1)))
    assert (e.value, e.low, e.high) == (50.0, 50.0, 50.0)


def test_the_blocks_change_nothing(monkeypatch):
    x = table(5, 3)
    whole = ag.performance_profile(x, [0.0, 1.0])
    monkeypatch.setattr(ag, "_BLOCK", 1000)
    parts = ag.performance_profile(x, [0.0, 1.0])
    assert np.abs(whole.low - parts.low).max() <= 1 / 15
    assert (whole.share == parts.share).all()


def test_intervals_of_many_seeds_cover():
    rng = np.random.default_rng(3)
    held = [
        e.low <= 0.0 <= e.high
        for e in (ag.stratified_bootstrap(rng.normal(size=(12, 6)), replicates=400) for _ in range(400))
    ]
    assert 0.91 < np.mean(held) < 0.98


# ---------------------------------------------------------------- probability of improvement


def test_a_probability_of_improvement_is_the_mean_share_of_pairs():
    x, y = table(4, 3, seed=1, decimals=0), table(6, 3, seed=2, decimals=0)
    e = ag.probability_of_improvement(x, y)
    assert e.value == pytest.approx(slow.improvement(x.tolist(), y.tolist()), abs=1e-12)
    assert e.low <= e.value <= e.high
    assert (e.n, e.n_seeds) == (30, None)
    back = ag.probability_of_improvement(y, x)
    assert back.value == pytest.approx(1.0 - e.value)


def test_in_one_stratum_it_is_mann_whitney_u():
    x, y = table(9, 1, seed=4)[:, 0], table(7, 1, seed=5)[:, 0] - 0.4
    u = scipy.stats.mannwhitneyu(x, y).statistic
    assert ag.probability_of_improvement(x, y).value == pytest.approx(u / 63)


def test_known_probabilities():
    low, high = np.arange(5.0), np.arange(5.0) + 10
    assert ag.probability_of_improvement(high, low).low == 1.0
    assert ag.probability_of_improvement(low, high).high == 0.0
    same = ag.probability_of_improvement(np.ones(5), np.ones(5))
    assert (same.value, same.low, same.high) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.8, 1, 4000), rng.normal(0, 1, 4000)  # P(X > Y) = Phi(0.8 / sqrt 2)
    value = ag._above(x[:, None], y[:, None])
    assert value == pytest.approx(scipy.stats.norm.cdf(0.8 / 2**0.5), abs=0.01)


# ---------------------------------------------------------------- performance profiles


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    x, edges = table(5, 3), np.array([-1.0, 0.0, 0.5, 2.0])
    x[0, 0] = 0.5  # at a threshold is not above it
    p = ag.performance_profile(x, edges)
    assert p.share.tolist() == pytest.approx(slow.profile(x.tolist(), edges.tolist()))
    assert (np.diff(p.share) <= 0).all()
    assert ((p.low <= p.share) & (p.share <= p.high)).all()
    assert p.n == 15


def test_the_ends_of_a_profile_are_binomial_in_one_stratum():
    p = ag.performance_profile(np.arange(10.0), [5.5], replicates=40_000)  # 4 of 10 above
    ends = scipy.stats.binom.ppf([0.025, 0.975], 10, 0.4) / 10
    assert (p.low[0], p.high[0]) == pytest.approx(tuple(ends))


# ---------------------------------------------------------------- p-values and Holm


@pytest.mark.parametrize("shape", [(5, 40), (1, 30), (2, 3)])
def test_a_p_value_is_that_of_the_t_test(shape):
    rng = np.random.default_rng(7)
    x = rng.normal(0.3, 1.0, size=shape)
    sample = x.mean(1) if shape[0] > 1 else x[0]
    expected = scipy.stats.ttest_1samp(sample, 0.0).pvalue
    assert ag.p_value(st.paired_difference(x, np.zeros(shape))) == pytest.approx(expected, rel=1e-9)
    assert ag.p_value(st.mean_over_seeds(x, confidence=0.8)) == pytest.approx(expected, rel=1e-9)


def test_a_p_value_below_five_percent_is_an_interval_that_leaves_zero_out():
    rng = np.random.default_rng(8)
    for _ in range(200):
        e = st.mean_over_seeds(rng.normal(0.7, 1.0, size=(4, 3)))
        assert (ag.p_value(e) < 0.05) == (st.verdict(e) != "not distinguishable")


def test_p_values_at_the_edges():
    assert ag.p_value(st.mean_over_seeds(np.zeros((3, 4)))) == 1.0
    assert ag.p_value(st.Estimate(2.0, 2.0, 2.0, 0.95, 10, 5, "t over seeds")) == 0.0
    with pytest.raises(UserError, match="t over seeds or patients, got 'patient bootstrap'"):
        ag.p_value(st.patient_bootstrap(np.arange(9.0), lambda v: v.mean(-1)))


def test_holm_of_a_known_case():
    assert ag.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ag.holm([0.5]).tolist() == [0.5]
    assert ag.holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(9)
    for _ in range(200):
        p = np.round(rng.uniform(size=6) ** 3, 2)
        for alpha in (0.01, 0.05, 0.2):
            adjusted = set(np.flatnonzero(ag.holm(p) <= alpha + 1e-12).tolist())
            assert adjusted == slow.rejected(p.tolist(), alpha + 1e-12)


def test_holm_keeps_the_error_of_the_family():
    rng = np.random.default_rng(10)
    wrong = np.mean([(ag.holm(rng.uniform(size=8)) < 0.05).any() for _ in range(4000)])
    assert wrong == pytest.approx(1 - (1 - 0.05 / 8) ** 8, abs=0.011)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ag.stratified_bootstrap([[1.0, 2.0]]), "2 or more seeds"),
        (lambda: ag.stratified_bootstrap([1.0, np.nan]), "NaN"),
        (lambda: ag.stratified_bootstrap([1.0, 2.0], replicates=10), "10 replicates"),
        (lambda: ag.stratified_bootstrap([1.0, 2.0], lambda t: t.mean()), "keep the 2000 resamples"),
        (lambda: ag.probability_of_improvement(np.ones((3, 2)), np.ones((3, 1))), "2 in x, 1 in y"),
        (lambda: ag.performance_profile([1.0, 2.0], [1.0, 1.0]), "ascending"),
        (lambda: ag.holm([0.5, 1.2]), "between 0 and 1"),
    ],
)
def test_refused_in_one_sentence(call, words):
    with pytest.raises(UserError, match=words):
        call()
