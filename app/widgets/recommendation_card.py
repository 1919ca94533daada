"""The parts of the patient page: recommendations side by side, the dose axis, the recorded episode."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from app.analysis.recommendations import Answer, Piece, Source, curves, sparse_of
from app.charts.dose import dose_axis
from app.theme import (
    CENTRAL_WORDS,
    counted,
    decimals,
    dose_number,
    interval,
    number,
    probability,
    with_unit,
)
from app.widgets import page
from dosing.evaluation.statistics import Estimate
from dosing.studies.baseline import Baseline


def card(answer: Answer, sparse: Answer | None) -> None:
    """One recommendation: status first, number second, then what the policy could give."""
    result, source = answer.result, answer.source
    st.markdown(f"{answer.mark.sign} **{source.name}** · {source.family}")
    if result.dose is None or result.support is None or result.proposed is None:
        default = f" Safe default of this scenario: **{result.safe_default}**." if result.safe_default else ""
        st.error(f"**REFUSED: no dose.** {' '.join(result.reasons)}{default}")
        return
    places = decimals(max(h - low for low, h in zip(*result.limits, strict=True)))
    dose, proposed = (_doses(values, answer, places) for values in (result.dose, result.proposed))
    label = "Recommended dose"
    if result.status == "ok":
        st.badge("✓ OK: within the hard limits", color="green")
    elif result.status == "limited":
        limit = "a step limit" if "step_limit" in result.codes else "a hard limit"
        st.badge(f"▲ LIMITED: proposed {proposed}, held at {limit}", color="orange")
    else:
        label = "Dose the policy would give"
        st.badge("■ DEFERRED: not advice", color="red")
    st.metric(label, with_unit(dose, result.unit))
    if result.status == "deferred":
        default = f" Safe default of this scenario: {result.safe_default}." if result.safe_default else ""
        st.warning(f"**Decide without it.** {' '.join(result.reasons)}{default}")
    worth(source, places)
    sets = "; ".join(_words(answer.pieces(d), places) for d in range(len(result.dose)))
    own = "; ".join(
        interval(min(column), max(column), places)
        for column in zip(*(seed.dose for seed in result.seeds), strict=True)
    )
    if answer.point:
        lines = ["Gives **one dose** at each state, no interval (deterministic policy)"]
    elif result.bounded:
        lines = [f"Could give **{sets}** (exact support)"]
    else:
        lines = [f"Could give any dose; central {CENTRAL_WORDS}: **{sets}**"]
    if result.recorded_near is not None:
        near = "; ".join(interval(lo, hi, places) for lo, hi in zip(*result.recorded_near, strict=True))
        lines.append(f"Doses recorded near this state: **{with_unit(near, result.unit)}**")
    lines.append(f"Probability outside the hard limits: **{probability(result.mass_outside)}**")
    if sparse is not None:
        name = sparse.source.name
        lines.append(f"Probability outside {name}'s set: **{probability(answer.outside_sparse)}**")
    count = len(result.seeds)
    lines.append(f"{counted(count, 'training seed')}, own doses {own}")
    lines += result.notes
    st.markdown("\n".join(f"- {line}" for line in lines))


def _doses(values: Sequence[float], answer: Answer, places: int) -> str:
    """Doses of all dimensions; none is rounded across a hard limit."""
    limits = answer.result.limits
    return ", ".join(dose_number(v, lo, hi, places) for v, lo, hi in zip(values, *limits, strict=True))


def worth(source: Source, places: int) -> None:
    """What following this policy was worth on new simulated patients, beside the number it recommends."""
    row = source.measured
    if row is None or row.baseline is None:
        st.info("Not measured on new patients yet: do not follow.")
    elif row.difference is None or row.baseline.dose is None:
        st.info(
            f"Measured on {_sample(row.recommended)}, but there is no constant dose estimated from the same "
            f"recorded patients to compare it with: {row.baseline.missing}"
        )
    else:
        show = st.success if row.verdict == "better" else st.warning
        dose = with_unit(number(row.baseline.dose, places), source.limits.unit)
        show(f"{worth_words(row.difference, row.baseline, dose)}: **{row.verdict}**.")


def worth_words(result: Estimate, baseline: Baseline, dose: str) -> str:
    """A paired difference from the estimated constant dose as a sentence without its end.

    Args:
        result: return of the policy minus that of the dose, with its 95 % interval.
        baseline: where the dose comes from.
        dose: the dose with its unit.
    """
    places = max(decimals(result.high - result.low) - 2, 1)
    word = "less" if result.value < 0 else "more"
    near, far = sorted((result.low, result.high), key=abs)
    if result.low < 0 < result.high:
        ends = f"{number(-result.low, places)} less to {number(result.high, places)} more"
    else:
        ends = f"{number(abs(near), places)}, {number(abs(far), places)}"
    return (
        f"On {_sample(result)}, following it was worth **{number(abs(result.value), places)} {word}** "
        f"[{ends}] "
        f"than one constant dose of {dose} estimated from the same {counted(baseline.patients, 'patient')}"
        f"{f' ({baseline.edge} dose)' if baseline.edge else ''}"
    )


def _sample(result: Estimate) -> str:
    """The evaluation patients behind an estimate over training seeds."""
    seeds = result.n_seeds or 1
    return f"{counted(result.n // seeds, 'new simulated patient')} x {counted(seeds, 'seed')}"


def _words(pieces: list[Piece], places: int) -> str:
    """A dose set in words; several intervals are counted, the chart shows them."""
    hull = interval(pieces[0][0], pieces[-1][1], places)
    return hull if len(pieces) == 1 else f"{len(pieces)} separate intervals from {hull}"


def answers(result: list[Answer]) -> None:
    """Recommendations side by side, then every policy on one dose axis per dose dimension."""
    sparse = sparse_of(result)
    for column, answer in zip(st.columns(len(result)), result, strict=True):
        with column.container(border=True, height="stretch"):
            card(answer, sparse)
    if not any(answer.result.dose for answer in result):
        return
    st.subheader("What each policy could give")
    with st.container(horizontal=True):
        log = st.toggle("Log scale: shows tails", key="log", bind="query-params")
        extras = st.toggle("Proposals, dotted", key="proposals", bind="query-params")
    dimensions = result[0].source.limits.n_act
    columns = st.columns(min(dimensions, 2))
    for dimension in range(dimensions):
        name = "dose" if dimensions == 1 else f"dose {dimension + 1} of {dimensions}"
        drawn = curves(result, dimension)
        figure = dose_axis(result, drawn, dimension, name=name, log=log, extras=extras)
        with columns[dimension % len(columns)]:
            page.draw(figure, f"axis{dimension}", f"Densities and intervals of {name} for each policy")
    st.caption(
        "Density: mean over training seeds. Bars: union over seeds. Solid: exact support, the density is "
        "zero outside. Hatched and dashed: central 99 %, not a support. Thin lines and ticks: each seed's "
        "own interval and dose. Large marker: recommended dose, the mean of the seeds' modes. Grey: outside "
        "the hard limits; probabilities there are before any clipping. Line below a bar: doses recorded near "
        "this state; a dose far from them is deferred. Dotted: the proposal that a policy "
        "was learned from, which gives no doses itself. Worth: mean difference in return, paired by "
        "patient, with its 95 % interval in brackets."
    )
