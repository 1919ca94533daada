"""What a clinic's own rules say at a recorded visit: asked, on record, ready to be shown beside agents."""

from __future__ import annotations

from app.analysis.clinic import ask_rules
from app.analysis.recommendations import Source
from app.readers import study
from app.readers.replayed import replayed
from app.widgets.audit import recorded
from app.widgets.recommendation_card import Recorded
from app.widgets.state_picker import Asked
from dosing.errors import UserError


def at_visit(asked: Asked, source: Source) -> Recorded:
    """Answers of the rules and their records; none for typed numbers, which are of no course.

    None either where the scenario names no rules, or the recorded visits cannot be gone through again.

    Args:
        asked: the state on show.
        source: an agent, whose limits and monitor the rules share.
    """
    if asked.episodes is None or asked.row is None or asked.earlier is None:
        return [], []
    episodes, row = asked.episodes, asked.row
    patient = int(episodes.episode[row])
    try:
        found = replayed(episodes, patient)
        table = study.table()
    except UserError:  # the pages of the course and of the comparison say it
        return [], []
    place = row - int((episodes.episode == patient).argmax())
    rows = [] if table is None else table[0]
    answers = ask_rules(source, found, place, list(asked.state), asked.earlier, rows)
    return recorded(answers, asked.visit)
