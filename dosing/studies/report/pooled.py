"""Scores of a comparison over seeds and data sets together: aggregates of Agarwal et al. 2021."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dosing.evaluation.aggregates import (
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap,
)
from dosing.studies.report.document import Figure, Part, Table, Words
from dosing.studies.report.figures import MOST_PANELS, Panel, Series, pages, panels
from dosing.studies.report.study import Compared
from dosing.studies.report.svg import minus
from dosing.types import Array

CONSTANT = "estimated constant dose"
HOW = (
    "One score for each seed and data set: the mean return of recommended doses over that seed's new "
    "patients. Interquartile mean: the mean of the middle half of the scores. Intervals: 95 %, percentile "
    "bootstrap over the seeds within each data set, 2,000 resamples. Probability of improvement: that a seed "
    f"of the policy scores above a seed of the {CONSTANT}. With few seeds of one data set such intervals are "
    "too narrow (five normal seeds: 91 in 100 hold the true value), and without width where all seeds lie on "
    "one side; those by t in the tables above are not."
)
THRESHOLDS = 61
"""Points of a performance profile."""


@dataclass(frozen=True)
class Group:
    """Policies with one score per seed and data set, of one scale.

    Attributes:
        title: which data sets.
        unit: of a score, in words.
        scores: of every policy ``[S, T]``, by its title.
        constant: of the estimated constant dose ``[S, T]``; None where there is none.
    """

    title: str
    unit: str
    scores: dict[str, Array]
    constant: Array | None


def pooled(study: Compared) -> Iterator[Part]:
    """Tables and figures of all groups, or why there are none."""
    seeds = {len(one.scores) for one in study.trained}
    if seeds == {1}:
        yield Words("Runs of one seed have no spread between seeds, so there is nothing to pool.")
        return
    groups, refused = _groups(study)
    if refused:
        yield Words(refused)
    yield Words(HOW)
    for group in groups:
        yield _table(group)
        yield from _profiles(group)


def _groups(study: Compared) -> tuple[list[Group], str]:
    """All data sets together on one scale where there is one, else each by itself, and why."""
    by_policy: dict[str, dict[str, Array]] = {}
    for one in study.trained:
        by_policy.setdefault(one.title, {})[one.row.data] = one.scores
    names, refused = study.names, ""
    if len(names) > 1:
        scale, refused = _scale(study)
        everywhere = [title for title, own in by_policy.items() if set(own) == set(names)]
        if not refused and everywhere:
            return [_together(study, {title: by_policy[title] for title in everywhere}, scale)], ""
        refused = refused or "No policy stands beside every data set, so that each is pooled by itself."
    groups = []
    for data in names:
        own = {title: scores[data][:, None] for title, scores in by_policy.items() if data in scores}
        constant = study.constants[data][:, None] if data in study.constants else None
        groups.append(Group(data, "return", own, constant))
    return groups, refused


def _scale(study: Compared) -> tuple[dict[str, tuple[float, float]], str]:
    """Return of uniform dosing and of the constant dose on every data set, or why they make no scale."""
    scale: dict[str, tuple[float, float]] = {}
    for data in study.names:
        zero = [r.recommended.value for r in study.rules if r.data == data and r.family == "uniform"]
        one = [r.recommended.value for r in study.rules if r.data == data and r.is_baseline]
        if not zero or not one or not one[0] > zero[0] or data not in study.constants:
            return {}, (
                f"Returns on several data sets have no one scale: on {data} no estimated constant dose "
                "returns more than uniform dosing. Each is pooled by itself."
            )
        scale[data] = zero[0], one[0]
    return scale, ""


def _together(
    study: Compared, policies: dict[str, dict[str, Array]], scale: dict[str, tuple[float, float]]
) -> Group:
    """All data sets on the scale on which uniform dosing is 0 and the constant dose 1."""

    def table(own: dict[str, Array]) -> Array:
        return np.stack([(own[d] - zero) / (one - zero) for d, (zero, one) in scale.items()], axis=1)

    unit = "normalised return, 0 for uniform dosing and 1 for the constant dose"
    scores = {title: table(own) for title, own in policies.items()}
    return Group(f"{len(scale)} data sets", unit, scores, table(dict(study.constants)))


def _table(group: Group) -> Table:
    rows = []
    for title, scores in group.scores.items():
        middle = stratified_bootstrap(scores)
        above = probability_of_improvement(scores, group.constant) if group.constant is not None else None
        rows.append(
            (
                title,
                minus(str(middle)),
                "-" if above is None else f"{above:.2f}",
                f"{len(scores)}",
                f"{middle.n}",
            )
        )
    if group.constant is not None:
        middle = stratified_bootstrap(group.constant)
        rows.append((CONSTANT, minus(str(middle)), "-", f"{len(group.constant)}", f"{middle.n}"))
    head = (
        "policy",
        f"interquartile mean ({group.unit})",
        "probability of improvement on the constant dose",
        "seeds",
        "scores",
    )
    return Table(f"Over the seeds, {group.title}", head, tuple(rows), frozenset({1, 2, 3, 4}))


def _profiles(group: Group) -> Iterator[Figure]:
    everything = [*group.scores.values(), *([group.constant] if group.constant is not None else [])]
    low, high = min(float(s.min()) for s in everything), max(float(s.max()) for s in everything)
    pad = 0.03 * (high - low or 1.0)
    edges = np.linspace(low - pad, high + pad, THRESHOLDS)

    def series(scores: Array) -> Series:
        p = performance_profile(scores, edges)
        x, y, low, high = (tuple(v.tolist()) for v in (p.thresholds, p.share, p.low, p.high))
        return Series(x, y, low, high, steps=True)

    reference = None if group.constant is None else series(group.constant)
    drawn = [Panel(title, series(scores), reference) for title, scores in group.scores.items()]
    count = next(iter(group.scores.values())).size
    caption = (
        f"Performance profiles, {group.title}: share of the {count} scores of a policy above a threshold "
        f"({group.unit}). Grey: pointwise 95 % interval, bootstrap over the seeds. "
        + (f"Dashed: the {CONSTANT}." if reference else "")
    )
    for number, part in enumerate(pages(drawn, MOST_PANELS), 1):
        picture = panels(part, group.unit, "share of scores above")
        yield Figure(f"profiles-{group.title}-{number}", picture, caption.strip())
