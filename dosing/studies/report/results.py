"""The tables of a comparison, every number with its interval, its unit and its sample, and its figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dosing.evaluation.statistics import Estimate, mean_over_seeds, verdict
from dosing.studies.comparison_table import Row, mass_words, share_words
from dosing.studies.dose_sets import EXACT
from dosing.studies.report.document import Figure, Part, Table
from dosing.studies.report.figures import (
    MOST_PANELS,
    MOST_POINTS,
    Panel,
    Point,
    Series,
    forest,
    frame,
    pages,
    panels,
)
from dosing.studies.report.judged import ALPHA, Judged, p_words
from dosing.studies.report.policies import policies
from dosing.studies.report.study import Compared, Trained
from dosing.studies.report.svg import minus


def results(study: Compared, judged: Sequence[Judged]) -> Iterator[Part]:
    """Tables and figures data set by data set, then of the pairs that a preset sets side by side."""
    for data in study.names:
        here = [one for one in judged if one.one.row.data == data]
        rows = [one.row for one in study.on(data)] + [row for row in study.rules if row.data == data]
        yield _returns(data, rows, len(study.on(data)))
        if here:
            yield _differences(data, here, len(judged))
            yield from _forest(data, here, [row for row in study.rules if row.data == data])
        yield _beside(data, rows, study.on(data)[0])
        yield _dose_sets(data, study.on(data))
    yield from policies(study)
    if study.differences:
        yield _pairs(study)


def curves(study: Compared) -> Iterator[Figure]:
    """Returns along training, of data sets whose runs were looked at more than once."""
    for data in study.names:
        here = [one for one in study.on(data) if len(one.curve) > 1 and len(one.scores) > 1]
        if not here:
            continue
        base = next((r.recommended for r in study.rules if r.data == data and r.is_baseline), None)
        drawn = [_curve(one, base) for one in here]
        caption = (
            f"Return along training, {data}: mean over {len(here[0].scores)} seeds of the return of "
            "recommended doses on new patients, after so many updates (logarithmic); bars: 95 % intervals, "
            "t over seeds." + (" Dashed: the estimated constant dose." if base else "")
        )
        for number, part in enumerate(pages(drawn, MOST_PANELS), 1):
            picture = panels(part, "gradient updates", "return", logarithmic=True)
            yield Figure(f"curves-{data}-{number}", picture, caption)


def _curve(one: Trained, base: Estimate | None) -> Panel:
    updates = sorted(one.curve)
    means = [mean_over_seeds(one.curve[update][:, None]) for update in updates]
    x = tuple(map(float, updates))
    y, low, high = (tuple(getattr(e, name) for e in means) for name in ("value", "low", "high"))
    level = None
    if base is not None:
        flat = (base.value,) * len(x)
        level = Series(x, flat, flat, flat)
    return Panel(one.title, Series(x, y, low, high), level)


def _returns(data: str, rows: Sequence[Row], trained: int) -> Table:
    """Those of the trained policies, and of rules, whose patients are one sample whatever the seed."""
    head = (
        "policy",
        "distribution",
        "return, recommended dose",
        "return, sampled dose",
        "return, worst 5 % of patients",
        "foreseen mean (worst 5 %)",
        "n",
        "seeds",
        "interval",
    )
    body = tuple(
        (
            row.name,
            row.family,
            _told(row.recommended),
            _told(row.sampled),
            _told(row.lower_tail),
            row.foreseen_words,
            f"{row.recommended.n:,}",
            f"{row.recommended.n_seeds}" if number < trained else "-",
            row.recommended.method,
        )
        for number, row in enumerate(rows)
    )
    caption = (
        f"Returns on new simulated patients, {data}: sum of rewards of an episode, no unit; 95 % intervals"
    )
    return Table(caption, head, body, frozenset({2, 3, 4, 5, 6, 7}))


def _differences(data: str, judged: Sequence[Judged], count: int) -> Table:
    others = list(dict.fromkeys(one.other for one in judged))
    head = ("policy", "difference in return", "n", "seeds", "alone", "p", "p, Holm", "of all")
    body = tuple(
        (
            one.one.title,
            _told(one.difference),
            f"{one.difference.n:,}",
            f"{one.difference.n_seeds}",
            one.alone,
            p_words(one.p),
            p_words(one.adjusted),
            one.verdict,
        )
        for one in judged
    )
    caption = (
        f"Minus {', '.join(others)}, paired by patient, {data}: no unit; 95 % intervals of each difference "
        f"by itself (alone), {_methods(one.difference for one in judged)}, and what is left at {ALPHA:g} "
        f"after Holm's correction for all {count} comparisons of this report (of all)"
    )
    return Table(caption, head, body, frozenset({1, 2, 3, 5, 6}))


def _forest(data: str, judged: Sequence[Judged], rules: Sequence[Row]) -> Iterator[Figure]:
    points = [Point(one.one.title, one.difference, one.verdict) for one in judged]
    if judged[0].difference == judged[0].one.row.difference:  # the rules' are from the constant dose too
        points += [Point(row.name, row.difference, "rule") for row in rules if row.difference is not None]
    caption = (
        f"Difference in return from {judged[0].other}, {data}, with 95 % intervals. Filled circle: better, "
        "triangle: worse, open circle: not distinguishable, all after Holm's correction; square: a rule that "
        "was not trained; arrow: beyond the frame."
    )
    for number, part in enumerate(pages(points, MOST_POINTS), 1):
        yield Figure(
            f"differences-{data}-{number}",
            forest(part, "difference in return (no unit)", frame(points)),
            caption,
        )


def _beside(data: str, rows: Sequence[Row], first: Trained) -> Table:
    head = ("policy", "cost", "cost budget", "time in range", "success rate", "n")
    body = tuple(
        (
            row.name,
            _told(row.cost),
            row.budget_words,
            share_words(row.in_range),
            share_words(row.success),
            f"{row.cost.n:,}" if row.cost else "-",
        )
        for row in rows
        if any((row.cost, row.in_range, row.success))
    )
    cost = first.card.get("cost")
    what = "; cost: sum over the visits of an episode"
    what += f" of: {cost}" if isinstance(cost, str) else ""
    caption = f"Safety of recommended doses, {data}{what}; 95 % intervals, n patients"
    return Table(caption, head, body, frozenset({1, 3, 4, 5}))


def _dose_sets(data: str, trained: Sequence[Trained]) -> Table:
    unit = trained[0].config.limits.unit
    head = (
        "policy",
        f"half-width of the dose interval ({'no unit' if unit in ('', '1') else unit})",
        "which interval",
        "probability outside the hard limits",
        "probability outside the sparse interval",
    )
    body = tuple(
        (
            one.title,
            "-" if one.row.half_width is None else f"{one.row.half_width:.3f}",
            one.row.width_kind or "-",
            mass_words(one.row.mass_outside_limits, one.row.width_kind == EXACT),
            mass_words(one.row.mass_outside_sparse, one.row.width_kind == EXACT),
        )
        for one in trained
    )
    caption = (
        f"Dose sets, {data}: means over recorded visits and {len(trained[0].config.seeds)} seeds, without "
        "interval, since they describe these policies at these visits"
    )
    return Table(caption, head, body, frozenset({1, 3, 4}))


def _pairs(study: Compared) -> Table:
    head = (
        "policy",
        "data",
        "pair",
        "recommended doses",
        "verdict",
        "sampled doses",
        "verdict ",
        "cost of sampled doses",
        "n",
    )
    body = tuple(
        (
            d.name,
            study.which(d.data),
            " minus ".join(d.distributions),
            _told(d.recommended),
            verdict(d.recommended),
            _told(d.sampled),
            verdict(d.sampled),
            _told(d.costs[1] if d.costs else None),
            f"{d.recommended.n:,}",
        )
        for d in study.differences
    )
    caption = (
        "Policies that differ in their distribution alone: difference in return (no unit) and in cost, "
        "paired by patient; 95 % intervals of each by itself, "
        f"{_methods(d.recommended for d in study.differences)}"
    )
    return Table(caption, head, body, frozenset({3, 5, 7, 8}))


def _methods(estimates: Iterable[Estimate]) -> str:
    """How intervals were made."""
    return " or ".join(dict.fromkeys(e.method for e in estimates))


def _told(estimate: Estimate | None) -> str:
    """Value and interval; a dash for none."""
    return "-" if estimate is None else minus(str(estimate))
