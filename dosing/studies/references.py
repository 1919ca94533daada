"""Rules that need no learning, on the patients every agent of a study is evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dosing.evaluation.best_constant import GRID, best_constant
from dosing.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes
from dosing.evaluation.rollout import EnvFactory, rollout
from dosing.evaluation.rules import constant, uniform
from dosing.runs.files import read_json, sha256, write_json
from dosing.runs.folder import EPISODES
from dosing.studies.baseline import Baseline
from dosing.studies.launch import progress_bar
from dosing.types import Act

REFERENCES = "references.json"
SEARCH_PATIENTS = 10_000
CLINIC = "clinic: "
"""Begins the name of a clinic's own rule."""


@dataclass(frozen=True)
class References:
    """Rules that need no learning, on the patients every agent is evaluated on.

    Attributes:
        dose: the best constant dose, which only the simulator can tell; None with several dose dimensions.
        search_return: its mean return on the separate patients it was found on.
        baseline: the constant dose estimated from the recorded visits.
        outcomes: ``uniform``, ``none`` (dose 0, where the limits allow it), ``estimated`` or in its place
            ``median``, and ``best`` (where there is such a dose); then the rules of clinics.
    """

    dose: float | None
    search_return: float | None
    baseline: Baseline
    outcomes: dict[str, Outcomes]


def references(
    folder: Path, factory: EnvFactory, seeds: Sequence[int], patients: int, baseline: Baseline
) -> References:
    """Evaluate the reference rules, or read them if ``folder`` already holds them for these patients.

    Args:
        folder: where they are kept, one folder per scenario and data set.
        factory: the scenario.
        seeds: training seeds whose evaluation patients are used.
        patients: per seed.
        baseline: the constant dose estimated from the data set.
    """
    wanted = {
        "seeds": list(seeds),
        "patients": patients,
        "search_patients": min(SEARCH_PATIENTS, factory.searched),
        "baseline": asdict(baseline) | {"recorded": list(baseline.recorded or ())},  # as JSON gives it back
    }
    record, episodes = folder / REFERENCES, folder / EPISODES
    if record.is_file() and episodes.is_file():
        result = read_json(record)
        if result.get("settings") == wanted and result.get("episodes") == sha256(episodes):
            return References(result["dose"], result["search_return"], baseline, read_outcomes(episodes))
    dose = value = None
    searched = min(SEARCH_PATIENTS, factory.searched) if factory.limits.n_act == 1 else 0
    outcomes = {}
    with progress_bar(GRID + 1 if searched else 0, "reference rules", "rule", 0) as bar:
        if searched:
            dose, value = best_constant(factory, searched, progress=bar)
        rules = reference_rules(factory, seeds, baseline, dose)
        bar.total += len(rules)
        for name, act in rules.items():
            outcomes[name] = rollout(factory, act, seeds, patients)
            bar.update()
    write_outcomes(episodes, outcomes)
    kept = {"settings": wanted, "dose": dose, "search_return": value, "episodes": sha256(episodes)}
    write_json(record, kept)
    return References(dose, value, baseline, outcomes)


def reference_rules(
    factory: EnvFactory, seeds: Sequence[int], baseline: Baseline, dose: float | None, block: int = 0
) -> dict[str, Act]:
    """Rules that need no learning, by name; see :class:`References`.

    Args:
        factory: the scenario.
        seeds: whose patients they treat.
        baseline: the constant dose estimated from the recorded visits.
        dose: the best constant dose.
        block: see :func:`dosing.evaluation.rules.following`.
    """
    rules: dict[str, Act] = {"uniform": uniform(factory.limits, seeds, block)}
    nothing = [0.0] * factory.limits.n_act
    if factory.limits.contains(np.asarray(nothing)):
        rules["none"] = constant(nothing)
    if baseline.dose is not None:
        rules["estimated"] = constant(baseline.dose)
    elif baseline.median is not None:
        rules["median"] = constant(baseline.median)
    if dose is not None:
        rules["best"] = constant(dose)
    return rules | {CLINIC + name: rule for name, rule in factory.clinic_rules.items()}
