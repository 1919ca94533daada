"""Evaluation on more patients than memory holds: a stretch of every seed's patients at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.evaluation.statistics import Estimate, verdict
from dosing.evaluation.tally import Tally, shares
from dosing.policy import DosePolicy
from dosing.studies.comparison_table import Row
from dosing.studies.dose_sets import TAIL
from dosing.studies.launch import progress_bar
from dosing.studies.naming import distinct
from dosing.studies.references import References, reference_rules
from dosing.types import Act, Array
from simulator.scenarios import EvaluationFactory

STRETCH = 1 << 14
"""Patients of every seed who are treated at a time: whole blocks of the simulator's streams."""


class _Measured:
    """What is told of one rule, beside the estimated constant dose on the same patients."""

    def __init__(self, seeds: int, patients: int) -> None:
        """``seeds`` is 1 for a rule without seeds, and ``patients`` all of its patients then."""
        self.rows, self.patients = seeds, patients
        self.returns = Tally(seeds, patients, TAIL)
        self.more: dict[str, Tally] = {}

    def add(self, outcomes: Outcomes, base: Outcomes | None) -> None:
        """Take in a stretch of patients."""
        returns = outcomes.returns
        self.returns.add(self._laid(returns))
        values = {"cost": outcomes.cost} | {f"event {k}": v for k, v in shares(outcomes.events).items()}
        if base is not None:
            values["difference"] = returns - base.returns
        if outcomes.in_range is not None:
            values["in range"] = outcomes.in_range / outcomes.visits
        if outcomes.success is not None:
            values["success"] = outcomes.success
        for name, array in values.items():
            self.more.setdefault(name, Tally(self.rows, self.patients)).add(self._laid(array))

    def _laid(self, values: Array) -> Array:
        return values.reshape(self.rows, -1)

    def of(self, name: str) -> Estimate | None:
        """Mean of a further measure; None where there is none."""
        return self.more[name].estimate() if name in self.more else None

    def on(self, row: Row, sampled: Estimate | None) -> Row:
        """The row with the numbers of these patients."""
        difference = self.of("difference") if row.difference else None
        return replace(
            row,
            recommended=self.returns.estimate(),
            sampled=sampled,
            difference=difference,
            verdict=verdict(difference) if difference else None,
            cost=self.of("cost"),
            lower_tail=self.returns.lower_tail(),
            in_range=self.of("in range"),
            success=self.of("success"),
        )


def on_many(
    factory: EvaluationFactory,
    policies: Sequence[DosePolicy],
    rows: Sequence[Row],
    rules: Sequence[Row],
    kept: References,
    patients: int,
) -> tuple[list[Row], list[Row], list[str]]:
    """Treat many patients of every seed under policies and rules; memory does not grow with the patients.

    Means, intervals, differences and shares are exact, as of all patients at once; so is the lower tail, for
    which its own values are kept (``dosing.evaluation.tally``).

    Args:
        factory: the scenario.
        policies: stacks with the same seeds.
        rows: their rows on fewer patients, in the same order.
        rules: rows of the reference rules, then of ceilings.
        kept: the reference rules.
        patients: P per seed.

    Returns:
        The rows of policies and of rules with the numbers of these patients, and notes.
    """
    seeds = policies[0].seeds
    names = list(kept.outcomes)
    of_rules = [_Measured(1, len(seeds) * patients) for _ in names]
    recommended = [_Measured(len(seeds), patients) for _ in policies]
    sampled = [Tally(len(seeds), patients) for _ in policies]
    total = patients * len(seeds) * (len(names) + 2 * len(policies))
    with progress_bar(total, "evaluate", "patient", 0) as bar:

        def treat(act: Act, part: range) -> Outcomes:
            outcomes = rollout(factory, act, seeds, patients, part=part)
            bar.update(outcomes.returns.size)
            return outcomes

        for block, start in enumerate(range(0, patients, STRETCH)):
            part = range(start, min(start + STRETCH, patients))
            acts = reference_rules(factory, seeds, kept.baseline, kept.dose, block)
            base = treat(acts["estimated"], part) if "estimated" in names else None
            for name, measured in zip(names, of_rules, strict=True):
                own = base if base is not None and name == "estimated" else treat(acts[name], part)
                measured.add(own, base)
            for k, policy in enumerate(policies):
                recommended[k].add(treat(following(policy, block=block), part), base)
                sampled[k].add(treat(following(policy, sampled=True, block=block), part).returns)
    pairs = zip(recommended, rows, sampled, strict=True)
    told = [measured.on(row, drawn.estimate()) for measured, row, drawn in pairs]
    beside = [measured.on(row, None) for measured, row in zip(of_rules, rules, strict=False)]
    return told, [*beside, *rules[len(names) :]], _notes(told, recommended, patients)


def _notes(rows: Sequence[Row], measured: Sequence[_Measured], patients: int) -> list[str]:
    """How many patients there were, and the share who had each safety event at all."""
    notes = [f"{patients:,} patients per seed, treated a stretch at a time; none of them is kept one by one."]
    names = distinct([row.name for row in rows], [row.family for row in rows])
    events = [key for key in measured[0].more if key.startswith("event ")]
    for event in events if len(events) > 1 else []:
        told = ", ".join(
            f"{name} {100 * float(np.mean(one.more[event].mean)):.1f} %"
            for name, one in zip(names, measured, strict=True)
        )
        notes.append(f"patients with the {event} at any visit, recommended doses: {told}")
    return notes
