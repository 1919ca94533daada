"""Tables of several visits of each patient: read as they are, or refused with all that is wrong."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dosing.data.dataset import Transform
from dosing.data.text_table import Refused
from dosing.policy import DosePolicy
from dosing.recommendation.patient_table import read, sheet_of
from dosing.recommendation.records import Recommender, Rules, StateEntry
from dosing.recommendation.visit_table import PATIENT, Visits, check_columns, holds_visits, visits_of
from dosing.safety import DoseLimits
from tests.support.samples import PROBLEM, cohort, stack

NAMES = tuple(f"s{k + 1}" for k in range(8))
RULES = Rules(DoseLimits((-1.0,), (1.0,)), tuple(StateEntry(name) for name in NAMES))


def recommender(name: str = "response_model") -> Recommender:
    return Recommender(DosePolicy(stack(name), Transform.fit(cohort())), RULES)


def frame(**changed: Any) -> pd.DataFrame:
    """Three visits of patient 01, one of 1, two of B; some have no dose yet at their end."""
    rng = np.random.default_rng(0)
    result = pd.DataFrame(rng.normal(size=(6, 8)).round(3), columns=list(NAMES))
    result["patient"] = ["01", "01", "01", "1", "B", "B"]
    result["visit"] = [1, 2, 3, 1, 1, 2]
    result["dose"] = [0.5, -1.0, np.nan, np.nan, 1.0, 0.25]
    result["reward"] = [1.0, np.nan, np.nan, np.nan, 2.5, 0.0]
    for place, value in changed.items():
        column, row = place.rsplit("_", 1)
        result[column] = result[column].astype(object)
        result.loc[int(row), column] = value
    return result


def read_csv(table: pd.DataFrame, *, patients: bool = True, name: str = "response_model") -> Visits:
    sheet = read(table.to_csv(index=False).encode(), ".csv", [*NAMES, PATIENT])
    check_columns(recommender(name), sheet.columns, patients=patients)
    return visits_of(sheet, recommender(name), patients=patients)


def problems(table: pd.DataFrame, **how: Any) -> list[str]:
    with pytest.raises(Refused) as refused:
        read_csv(table, **how)
    return list(refused.value.problems)


def test_every_row_has_the_rows_before_it_of_its_patient() -> None:
    table = frame()
    result = read_csv(table)
    assert result.starts.tolist() == [0, 3, 4]  # "01" and "1" are two patients
    assert result.earlier.count.tolist() == [0, 1, 2, 0, 0, 1]
    past = result.earlier[np.array([2])].past()
    assert np.array_equal(past.obs[0], table[list(NAMES)].to_numpy()[:2])
    assert past.dose[0, :, 0].tolist() == [0.5, -1.0]
    assert past.reward[0, 0] == 1.0
    assert np.isnan(past.reward[0, 1])
    assert [(p.start, p.stop) for p in result.pieces(3)] == [(0, 3), (3, 6)]
    assert [(p.start, p.stop) for p in result.pieces(1)] == [(0, 3), (3, 4), (4, 6)]
    assert [(p.start, p.stop) for p in result.pieces(100)] == [(0, 6)]


@pytest.mark.parametrize("kind", [str, "category", "int"])
def test_a_parquet_file_is_the_same_table(kind: Any) -> None:
    table = frame()
    whose = (
        table["patient"].map({"01": 7, "1": 8, "B": 9}) if kind == "int" else table["patient"].astype(kind)
    )
    stream = io.BytesIO()
    table.assign(patient=whose).to_parquet(stream)
    for sheet in (read(stream.getvalue(), ".parquet", [*NAMES, PATIENT]), sheet_of(pq.read_table(stream))):
        result = visits_of(sheet, recommender(), patients=True)
        expected = read_csv(table)
        for column in ("states", "dose", "reward", "starts"):
            assert np.array_equal(getattr(result, column), getattr(expected, column), equal_nan=True)


def test_the_visits_of_one_patient_end_with_the_one_at_hand() -> None:
    table = frame().iloc[:3].drop(columns="patient")
    for one in (table, table.drop(columns="visit"), table.drop(columns=["visit", "reward"])):
        state, earlier = read_csv(one, patients=False).course()
        assert state == tuple(table.loc[2, list(NAMES)])
        assert [visit.dose for visit in earlier] == [(0.5,), (-1.0,)]
        assert [visit.state for visit in earlier] == [tuple(table.loc[k, list(NAMES)]) for k in (0, 1)]
        assert [visit.reward for visit in earlier] == ([1.0, None] if "reward" in one else [None, None])
    alone = read_csv(table.iloc[2:].assign(visit=1), patients=False).course()
    assert alone == (state, ())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"visit_1": 3, "visit_2": 4}, ["Row 2, visit: visit 3 follows visit 1; all visits are needed."]),
        ({"visit_1": 1, "visit_2": 2}, ["Row 2, visit: visit 1 is there twice."]),
        (
            {"visit_0": 2, "visit_1": 1},
            [
                "Row 1, visit: a patient's first visit is 1, got 2; all visits are needed.",
                "Row 2, visit: visit 1 stands after visit 2; visits must be in order.",
            ],
        ),
        ({"visit_3": 0}, ["Row 4, visit: a patient's first visit is 1, got 0; all visits are needed."]),
        ({"visit_2": 2.5}, ["Row 3, visit: must be a whole number, got 2.5."]),
        ({"visit_2": ""}, ["Row 3, visit: is missing."]),
        ({"dose_1": ""}, ["Row 2, dose: is missing; a patient's last visit alone may have none yet."]),
        ({"dose_1": 1.25}, ["Row 2, dose: must be -1 to 1, got 1.25."]),
        ({"dose_5": "inf"}, ["Row 6, dose: must be -1 to 1, got inf."]),
        ({"patient_1": ""}, ["Row 2, patient: is missing."]),
        (
            {"patient_4": "01", "patient_5": "01", "visit_4": 4, "visit_5": 5},
            [
                "Row 5, patient: the patient of row 1 comes again after another one; the rows of a patient "
                "must stand together.",
                "Row 5, visit: a patient's first visit is 1, got 4; all visits are needed.",
            ],
        ),
        ({"dose_0": "half"}, ["Row 1, dose: 'half' is no number."]),
    ],
)
def test_what_is_wrong_is_told_by_row_and_column(changed: dict[str, Any], told: list[str]) -> None:
    assert problems(frame(**changed)) == told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dose_2": 0.5}, "Row 3, dose: the last row is the visit at hand, which has no dose yet, got 0.5."),
        ({"reward_2": 1.5}, "Row 3, reward: the visit at hand has no reward yet."),
        ({"dose_0": ""}, "Row 1, dose: is missing; a patient's last visit alone may have none yet."),
    ],
)
def test_the_visit_at_hand_has_neither_dose_nor_reward(changed: dict[str, Any], told: str) -> None:
    assert problems(frame(**changed).iloc[:3].drop(columns="patient"), patients=False) == [told]


def test_other_columns_are_refused_and_missing_ones_named() -> None:
    lacking = problems(frame().drop(columns=["s3", "dose"]).assign(ward="A"))
    assert lacking == [
        "The file lacks s3, dose.",
        "The file has other columns, which may name patients: ward.",
        "It must have s1, s2, s3, s4, s5, s6, s7, s8, dose, patient, visit; reward may be there.",
    ]
    assert "The file lacks reward." in problems(frame().drop(columns="reward"), name="decision_transformer")
    assert holds_visits(frame().columns)
    assert not holds_visits(NAMES)
    for alone, other in (("patient", "visit"), ("visit", "patient")):
        with pytest.raises(Refused, match=f"Column '{alone}' goes with a column '{other}'"):
            holds_visits([*NAMES, alone])
    sheet = read(frame().drop(columns="reward").to_csv(index=False).encode(), ".csv", [*NAMES, PATIENT])
    with pytest.raises(Refused, match="aims at a return"):
        visits_of(sheet, recommender("decision_transformer"), patients=True)


def test_dates_name_nobody() -> None:
    table = pa.table(
        {**{name: [0.0] for name in NAMES}, PATIENT: [pd.Timestamp(0)], "visit": [1], "dose": [0.0]}
    )
    with pytest.raises(Refused, match="neither texts nor numbers"):
        visits_of(sheet_of(table), recommender(), patients=True)


def test_doses_of_two_dimensions_have_a_column_each() -> None:
    two = replace(RULES, limits=DoseLimits((0.0, 0.0), (1.0, 2.0)))
    agent = stack("response_model", problem=replace(PROBLEM, n_act=2))
    transform = Transform((0.0,) * 8, (1.0,) * 8, (0.0, 0.0), (1.0, 2.0))
    wide = Recommender(DosePolicy(agent, transform), two)
    table = frame().iloc[:2].drop(columns=["dose", "patient", "reward"])
    sheet = read(table.assign(dose_1=[0.5, ""], dose_2=[1.5, ""]).to_csv(index=False).encode(), ".csv", NAMES)
    _, (visit,) = visits_of(sheet, wide, patients=False).course()
    assert visit.dose == (0.5, 1.5)
    half = read(table.assign(dose_1=[0.5, 0.5], dose_2=[2.5, ""]).to_csv(index=False).encode(), ".csv", NAMES)
    with pytest.raises(Refused) as refused:
        visits_of(half, wide, patients=False)
    assert [p[:14] for p in refused.value.problems] == ["Row 1, dose_2:", "Row 2, dose_1:", "Row 2, dose_2:"]
