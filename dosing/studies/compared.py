"""What a comparison answers: its table, differences of paired runs, and notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import Estimate, paired_difference, verdict
from dosing.studies import policy_table
from dosing.studies.comparison_table import Row, render
from dosing.studies.policy_table import PolicyRow
from dosing.typed_json import typed


@dataclass(frozen=True)
class Difference:
    """Two runs that differ in their policy's distribution only, on the same patients and noise.

    Attributes:
        name: agent, and settings that tell it from other pairs.
        distributions: words for the two distributions.
        recommended: return of the first minus the second when recommended doses are given.
        sampled: the same when doses are drawn from the distributions.
        data: name of the recorded visits.
        costs: differences of the safety cost per patient, of recommended and of drawn doses.
    """

    name: str
    distributions: tuple[str, str]
    recommended: Estimate
    sampled: Estimate
    data: str
    costs: tuple[Estimate, Estimate] | None = None

    def __str__(self) -> str:
        """Return one line of words."""
        parts = (("recommended", self.recommended), ("sampled", self.sampled))
        words = [f"{rule} doses {e} ({verdict(e)})" for rule, e in parts]
        words += [f"cost of sampled doses {self.costs[1]}"] if self.costs else []
        pair = " minus ".join(self.distributions)
        return f"{pair}, {self.name} on {self.data}: {', '.join(words)}"


def difference(
    name: str,
    distributions: tuple[str, str],
    data: str,
    first: dict[str, Outcomes],
    second: dict[str, Outcomes],
) -> Difference:
    """Pair the outcomes of two runs patient by patient; see :class:`Difference`."""
    rules = ("recommended", "sampled")
    recommended, sampled = (paired_difference(first[r].returns, second[r].returns) for r in rules)
    best, drawn = (paired_difference(first[r].cost, second[r].cost) for r in rules)
    return Difference(name, distributions, recommended, sampled, data, (best, drawn))


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison or an evaluation.

    Attributes:
        rows: one per run, then those of reference rules and ceilings.
        differences: one per pair of runs that a preset sets side by side.
        notes: what a reader of the table has to know, such as runs that diverged and are not in it.
        policies: one per policy, where an agent's policies stand side by side.
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    policies: tuple[PolicyRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Comparison:
        """Inverse of :meth:`to_json`; further fields are passed over."""
        rows = tuple(map(Row.from_json, fields["rows"]))
        pairs = tuple(typed(Difference, one, "differences") for one in fields["differences"])
        policies = tuple(typed(PolicyRow, one, "policies") for one in fields["policies"])
        return cls(rows, pairs, tuple(fields["notes"]), policies)

    def __str__(self) -> str:
        """Return the tables, the differences and the notes as text."""
        notes = [f"note: {note}" for note in self.notes]
        head = ["paired by patient, with 95 % intervals:"] if self.differences else []
        beside = ["", policy_table.render(self.policies), ""] if self.policies else []
        return "\n".join([render(self.rows), *beside, *head, *map(str, self.differences), *notes])
