"""Runs side by side: reference rules on the same patients, and one table row per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import (
    Estimate,
    cvar,
    mean_over_seeds,
    paired_difference,
    rate_over_seeds,
    verdict,
)
from dosing.studies.baseline import Baseline
from dosing.studies.dose_sets import EXACT, TAIL, DoseSets
from dosing.studies.references import CLINIC, References
from dosing.types import Array


@dataclass(frozen=True)
class Row:
    """One line of the comparison; every number stands on the patients named in its estimate.

    Attributes:
        name: agent or reference rule.
        family: distribution of the policy.
        recommended: return when the recommended dose is given.
        sampled: return when doses are drawn from the distribution; None for a rule without one.
        difference: recommended return minus that of the estimated constant dose, paired by patient; None for
            that dose itself, for a ceiling, and where no constant dose can be estimated.
        verdict: what the difference says.
        half_width: mean half-width of the dose interval, in dose units, over recorded visits and seeds.
        width_kind: ``exact support`` or the central mass that stands in for it.
        mass_outside_limits: mean probability outside the hard limits before any clipping.
        mass_outside_sparse: mean probability outside the sparse agent's interval at the same states.
        cost: mean safety cost per patient when the recommended dose is given; None where not measured.
        baseline: what the row is compared with; None for a ceiling.
        data: name of the recorded visits an agent was trained on, or beside which a rule is shown.
        lower_tail: mean return of the worst 5 % of the patients (CVaR) when the recommended dose is given;
            None for a ceiling, or where 5 % is less than one patient.
        foreseen: what the agent's own distribution of the discounted return says of its recommended dose: its
            mean and its CVaR 5 %, each averaged over recorded visits and seeds; None for an agent without
            such a distribution.
        budget: cost budget that the agent was trained within; None for one without, and for a rule.
        predicted_cost: what its cost critic predicts of the recommended doses, mean over recorded visits and
            seeds; None without a budget.
        in_range: mean share of a patient's visits at which what clinicians keep in a range truly lies there,
            when the recommended dose is given; None where there is no such quantity.
        success: share of the episodes that reached success when the recommended dose is given; None where the
            environment does not report it.
    """

    name: str
    family: str
    recommended: Estimate
    sampled: Estimate | None
    difference: Estimate | None
    verdict: str | None
    half_width: float | None
    width_kind: str | None
    mass_outside_limits: float | None
    mass_outside_sparse: float | None
    cost: Estimate | None
    baseline: Baseline | None
    data: str = ""
    lower_tail: Estimate | None = None
    foreseen: tuple[float, float] | None = None
    budget: float | None = None
    predicted_cost: float | None = None
    in_range: Estimate | None = None
    success: Estimate | None = None

    @property
    def budget_words(self) -> str:
        """The budget, whether the interval of the cost says that it was met, and the cost predicted."""
        if self.budget is None or self.cost is None:
            return "-"
        met = (
            "met" if self.cost.high <= self.budget else "exceeded" if self.cost.low > self.budget else "open"
        )
        told = "" if self.predicted_cost is None else f" (predicted {self.predicted_cost:.2f})"
        return f"{self.budget:g}: {met}{told}"

    @property
    def is_baseline(self) -> bool:
        """Whether this is the row that the others are compared with."""
        return self.difference is None and self.baseline is not None and self.baseline.dose is not None

    @property
    def difference_words(self) -> str:
        """The difference with its interval, or that nothing is there to differ from; a dash for a ceiling."""
        if self.difference is not None:
            return str(self.difference)
        return "no estimated constant" if self.baseline is not None and self.baseline.missing else "-"

    @property
    def foreseen_words(self) -> str:
        """Mean and lower tail of the foreseen return; a dash for whoever foresees no distribution of it."""
        return "-" if self.foreseen is None else f"{self.foreseen[0]:.2f} ({self.foreseen[1]:.2f})"

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Row:
        """Inverse of :meth:`to_json`."""
        estimates = ("recommended", "sampled", "difference", "cost", "lower_tail", "in_range", "success")
        values = fields | {name: Estimate(**fields[name]) for name in estimates if fields.get(name)}
        if values["baseline"]:
            values["baseline"] = Baseline.from_json(values["baseline"])
        if values.get("foreseen"):
            values["foreseen"] = tuple(values["foreseen"])
        return cls(**values)


def reference_rows(result: References) -> list[Row]:
    """Rows of the rules that need no learning; all their patients count as one sample."""
    base = result.outcomes.get("estimated")
    rows = []
    for rule, outcome in result.outcomes.items():
        returns = outcome.returns.reshape(1, -1)
        difference = None
        if base is not None and rule != "estimated":
            difference = paired_difference(returns, base.returns.reshape(1, -1))
        rows.append(
            Row(
                name=_title(rule, result),
                family=_family(rule),
                recommended=mean_over_seeds(returns),
                sampled=None,
                difference=difference,
                verdict=verdict(difference) if difference else None,
                half_width=None,
                width_kind=None,
                mass_outside_limits=None,
                mass_outside_sparse=None,
                cost=mean_over_seeds(outcome.cost.reshape(1, -1)),
                baseline=result.baseline,
                lower_tail=_lower_tail(outcome.returns.reshape(1, -1)),
                in_range=_in_range(outcome, pooled=True),
                success=success_rate(outcome, pooled=True),
            )
        )
    return rows


def _in_range(outcomes: Outcomes, *, pooled: bool = False) -> Estimate | None:
    """Share of visits within the range; of a rule without seeds all patients are pooled."""
    if outcomes.in_range is None:
        return None
    share = outcomes.in_range / outcomes.visits
    return mean_over_seeds(share.reshape(1, -1) if pooled else share)


def success_rate(outcomes: Outcomes, *, pooled: bool = False) -> Estimate | None:
    """Share of the episodes that reached success; of a rule without seeds all are pooled."""
    if outcomes.success is None:
        return None
    return rate_over_seeds(outcomes.success.reshape(1, -1) if pooled else outcomes.success)


def _lower_tail(returns: Array) -> Estimate | None:
    """CVaR of the returns ``[S, P]``; None where the tail holds less than one patient."""
    return cvar(returns, TAIL) if TAIL * returns.shape[1] >= 1.0 else None


def _family(rule: str) -> str:
    """What kind of rule it is."""
    return "uniform" if rule == "uniform" else "clinic's rule" if rule.startswith(CLINIC) else "constant"


def _title(rule: str, result: References) -> str:
    """Name of a reference rule, with its dose."""
    if rule.startswith(CLINIC):
        return clinic_title(rule.removeprefix(CLINIC))
    if rule in ("estimated", "median"):
        base = result.baseline
        source = f"{base.patients:,} patients" if base.patients > 1 else "one patient"
        if rule == "median":
            return f"median recorded dose {base.median:.3f} of the {source}, whose rewards tell no dose"
        edge = f", {base.edge}" if base.edge else ""
        return f"constant dose {base.dose:.3f} estimated from the {source}{edge}"
    if rule == "best":
        return f"best constant dose {result.dose:.3f}, known to the simulator only"
    return {"uniform": "uniform dosing", "none": "no dose"}[rule]


def clinic_title(rule: str) -> str:
    """Name of a clinic's own rule in a table; without noise, which is not said."""
    return CLINIC + rule.removesuffix(":0")


def ceiling_row(policy: str, knows: str, value: float, half_width: float, patients: int) -> Row:
    """Row of a ceiling measured beforehand: a policy that knows, or was trained on, what no agent is told."""
    estimate = Estimate(
        value, value - half_width, value + half_width, 0.95, patients, None, "normal over patients"
    )
    return Row(
        name=f"ceiling: {policy}",
        family=f"knows {knows}",
        recommended=estimate,
        sampled=None,
        difference=None,
        verdict=None,
        half_width=None,
        width_kind=None,
        mass_outside_limits=None,
        mass_outside_sparse=None,
        cost=None,
        baseline=None,
    )


def agent_row(
    name: str,
    family: str,
    doses: DoseSets,
    outcomes: dict[str, Outcomes],
    result: References,
    mass_outside_sparse: float | None,
) -> Row:
    """Row of one trained stack.

    Args:
        name: title of the agent.
        family: distribution of its policy.
        doses: of the stack at recorded visits.
        outcomes: ``recommended`` and ``sampled``, on the same patients as ``result``.
        result: the reference rules.
        mass_outside_sparse: see :class:`Row`.
    """
    best, base = outcomes["recommended"], result.outcomes.get("estimated")
    difference = paired_difference(best.returns, base.returns) if base else None
    return Row(
        name=name,
        family=family,
        recommended=mean_over_seeds(best.returns),
        sampled=mean_over_seeds(outcomes["sampled"].returns),
        difference=difference,
        verdict=verdict(difference) if difference else None,
        half_width=doses.half_width,
        width_kind=doses.width_kind,
        mass_outside_limits=doses.mass_outside_limits,
        mass_outside_sparse=mass_outside_sparse,
        cost=mean_over_seeds(best.cost),
        baseline=result.baseline,
        lower_tail=_lower_tail(best.returns),
        foreseen=doses.foreseen,
        budget=doses.budget,
        predicted_cost=doses.predicted_cost,
        in_range=_in_range(best),
        success=success_rate(best),
    )


def render(rows: Sequence[Row]) -> str:
    """The table as text with one line per row, one table per data set; intervals are 95 %.

    A column in which no row has anything to say is left out.
    """
    names = list(dict.fromkeys(row.data for row in rows))
    if len(names) > 1:
        parts = {name: render([row for row in rows if row.data == name]) for name in names}
        return "\n\n".join(f"data: {name}\n{part}" for name, part in parts.items())
    head = (
        "agent",
        "policy",
        "return, recommended dose",
        "cost",
        "cost budget",
        "time in range",
        "success rate",
        "return, sampled dose",
        "worst 5 %",
        "minus estimated constant",
        "verdict",
        "half-width",
        "outside limits",
        "outside sparse interval",
        "foreseen (worst 5 %)",
    )
    body = [
        (
            row.name,
            row.family,
            str(row.recommended),
            str(row.cost) if row.cost else "-",
            row.budget_words,
            share_words(row.in_range),
            success_words(row.success),
            str(row.sampled) if row.sampled else "-",
            str(row.lower_tail) if row.lower_tail else "-",
            row.difference_words,
            row.verdict or "-",
            f"{row.half_width:.3f} ({row.width_kind})" if row.half_width is not None else "-",
            mass_words(row.mass_outside_limits, row.width_kind == EXACT),
            mass_words(row.mass_outside_sparse, row.width_kind == EXACT),
            row.foreseen_words,
        )
        for row in rows
    ]
    columns = [(name, *cells) for name, *cells in zip(head, *body, strict=True) if set(cells) != {"-"}]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def share_words(share: Estimate | None) -> str:
    """A share with its interval, in per cent; a dash for none."""
    if share is None:
        return "-"
    value, low, high = (f"{100.0 * x:.1f}" for x in (share.value, share.low, share.high))
    return f"{value} [{low}, {high}] %"


def success_words(rate: Estimate | None) -> str:
    """A success rate with its interval and the number of episodes; a dash for none."""
    return "-" if rate is None else f"{share_words(rate)} (n = {rate.n:,})"


def mass_words(value: float | None, bounded: bool) -> str:
    """A probability in words; only a bounded one has an exact zero: others round, or were not drawn there."""
    if value is None:
        return "-"
    if value == 0.0:
        return "0 (exactly)" if bounded else "0 (as computed)"
    return f"{value:.2e}" if value < 1e-3 else f"{value:.4f}"
