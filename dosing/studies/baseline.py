"""The constant dose estimated from recorded visits, as a study compares with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.ope.baselines import estimated_constant
from dosing.ope.trajectories import Trajectories


@dataclass(frozen=True)
class Baseline:
    """The constant dose estimated from recorded visits: what every row of these visits is compared with.

    Attributes:
        dose: in dose units, never outside the recorded doses; None where the visits tell none.
        patients: recorded patients.
        missing: why there is no dose; empty where there is one.
        recorded: lowest and highest recorded dose; None where there is no constant dose of any kind.
        median: the median recorded dose, where it stands in for a dose that the rewards do not tell: a rule
            beside the others, by which nothing is judged.
    """

    dose: float | None
    patients: int
    missing: str = ""
    recorded: tuple[float, float] | None = None
    median: float | None = None

    @classmethod
    def of(cls, episodes: Episodes) -> Baseline:
        """Estimate it; see :func:`dosing.ope.baselines.estimated_constant`.

        Raises:
            UserError: the visits cannot be read as :class:`dosing.ope.trajectories.Trajectories`.
        """
        data = Trajectories.from_episodes(episodes)
        try:
            best = estimated_constant(data)
        except UserError as error:
            return cls(None, data.patients, str(error))
        recorded = (best.low, best.high)
        if best.identified:
            return cls(best.dose, data.patients, "", recorded)
        return cls(None, data.patients, f"{best.missing}.", recorded, best.dose)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Baseline:
        """Inverse of ``dataclasses.asdict``; one that does not know the recorded doses is not read."""
        recorded = fields["recorded"]
        return cls(**fields | {"recorded": None if recorded is None else tuple(recorded)})

    @property
    def edge(self) -> str:
        """Words where the dose is the lowest or the highest recorded one; empty where it lies between."""
        if self.dose is None or self.recorded is None:
            return ""
        low, high = self.recorded
        return (
            "the lowest recorded" if self.dose <= low else "the highest recorded" if self.dose >= high else ""
        )

    def notes(self, data: str) -> list[str]:
        """What a reader has to know of the dose estimated from the visits called ``data``."""
        span = f"{self.recorded[0]:.4g} to {self.recorded[1]:.4g}" if self.recorded else ""
        if self.missing:
            beside = f" Recorded doses: {span}; no rule is called better or worse by them." if span else ""
            return [f"no constant dose is estimated from {data}: {self.missing}{beside}"]
        if self.edge:
            return [
                f"the constant dose estimated from {data} is {self.edge} one (recorded: {span}): whether one "
                "beyond would be better cannot be told from these visits."
            ]
        return []
