"""The monitor of unfamiliar states: against slow counts, its promise on new patients, what it keeps."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dosing.data.dose_support import IQR_OF_NORMAL, LEVEL, PARTS, conformal_threshold
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from dosing.recommendation.novelty import NEIGHBOURS, Monitor, keep_monitor, monitor_of, wilson
from dosing.runs.files import sha256
from dosing.runs.folder import NOVELTY, NOVELTY_VISITS
from tests.support.samples import cohort


def recorded(patients: int, seed: int = 0, visits: int = 6, width: int = 3, spread: float = 1.0) -> Episodes:
    """Visits around each patient's own mean, of unequal numbers per patient: dependent within a patient."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 2 * visits, patients)
    episode = np.repeat(np.arange(patients), count)
    m = len(episode)
    means = spread * rng.standard_normal((patients, width))
    obs = (means[episode] + 0.3 * rng.standard_normal((m, width))).astype(np.float32)
    dose = rng.uniform(-1, 1, (m, 1)).astype(np.float32)
    starts = np.concatenate(([0], np.cumsum(count)[:-1]))
    zeros = np.zeros(m, dtype=np.float32)
    return Episodes(
        obs=obs,
        act=dose,
        act_requested=dose,
        limited_by=np.zeros(m, dtype=np.int8),
        reward=rng.standard_normal(m).astype(np.float32),
        next_obs=obs,
        terminated=np.zeros(m, dtype=bool),
        truncated=np.zeros(m, dtype=bool),
        cost=zeros,
        behaviour_log_prob=zeros,
        episode=episode.astype(np.int64),
        step=(np.arange(m) - starts[episode]).astype(np.int32),
        metadata=DatasetMetadata(content_hash=f"hash of {seed}"),
    )


@functools.cache
def monitor() -> Monitor:
    return Monitor.fit(recorded(40))


def slow_distance(state: Any, visits: Any, result: Monitor) -> float:
    """Distance to the K-th nearest of some visits, one at a time."""
    each = []
    for visit in visits:
        total = 0.0
        for entry in range(len(state)):
            total += ((float(state[entry]) - float(visit[entry])) / result.scale[entry]) ** 2
        each.append(total**0.5)
    return sorted(each)[result.neighbours - 1]


def test_distances_and_visits_are_those_of_a_slow_search() -> None:
    data, result = recorded(40), monitor()
    states = np.random.default_rng(1).normal(0, 2, (20, 3))
    distance, row = result.nearest(states)
    for k, state in enumerate(states):
        assert distance[k, -1] == pytest.approx(slow_distance(state, data.obs, result), rel=1e-12)
        assert (np.diff(distance[k]) >= 0).all()
        each = np.sqrt((((state - data.obs[row[k]].astype(float)) / result.scale) ** 2).sum(1))
        np.testing.assert_allclose(distance[k], each, rtol=1e-12)
    np.testing.assert_array_equal(result.nearest(states, workers=2)[0], distance)
    np.testing.assert_array_equal(result.nearest(states[3:4])[0], distance[3:4])


def test_entries_are_scaled_by_their_interquartile_range() -> None:
    data = recorded(40)
    low, high = np.quantile(data.obs.astype(float), [0.25, 0.75], axis=0)
    np.testing.assert_allclose(monitor().scale, (high - low) / IQR_OF_NORMAL)
    units = np.array([1.0, 1000.0, 0.01], dtype=np.float32)
    other = Monitor.fit(replace(data, obs=data.obs * units))
    assert other.threshold == pytest.approx(monitor().threshold, rel=1e-5)
    np.testing.assert_allclose(
        other.nearest(units * np.ones((1, 3)))[0], monitor().nearest(np.ones((1, 3)))[0], rtol=1e-5
    )


def test_a_rare_and_a_constant_entry_have_a_scale_too() -> None:
    """The interquartile range of a flag that is seldom set is 0; what never changes has no spread at all."""
    data = recorded(40)
    obs = data.obs.copy()
    obs[:, 0] = np.arange(len(obs)) % 10 == 0
    obs[:, 1] = 7.0
    result = Monitor.fit(replace(data, obs=obs))
    assert result.scale[0] == pytest.approx(obs[:, 0].std())
    assert result.scale[1] == pytest.approx(7e-3)
    usual = obs[3:4].astype(float)
    assert result.nearest(usual)[0][0, -1] <= result.threshold
    changed = usual + np.array([0.0, 0.5, 0.0])
    assert result.nearest(changed)[0][0, -1] > result.threshold


# The threshold


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2, 0.5])
def test_the_threshold_is_the_least_that_the_formula_allows(level: float) -> None:
    rng = np.random.default_rng(2)
    patient = np.sort(np.concatenate([np.arange(30), rng.integers(0, 30, 200)]))
    distance = rng.exponential(size=230)
    threshold, attained = conformal_threshold(distance, patient, level)
    assert attained == max(level, 1 / 31)

    def reached(at: float) -> float:
        total = 0.0
        for number in range(30):
            own = distance[patient == number]
            total += sum(d <= at for d in own) / len(own) / 31
        return total

    assert reached(threshold) >= 1 - attained - 1e-9
    assert reached(np.nextafter(threshold, 0)) < 1 - attained - 1e-9
    assert threshold in distance


def test_few_patients_are_promised_what_few_patients_can() -> None:
    """Of K patients the largest distance is exceeded by the next one with probability 1/(K + 1)."""
    distance, patient = np.arange(8.0), np.repeat(np.arange(4), 2)
    assert conformal_threshold(distance, patient, LEVEL) == (7.0, 0.2)
    assert Monitor.fit(recorded(9)).level == 0.1
    assert monitor().level == 1 / 41
    assert Monitor.fit(recorded(120)).level == LEVEL


def test_calibration_never_looks_at_a_patients_own_visits() -> None:
    """Patients far from each other: a split by visit would find a patient's other visits near."""
    alone = recorded(2 * PARTS, spread=5.0)
    result = Monitor.fit(alone)
    distance = [
        slow_distance(state, alone.obs[alone.episode != number], result)
        for state, number in zip(alone.obs, alone.episode, strict=True)
    ]
    own = result.nearest(alone.obs)[0][:, -1]
    assert np.median(own) < 0.3 * np.median(distance)  # own visits are near, other patients are not
    assert result.threshold >= max(distance) * (
        1 - 1e-9
    )  # parts of two patients: as far as others, or further


def test_new_usual_patients_are_seldom_called_unfamiliar() -> None:
    """The promise: over many cohorts, at most ``level`` of new patients' visits; and not by calling none."""
    rates, levels = [], []
    for seed in range(60):
        result = Monitor.fit(recorded(30, seed))
        new = recorded(60, 1000 + seed)
        beyond = result.nearest(new.obs.astype(float))[0][:, -1] > result.threshold
        per_patient = np.bincount(new.episode, beyond) / np.bincount(new.episode)
        rates.append(per_patient.mean())
        levels.append(result.level)
    error = np.std(rates, ddof=1) / np.sqrt(len(rates))
    assert np.mean(rates) <= np.mean(levels) + 3 * error
    assert np.mean(rates) > 0.2 * np.mean(levels)


def test_the_measured_false_alarms_agree_with_new_patients() -> None:
    data = recorded(300)
    result = Monitor.fit(data, level=0.1)
    new = recorded(2000, 7)
    beyond = result.nearest(new.obs.astype(float))[0][:, -1] > result.threshold
    rate = float((np.bincount(new.episode, beyond) / np.bincount(new.episode)).mean())
    assert result.false_alarms.low < rate < result.false_alarms.high
    assert result.false_alarms.value == pytest.approx(0.1, abs=0.03)
    assert "10.0% of usual visits by calibration on 300 patients" in str(result)


def test_what_is_unlike_the_training_visits_is_found() -> None:
    result, rng = monitor(), np.random.default_rng(0)
    far = rng.standard_normal((500, 3))
    far *= 8.0 / np.linalg.norm(far, axis=1, keepdims=True)
    assert (result.nearest(far)[0][:, -1] > result.threshold).mean() > 0.99


@pytest.mark.parametrize(
    ("share", "n", "low", "high"),
    [(0.0, 50, 0.0, 0.0713), (0.1, 100, 0.0552, 0.1744), (1.0, 20, 0.8389, 1.0)],
)
def test_wilsons_interval(share: float, n: int, low: float, high: float) -> None:
    """Ends of the interval of 0, 10 and 20 successes: roots of the score equation."""
    result = wilson(share, n)
    for end in (result.low, result.high):
        if 0.0 < end < 1.0:
            assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n), rel=1e-6)
    assert wilson(share, n) == pytest.approx((share, low, high), abs=1e-4)


# What it keeps, and what it refuses


def test_the_same_visits_give_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Monitor.fit(cohort()).write(tmp_path / name)
    for file in (NOVELTY, NOVELTY_VISITS):
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file)


def test_a_kept_monitor_is_the_same_monitor(tmp_path: Path) -> None:
    keep_monitor(tmp_path, cohort())
    result, missing = monitor_of(tmp_path)
    fitted = Monitor.fit(cohort())
    assert missing == ""
    assert result is not None
    for name, value in vars(fitted).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(result, name), value)
            assert getattr(result, name).dtype == value.dtype
        else:
            assert getattr(result, name) == value
    assert result.data == cohort().metadata.content_hash
    assert result.dose_spread == pytest.approx(cohort().act.std(0))
    states = cohort().obs[:5].astype(float) + 0.1
    np.testing.assert_array_equal(result.nearest(states)[0], fitted.nearest(states)[0])


def test_one_patient_has_no_monitor_and_the_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 2 patients, got 1"):
        Monitor.fit(cohort(1))
    keep_monitor(tmp_path, cohort(1))
    assert monitor_of(tmp_path) == (
        None,
        "a monitor of unfamiliar states needs the visits of at least 2 patients, got 1.",
    )


def test_too_few_visits_of_other_patients_are_told() -> None:
    few = recorded(2, visits=1)
    assert len(few) < NEIGHBOURS + 1
    with pytest.raises(UserError, match="needs 5 visits of other patients, got 1"):
        Monitor.fit(few)


@pytest.mark.parametrize("settings", [{"level": 0.0}, {"level": 1.0}, {"neighbours": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="a monitor needs 0 < level < 1"):
        Monitor.fit(cohort(), **settings)


@pytest.mark.parametrize("shape", [(3,), (5, 2), (5, 4)])
def test_states_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="states of 3 entries, got shape"):
        monitor().nearest(np.zeros(shape))


def test_a_damaged_monitor_is_told(tmp_path: Path) -> None:
    keep_monitor(tmp_path, cohort())
    fields = json.loads((tmp_path / NOVELTY).read_text())
    for change, told in (
        ({"schema": 99}, "another schema"),
        ({"data": "other"}, "is not of the data"),
        ({"false_alarms": 3}, "damaged"),
        ({"surprise": 1}, "damaged"),
    ):
        (tmp_path / NOVELTY).write_text(json.dumps(fields | change))
        with pytest.raises(UserError, match=told):
            monitor_of(tmp_path)
    (tmp_path / NOVELTY).write_text(json.dumps(fields))
    whole = (tmp_path / NOVELTY_VISITS).read_bytes()
    (tmp_path / NOVELTY_VISITS).write_bytes(whole[:-10])
    with pytest.raises(UserError, match="truncated"):
        monitor_of(tmp_path)


def test_many_visits_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dosing.data.dose_support.VISITS", 60)
    data = concatenate([cohort(8)], cohort(8).metadata)
    result = Monitor.fit(data)
    assert len(result.obs) == 60
    assert len(np.unique(result.episode)) == 8
    assert (result.obs[0] == data.obs[0]).all()
    assert (result.obs[-1] == data.obs[-1]).all()
