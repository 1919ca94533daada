"""Policy cards: what one trained run is, rests on and was measured to do; as plain fields and as HTML.

No Streamlit here. Numbers come from the run's own files and from the guarded recommender.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from app.readers.study import Run
from app.theme import minus
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.data.earlier_visits import EarlierVisits
from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import Estimate, cvar, mean_over_seeds
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.reasons import DISAGREEMENT, STATUSES, Reason
from dosing.recommendation.records import Recommender
from dosing.studies.comparison_table import Row

STATES = 256
"""Recorded visits at which the recommender is asked what the policy would give."""
TENTH = 0.1

KINDS = {
    "interval": "an exact interval: density 0 outside it",
    "infinite_clipped": "every dose has some density; what lies beyond a hard limit is held at the limit",
    "full_box": "every dose within the limits has some density",
    "point": "one dose at each state",
    "samples": "draws of a generator, no density",
    "point_set": "candidates of a generator with probabilities, no density",
}
"""What the kinds of dose sets are, in words."""


def at_recorded_visits(recommender: Recommender, episodes: Episodes) -> dict[str, Any]:
    """What the recommender says at evenly spaced recorded visits, in shares of them and in dose units.

    Half-width, probability outside the limits and the seeds' spread are means over visits, seeds and dose
    dimensions; the probability is before any clipping.
    """
    rows = np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), STATES)).astype(int))
    current = None
    if recommender.rules.step is not None and not recommender.rules.step.current:
        current = episodes.act[rows].astype(np.float64)
    starts = np.flatnonzero(np.r_[True, np.diff(episodes.episode) != 0])
    earlier = EarlierVisits.of_episodes(episodes.obs, episodes.act, episodes.reward, starts)
    result = recommend_all(recommender, episodes.obs[rows].astype(np.float64), current, earlier[rows])
    half = 0.5 * (result.seed_high - result.seed_low)
    spread = result.spread
    apart = int(Reason.SEEDS_APART | Reason.BETWEEN_SEEDS)
    kind, bounded = result.kinds[0] if result.kinds else ("unknown", False)
    answered = np.isfinite(result.dose).all(1)
    return {
        "visits": len(rows),
        "dose_set": kind,
        "exact_support": bounded,
        "half_width": _mean(half[:, answered]),
        "mass_outside_limits": _mean(result.mass_outside[answered]),
        "spread_over_seeds": _mean(spread[answered]) if len(recommender.policy.seeds) > 1 else None,
        "seeds_disagree": float((result.codes & apart > 0).mean()),
        "held_at_hard_limit": float((result.codes & int(Reason.HARD_LIMIT) > 0).mean()),
        "status": {name: float((result.status == k).mean()) for k, name in enumerate(STATUSES)},
    }


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if np.size(values) else None


def evaluated(outcomes: Mapping[str, Outcomes] | None) -> dict[str, Any] | None:
    """Return, worst tenth, cost and limits over the evaluation patients by rule; None if there are none."""
    return None if outcomes is None else {rule: _measured(result) for rule, result in outcomes.items()}


def _measured(result: Outcomes) -> dict[str, Any]:
    seeds, patients = result.returns.shape
    tail = TENTH * patients >= 1.0
    return {
        "patients_per_seed": patients,
        "seeds": seeds,
        "return": _estimate(lambda: mean_over_seeds(result.returns)),
        "return_of_worst_tenth": _estimate(lambda: cvar(result.returns, TENTH)) if tail else None,
        "safety_events_per_patient": _estimate(lambda: mean_over_seeds(result.cost)),
        "patients_with_a_safety_event": _estimate(lambda: mean_over_seeds(1.0 * (result.cost > 0))),
        "share_of_visits_at_a_limit": _estimate(lambda: mean_over_seeds(result.limited)),
    }


def _estimate(make: Any) -> dict[str, Any] | None:
    """An estimate as plain fields; None where the sample allows no interval."""
    try:
        result: Estimate = make()
    except UserError:
        return None
    return {"value": result.value, "low": result.low, "high": result.high, "basis": result.basis}


def card_of(
    run: Run,
    recommender: Recommender,
    episodes: Episodes,
    outcomes: Mapping[str, Outcomes] | None,
    row: Row | None,
) -> dict[str, Any]:
    """Everything a reader needs to judge a trained run, as plain fields.

    Args:
        run: a finished run.
        recommender: the guarded recommender before its policy.
        episodes: what it was trained on.
        outcomes: what happened to its evaluation patients; None if it was not evaluated.
        row: its line of the study table; None if it has none.
    """
    config, scenario = run.config, episodes.metadata.card
    return {
        "notice": NOT_FOR_PATIENTS,
        "agent": {
            "title": run.entry.title,
            "paper": run.entry.about.paper,
            "distribution": run.family,
            "settings": dict(config.agent_config),
            "beyond_the_method": config.regularisation.changed(),
            "training": dict(config.training),
            "seeds": list(config.seeds),
        },
        "data": {
            "name": config.data.name,
            "sha256": config.data.content_hash,
            "patients": config.data.patients,
            "visits": config.data.visits,
            "behaviour": episodes.metadata.policy,
            "environment": asdict(config.env) if config.env else None,
        },
        "dose": {
            "name": config.dose_name,
            "unit": recommender.rules.limits.unit,
            "hard_limits": [recommender.rules.limits.low, recommender.rules.limits.high],
        },
        "evaluation": evaluated(outcomes),
        "difference_from_estimated_constant": _difference(row),
        "no_difference_because": row.baseline.missing if row is not None and row.baseline else "",
        "at_recorded_visits": at_recorded_visits(recommender, episodes),
        "known_limits": known_limits(recommender, scenario),
        "provenance": {
            **recommender.provenance,
            "run": "/".join(run.folder.path.parts[-3:]),
            "software": __version__,
            "made": config.created,
        },
    }


def _difference(row: Row | None) -> dict[str, Any] | None:
    if row is None or row.difference is None:
        return None
    return {**(_estimate(lambda: row.difference) or {}), "verdict": row.verdict}


def known_limits(recommender: Recommender, scenario: Mapping[str, Any]) -> list[str]:
    """Sentences on what the policy and its scenario cannot be relied on for."""
    result = ["Trained and evaluated on simulated patients alone; not validated against any real patient."]
    if recommender.policy.looks_back:
        result.append(
            "The policy looks back on an episode; asked about one state, it answers as at a first visit."
        )
    if recommender.monitor is None:
        result.append("Nothing tells whether a state is unlike the training visits: there is no monitor.")
    if len(recommender.policy.seeds) == 1:
        result.append("One training seed: how far another training would differ is not known.")
    if text := str(scenario.get("limits_of_the_model", "")).strip():
        result.append(text)
    return result


Section = tuple[str, Sequence[tuple[str, str]]]
"""A heading, and lines of a name and a text."""


def in_words(card: Mapping[str, Any]) -> list[Section]:
    """The card as headings and lines, numbers with intervals, for the page and for the HTML."""
    agent, data, dose = card["agent"], card["data"], card["dose"]
    here, unit = card["at_recorded_visits"], "" if dose["unit"] in ("", "1") else f" {dose['unit']}"
    sections: list[Section] = [
        (
            "Algorithm",
            [
                ("Method", f"{agent['title']} ({agent['paper']})"),
                ("Distribution of the dose", agent["distribution"]),
                ("Training", _settings(agent["training"]) or "not recorded"),
                ("Seeds", ", ".join(map(str, agent["seeds"]))),
                ("Settings", _settings(agent["settings"])),
            ],
        ),
        (
            "Data",
            [
                ("Name", str(data["name"])),
                ("SHA-256", str(data["sha256"])),
                ("Patients", f"{data['patients']:,}" if data["patients"] else "not recorded"),
                ("Visits", f"{data['visits']:,}" if data["visits"] else "not recorded"),
                ("Doses by", str(data["behaviour"] or "not recorded")),
            ],
        ),
    ]
    for rule, result in (card["evaluation"] or {}).items():
        title = "recommended doses" if rule == "recommended" else "doses drawn from the distribution"
        sections.append((f"On new simulated patients, {title}", _evaluation(result)))
    if not card["evaluation"]:
        sections.append(("On new simulated patients", [("Evaluation", "not evaluated: do not follow")]))
    if (difference := card["difference_from_estimated_constant"]) is not None:
        words = f"{estimate_words(difference)}: {difference['verdict']}"
        sections.append(("Against one constant dose for everyone", [("Difference in return", words)]))
    elif missing := card["no_difference_because"]:
        sections.append(("Against one constant dose for everyone", [("Not judged", missing)]))
    width = "exact support" if here["exact_support"] else "central 99 %, not a support"
    spread = here["spread_over_seeds"]
    lines = [
        ("Dose set", KINDS.get(here["dose_set"], here["dose_set"])),
        ("Mean half-width", f"{_plain(here['half_width'])}{unit} ({width})"),
        ("Probability outside the hard limits", _mass(here)),
        (
            "Standard deviation of the seeds' doses",
            "one seed" if spread is None else f"{_plain(spread)}{unit}",
        ),
        (
            "Visits at which the seeds disagree",
            f"{_percent(here['seeds_disagree'])} (spread above {DISAGREEMENT:g} of that of the recorded "
            "doses, or a mean no seed would give)",
        ),
        ("Recommended dose held at a hard limit", _percent(here["held_at_hard_limit"])),
        ("Answers", ", ".join(f"{name} {_percent(share)}" for name, share in here["status"].items())),
    ]
    sections.append((f"At {here['visits']} of its own recorded visits", lines))
    sections.append(("Known limits", [(str(k), text) for k, text in enumerate(card["known_limits"], 1)]))
    kept = {k: v for k, v in card["provenance"].items() if v is not None}
    sections.append(("Provenance", [(k, _flat(v)) for k, v in kept.items()]))
    return sections


def _evaluation(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    sample = f"{result['patients_per_seed']:,} patients x {result['seeds']} seeds"
    numbers = [(k, v) for k, v in result.items() if k not in ("patients_per_seed", "seeds")]
    return [
        ("Sample", sample),
        *((name.replace("_", " ").capitalize(), estimate_words(value)) for name, value in numbers),
    ]


def estimate_words(result: Mapping[str, Any] | None) -> str:
    """A number with its interval and what that rests on."""
    if result is None:
        return "too few patients for an interval"
    half = (result["high"] - result["low"]) / 2 or abs(result["value"]) or 1.0
    places = min(max(1 - int(np.floor(np.log10(half))), 0), 6)
    value, low, high = (f"{result[k]:z.{places}f}" for k in ("value", "low", "high"))
    return f"{minus(f'{value} [{low}, {high}]')} ({result['basis']})"


def _mass(here: Mapping[str, Any]) -> str:
    mass = here["mass_outside_limits"]
    if mass == 0.0 and here["exact_support"]:
        return "0 (exactly)"
    return "unknown" if mass is None else f"{100 * mass:.3g} %"


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _settings(values: Mapping[str, Any]) -> str:
    """Names and values of settings in plain words."""
    told = ((k, "none" if v is None else v) for k, v in values.items())
    return ", ".join(f"{k} {v}".replace("_", " ") for k, v in told)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items())
    return str(value)


def as_html(card: Mapping[str, Any]) -> str:
    """The card as one HTML page that needs nothing else: no script, no style sheet, no picture."""
    title = html.escape(f"Policy card: {card['agent']['title']}")
    notice = f"<p><strong>{html.escape(card['notice'])}</strong></p>"
    parts = []
    for heading, lines in in_words(card):
        rows = "".join(
            f"<tr><th scope='row'>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>\n"
            for name, text in lines
        )
        parts.append(f"<h2>{html.escape(heading)}</h2>\n<table>\n{rows}</table>")
    style = (
        "body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "th{text-align:left;vertical-align:top;padding:.2rem 1rem .2rem 0;font-weight:normal;color:#555;"
        "width:16rem}td{overflow-wrap:anywhere}"
    )
    return (
        f"<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'><title>{title}</title>\n"
        f"<meta name='viewport' content='width=device-width'><style>{style}</style></head>\n"
        f"<body>\n<h1>{title}</h1>\n{notice}\n" + "\n".join(parts) + f"\n{notice}\n</body>\n</html>\n"
    )
