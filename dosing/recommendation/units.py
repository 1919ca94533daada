"""Units of measured numbers and doses: conversions, stated once, and the unit somebody may have meant.

A unit is written as in scenario cards: ``mg/day``, ``mg/dL``, ``U/h``. What is out of range in the unit that
is asked for may be in range in another one; then it was probably given in that one. Nothing is converted on
the way in: the number is refused and the sentence names the unit. A number that is possible in both units,
such as 0.005 (g) for a dose of up to 15 mg, cannot be told apart.
"""

from __future__ import annotations

GLUCOSE_MG_PER_MMOL = 18.016
"""mg/dL of glucose in one mmol/L, to the precision of its molar mass (180.16 g/mol)."""

_MASS = {"g": 1000.0, "mg": 1.0, "ug": 0.001, "ng": 1e-6}
_TIME = {"min": 1.0, "h": 60.0, "day": 1440.0, "week": 10080.0}
_AGE = {"year": 365.25, "month": 365.25 / 12, "day": 1.0}
_LENGTH = {"m": 100.0, "cm": 1.0, "mm": 0.1}
_AMOUNT = {"U": 1.0}


def headed(name: str, unit: str) -> str:
    """Head of a column: a name with its unit, if it has one."""
    return name if unit in ("", "1") else f"{name} ({unit})"


def factor(given: str, wanted: str) -> float | None:
    """Number of ``wanted`` units in one ``given`` unit; None where one does not convert into the other."""
    if given == wanted:
        return 1.0
    if (given, wanted) == ("mmol/L", "mg/dL"):
        return GLUCOSE_MG_PER_MMOL
    if (given, wanted) == ("mg/dL", "mmol/L"):
        return 1.0 / GLUCOSE_MG_PER_MMOL
    above, below = (unit.partition("/")[::2] for unit in (given, wanted))
    top = _ratio(above[0], below[0], _MASS, _AMOUNT, *(() if "/" in given + wanted else (_AGE, _LENGTH)))
    bottom = 1.0 if above[1] == below[1] else _ratio(above[1], below[1], _TIME)
    return None if top is None or bottom is None else top / bottom


def _ratio(given: str, wanted: str, *kinds: dict[str, float]) -> float | None:
    for kind in kinds:
        if given in kind and wanted in kind:
            return kind[given] / kind[wanted]
    return None


def others(unit: str) -> list[str]:
    """Units in which a number may have been given by mistake: they differ in one part and convert."""
    top, sign, bottom = unit.partition("/")
    tops = next((list(kind) for kind in (_MASS, _AMOUNT) if top in kind), [])
    bottoms = list(_TIME) if bottom in _TIME else [bottom]
    candidates = [f"{t}{sign}{bottom}" for t in tops] + [f"{top}{sign}{b}" for b in bottoms]
    if not sign:
        candidates += [*_AGE, *_LENGTH]
    candidates += ["mmol/L", "mg/dL"]
    return [other for other in dict.fromkeys(candidates) if other != unit and factor(other, unit) is not None]


def meant(value: float, unit: str, low: float, high: float) -> str:
    """Words on the unit that a number out of range was probably given in; empty where none makes sense.

    Of several, the one that puts it nearest to the middle of the range. Where the number lies less than twice
    beyond an end, or any other unit would leave next to nothing of it, no unit is named.

    Args:
        value: the number as given.
        unit: the unit that was asked for.
        low: lowest possible number in that unit.
        high: highest possible number in that unit.
    """
    if not (value > 2 * high > 0 or 0 < value < low / 2):
        return ""
    converted = {other: value * (factor(other, unit) or 0.0) for other in others(unit)}
    possible = {other: x for other, x in converted.items() if max(low, 0.01 * high) <= x <= high}
    if not possible:
        return ""
    likely = min(possible, key=lambda other: abs(possible[other] - 0.5 * (low + high)))
    return f"probably another unit: {value:g} {likely} would be {possible[likely]:.4g} {unit}"
