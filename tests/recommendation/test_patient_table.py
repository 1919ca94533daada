"""Tables that people bring: a right one is read as it stands, a wrong one refused with all that is wrong."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dosing.data.identifying import identifying
from dosing.data.text_table import Refused
from dosing.recommendation import patient_table
from dosing.recommendation.batch import _bad_entries
from dosing.recommendation.patient_table import numbers, read, row_problems
from dosing.recommendation.records import Rules, StateEntry
from dosing.safety import DoseLimits

ENTRIES = [StateEntry("glucose", "mg/dL", 39, 600), StateEntry("weight", "kg", 30, 200), StateEntry("rate")]
SAME = {entry.name: entry.name for entry in ENTRIES}
GOOD = b"glucose,weight,rate\n100,70.5,-1e-3\n 250 ,80,.5\n"


def parquet(frame: pd.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def problems(content: bytes, suffix: str = ".csv", columns: dict[str, str] = SAME) -> tuple[str, ...]:
    """Everything that is wrong with a file."""
    with pytest.raises(Refused) as caught:
        numbers(read(content, suffix, list(SAME)), columns, ENTRIES)
    return caught.value.problems


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_right_csv_file_is_read_as_it_stands(mark: bytes, end: bytes) -> None:
    result = numbers(read(mark + GOOD.replace(b"\n", end) + end, ".csv"), SAME, ENTRIES)
    np.testing.assert_array_equal(result, [[100, 70.5, -1e-3], [250, 80, 0.5]])


def test_a_right_parquet_file_is_read_as_it_stands() -> None:
    frame = pd.DataFrame({"rate": [0.5, np.nan], "g": [100, 39], "weight": [70, 80.5], "unused": ["x", "y"]})
    sheet = read(parquet(frame), ".parquet")
    result = numbers(sheet, SAME | {"glucose": "g"}, ENTRIES)
    np.testing.assert_array_equal(result, [[100, 70, 0.5], [39, 80.5, np.nan]])


def test_an_empty_cell_is_a_missing_number_and_nothing_is_put_in() -> None:
    result = numbers(read(b"glucose,weight,rate\n100,,1\n , nan,inf\n", ".csv"), SAME, ENTRIES)
    np.testing.assert_array_equal(result, [[100, np.nan, 1], [np.nan, np.nan, np.inf]])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ["The file is empty."]),
        (b"glucose,weight,rate\n", ["The file has no rows."]),
        (
            b"glucose;weight,kg;rate\n1;2;3\n",
            ["Line 1: ',' and ';' stand between names; write sep=, on a line before it."],
        ),
        (
            b"glucose;weight;rate\n1,000;2;3\n",
            [
                "'1,000' may have a decimal comma or a mark between thousands; write decimal points, and no "
                "marks between thousands."
            ],
        ),
        (
            b"glucose;weight;rate\n100,5;2.5;3\n",
            [
                "Row 1, weight: '2.5' has a decimal point where other numbers of the file have a decimal "
                "comma."
            ],
        ),
        (b"PK\x03\x04", ["The file is a workbook or a zip archive; save its sheet as CSV (UTF-8)."]),
        (b"\x1f\x8b\x08", ["The file is compressed by gzip; unpack it first."]),
        (GOOD.decode().encode("utf-16"), ["The file is in UTF-16; save it as UTF-8."]),
        (b"glucose,weight,rate\n1,2,3\n1,\xb5,3\n", ["Line 3 holds byte 0xb5: not UTF-8; save it as UTF-8."]),
        (b"glucose,weight,rate\n1,\0,3\n", ["Line 2 holds a null character: this is no CSV file."]),
        (b'glucose,weight,rate\n1,"2,3\n', ["The file is no CSV file: unexpected end of data."]),
        (
            b"glucose,weight,rate\n5,5,70,1\n100,70\n\n100,70,1\n",
            [
                "Row 1 has 4 values, the header 3: are there decimal commas?",
                "Row 2 has 2 values, the header 3.",
                "Row 3 has 0 values, the header 3.",
            ],
        ),
        (
            b'glucose,weight,rate\n"5,5",<1.1,1\nHI,70,0x10\n1_0,\xd9\xa3,=1+1\n',
            [
                "Row 1, glucose: '5,5' has a comma; write a decimal point, and no marks between thousands.",
                "Row 1, weight: '<1.1' is a bound, not a number.",
                "Row 2, glucose: 'HI' is no number.",
                "Row 2, rate: '0x10' is no number.",
                "Row 3, glucose: '1_0' is no number.",
                "Row 3, weight: '\N{ARABIC-INDIC DIGIT THREE}' is no number.",
                "Row 3, rate: '=1+1' is no number.",
            ],
        ),
        (
            b"glucose,glucose,,Patient Name,birth_date\n1,2,3,x,y\n",
            [
                "These columns look as if they identified people: 'Patient Name', 'birth_date'. Remove them; "
                "rows are numbered in the order of the file.",
                "These columns are there twice: 'glucose'.",
                "Column 3 has no name.",
            ],
        ),
        (b"glucose,kilos\n1,2\n", ["No column was chosen for weight, rate."]),
    ],
)
def test_a_wrong_csv_file_is_refused_with_all_that_is_wrong(content: bytes, says: list[str]) -> None:
    assert list(problems(content)) == says


def test_a_column_cannot_be_two_entries() -> None:
    result = problems(GOOD, columns={"glucose": "rate", "weight": "weight", "rate": "rate"})
    assert result == ("Column 'rate' was chosen for several entries.",)


def test_a_wrong_parquet_file_is_refused_with_all_that_is_wrong() -> None:
    (result,) = problems(GOOD, ".parquet")
    assert "truncated or not a parquet file" in result
    whole = parquet(pd.DataFrame({"glucose": [1.0], "weight": [True], "rate": [pd.Timestamp(0)]}))
    assert "truncated or not a parquet file" in problems(whole[:-30], ".parquet")[0]
    logical, times = problems(whole, ".parquet")
    assert logical == "Column 'weight' holds bool, not numbers."
    assert times.startswith("Column 'rate' holds timestamp[")
    nested = parquet(pd.DataFrame({"glucose": [[1.0]], "weight": [1.0], "rate": [1.0]}))
    (result,) = problems(nested, ".parquet")
    assert result.startswith("Column 'glucose' holds list<")
    twice = io.BytesIO()
    pq.write_table(pa.table([pa.array([1.0])] * 2, names=["rate", "rate"]), twice)
    assert problems(twice.getvalue(), ".parquet") == ("These columns are there twice: 'rate'.",)


def test_no_changed_byte_of_a_parquet_file_is_more_than_a_refusal() -> None:
    whole = parquet(
        pd.DataFrame({"glucose": [1.0, 2.0], "weight": [3.0, 4.0], "rate": [5.0, 6.0], "who": "x"})
    )
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= int(rng.integers(1, 256))
        try:
            numbers(read(bytes(damaged), ".parquet"), SAME, ENTRIES)
        except Refused:
            continue


def test_another_kind_of_file_is_not_opened() -> None:
    assert problems(b"anything", ".pkl") == ("The file must end in .csv or .parquet, got '.pkl'.",)


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("MOST_BYTES", 10, "The file has 47 bytes; at most 10 are read."),
        ("MOST_ROWS", 1, "The file has more than 1 rows, the most that are answered at once."),
        ("MOST_COLUMNS", 2, "The file has 3 columns; at most 2 are read."),
    ],
)
def test_large_files_are_refused(limit: str, value: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patient_table, limit, value)
    assert problems(GOOD) == (says,)


@pytest.mark.long
def test_texts_of_a_parquet_file_are_not_unpacked() -> None:
    """A dictionary of one long text in very many rows is a small file, and very much memory."""
    content = parquet(pd.DataFrame({"glucose": ["x" * 10_000] * 40_000, "weight": 1.0, "rate": 1}))
    assert len(content) < 200_000
    assert isinstance(read(content, ".parquet").columns["glucose"], pa.DataType)
    (result,) = problems(content, ".parquet")
    assert result.startswith("Column 'glucose' holds ")


def test_of_very_many_problems_the_first_make_the_sentence() -> None:
    content = b"glucose,weight,rate\n" + b"x,1,1\n" * 1000
    with pytest.raises(Refused, match=r"Row 50, glucose: 'x' is no number\. And 950 more\.$") as caught:
        numbers(read(content, ".csv"), SAME, ENTRIES)
    assert len(caught.value.problems) == 1000


PEOPLE = """name Name patient_name PatientName first.name lastname SURNAME Vorname Pr\u00e9nom dob DOB
date_of_birth birthDate Geburtsdatum MRN mrn_2 medical-record-number record_no hospitalNumber NHS ssn
patient.id patientId ID e-mail Email e_mail_address phone phoneNumber tel mobile Fax address zip postcode
insurance_no"""
NUMBERS = """glucose weight age s1 INR dose enamel hemoglobin serum_rate tidal_volume white_cell_count visit
hour platelets day_of_week current_dose telmisartan"""


@pytest.mark.parametrize("name", PEOPLE.split())
def test_columns_that_identify_people_are_refused(name: str) -> None:
    assert identifying(name)
    content = f"glucose,weight,rate,{name}\n100,70,1,x\n".encode()
    assert repr(name) in problems(content)[0]
    assert numbers(read(content, ".csv", [name]), SAME, ENTRIES).shape == (1, 3)  # the scenario's own name


@pytest.mark.parametrize("name", NUMBERS.split())
def test_columns_of_numbers_are_not_taken_for_people(name: str) -> None:
    assert not identifying(name)


def test_rows_that_the_recommender_will_refuse_are_told_beforehand() -> None:
    values = np.array([[5.5, 70, 1], [100, math.nan, math.inf], [100, 70, -1e30]])
    assert list(row_problems(values, ENTRIES)) == [
        (1, "Row 1: glucose must be 39 to 600 mg/dL, got 5.5."),
        (2, "Row 2: weight is missing."),
        (2, "Row 2: rate must be a finite number, got inf."),
    ]


def test_what_is_told_beforehand_is_what_the_recommender_refuses() -> None:
    values = np.random.default_rng(0).choice([0.0, 50.0, 700.0, np.nan, np.inf, 1e39, -700.0], (200, 3))
    rules = Rules(DoseLimits((0.0,), (1.0,)), tuple(ENTRIES))
    refused = np.flatnonzero(np.logical_or(*_bad_entries(rules, values)).any(1))
    assert 0 < len(refused) < 200
    assert sorted({row for row, _ in row_problems(values, ENTRIES)}) == (refused + 1).tolist()
