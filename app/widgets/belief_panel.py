"""What an agent that holds a belief believes about the patient on show, and how far that is to be trusted."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app.analysis import belief
from app.analysis.belief import Beliefs
from app.analysis.recommendations import Answer
from app.charts.belief import markers
from app.text import Markdown, sentence
from app.theme import counted, number, with_unit
from app.widgets import page, write
from dosing.recommendation.belief import ModelQuality


def belief_panel(answer: Answer, key: str) -> None:
    """Levels, forecasts and the quality of the model; nothing for an agent that holds no belief.

    Args:
        answer: what the agent says about the visit on show.
        key: of its charts.
    """
    quality = belief.quality(answer)
    if quality is None:
        return
    name = answer.source.name
    if quality.refused:
        who = "everyone" if not quality.used else f"everyone by {counted(len(quality.refused), 'seed')}"
        write.warning(
            "**{}: the constant dose is given to {}.** {}", name, who, _as_sentence(quality.refused[0])
        )
    label = sentence("What {} believes about this patient", name)
    if not quality.used:
        label = sentence("Why {} gives everyone the constant dose", name)
    with page.fold(label, f"{key}fold") as is_open:
        if is_open:
            write.markdown("{}", in_words(quality))
            if (one := belief.beliefs(answer)) is not None:
                _drawn(one, answer, key)


def _drawn(one: Beliefs, answer: Answer, key: str) -> None:
    """The levels of the entries, in two columns, and how to read them."""
    entries = answer.source.recommender.rules.entries
    count = one.seen.shape[1]
    names = [entry.name for entry in entries] or [f"s{k + 1}" for k in range(count)]
    units = [entry.unit for entry in entries] or ["1"] * count
    levels = [k for k in range(count) if np.isfinite(one.level.mean[-1, k])]
    half = (len(levels) + 1) // 2
    for place, which in zip(st.columns(2), (levels[:half], levels[half:]), strict=True):
        if which:
            with place:
                alt = f"Believed level and forecasts of {', '.join(names[k] for k in which)}"
                page.draw(markers(one, which, names, units), f"{key}{which[0]}", alt)
    limits = answer.source.limits
    dose = ", ".join(number(v, 3) for v in answer.result.dose or ())
    write.explain(
        "{} {}: solid, the level behind each marker as it is believed to be after each visit, with its 90 % "
        "interval; grey dots, what was seen. Right of the dotted line, forecasts of what will be seen: "
        "dashed, if the dose of now, {}, were held from this visit on; dotted grey, under the constant dose "
        "that is estimated from the recorded visits. Bands: 90 % intervals, noise of the observation "
        "included. The policy itself decides anew at every visit. Forecasts of a model, no promise.",
        answer.mark.sign,
        answer.source.name,
        with_unit(dose, limits.unit),
    )


def in_words(quality: ModelQuality) -> Markdown:
    """How well held-out patients were forecast."""
    return sentence(
        "Forecasts of held-out patients, 1 to 8 visits ahead: mean squared error **{}** of that of their "
        "last value and **{}** of that of the mean of the others; 90 % intervals cover **{}** of what was "
        "seen. Passed over as outliers: **{}** of the recorded numbers.",
        *(
            f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
            for share in (quality.of_last_value, quality.of_mean, quality.coverage, quality.outlying)
        ),
    )


def _as_sentence(text: str) -> str:
    """A reason that begins in lower case, as a sentence."""
    return text[:1].upper() + text[1:]
