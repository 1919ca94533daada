"""The visits before a state: as a loop over patients would collect them."""

from __future__ import annotations

import numpy as np
import pytest

from dosing.data.earlier_visits import EarlierVisits
from dosing.errors import UserError

STARTS = np.array([0, 3, 4, 9])
N = 11


def visits() -> EarlierVisits:
    rng = np.random.default_rng(0)
    return EarlierVisits.of_episodes(
        rng.normal(size=(N, 2)), rng.normal(size=(N, 1)), rng.normal(size=N), STARTS
    )


def own(row: int) -> list[int]:
    """Rows before one of the same episode, by a loop."""
    start = max(s for s in STARTS.tolist() if s <= row)
    return list(range(start, row))


def test_each_row_has_the_rows_before_it_of_its_episode() -> None:
    all_of = visits()
    assert len(all_of) == N
    for row in range(N):
        past = all_of[np.array([row])].past()
        assert np.array_equal(past.obs, all_of.obs[own(row)][None])
        assert np.array_equal(past.dose, all_of.dose[own(row)][None])
        assert np.array_equal(past.reward, all_of.reward[own(row)][None])


def test_groups_hold_every_state_once_with_equally_many() -> None:
    asked = np.array([10, 2, 3, 8, 1, 5])
    groups = [group.tolist() for group in visits().alike(asked)]
    assert groups == [[3], [10, 1, 5], [2], [8]]
    assert [len(own(group[0])) for group in groups] == [0, 1, 2, 4]
    with pytest.raises(UserError, match="different numbers"):
        visits()[np.array([0, 1])].past()


def test_bad_visits_and_last_doses_are_found_without_a_loop() -> None:
    all_of = visits()
    for bad in range(N):
        mask = np.arange(N) == bad
        assert all_of.any_before(mask).tolist() == [bad in own(row) for row in range(N)]
    last = all_of.last_dose(np.full((N, 1), 9.0))
    assert last[:, 0].tolist() == [all_of.dose[own(row)[-1], 0] if own(row) else 9.0 for row in range(N)]


def test_first_visits_have_nothing_before_them() -> None:
    none = EarlierVisits.none(4, 3, 2)
    assert none.past().obs.shape == (4, 0, 3)
    assert none.past().dose.shape == (4, 0, 2)
    assert not none.any_before(np.zeros(0, dtype=np.bool_)).any()
