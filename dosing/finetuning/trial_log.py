"""The log of a trial: what happened to every treated patient, and the outcomes of its evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr
from torch import Tensor

from dosing.evaluation.outcomes import MEASURES, SUCCESS, Outcomes
from dosing.finetuning.patients import TreatedVisit
from dosing.finetuning.stopping import BOUND, exceeds, lower_bound
from dosing.safety import DoseLimits
from dosing.types import Array


class TreatedEpisode(NamedTuple):
    """One row of :data:`TREATED`: a treated patient whose episode has ended."""

    seed: int
    ended_at: int
    """The seed's visits when it ended."""
    returns: float
    cost: float
    limited: float
    """Doses that a limit held."""
    visits: int
    """Of the episode."""


class CurveRow(NamedTuple):
    """One row of :data:`CURVE`: an evaluation of one seed. NaN where no episode ended."""

    seed: int
    visits: int
    """Of the seed so far."""
    recommended: float
    """Mean return of the evaluation patients by recommended doses."""
    sampled: float
    """The same by sampled doses."""
    evaluation_cost: float
    """Mean cost of the evaluation patients by recommended doses."""
    evaluation_worst: float
    """Their lowest return."""
    patients: int
    """Treated so far."""
    treated: float
    """Mean return of the episodes that ended since the row before."""
    cost: float
    """Their mean cost."""
    worst: float
    """Their lowest return."""
    worst_cost: float
    """Their highest cost."""
    limited: float
    """Share of their doses that a limit held."""
    cost_per_patient: float
    """Mean cost of all patients treated so far."""
    cost_bound: float
    """Its lower confidence bound (``dosing.finetuning.stopping``)."""
    coverage: float
    """How much of the dose range the doses delivered so far cover (:func:`coverage`)."""


PARTS = 100
"""Equal parts of the range of a dose, in which delivered doses are counted."""


def coverage(counts: npt.NDArray[np.int64]) -> float:
    """Effective share of the dose range that doses cover, averaged over dose dimensions; NaN without doses.

    The exponential of the entropy of their histogram (Hill 1973, Ecology 54:427, order 1) over the number of
    parts: doses spread evenly over a share f of the parts have f, however many they are.

    Args:
        counts: doses in each part ``[PARTS, A]``.
    """
    if not counts.any():
        return math.nan
    entropy: Array = entr(counts / counts.sum(0)).sum(0)
    return float(np.exp(entropy).mean() / len(counts))


def _kept(result: Outcomes) -> tuple[str, ...]:
    """What is kept of the outcomes of an evaluation."""
    return MEASURES if result.success is None else (*MEASURES, SUCCESS)


class TrialLog:
    """Accounts of S seeds with P patients each at a time.

    Args:
        seeds: the S seeds.
        num_envs: P.
        limits: hard dose limits: the range whose coverage is noted.
        budget: largest acceptable cost per patient, or None.
        level: probability of stopping a seed that keeps to it.

    Attributes:
        length: visits made by each patient under treatment ``[S, P]``.
        episode: patients treated before at each place ``[S, P]``.
        episodes: of every treated patient whose episode has ended.
        curve: one row per evaluation and seed.
        looks: of each seed, the mean cost of every group of patients whose episodes ended together.
    """

    def __init__(
        self, seeds: Sequence[int], num_envs: int, limits: DoseLimits, budget: float | None, level: float
    ) -> None:
        self.seeds, self._budget, self._level = tuple(seeds), budget, level
        self._low, self._width = np.array(limits.low), np.subtract(limits.high, limits.low)
        self._given = np.zeros((len(self.seeds), PARTS, limits.n_act), np.int64)
        shape = (len(self.seeds), num_envs)
        self.length, self.episode = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._running = np.zeros((3, *shape))  # return, cost, limited doses of the episodes under way
        self.episodes: list[TreatedEpisode] = []
        self.curve: list[CurveRow] = []
        self.looks: list[list[float]] = [[] for _ in self.seeds]
        self._found: list[dict[str, dict[str, Array]]] = [{} for _ in self.seeds]

    def add(self, visit: TreatedVisit, visits: int, live: Sequence[int]) -> list[int]:
        """Add up a visit and close the episodes that end with it.

        Args:
            visit: of every patient.
            visits: that every seed has made, this one included.
            live: positions in the stack of the seeds whose patients count.

        Returns:
            Which of them have costs that refuse the budget now.
        """
        self._running += np.stack([visit.reward, visit.cost, visit.limited.astype(np.float64)])
        self.length += 1
        part = ((visit.dose - self._low) / self._width * PARTS).astype(np.int64)  # [S, P, A]
        seed, _, dimension = np.indices(part.shape)
        np.add.at(self._given, (seed, np.minimum(part, PARTS - 1), dimension), 1)
        refused = []
        for k in np.flatnonzero(visit.ended.any(1)).tolist():
            if k in live:
                over = visit.ended[k]
                returns, cost, limited = self._running[:, k, over]
                for a, b, c, length in zip(returns, cost, limited, self.length[k, over], strict=True):
                    row = TreatedEpisode(self.seeds[k], visits, float(a), float(b), float(c), int(length))
                    self.episodes.append(row)
                self.looks[k].append(float(cost.mean()))
                if self._budget is not None and exceeds(np.array(self.looks[k]), self._budget, self._level):
                    refused.append(k)
        self._running[:, visit.ended] = 0.0
        self.episode += visit.ended
        self.length[visit.ended] = 0
        return refused

    def judge(self, outcomes: Mapping[str, Outcomes], visits: int, rows: Sequence[int]) -> None:
        """Keep the outcomes of an evaluation after so many visits, for the seeds at ``rows`` of the stack."""
        for k in rows:
            self._found[k] = {
                rule: {name: getattr(result, name)[k] for name in _kept(result)}
                for rule, result in outcomes.items()
            }
            own = self._found[k]["recommended"]
            theirs = [row for row in self.episodes if row.seed == self.seeds[k]]
            last = max((row.visits for row in self.curve if row.seed == self.seeds[k]), default=-1)
            new = np.array([row[2:] for row in theirs if row.ended_at > last]).reshape(-1, 4)
            treated = [math.nan] * 5
            if len(new):
                returns, cost, limited, length = new.T
                share = limited.sum() / length.sum()
                treated = [returns.mean(), cost.mean(), returns.min(), cost.max(), share]
            means = [
                own["returns"].mean(),
                self._found[k]["sampled"]["returns"].mean(),
                own["cost"].mean(),
                own["returns"].min(),
                len(theirs),
                *treated,
                np.mean([row.cost for row in theirs]) if theirs else math.nan,
                lower_bound(np.array(self.looks[k]), self._level) if theirs else math.nan,
                coverage(self._given[k]),
            ]
            self.curve.append(CurveRow._make([self.seeds[k], visits, *map(float, means)]))

    def outcomes(self) -> dict[str, Outcomes]:
        """Outcomes of the last evaluation of every seed, by rule."""
        found: dict[str, dict[str, Any]] = {
            rule: {name: np.stack([result[rule][name] for result in self._found]) for name in own}
            for rule, own in self._found[0].items()
        }
        return {rule: Outcomes(self.seeds, **measures) for rule, measures in found.items()}

    def why(self, k: int, visits: int) -> dict[str, Any]:
        """Why the seed at place ``k`` of the stack was stopped after so many visits."""
        costs = [row.cost for row in self.episodes if row.seed == self.seeds[k]]
        mean, bound = float(np.mean(costs)), lower_bound(np.array(self.looks[k]), self._level)
        return {
            "seed": self.seeds[k],
            "visits": visits,
            "patients": len(costs),
            "cost_per_patient": mean,
            "bound": bound,
            "why": (
                f"seed {self.seeds[k]} stopped after {visits:,} visits: {len(costs):,} patients cost "
                f"{mean:.3g} each, with {100.0 * (1.0 - self._level):g} % confidence more than the budget of "
                f"{self._budget:g} (lower bound {bound:.3g}; {BOUND})"
            ),
        }

    def tables(self) -> dict[str, dict[str, npt.NDArray[Any]]]:
        """Columns of ``treated`` and ``curve``."""
        whole = ("seed", "ended_at", "visits", "patients")
        result = {}
        for name, rows, columns in (
            ("treated", self.episodes, TreatedEpisode._fields),
            ("curve", self.curve, CurveRow._fields),
        ):
            values = np.array(rows, dtype=np.float64).reshape(-1, len(columns)).T
            result[name] = {
                column: value.astype(np.int64 if column in whole else np.float64)
                for column, value in zip(columns, values, strict=True)
            }
        return result

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors."""
        own: dict[str, Any] = {
            "length": self.length,
            "episode": self.episode,
            "running": self._running,
            "given": self._given,
            "episodes": np.array(self.episodes, dtype=np.float64).reshape(-1, len(TreatedEpisode._fields)),
            "curve": np.array(self.curve, dtype=np.float64).reshape(-1, len(CurveRow._fields)),
        }
        own |= {f"looks.{k}": np.array(costs, dtype=np.float64) for k, costs in enumerate(self.looks)}
        for k, result in enumerate(self._found):
            for rule, values in result.items():
                own |= {f"result.{k}.{rule}.{name}": value for name, value in values.items()}
        return {f"trial log.{name}": torch.as_tensor(value) for name, value in own.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly; a name that is missing is a ``KeyError``."""
        self.length, self.episode, self._running, self._given = (
            state[f"trial log.{name}"].numpy().copy() for name in ("length", "episode", "running", "given")
        )
        self.episodes = [TreatedEpisode(*row) for row in state["trial log.episodes"].tolist()]
        self.curve = [CurveRow(*row) for row in state["trial log.curve"].tolist()]
        self.looks = [state[f"trial log.looks.{k}"].tolist() for k in range(len(self.seeds))]
        self._found = [{} for _ in self.seeds]
        for name, value in state.items():
            if name.startswith("trial log.result."):
                k, rule, measure = name.removeprefix("trial log.result.").split(".")
                self._found[int(k)].setdefault(rule, {})[measure] = value.numpy().copy()
