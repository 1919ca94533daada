"""What a comparison answers: its table, differences of paired runs, and notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import Estimate, paired_difference, verdict
from dosing.studies.comparison_table import Row, render


@dataclass(frozen=True)
class Difference:
    """Two runs that differ in their policy's distribution only, on the same patients and noise.

    Attributes:
        name: agent, and settings that tell it from other pairs.
        distributions: words for the two distributions.
        recommended: return of the first minus the second when recommended doses are given.
        sampled: the same when doses are drawn from the distributions.
        data: name of the recorded visits.
    """

    name: str
    distributions: tuple[str, str]
    recommended: Estimate
    sampled: Estimate
    data: str

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Difference:
        """Inverse of ``dataclasses.asdict``."""
        estimates = {name: Estimate(**fields[name]) for name in ("recommended", "sampled")}
        return cls(**fields | estimates | {"distributions": tuple(fields["distributions"])})

    def __str__(self) -> str:
        """Return one line of words."""
        parts = (("recommended", self.recommended), ("sampled", self.sampled))
        words = [f"{rule} doses {e} ({verdict(e)})" for rule, e in parts]
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
    recommended, sampled = (
        paired_difference(first[rule].returns, second[rule].returns) for rule in ("recommended", "sampled")
    )
    return Difference(name, distributions, recommended, sampled, data)


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison or an evaluation.

    Attributes:
        rows: one per run, then those of reference rules and ceilings.
        differences: one per pair of runs that a preset sets side by side.
        notes: what a reader of the table has to know, such as runs that diverged and are not in it.
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Comparison:
        """Inverse of :meth:`to_json`; further fields are passed over."""
        rows = tuple(map(Row.from_json, fields["rows"]))
        return cls(rows, tuple(map(Difference.from_json, fields["differences"])), tuple(fields["notes"]))

    def __str__(self) -> str:
        """Return the table, the differences and the notes as text."""
        notes = [f"note: {note}" for note in self.notes]
        head = ["paired by patient, with 95 % intervals:"] if self.differences else []
        return "\n".join([render(self.rows), *head, *map(str, self.differences), *notes])
