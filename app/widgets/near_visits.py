"""The training visits most like the one on show: what was seen, given and received then."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from app.analysis.recommendations import Answer
from app.text import sentence
from app.theme import decimals, listed, minus, number, unit_words
from app.widgets import page, write
from app.widgets.state_picker import Asked
from dosing.recommendation.records import NearVisit

MOST = 10
"""Most observations that have a column."""


def others(visits: Sequence[NearVisit], asked: Asked) -> list[NearVisit]:
    """Training visits without the one on show, which is the nearest to itself."""
    own = None if asked.visit is None else (asked.visit[0], asked.visit[1] - 1)
    return [visit for visit in visits if (str(visit.patient), visit.visit) != own]


def nearest(answers: Sequence[Answer], asked: Asked) -> None:
    """A table of the nearest training visits; one for all policies that learned from the same.

    Args:
        answers: what the policies say.
        asked: the visit on show.
    """
    groups: dict[tuple[NearVisit, ...], list[str]] = {}
    for answer in answers:
        if answer.result.nearest:
            groups.setdefault(answer.result.nearest, []).append(answer.source.name)
    for place, (visits, names) in enumerate(groups.items()):
        whose = "" if len(groups) == 1 else f" of {listed(names)}"
        with page.fold(sentence("Nearest training visits{}", whose), f"nearest{place}") as is_open:
            if not is_open:
                continue
            if shown := others(visits, asked):
                write.table(as_frame(shown, answers[0]))
            else:
                write.markdown("No other training visit is known.")
            write.explain(
                "Recorded visits most like this one, without the visit itself; other visits of the same "
                "patient may be among them. Distance: between what was seen, every entry in robust standard "
                "deviations of the records. Beyond a threshold the dose is deferred."
            )


def as_frame(visits: Sequence[NearVisit], answer: Answer) -> pd.DataFrame:
    """One line per visit, in words; dose and reward are those of then."""
    limits, entries = answer.source.limits, answer.source.recommender.rules.entries
    places = decimals(max(h - low for low, h in zip(limits.low, limits.high, strict=True)))
    known = len(entries) == len(visits[0].state)
    names = [e.name for e in entries] if known else [f"s{k + 1}" for k in range(len(visits[0].state))]
    return pd.DataFrame(
        {
            "patient": str(visit.patient),
            "visit": str(visit.visit + 1),
            "distance": minus(f"{visit.distance:.3g}"),
            f"dose given ({unit_words(limits.unit)})": ", ".join(number(d, places) for d in visit.dose),
            "reward": number(visit.reward, 2),
            **(
                dict(zip(names, (number(x, 2) for x in visit.state), strict=True))
                if len(names) <= MOST
                else {}
            ),
        }
        for visit in visits
    )
