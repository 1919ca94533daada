"""What stands beside a dose: the verdict on its policy in words, and the decision in force."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from dosing.evaluation.statistics import Estimate
from dosing.recommendation.audit_log import state_hash
from dosing.recommendation.decisions import Decision
from dosing.recommendation.dose_context import (
    DecidedStates,
    DoseContext,
    Evidence,
    decision_words,
    status_words,
    verdict_words,
    worth_words,
)
from dosing.recommendation.reasons import Status
from dosing.studies.comparison_table import Baseline, Row
from dosing.studies.evidence import evidence_of

MINUS = "\N{MINUS SIGN}"
ASKED = {
    "limits": [[-1.0], [1.0]],
    "dose": [0.3],
    "unit": "1",
    "state": [1.0, 2.0],
    "provenance": {"agent": "iql", "weights": "a"},
}
DECISION = Decision(4, "2026-01-02T03:04:05.678+00:00", "accept", (0.3,), "", None, 3, ASKED)


def difference(value: float, low: float, high: float, seeds: int = 5) -> Estimate:
    return Estimate(value, low, high, 0.95, 1000 * seeds, seeds, "t over seeds")


@pytest.mark.parametrize(
    ("status", "verdict", "says"),
    [
        ("ok", "better", ("good", "Dose within limits · better than one constant dose")),
        ("ok", "worse", ("caution", "Dose within limits · worse than one constant dose")),
        (
            "ok",
            "not distinguishable",
            ("caution", "Dose within limits · not distinguishable from one constant dose"),
        ),
        ("ok", "", ("caution", "Dose within limits · not compared with one constant dose")),
        ("limited", "better", ("caution", "Held at a limit · better than one constant dose")),
        ("deferred", "better", ("grey", "DEFERRED: not advice")),
        ("refused", "worse", ("grey", "REFUSED: no dose.")),
    ],
)
def test_a_status_is_good_only_where_the_policy_was_better(
    status: Status, verdict: str, says: tuple[str, str]
) -> None:
    assert status_words(status, Evidence("mg", verdict, missing="")) == says


@pytest.mark.parametrize(
    ("result", "patients", "says"),
    [
        (
            difference(-2.41, -3.02, -1.79),
            50,
            "Worse than one constant dose of 0.41 mg estimated from the same 50 patients: on 1,000 new "
            "simulated patients x 5 seeds, following it was worth 2.4 less [1.8, 3.0].",
        ),
        (difference(1.5, 1.0, 2.0, 1), 1, "x 1 seed, following it was worth 1.5 more [1.0, 2.0]."),
        (difference(0.012, 0.005, 0.019), 50, "worth 0.012 more [0.005, 0.019]."),
        (difference(-0.3, -0.9, 0.3), 50, "worth 0.3 less [0.9 less to 0.3 more]."),
        (difference(0.25, -0.5, 1.0), 1, "the same 1 patient: on"),
    ],
)
def test_a_verdict_in_words(result: Estimate, patients: int, says: str) -> None:
    verdict = "worse" if result.high < 0 else "better" if result.low > 0 else "not distinguishable"
    evidence = Evidence("mg", verdict, result, 0.41, patients, "")
    text = verdict_words(evidence)
    assert says in text
    worth = re.sub(r"^.* worth ([\d.]+ \w+) (.*)\.$", r"Following it: \1 return \2", text)
    assert worth_words(evidence) == worth
    start = {"not distinguishable": "Not distinguishable from one"}.get(
        verdict, f"{verdict.capitalize()} than one"
    )
    assert text.startswith(start)


def test_a_verdict_is_only_given_on_what_was_measured() -> None:
    assert verdict_words(Evidence()) == "No verdict: not measured on new patients yet: do not follow."
    assert not worth_words(Evidence())
    estimate = difference(1.0, 0.5, 1.5)
    row = Row(
        "IQL",
        "x",
        estimate,
        estimate,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        Baseline(None, 5, "no dose."),
    )
    text = verdict_words(evidence_of(row, "mg"))
    assert text == "No verdict: measured on new simulated patients, but no dose."
    compared = replace(row, difference=estimate, verdict="better", baseline=Baseline(-0.5, 5))
    assert verdict_words(evidence_of(compared, "mg")).startswith(
        f"Better than one constant dose of {MINUS}0.5 mg"
    )
    assert evidence_of(None, "mg") == Evidence("mg")


def test_a_decision_in_words() -> None:
    assert decision_words(DECISION) == (
        "iql, for this state: accepted, 0.300. (audit record 4, 2026-01-02 03:04 UTC)"
    )
    other = replace(
        DECISION,
        action="modify",
        dose=(-0.25,),
        reason="weak\x1b[31m\nkidneys",
        replaces=2,
        asked={**ASKED, "unit": "mg", "patient": "01", "visit": 3},
    )
    assert decision_words(other) == (
        f"iql, for patient 01, visit 3: another dose, {MINUS}0.250 mg instead of 0.300 mg. Reason: weak [31m "
        "kidneys. (audit record 4, 2026-01-02 03:04 UTC, replaces record 2)"
    )
    assert "rejected." in decision_words(replace(DECISION, action="reject", dose=None))


def test_the_decision_stands_first_and_good_news_look_good() -> None:
    worse = Evidence("1", "worse", difference(-2.0, -3.0, -1.0), 0.5, 50, "")
    assert [kind for kind, _ in DoseContext(worse, DECISION).lines] == ["decision", "caution"]
    better = replace(worse, verdict="better", difference=difference(2.0, 1.0, 3.0))
    assert [kind for kind, _ in DoseContext(better).lines] == ["good"]
    assert [kind for kind, _ in DoseContext(Evidence()).lines] == ["caution"]


def test_decisions_are_found_for_rows_of_a_table() -> None:
    later = replace(DECISION, number=9, action="reject", dose=None)
    hashed = {k: v for k, v in ASKED.items() if k != "state"} | {"state_hash": state_hash([3.0, 4.0, 0.5])}
    decided = DecidedStates((DECISION, later, replace(DECISION, number=5, asked=hashed)), "a")
    first, second = decided.of(np.array([[1.0, 2.0], [1.0, 2.5]]), None)
    assert "audit record 9" in first
    assert second is None
    (told,) = decided.of(np.array([[3.0, 4.0]]), np.array([[0.5]]))
    assert "audit record 5" in told
    assert DecidedStates((DECISION,), "b").of(np.array([[1.0, 2.0]]), None).tolist() == [None]
