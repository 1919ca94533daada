"""What a clinic's own rules would give at a recorded visit, through the same guarded recommender."""

from __future__ import annotations

from collections.abc import Sequence

from app.analysis.recommendations import Answer, Source
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import EarlierVisit
from dosing.recommendation.stated import stated
from dosing.studies.comparison_table import Row, clinic_title
from simulator.cohorts.replay import Replayed

FAMILY = "a clinic's own rule, no agent"


def ask_rules(
    source: Source,
    replayed: Replayed,
    row: int,
    state: Sequence[float],
    earlier: Sequence[EarlierVisit],
    rows: Sequence[Row] = (),
) -> list[Answer]:
    """What each rule asks for at a visit, guarded as the doses of an agent are.

    Args:
        source: an agent, whose limits and monitor the rules share.
        replayed: the patient's course with what the rules ask for.
        row: of the visit among the patient's.
        state: observed then.
        earlier: the visits before it.
        rows: lines of the study's table, for what following a rule was worth.
    """
    measured = {line.name: line for line in rows}
    step = source.recommender.rules.step
    told = step is not None and not step.current and bool(earlier)
    current = earlier[-1].dose if told else None
    answers = []
    for rule, doses in replayed.clinic.items():
        name = clinic_title(rule)
        recommender = stated(source.recommender, doses[row].tolist(), name)
        asked = Source(name, FAMILY, recommender, measured.get(name), reference=True)
        answers.append(Answer(asked, recommend(recommender, state, current)))
    return answers
