"""The agents' view of recorded visits: an exact map there and back, and refusals that name the row."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dosing.data.dataset import Dataset, Transform
from dosing.data.store import Episodes
from dosing.errors import UserError
from tests.support.samples import cohort


def changed(episodes: Episodes, **arrays: Any) -> Episodes:
    return dataclasses.replace(episodes, **arrays)


def edited(name: str, row: int, value: float) -> Episodes:
    """The cohort with one number of one column replaced."""
    values = getattr(cohort(), name).copy()
    values[row] = value
    return changed(cohort(), **{name: values})


def with_card(**fields: Any) -> Episodes:
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return changed(cohort(), metadata=dataclasses.replace(cohort().metadata, card={}, **lists))


def test_agents_see_standardised_numbers() -> None:
    data, raw = Dataset.from_episodes(cohort(), dtype=torch.float64), cohort()
    assert len(data) == len(raw) == 8 * 24
    assert data.obs.mean(0).abs().max() < 1e-6
    # the scale is the standard deviation + 1e-3, so a constant entry stays finite
    np.testing.assert_allclose(data.obs.std(0, correction=0), 1 / (1 + 1e-3 / raw.obs.std(0)), rtol=1e-5)
    assert float(data.reward.std(correction=0)) == pytest.approx(1.0, rel=1e-6)
    assert float(data.act.abs().max()) <= 1.0
    np.testing.assert_allclose(data.act, raw.act, rtol=1e-6)  # limits -1 and 1: the map is the identity
    scale = np.asarray(data.transform.obs_scale)
    np.testing.assert_allclose(
        data.next_obs.numpy() * scale + np.asarray(data.transform.obs_mean), raw.next_obs, atol=1e-6
    )
    np.testing.assert_allclose(data.reward.numpy() * data.transform.reward_scale, raw.reward, rtol=1e-6)


def test_rows_of_one_patient_follow_each_other() -> None:
    data = Dataset.from_episodes(cohort())
    assert data.starts.tolist() == list(range(0, 8 * 24 + 1, 24))
    for first, end in zip(data.starts[:-1].tolist(), data.starts[1:].tolist(), strict=True):
        torch.testing.assert_close(data.obs[first + 1 : end], data.next_obs[first : end - 1])


def test_the_time_limit_is_not_a_termination() -> None:
    assert cohort().truncated.any()
    assert not Dataset.from_episodes(cohort()).terminated.any()
    ended = cohort().terminated.copy()
    ended[5] = True
    assert Dataset.from_episodes(changed(cohort(), terminated=ended)).terminated.nonzero().tolist() == [[5]]


limits = st.tuples(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4)).map(lambda x: (x[0], x[0] + x[1]))


@given(limits, st.floats(0.0, 1.0))
def test_doses_go_there_and_back(ends: tuple[float, float], share: float) -> None:
    low, high = ends
    transform = Transform((0.0,), (1.0,), (low, -3.0), (high, 5.0))
    dose = np.array([[low + share * (high - low), 1.0]])
    unit = transform.to_unit(dose)
    slack = 1e-12 * max(abs(low), abs(high), 1.0) / (high - low)
    assert (np.abs(unit) <= 1.0 + slack).all()
    np.testing.assert_allclose(transform.to_dose(unit), dose, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        transform.to_unit(np.array([[low, -3.0], [high, 5.0]])), [[-1, -1], [1, 1]], atol=slack
    )
    # half the axis is half the range
    np.testing.assert_allclose(transform.dose_width(np.ones(2)), [(high - low) / 2, 4.0], rtol=1e-9)


def test_a_transform_survives_json_bit_for_bit() -> None:
    fitted = Transform.fit(cohort())
    assert Transform.from_json(json.loads(json.dumps(fitted.to_json()))) == fitted


def test_standardising_can_be_left_out() -> None:
    plain = Transform.fit(cohort(), standardise_obs=False, scale_reward=False)
    data = Dataset.from_episodes(cohort(), plain)
    np.testing.assert_array_equal(data.obs, cohort().obs)
    np.testing.assert_array_equal(data.reward, cohort().reward)


@pytest.mark.parametrize("reward", [0.0, 0.1, -7.3])
def test_a_constant_reward_is_not_blown_up(reward: float) -> None:
    same = changed(cohort(), reward=np.full(len(cohort()), reward, dtype=np.float32))
    assert Transform.fit(same).reward_scale == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["obs", "act", "reward", "next_obs"])
def test_a_number_that_is_not_finite_is_refused_by_row(name: str, value: float) -> None:
    bad = edited(name, 31, value)
    for use in (
        Transform.fit,
        Dataset.from_episodes,
        lambda e: Dataset.from_episodes(e, Transform.fit(cohort())),
    ):
        with pytest.raises(UserError, match=rf"^{name} of row 31 .*finite"):
            use(bad)


@pytest.mark.parametrize("dose", [1.01, -1.5, 1e30])
def test_a_dose_outside_the_limits_is_refused_by_row(dose: float) -> None:
    with pytest.raises(
        UserError, match=r"dose .* of row 17 lies outside the hard limits \[-1.0\] to \[1.0\]"
    ):
        Dataset.from_episodes(edited("act", 17, dose))


@pytest.mark.parametrize(("low", "high"), [(1000.1, 1001.3), (-0.3, 0.1), (0.0, 1e-3)])
def test_a_dose_at_the_limit_is_inside(low: float, high: float) -> None:
    """A limit that float32 cannot hold exactly must not turn a dose delivered at it into a refusal."""
    act = np.full((len(cohort()), 1), low, dtype=np.float32)
    act[::2] = high
    data = Dataset.from_episodes(changed(with_card(action_low=[low], action_high=[high]), act=act))
    assert set(data.act.flatten().tolist()) <= {-1.0, 1.0} or data.act.abs().min() > 0.999
    assert float(data.act.abs().max()) <= 1.0


def test_no_rows_are_refused() -> None:
    empty = {name: array[:0] for name, array in cohort().arrays().items()}
    with pytest.raises(UserError, match="no rows"):
        Dataset.from_episodes(changed(cohort(), **empty))


@pytest.mark.parametrize("missing", ["action_low", "action_high"])
def test_a_card_without_limits_is_refused(missing: str) -> None:
    with pytest.raises(UserError, match=f"lacks '{missing}'"):
        Dataset.from_episodes(with_card(**{missing: ()}))


@pytest.mark.parametrize(
    ("low", "high"), [([1.0], [-1.0]), ([0.0], [0.0]), ([-1.0, -1.0], [1.0, 1.0]), ([float("nan")], [1.0])]
)
def test_a_card_with_impossible_limits_is_refused(low: list[float], high: list[float]) -> None:
    with pytest.raises(UserError, match="limit"):
        Dataset.from_episodes(with_card(action_low=low, action_high=high))


def test_rewards_are_shifted_before_they_are_scaled() -> None:
    recorded = cohort()
    shifted = Transform.fit(recorded, scale_reward=0.1, shift_reward=-0.5)  # 10 r - 5
    data = Dataset.from_episodes(recorded, shifted, dtype=torch.float64)
    np.testing.assert_allclose(
        data.reward.numpy(), 10.0 * recorded.reward.astype(np.float64) - 5.0, atol=1e-12
    )
    np.testing.assert_allclose(shifted.to_reward(shifted.scaled(recorded.reward)), recorded.reward, atol=1e-6)
    assert Transform.from_json(json.loads(json.dumps(shifted.to_json()))) == shifted
    plain = Transform.fit(recorded)
    assert "reward_shift" not in plain.to_json()  # folders of runs without one keep their names
    assert Transform.from_json(plain.to_json()).reward_shift == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift_reward": -1.0, "scale_reward": "return_range"}, "not both"),
        ({"shift_reward": float("nan")}, "shift_reward must be a finite number"),
        ({"scale_reward": -2.0}, "scale_reward must be a finite number above 0"),
        ({"scale_reward": "range"}, "scale_reward must be yes, no, return_range or a number"),
    ],
)
def test_a_scale_or_shift_that_is_none_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Transform.fit(cohort(), **options)
