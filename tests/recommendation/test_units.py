"""Conversions against numbers from elsewhere, and the unit that somebody may have meant."""

import math

import pytest

from dosing.recommendation.units import factor, meant, others


@pytest.mark.parametrize(
    ("given", "wanted", "expected"),
    [
        ("g", "mg", 1000.0),
        ("mg", "g", 0.001),
        ("g/day", "mg/day", 1000.0),
        ("mg/week", "mg/day", 1 / 7),
        ("U/min", "U/h", 60.0),
        ("U/h", "U/day", 24.0),
        ("ug/min", "mg/h", 0.06),
        ("mmol/L", "mg/dL", 18.016),
        ("mg/dL", "mmol/L", 1 / 18.016),
        ("month", "year", 1 / 12),
        ("m", "cm", 100.0),
        ("mg/day", "mg/day", 1.0),
    ],
)
def test_factors(given: str, wanted: str, expected: float) -> None:
    assert factor(given, wanted) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("mg", "U"),
        ("mg/day", "mg"),
        ("U/h", "mg/h"),
        ("1", "mg"),
        ("year", "mg"),
        ("mg/dL", "mg/day"),
        ("min", "m"),
    ],
)
def test_what_does_not_convert(given: str, wanted: str) -> None:
    assert factor(given, wanted) is None


def test_every_other_unit_converts_back() -> None:
    for unit in ("mg/day", "U/h", "mg/dL", "mmol/L", "g", "year", "cm"):
        assert others(unit)
        for other in others(unit):
            there, back = factor(other, unit), factor(unit, other)
            assert there is not None
            assert back is not None
            assert math.isclose(there * back, 1.0)


@pytest.mark.parametrize(
    ("value", "unit", "low", "high", "expected"),
    [
        (5000, "mg/day", 0, 15, "5000 ug/day would be 5 mg/day"),
        (35, "mg/day", 0, 15, "35 mg/week would be 5 mg/day"),
        (5.5, "mg/dL", 39, 400, "5.5 mmol/L would be 99.09 mg/dL"),
        (840, "year", 18, 100, "840 month would be 70 year"),
    ],
)
def test_the_likely_unit_is_named(value: float, unit: str, low: float, high: float, expected: str) -> None:
    assert expected in meant(value, unit, low, high)


def test_no_unit_is_guessed_where_none_fits() -> None:
    assert meant(1e12, "mg/day", 0, 15) == ""
    assert meant(-3, "mg/day", 0, 15) == ""
    assert meant(0.3, "1", 0.5, 25) == ""
    assert meant(0, "mg/dL", 39, 400) == ""
    assert meant(16, "mg/day", 0, 15) == ""  # little above, though possible in mg/week
    assert meant(4, "mg/L", -18, 3.5) == ""
    assert meant(400, "ng", 0, 15) == ""  # next to nothing in any other unit
