"""Sentences behind a status: what was checked, what changed, what failed."""

from __future__ import annotations

from typing import Any

from dosing.errors import UserError
from dosing.recommendation.inputs import Fault, echo
from dosing.recommendation.reasons import DISAGREEMENT, Reason
from dosing.recommendation.records import Answers, Recommender, dose_words, span_words, unit_suffix


def faults_inside(recommender: Recommender, result: Answers) -> list[Fault]:
    """Why the one row was refused after its input was found sound."""
    failure = result.failures.get(0, "")
    sentences = {
        Reason.CURRENT_DOSE: "the current dose that the state holds lies outside the hard limits.",
        Reason.EARLIER_VISITS: "the policy looks back, and the visits before this one cannot be used.",
        Reason.POLICY_NOT_FINITE: failure,
        Reason.FAILED: failure,
        Reason.LEFT_LIMITS: "the dose left the hard limits on its way; no dose is shown.",
    }
    code = int(result.codes[0])
    return [(reason, sentence) for reason, sentence in sentences.items() if code & reason]


def reasons_in_words(recommender: Recommender, result: Answers, code: int) -> tuple[str, ...]:
    """One sentence per reason of the one row, in the order of :class:`Reason`."""
    monitor, unit = recommender.monitor, unit_suffix(recommender.rules.limits.unit)
    limits = (recommender.rules.limits.low, recommender.rules.limits.high)
    proposed, dose = dose_words(result.proposed[0], limits), dose_words(result.dose[0], limits)
    said = {}
    if code & Reason.UNFAMILIAR and monitor is not None:
        said[Reason.UNFAMILIAR] = (
            f"the state is unlike the training visits: its distance from the nearest {monitor.neighbours} of "
            f"them is {result.distance[0, -1]:.3g}, usual is up to {monitor.threshold:.3g}."
        )
    if code & Reason.UNRECORDED_DOSE and monitor is not None:
        near = span_words((result.recorded_low[0], result.recorded_high[0]), limits)
        said[Reason.UNRECORDED_DOSE] = (
            f"no dose near {dose}{unit} was recorded at states like this one: the {monitor.doses.near} "
            f"nearest training visits had doses of {near}{unit}; its distance from the nearest of these "
            f"doses is {result.dose_distance[0]:.3g}, usual is up to {monitor.doses.threshold:.3g}."
        )
    said[Reason.NO_MONITOR] = (
        "whether this state and doses like this one were ever recorded is not known: "
        + (recommender.note or "there is no monitor.")
    )
    if code & Reason.SEEDS_APART and monitor is not None:
        said[Reason.SEEDS_APART] = (
            f"the seeds disagree: their doses have standard deviation {_words(result.spread[0])}{unit}, more "
            f"than {DISAGREEMENT:g} of that of the recorded doses, {_words(monitor.dose_spread)}{unit}."
        )
    said[Reason.BETWEEN_SEEDS] = (
        f"the seeds disagree: no seed would give {proposed}{unit}, the mean of their doses, which lies "
        "between what they would give."
    )
    said[Reason.OVER_BUDGET] = (
        f"half of the seeds or more have no dose to give that is predicted to keep the cost budget of "
        f"{recommender.policy.cost_budget or 0.0:g} per episode."
    )
    said[Reason.HARD_LIMIT] = f"the proposed dose {proposed}{unit} was held at a hard limit."
    said[Reason.STEP_LIMIT] = (
        f"the proposed dose {proposed}{unit} was held at {dose}{unit}: it may not move further from the "
        "current dose at once."
    )
    if (rule := recommender.rules.baseline) is not None:
        said[Reason.BASELINE_LIMIT] = (
            f"the proposed dose {proposed}{unit} was held at {dose}{unit}: it may be no more than "
            f"{rule.multiple:g} times the {rule.baseline}."
        )
        said[Reason.CUMULATIVE_LIMIT] = (
            f"the proposed dose {proposed}{unit} was held at {dose}{unit}: with this {rule.load}, no more "
            f"may be given beyond the {rule.baseline}."
        )
    return tuple(said[reason] for reason in Reason if code & reason)


FIRST_VISIT = "This policy looks back; it was told one state alone, as at a first visit."
FIRST_VISITS = "This policy looks back; it was told one state per row alone, each as at a first visit."


def notes_on(recommender: Recommender, earlier: int | None) -> tuple[str, ...]:
    """What was not looked at, and what was, in sentences.

    Args:
        recommender: policy, rules and monitor.
        earlier: number of earlier visits that were told; None if nothing was said of them.
    """
    if not recommender.policy.looks_back:
        if not earlier:
            return ()
        return ("This policy sees one visit alone: the visits before it changed nothing in its dose.",)
    if earlier is None:
        return (FIRST_VISIT,)
    if earlier == 0:
        return ("This policy looks back; it was told that this is a first visit.",)
    return (f"This policy looks back; it was told {earlier} earlier visit{'' if earlier == 1 else 's'}.",)


def failure_sentence(error: Exception) -> str:
    """The sentence for whatever was raised; an error may be too broken to be read."""
    if isinstance(error, UserError):
        return str(error)
    return f"the recommendation failed inside ({type(error).__name__}: {echo(error)}); no dose is shown."


def _words(values: Any) -> str:
    return ", ".join(f"{v:.4g}" for v in values)
