"""What a selection answers: its candidates, the one selected, and the table."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dosing import NOT_FOR_PATIENTS
from dosing.models.regularisation import Regularisation
from dosing.ope.baselines import EstimatedConstant
from dosing.ope.folds import CrossValidation, PooledValue
from dosing.ope.selection import BASELINE, Settings
from dosing.ope.values import Estimator
from dosing.runs.folder import RunFolder
from dosing.safety import DoseLimits, dose_text

FOLDS, SELECTION = "folds", "selection.json"


@dataclass(frozen=True)
class Candidate:
    """One setting of one agent.

    Attributes:
        name: title of the agent, distribution of its policy, and settings that tell it from the other
            candidates.
        agent: registry key.
        config: its configuration.
        regularisation: what networks and updates have beyond the method.
    """

    name: str
    agent: str
    config: Any
    regularisation: Regularisation

    @property
    def agent_config(self) -> dict[str, Any]:
        """Fields of its configuration."""
        return asdict(self.config)

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self) | {"regularisation": self.regularisation.changed()}


@dataclass(frozen=True)
class Selected:
    """The result of a selection.

    Attributes:
        candidates: every setting that was tried: those better than the constant dose first, those without a
            number last, among them by their difference from it.
        validation: what their values are and rest on.
        criterion: how they were estimated; the first estimator decides.
        constant: the dose estimated from all patients, or the median recorded one where rewards tell none.
        limits: hard limits of a dose, with its unit.
        run: where the first candidate was trained on all patients; None where it is not better than the
            constant dose.
        notes: what a reader has to know besides.
        costs: estimated costs in place of the values; None where a visit has no cost.
    """

    candidates: tuple[Candidate, ...]
    validation: CrossValidation
    criterion: Settings
    constant: EstimatedConstant
    limits: DoseLimits
    run: RunFolder | None = None
    notes: tuple[str, ...] = ()
    costs: CrossValidation | None = None

    @property
    def chosen(self) -> Candidate | None:
        """The candidate to use; None for the constant dose."""
        first = self.candidates[0]
        return first if self.value(first.name).verdict == "better" else None

    def value(self, name: str) -> PooledValue:
        """What the deciding estimator says of a candidate, or of the constant dose."""
        return self.validation.values[name][self.criterion.estimators[0]]

    @property
    def verdict(self) -> str:
        """The finding in one sentence."""
        if self.missing:
            return (
                f"No candidate is called better or worse than a constant dose, and none is chosen: "
                f"{self.missing}. {self.constant_words}."
            )
        edge = f" (the {self.constant.edge} dose recorded)" if self.constant.edge else ""
        constant = (
            f"the constant dose {self.dose} estimated from the same {self.validation.patients} patients{edge}"
        )
        first = self.candidates[0].name
        difference = self.value(first).difference
        if difference is None:
            return f"No candidate has an estimated value, so none is known to beat {constant}; use that."
        by = f"{difference} in return over {self.validation.horizon} visits ({difference.basis})"
        if self.chosen:
            return f"{first} is better than {constant}, by {by}."
        if len(self.candidates) == 1:
            return f"{first} is not found better than {constant}; use that: they differ by {by}."
        return (
            f"None of these {len(self.candidates)} candidates is found better than {constant}; use that: "
            f"{first} differs from it by {by}."
        )

    @property
    def dose(self) -> str:
        """The constant dose in words, to a hundredth of the decade of the hard limits' distance."""
        digits = 2 - math.floor(math.log10(self.limits.high[0] - self.limits.low[0]))
        unit = "" if self.limits.unit == "1" else f" {self.limits.unit}"
        return f"{dose_text(self.constant.dose, self.constant.low, self.constant.high, max(digits, 0))}{unit}"

    @property
    def missing(self) -> str:
        """Why no candidate is judged by the constant dose; empty where they are."""
        return self.constant.missing or self.validation.missing

    @property
    def constant_words(self) -> str:
        """What the constant dose is, and between which recorded doses."""
        low, high = self.constant.low, self.constant.high
        unit = "" if self.limits.unit == "1" else f" {self.limits.unit}"
        kind = (
            "The constant dose estimated from all" if self.constant.identified else "The median recorded dose"
        )
        return f"{kind} is {self.dose}; recorded: {dose_text(low)} to {dose_text(high)}{unit}"

    def to_json(self, study: Path) -> dict[str, Any]:
        """Plain fields, with the run's path from the study folder."""
        result = self.validation
        values = {name: {e: asdict(v) for e, v in own.items()} for name, own in result.values.items()}
        costs = self.costs.values if self.costs else {}
        cost = {name: {e: asdict(v) for e, v in costs.get(name, {}).items()} for name in values}
        return {
            "verdict": self.verdict,
            "chosen": self.chosen.to_json() if self.chosen else None,
            "run": os.path.relpath(self.run.path, study) if self.run else None,
            "constant": {
                "dose": self.constant.dose,
                "identified": self.constant.identified,
                "missing": self.missing,
                "recorded": [self.constant.low, self.constant.high],
                "unit": self.limits.unit,
                "doses_of_folds": list(result.doses),
                "values": values[BASELINE],
                "costs": cost[BASELINE],
            },
            "candidates": [
                c.to_json() | {"values": values[c.name], "costs": cost[c.name]} for c in self.candidates
            ],
            "decided_by": self.criterion.estimators[0],
            "criterion": asdict(self.criterion),
            "patients": result.patients,
            "horizon": result.horizon,
            "behaviour": result.behaviour,
            "notes": list(self.notes),
            "notice": NOT_FOR_PATIENTS,
        }

    def __str__(self) -> str:
        """Return the table, the notes, the chosen settings and the verdict as text."""
        lines = [self._table(), *(f"note: {note}" for note in self.notes)]
        if self.chosen:
            settings = asdict(self.chosen.config) | self.chosen.regularisation.changed()
            lines.append(
                f"chosen: {self.chosen.agent}, " + ", ".join(f"{k}={v}" for k, v in settings.items())
            )
        if self.run:
            lines.append(f"trained on all patients: {self.run.path}")
        return "\n".join([*lines, self.verdict])

    def _table(self) -> str:
        kind = "constant" if self.constant.identified else "median recorded"
        names = {BASELINE: f"{kind} dose of each fold's training patients, {self.dose} of all"}
        names |= {c.name: c.name for c in self.candidates}
        head = ("candidate", "estimator", "return", "cost", "minus constant dose", "verdict", "in each fold")
        body = [
            (title, estimator, *self._cells(name, estimator))
            for estimator in self.criterion.estimators
            for name, title in names.items()
        ]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head) - 1)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]])
            for line in [head, *body]
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])

    def _cells(self, name: str, estimator: Estimator) -> tuple[str, str, str, str, str]:
        """Return, cost, difference, verdict, and the difference in every fold or why there is none."""
        value = self.validation.values[name][estimator]
        costs = self.costs.values.get(name, {}) if self.costs else {}
        cost = costs[estimator].estimate if estimator in costs else None
        folds = ", ".join(f"{d:.2f}" for d in value.folds)
        numbers = (str(x) if x else "-" for x in (value.estimate, cost, value.difference))
        estimate, told, difference = numbers
        last = f"refused: {value.refused}" if value.refused else folds
        return estimate, told, difference, value.verdict or "-", last
