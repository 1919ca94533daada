"""dosing.evaluation.statistics against closed forms, scipy, enumeration, slow loops, and coverage on
simulated data."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from dosing.errors import UserError
from dosing.evaluation import statistics as st


def estimate(value, low, high, n_seeds=5):
    return st.Estimate(value, low, high, 0.95, 5000, n_seeds, "t over seeds")


def ends(e):
    return np.array([e.value, e.low, e.high])


def coverage(make, truth, repeats, seed=0):
    """Fraction of intervals that hold the truth, and their mean width."""
    rng = np.random.default_rng(seed)
    estimates = [make(rng) for _ in range(repeats)]
    return np.mean([e.low <= truth <= e.high for e in estimates]), np.mean(
        [e.high - e.low for e in estimates]
    )


# ---------------------------------------------------------------- Estimate


def test_text_shows_value_interval_unit_and_basis():
    e = estimate(3.41, 2.9, 3.92)
    assert str(e) == f"{e}" == e.text() == "3.41 [2.90, 3.92]"
    assert e.text("mg") == "3.41 [2.90, 3.92] mg"
    assert f"{e:.1f}" == e.text(spec=".1f") == "3.4 [2.9, 3.9]"
    assert e.basis == "95 % interval, t over seeds, 5 seeds, n = 5,000"
    assert estimate(1, 0, 2, n_seeds=1).basis == "95 % interval, t over seeds, 1 seed, n = 5,000"
    assert estimate(1, 0, 2, n_seeds=None).basis == "95 % interval, t over seeds, n = 5,000"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0034, 0.0029, 0.0039), "0.00340 [0.00290, 0.00390]"),
        ((1234.5, 1000.0, 1469.0), "1234 [1000, 1469]"),
        ((-0.0001, -0.5, 0.5), "0.00 [-0.50, 0.50]"),
        ((0.0, 0.0, 0.0), "0.0 [0.0, 0.0]"),
        ((0.03, 0.03, 0.03), "0.030 [0.030, 0.030]"),
    ],
)
def test_default_digits_follow_the_half_width(numbers, text):
    assert str(estimate(*numbers)) == text


@pytest.mark.parametrize("numbers", [(np.nan, 0, 1), (0, -np.inf, 1), (0, 1, -1)])
def test_an_impossible_interval_is_refused(numbers):
    with pytest.raises(UserError, match="finite low <= high"):
        estimate(*numbers)


# ---------------------------------------------------------------- bands


def test_a_band_is_t_at_every_point_at_the_shared_level():
    x = np.random.default_rng(0).normal(size=(5, 4)) + np.arange(4)
    for e, column in zip(st.band_over_seeds(x, confidence=0.9), x.T, strict=True):
        half = scipy.stats.t.ppf(1 - 0.1 / (2 * 4), 4) * column.std(ddof=1) / 5**0.5
        assert ends(e) == pytest.approx(column.mean() + half * np.array([0, -1, 1]))
        assert (e.level, e.n_seeds) == (0.9, 5)
        assert "simultaneous over 4 points" in e.method


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_a_band_holds_at_all_points_at_once_and_pointwise_intervals_do_not(shared):
    rng = np.random.default_rng(1)
    inside, pointwise = 0, 0
    for _ in range(400):
        x = rng.normal(size=(5, 8)) * (1 - shared) ** 0.5 + rng.normal(size=(5, 1)) * shared**0.5
        inside += all(e.low <= 0 <= e.high for e in st.band_over_seeds(x))
        pointwise += all((e := st.mean_over_seeds(c[:, None])).low <= 0 <= e.high for c in x.T)
    assert inside >= 0.95 * 400 - 2 * (400 * 0.95 * 0.05) ** 0.5
    assert pointwise < inside


def test_a_band_of_one_seed_is_refused():
    with pytest.raises(UserError, match="at least two seeds"):
        st.band_over_seeds(np.zeros((1, 3)))


# ---------------------------------------------------------------- means over seeds


def test_own_patients_equal_student_t_over_the_seed_means():
    x = np.random.default_rng(0).normal(2, 3, (5, 40))
    e = st.mean_over_seeds(x, confidence=0.9)
    means = x.mean(1)
    low, high = scipy.stats.t.interval(0.9, 4, means.mean(), scipy.stats.sem(means))
    np.testing.assert_allclose(ends(e), [x.mean(), low, high], rtol=1e-12)
    assert (e.n, e.n_seeds, e.level, e.method) == (200, 5, 0.9, "t over seeds")


def test_one_seed_equals_student_t_over_patients_and_says_so():
    x = np.random.default_rng(0).normal(2, 3, 40)
    low, high = scipy.stats.ttest_1samp(x, 0).confidence_interval(0.95)
    for one in (x, x[None], x.astype(np.float64).tolist()):
        e = st.mean_over_seeds(one)
        np.testing.assert_allclose(ends(e), [x.mean(), low, high], rtol=1e-12)
        assert (e.n, e.n_seeds, e.method) == (40, 1, "t over patients")
    assert st.mean_over_seeds(x, shared_patients=True) == st.mean_over_seeds(x)


def crossed_slow(x, confidence):
    """Two-way random layout, cell by cell: interval of the grand mean."""
    n_seeds, n_patients = len(x), len(x[0])
    grand = sum(sum(row) for row in x) / (n_seeds * n_patients)
    seed = [sum(row) / n_patients for row in x]
    patient = [sum(x[i][j] for i in range(n_seeds)) / n_seeds for j in range(n_patients)]
    df = (n_seeds - 1, n_patients - 1, (n_seeds - 1) * (n_patients - 1))
    ms_seed = n_patients * sum((m - grand) ** 2 for m in seed) / df[0]
    ms_patient = n_seeds * sum((m - grand) ** 2 for m in patient) / df[1]
    ms_rest = 0.0
    for i in range(n_seeds):
        for j in range(n_patients):
            ms_rest += (x[i][j] - seed[i] - patient[j] + grand) ** 2 / df[2]
    var_seed = max(ms_seed - ms_rest, 0) / n_patients
    var_patient = max(ms_patient - ms_rest, 0) / n_seeds
    variance = var_seed / n_seeds + var_patient / n_patients + ms_rest / (n_seeds * n_patients)
    weight_seed, weight_patient = float(ms_seed > ms_rest), float(ms_patient > ms_rest)
    weight_rest = 1 - weight_seed - weight_patient
    parts = [
        (weight_seed * ms_seed, df[0]),
        (weight_patient * ms_patient, df[1]),
        (weight_rest * ms_rest, df[2]),
    ]
    dof = sum(m for m, _ in parts) ** 2 / sum(m**2 / d for m, d in parts)
    half = scipy.stats.t.ppf(0.5 + confidence / 2, dof) * variance**0.5
    return grand, grand - half, grand + half


@pytest.mark.parametrize("spread", [(1, 1, 1), (3, 0, 1), (0, 3, 1), (0, 0, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_shared_patients_equal_the_two_way_layout_by_loops(spread, seed):
    rng = np.random.default_rng(seed)
    sizes = ((4, 1), (1, 7), (4, 7))
    x = sum(s * rng.normal(size=size) for s, size in zip(spread, sizes, strict=True))
    e = st.mean_over_seeds(x, shared_patients=True, confidence=0.8)
    np.testing.assert_allclose(ends(e), crossed_slow(x.tolist(), 0.8), rtol=1e-9)
    assert e.method == "t over seeds and shared patients"


def test_shared_patients_without_interaction_add_the_two_variances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(500, 1)), rng.normal(size=(1, 400))
    e = st.mean_over_seeds(a + b, shared_patients=True)
    variance = a.var(ddof=1) / 500 + b.var(ddof=1) / 400
    assert (e.high - e.low) / 2 == pytest.approx(1.96 * variance**0.5, rel=5e-3)


def test_a_rule_repeated_over_shared_patients_gains_nothing_from_the_repeats():
    x = np.random.default_rng(0).normal(size=30)
    repeated = st.mean_over_seeds(np.tile(x, (5, 1)), shared_patients=True)
    np.testing.assert_allclose(ends(repeated), ends(st.mean_over_seeds(x)), rtol=1e-9)
    with pytest.raises(UserError, match="identical"):
        st.mean_over_seeds(np.tile(x, (5, 1)))


@pytest.mark.parametrize("shared", [False, True])
def test_order_of_patients_and_seeds_does_not_matter_and_units_scale(shared):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 30)) + rng.normal(size=(1, 30))
    e = ends(st.mean_over_seeds(x, shared_patients=shared))
    moved = x[rng.permutation(4)][:, rng.permutation(30)]
    np.testing.assert_allclose(ends(st.mean_over_seeds(moved, shared_patients=shared)), e, rtol=1e-9)
    np.testing.assert_allclose(
        ends(st.mean_over_seeds(5 * x + 2, shared_patients=shared)), 5 * e + 2, rtol=1e-9
    )


def test_own_patients_may_be_shuffled_within_each_seed():
    x = np.random.default_rng(0).normal(size=(4, 30))
    shuffled = np.random.default_rng(1).permuted(x, axis=1)
    np.testing.assert_allclose(ends(st.mean_over_seeds(shuffled)), ends(st.mean_over_seeds(x)), rtol=1e-9)


def crossed_draw(rng):
    return 0.3 * rng.normal(size=(5, 1)) + 3 * rng.normal(size=(1, 100)) + 2 * rng.normal(size=(5, 100))


@pytest.mark.long
def test_coverage_of_the_t_intervals():
    own, _ = coverage(
        lambda r: st.mean_over_seeds(r.normal(size=(5, 1)) + r.exponential(2, (5, 50)) - 2), 0, 2000
    )
    one, _ = coverage(lambda r: st.mean_over_seeds(r.normal(size=60)), 0, 2000)
    shared, _ = coverage(lambda r: st.mean_over_seeds(crossed_draw(r), shared_patients=True), 0, 2000)
    assert own == pytest.approx(0.95, abs=0.015)  # three binomial standard errors
    assert one == pytest.approx(0.95, abs=0.015)
    assert shared == pytest.approx(0.955, abs=0.02)


def test_t_over_seeds_would_be_wrong_for_shared_patients():
    wrong, _ = coverage(lambda r: st.mean_over_seeds(crossed_draw(r)), 0, 500)
    assert wrong < 0.9


# ---------------------------------------------------------------- paired differences


def test_paired_difference_is_the_mean_of_the_differences():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 30))
    assert st.paired_difference(x, y) == st.mean_over_seeds(x - y)
    both = st.paired_difference(x, y, shared_patients=True, confidence=0.9)
    assert both == st.mean_over_seeds(x - y, shared_patients=True, confidence=0.9)
    forth, back = st.paired_difference(x, y), st.paired_difference(y, x)
    np.testing.assert_allclose([back.value, back.low, back.high], [-forth.value, -forth.high, -forth.low])
    np.testing.assert_array_equal(ends(st.paired_difference(x, x)), 0)


def test_one_reference_row_means_shared_patients():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 30)), rng.normal(size=30)
    expected = st.mean_over_seeds(x - y, shared_patients=True)
    assert st.paired_difference(x, y) == st.paired_difference(x, y[None]) == expected
    assert st.paired_difference(y, x).value == -expected.value
    assert st.paired_difference(x[0], y).method == "t over patients"


def test_common_random_numbers_narrow_the_interval_and_keep_its_coverage():
    def pair(rng, common):
        patients = 3 * rng.normal(size=(5, 100))
        other = patients if common else 3 * rng.normal(size=(5, 100))
        x, y = patients + 0.2 + rng.normal(size=(5, 100)), other + rng.normal(size=(5, 100))
        return st.paired_difference(x, y)

    covered, paired_width = coverage(lambda r: pair(r, True), 0.2, 2000)
    _, unpaired_width = coverage(lambda r: pair(r, False), 0.2, 500)
    assert covered == pytest.approx(0.95, abs=0.015)
    assert paired_width / unpaired_width == pytest.approx(
        (2 / 20) ** 0.5, rel=0.08
    )  # variances 1+1 and 9+9+1+1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.1, 0.2, "better"),
        (5e-324, 1, "better"),
        (0.0, 1.0, "not distinguishable"),
        (-1.0, 1.0, "not distinguishable"),
        (-1.0, 0.0, "not distinguishable"),
        (0.0, 0.0, "not distinguishable"),
        (-1.0, -5e-324, "worse"),
        (-0.2, -0.1, "worse"),
    ],
)
def test_verdict_edges(low, high, said):
    assert st.verdict(estimate((low + high) / 2, low, high)) == said


def test_verdict_errs_as_often_as_the_level_says_when_nothing_differs():
    rng = np.random.default_rng(0)
    said = [st.verdict(st.paired_difference(*rng.normal(size=(2, 5, 20)))) for _ in range(2000)]
    assert said.count("better") / 2000 == pytest.approx(0.025, abs=0.011)
    assert said.count("worse") / 2000 == pytest.approx(0.025, abs=0.011)


# ---------------------------------------------------------------- the middle half


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2), (3, 5), (7, 1), (10, 6), (13, 4), (40, 25)])
def test_interquartile_mean_equals_scipy_and_a_loop(shape):
    scores = np.random.default_rng(0).normal(size=shape)
    ordered = sorted(scores.ravel().tolist())
    cut = int(0.25 * len(ordered))
    middle = ordered[cut : len(ordered) - cut]
    assert st.interquartile_mean(scores) == pytest.approx(
        scipy.stats.trim_mean(scores, 0.25, axis=None), rel=1e-12
    )
    assert st.interquartile_mean(scores) == pytest.approx(sum(middle) / len(middle), rel=1e-12)
    assert st.interquartile_mean(scores.ravel()) == pytest.approx(sum(middle) / len(middle), rel=1e-12)


# ---------------------------------------------------------------- patients and the lower tail


def test_cvar_by_hand():
    x = [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert st.cvar(x, 0.25).value == pytest.approx((1 + 2 + 0.5 * 3) / 2.5, rel=1e-15)
    assert st.cvar(x, 0.2).value == 1.5
    assert st.cvar(x, 0.1).value == 1.0
    assert st.lower_tail(np.arange(8.0)[::-1], 0.05) == 0.0  # less than one value: the lowest
    assert st.cvar(x, 1.0).value == 5.5
    hundred = np.arange(100.0)[::-1]
    assert st.cvar(hundred).value == 2.0
    assert st.cvar(hundred, 0.07).value == 3.0  # 0.07 * 100 > 7 in floating point


@pytest.mark.parametrize("n", [11, 20, 437])
@pytest.mark.parametrize("level", [0.1, 0.3, 0.77])
def test_cvar_equals_the_integral_of_the_quantile_function(n, level):
    x = np.random.default_rng(n).normal(size=n)
    u = (np.arange(200_000) + 0.5) / 200_000 * level
    integral = np.quantile(x, u, method="inverted_cdf").mean()
    assert st.cvar(x, level).value == pytest.approx(integral, abs=1e-3)
    assert st.cvar(x, level).value <= x.mean()


def test_lower_tail_of_a_normal():
    x = np.random.default_rng(0).normal(size=200_000)
    tail = st.cvar(x, 0.05, replicates=60)
    assert tail.value == pytest.approx(-scipy.stats.norm.pdf(scipy.stats.norm.ppf(0.05)) / 0.05, abs=0.02)
    assert tail.low < tail.value < tail.high


def test_several_seeds_take_t_over_the_seeds_own_tails():
    x = np.random.default_rng(0).normal(size=(4, 60))
    e, own = st.cvar(x, 0.1), [np.sort(row)[:6].mean() for row in x]
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(own), scipy.stats.sem(own))
    np.testing.assert_allclose(ends(e), [np.mean(own), low, high], rtol=1e-12)
    assert (e.n, e.n_seeds, e.method) == (240, 4, "t over seeds")
    with pytest.raises(UserError, match="identical"):
        st.cvar(np.tile(x[0], (3, 1)))


def test_patient_bootstrap_of_a_mean_has_the_normal_width():
    x = np.random.default_rng(0).exponential(size=500)
    e = st.patient_bootstrap(x, lambda v: v.mean(-1), replicates=10_000)
    assert (e.high - e.low) / 2 == pytest.approx(1.96 * x.std() / 500**0.5, rel=0.04)
    assert (e.n, e.n_seeds, e.method) == (500, None, "patient bootstrap")
    shuffled = np.random.default_rng(1).permutation(x)
    np.testing.assert_allclose(
        ends(st.patient_bootstrap(shuffled, lambda v: v.mean(-1), replicates=10_000)), ends(e), rtol=0.02
    )


def test_coverage_of_the_bootstrap_of_tails():
    level, n = 0.1, 300
    truth = -scipy.stats.norm.pdf(scipy.stats.norm.ppf(level)) / level
    tail, _ = coverage(lambda r: st.cvar(r.normal(size=n), level, replicates=400, rng=r), truth, 300)
    # 30 patients in the tail: the percentile interval falls a little short of 95 %
    assert 0.89 <= tail <= 0.97


# ---------------------------------------------------------------- resampling


def test_same_seed_same_interval_and_blocks_cover_all_replicates(monkeypatch):
    x = np.random.default_rng(0).normal(size=100)
    assert st.cvar(x, 0.1) == st.cvar(x, 0.1) == st.cvar(x, 0.1, rng=np.random.default_rng(0))
    assert st.cvar(x, 0.1) != st.cvar(x, 0.1, rng=1)
    sizes = []

    def recording_mean(v):
        sizes.append(v.shape)
        return v.mean(-1)

    monkeypatch.setattr(st, "_BLOCK", 900)
    st.patient_bootstrap(x, recording_mean, replicates=100)
    assert sizes == [(9, 100)] * 11 + [(1, 100), (100,)]


@pytest.mark.long
def test_core_statistics_need_neither_torch_nor_pandas():
    heavy = "{'torch', 'pandas', 'streamlit'}"
    code = f"import sys, dosing.evaluation.statistics; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- refusals


OK = np.random.default_rng(0).normal(size=(3, 20))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.mean_over_seeds([[1.0, np.nan]]), "returns hold 1 of 2 values that are NaN or infinite"),
        (lambda: st.mean_over_seeds([[1.0, np.inf]]), "NaN or infinite"),
        (lambda: st.mean_over_seeds([[1.0, None]]), "NaN or infinite"),
        (lambda: st.mean_over_seeds([]), "empty"),
        (lambda: st.mean_over_seeds(np.ones((3, 0))), "empty"),
        (lambda: st.mean_over_seeds([["a", "b"]]), "rectangular array of numbers"),
        (lambda: st.mean_over_seeds([[1.0, 2.0], [3.0]]), "rectangular array of numbers"),
        (lambda: st.mean_over_seeds(np.ones((2, 2, 2))), r"\[S, P\] or \[P\], got \[2, 2, 2\]"),
        (lambda: st.mean_over_seeds(3.0), r"\[S, P\] or \[P\]"),
        (lambda: st.mean_over_seeds([3.0]), "one patient"),
        (lambda: st.mean_over_seeds([[3.0], [4.0]], shared_patients=True), "one patient"),
        (lambda: st.mean_over_seeds(OK, confidence=1.0), "between 0 and 1"),
        (lambda: st.paired_difference(OK, OK[:, :19]), "same patients, got 20 in x, 19 in y"),
        (lambda: st.paired_difference(OK, OK[:2]), "equal seeds or one row, got 3 and 2"),
        (lambda: st.paired_difference(OK, OK * np.nan), "returns y hold 60 of 60"),
        (
            lambda: st.patient_bootstrap(OK[0], np.mean, replicates=10),
            "10 replicates cannot place 95 % limits",
        ),
        (lambda: st.patient_bootstrap(OK[0], np.mean), r"must map \[2000, 20\] to \[2000\]"),
        (lambda: st.patient_bootstrap(OK[0], np.mean, confidence=0.0), "between 0 and 1"),
        (lambda: st.interquartile_mean([np.nan]), "NaN"),
        (lambda: st.patient_bootstrap(OK, np.mean), r"\[P\]"),
        (lambda: st.patient_bootstrap([1.0], np.mean), "2 or more patients"),
        (lambda: st.cvar(OK, 0.0), r"level in \(0, 1\], got 0.0"),
        (lambda: st.cvar(OK, 0.04), "CVaR 0.04 needs at least 25 patients, got 20"),
    ],
)
def test_wrong_input_gives_one_sentence(call, message):
    with pytest.raises(UserError, match=message) as refused:
        call()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("ones", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (50, 100, 0.4038, 0.5962)]
)
def test_a_rate_of_one_seed_has_wilsons_interval(ones: int, n: int, low: float, high: float) -> None:
    """Values of Wilson 1927 with z = 1.96, as in Newcombe 1998."""
    rate = st.rate_over_seeds(np.r_[np.ones(ones), np.zeros(n - ones)])
    assert (rate.value, rate.n, rate.n_seeds) == (ones / n, n, 1)
    np.testing.assert_allclose((rate.low, rate.high), (low, high), atol=1e-4)


def test_a_rate_of_several_seeds_is_over_them_and_within_zero_and_one() -> None:
    both = st.rate_over_seeds([[1, 1, 1, 0], [0, 0, 0, 0]])
    assert (both.value, both.low, both.high, both.n, both.n_seeds) == (0.375, 0.0, 1.0, 8, 2)
    none = st.rate_over_seeds(np.zeros((3, 4)))  # no spread between seeds, and still no certainty
    assert none.high == pytest.approx(0.2425, abs=1e-4)
