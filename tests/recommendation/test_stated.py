"""A dose that a rule asks for passes the same limits, the same monitor and the same words as a policy's."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dosing.errors import UserError
from dosing.recommendation.audit_log import shown
from dosing.recommendation.decisions import concerns
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommender, Rules
from dosing.recommendation.stated import stated
from dosing.safety import StepLimit
from tests.recommendation.test_recorded_doses import LIMITS, asked

STATE = [0.1, -0.2]


def said(dose: float, run: Recommender | None = None, **more: Any) -> Any:
    return recommend(stated(run or asked(9.0), [dose], "clinic: rule"), STATE, **more)


def test_a_usual_dose_comes_out_as_it_was_asked_for() -> None:
    result = said(2.5)
    assert result.status == "ok"
    assert result.dose == pytest.approx((2.5,), abs=1e-12)
    assert (result.kind, result.bounded) == ("point", True)
    assert result.support[0] == result.support[1] == result.proposed
    assert result.mass_outside == 0.0
    assert result.unit == "mg"


@pytest.mark.parametrize(("dose", "delivered"), [(12.0, 10.0), (-1.0, 0.0)])
def test_a_dose_beyond_a_hard_limit_is_held_there(dose: float, delivered: float) -> None:
    result = said(dose)
    assert result.dose == (delivered,)
    assert result.proposed == pytest.approx((dose,))
    assert "hard_limit" in result.codes


def test_a_dose_that_nobody_was_given_is_deferred() -> None:
    result = said(8.0)
    assert result.status == "deferred"
    assert "unrecorded_dose" in result.codes


def test_without_a_monitor_every_dose_is_deferred() -> None:
    assert said(2.5, replace(asked(9.0), monitor=None)).codes == ("no_monitor",)


def test_the_step_limit_binds_a_rule_too() -> None:
    limited = replace(asked(9.0), rules=Rules(LIMITS, step=StepLimit((0.5,))))
    result = said(3.0, limited, current=[2.0])
    assert (result.status, result.dose) == ("limited", (2.5,))
    assert said(3.0, limited).status == "refused"  # the current dose was not told


def test_a_bad_state_refuses_the_rule() -> None:
    result = recommend(stated(asked(9.0), [2.5], "clinic: rule"), [0.1, math.nan])
    assert (result.status, result.dose) == ("refused", None)


@pytest.mark.parametrize("dose", [[math.nan], [1.0, 2.0], []])
def test_a_rule_that_asks_for_no_dose_is_refused(dose: list[float]) -> None:
    with pytest.raises(UserError, match="clinic: rule must ask for 1 finite"):
        stated(asked(9.0), dose, "clinic: rule")


def test_no_decision_on_one_rule_concerns_another() -> None:
    run = replace(asked(9.0), provenance={"run": "r", "agent": "bc", "weights": "w", "data": "d"})
    records = [
        shown(recommend(stated(run, [2.5], name), STATE).to_json(), visit=("1", 1))[1] for name in ("a", "b")
    ]
    records.append(shown(recommend(run, STATE).to_json(), visit=("1", 1))[1])
    assert all(concerns(one, other) == (one is other) for one in records for other in records)
    assert records[0]["provenance"] == {"run": "a", "agent": "a", "weights": "a", "data": "d"}
