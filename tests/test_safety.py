import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dosing.errors import UserError
from dosing.safety import LIMITED_BY, BaselineLimit, DoseLimits, StepLimit

LIMITS = DoseLimits(low=(-1.0,), high=(2.0,), unit="mg")


def test_doses_inside_pass_unchanged_and_unmarked() -> None:
    dose = np.array([[-1.0], [0.3], [2.0]], dtype=np.float32)
    delivered, limited = LIMITS.deliver(dose)
    assert delivered.dtype == np.float32
    np.testing.assert_array_equal(delivered, dose)
    assert limited.tolist() == [0, 0, 0]


def test_doses_outside_are_held_at_the_limit_and_name_it() -> None:
    delivered, limited = LIMITS.deliver([[-1.5], [0.0], [2.5], [1e300]])
    assert delivered[:, 0].tolist() == [-1.0, 0.0, 2.0, 2.0]
    assert [LIMITED_BY[code] for code in limited] == ["low limit", "", "high limit", "high limit"]


def test_delivering_does_not_change_the_request() -> None:
    dose = np.array([[5.0]])
    LIMITS.deliver(dose)
    assert dose[0, 0] == 5.0
    inside = np.array([[0.5]])
    delivered, _ = LIMITS.deliver(inside)
    delivered[0, 0] = 9.0
    assert inside[0, 0] == 0.5


def test_two_dimensional_doses_are_limited_each_by_its_own_limits() -> None:
    limits = DoseLimits(low=(0.0, 10.0), high=(1.0, 20.0))
    delivered, limited = limits.deliver([[0.5, 25.0], [-1.0, 15.0], [0.5, 15.0]])
    assert delivered.tolist() == [[0.5, 20.0], [0.0, 15.0], [0.5, 15.0]]
    assert limited.tolist() == [2, 1, 0]
    assert limits.n_act == 2


@pytest.mark.parametrize(
    "bad", [[[np.nan]], [[np.inf]], [[-np.inf]], [[0.1, 0.2]], 0.3, [["a lot"]], None, [[True]], [[1 + 1j]]]
)
def test_what_is_no_finite_dose_of_the_right_shape_is_refused(bad: object) -> None:
    with pytest.raises(UserError, match="dose"):
        LIMITS.deliver(bad)


@pytest.mark.parametrize(("low", "high"), [((1.0,), (1.0,)), ((0.0,), (np.inf,)), ((0.0, 1.0), (2.0,))])
def test_limits_that_make_no_sense_are_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="limits"):
        DoseLimits(low=low, high=high)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_every_finite_request_is_delivered_inside_and_marked_exactly_when_changed(doses: list[float]) -> None:
    limits = DoseLimits(low=(0.1,), high=(0.7,))  # neither is a float32 number
    dose = np.array(doses, dtype=np.float32)[:, None]
    delivered, limited = limits.deliver(dose)
    assert (delivered >= np.float32(0.1)).all()
    assert (delivered <= np.float32(0.7)).all()
    np.testing.assert_array_equal(limited > 0, (delivered != dose)[:, 0])


def test_contains() -> None:
    assert LIMITS.contains([[0.0], [2.1], [np.nan]]).tolist() == [True, False, False]


# Steps


def test_a_dose_moves_by_the_larger_of_share_and_least_step() -> None:
    step = StepLimit((0.5,), 0.2)
    low, high = step.around([[0.0], [1.0], [10.0], [-10.0]])
    np.testing.assert_allclose(low, [[-0.5], [0.5], [8.0], [-12.0]])
    np.testing.assert_allclose(high, [[0.5], [1.5], [12.0], [-8.0]])


@pytest.mark.parametrize(
    ("requested", "current", "given", "limited"),
    [
        ([5.0], [5.0], [5.0], False),
        ([5.9], [5.0], [5.9], False),
        ([9.0], [5.0], [6.0], True),
        ([0.1], [5.0], [4.0], True),
        ([0.0], [5.0], [0.0], False),  # allowed from any dose
    ],
)
def test_a_step_that_is_too_large_is_held(
    requested: list[float], current: list[float], given: list[float], limited: bool
) -> None:
    dose, held = StepLimit((0.5,), 0.2, always=(0.0,)).deliver(requested, current)
    np.testing.assert_allclose(dose, given)
    assert held == limited


def test_two_dimensional_steps_are_held_each_by_its_own() -> None:
    step = StepLimit((1.0, 10.0), always=(0.0, 0.0))
    dose, held = step.deliver([[3.0, 30.0], [0.0, 0.0], [0.0, 30.0]], [[1.0, 25.0]] * 3)
    assert dose.tolist() == [[2.0, 30.0], [0.0, 0.0], [0.0, 30.0]]
    assert held.tolist() == [True, False, False]


@given(
    st.lists(st.tuples(st.floats(-1, 2), st.floats(-1, 2)), min_size=1, max_size=20),
    st.floats(1e-3, 5),
    st.floats(0, 2),
)
def test_a_held_dose_lies_between_the_current_and_the_requested_one(
    pairs: list[tuple[float, float]], absolute: float, relative: float
) -> None:
    """So that it is within the hard limits wherever both are, to the last bit."""
    requested, current = (np.array(column)[:, None] for column in zip(*pairs, strict=True))
    dose, held = StepLimit((absolute,), relative).deliver(requested, current)
    assert LIMITS.contains(dose).all()
    assert (dose >= np.minimum(requested, current)).all()
    assert (dose <= np.maximum(requested, current)).all()
    np.testing.assert_array_equal(held, (dose != requested)[:, 0])


@pytest.mark.parametrize(
    "fields",
    [
        {"absolute": (0.0,)},
        {"absolute": (-1.0,)},
        {"absolute": (np.nan,)},
        {"absolute": (np.inf,)},
        {"absolute": (1.0,), "relative": -0.1},
        {"absolute": (1.0,), "relative": np.nan},
        {"absolute": (1.0,), "always": (0.0, 0.0)},
        {"absolute": (1.0,), "always": (np.nan,)},
        {"absolute": (1.0, 1.0), "current": ("a", "b", "c")},
        {"absolute": (1.0,), "always": (0.0,), "start": (5.0, 5.0)},
        {"absolute": (1.0,), "always": (0.0,), "start": (np.inf,)},
        {"absolute": (1.0,), "start": (5.0,)},
        {"absolute": (1.0,), "lowering": False},
    ],
)
def test_step_limits_that_make_no_sense_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UserError, match="step limit"):
        StepLimit(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("requested", "current", "given"),
    [
        (0.3, 5.0, 0.3),  # lowering is free, down to the dose that is always allowed
        (9.0, 5.0, 6.0),
        (9.0, 0.0, 9.0),  # treatment begins
        (14.0, 0.0, 10.0),
        (14.0, 0.1, 0.6),  # it has begun: the least step
        (0.0, 5.0, 0.0),
    ],
)
def test_free_lowering_and_a_start(requested: float, current: float, given: float) -> None:
    step = StepLimit((0.5,), 0.2, (0.0,), lowering=False, start=(10.0,))
    dose, held = step.deliver([requested], [current])
    np.testing.assert_allclose(dose, [given])
    assert held == (given != requested)
    low, high = step.around([current])
    assert low == 0.0
    assert (low <= given) & (given <= high)


def test_the_largest_of_the_entries_that_tell_a_dose_counts() -> None:
    one = StepLimit((0.5,), current=("yesterday", "week"))
    assert one.observed([[4.0, 5.0], [3.0, 1.0]]).tolist() == [[5.0], [3.0]]
    two = StepLimit((0.5, 0.5), current=("a yesterday", "a week", "b yesterday", "b week"))
    assert two.observed([[4.0, 5.0, 1.0, 0.0]]).tolist() == [[5.0, 1.0]]


def test_a_step_limit_comes_back_from_its_own_card() -> None:
    for step in (
        StepLimit((0.5,), 0.2, (0.0,), ("yesterday", "week"), lowering=False, start=(10.0,)),
        StepLimit((0.5, 1.0)),
    ):
        assert StepLimit.of({"dose": {"step_limit": step.card()}}) == step


def test_a_step_limit_is_read_from_a_card() -> None:
    assert StepLimit.of({}) is None
    assert StepLimit.of({"dose": {"unit": "mg"}}) is None
    whole = {"absolute": [0.5], "relative": 0.2, "always": [0.0], "current": ["yesterday's dose"]}
    assert StepLimit.of({"dose": {"step_limit": whole}}) == StepLimit(
        (0.5,), 0.2, (0.0,), ("yesterday's dose",)
    )
    assert StepLimit.of({"dose": {"step_limit": {"absolute": [0.5]}}}) == StepLimit((0.5,))
    for broken in ({}, {"absolute": "much"}, {"absolute": 0.5}, "20 %", {"absolute": [0.5], "relative": "x"}):
        with pytest.raises(UserError, match="step limit"):
            StepLimit.of({"dose": {"step_limit": broken}})


RULE = BaselineLimit("basal", "on board", multiple=4.0, most_load=3.0, adds=0.25)


@pytest.mark.parametrize(
    ("requested", "baseline", "load", "delivered", "rule"),
    [
        (3.9, 1.0, 0.0, 3.9, ""),
        (4.1, 1.0, 0.0, 4.0, "baseline limit"),
        (4.1, 1.0, 2.5, 3.0, "cumulative limit"),  # 1 + (3 - 2.5) / 0.25
        (4.1, 1.0, 9.0, 1.0, "cumulative limit"),  # the baseline itself is always allowed
        (0.9, 1.0, 9.0, 0.9, ""),
        (0.0, 1.0, 9.0, 0.0, ""),
        (9.0, 2.0, -5.0, 8.0, "baseline limit"),
    ],
)
def test_a_baseline_limit_holds_by_the_multiple_or_by_the_load(
    requested: float, baseline: float, load: float, delivered: float, rule: str
) -> None:
    dose, code = RULE.deliver(np.array([[requested]]), np.array([[baseline, load]]))
    assert dose.shape == (1, 1)
    assert (dose[0, 0], LIMITED_BY[code[0]]) == (delivered, rule)
    one, single = RULE.deliver([requested], [baseline, load])
    assert (one.tolist(), int(single)) == ([delivered], int(code[0]))


def test_a_baseline_limit_is_read_from_the_card_or_refused() -> None:
    stated = {"baseline": "basal", "load": "on board", "multiple": 4, "most_load": 3, "adds": 0.25}
    assert BaselineLimit.of({"dose": {"baseline_limit": stated}}) == RULE
    assert BaselineLimit.of({"dose": {}}) is None
    for broken in ({}, stated | {"adds": 0}, stated | {"multiple": "x"}, stated | {"most_load": np.nan}):
        with pytest.raises(UserError, match="baseline limit"):
            BaselineLimit.of({"dose": {"baseline_limit": broken}})
