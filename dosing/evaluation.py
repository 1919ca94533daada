"""Roll policies out on simulated patients that no agent was trained on, with common random numbers.

Patient ``p`` of training seed ``s`` is patient ``s * patients + p`` of the evaluation cohort, whoever is
evaluated: every agent and every reference rule meets the same patients with the same noise, so differences
are paired. Environments are handed in as a factory; this module knows no scenario.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from dosing.errors import UserError
from dosing.policy import Course, DosePolicy
from dosing.rules import Act, Array, Listener, Observations
from dosing.runs import read_table, write_table
from dosing.safety import DoseLimits
from dosing.streams import generator

REFERENCE_SEED, SEARCH_SEED = 0, 1
"""Seeds of the evaluation cohort: patients results are reported on, patients the constant is found on."""


class EnvFactory(Protocol):
    """Builds vector environments of one scenario."""

    @property
    def limits(self) -> DoseLimits:
        """Hard dose limits."""

    @property
    def horizon(self) -> int:
        """Most visits in a patient's course."""

    @property
    def patients(self) -> int:
        """Patients per seed unless another number is asked for."""

    @property
    def searched(self) -> bool:
        """Whether the best constant dose is looked for, which takes tens of thousands of patients."""

    def __call__(self, patients: int, first_patient: int) -> VectorEnv[Any, Any, Any]:
        """Environment of evaluation patients ``first_patient`` to ``first_patient + patients - 1``."""


@dataclass(frozen=True)
class Outcomes:
    """What happened to each evaluated patient; arrays are ``[S, P]``.

    Attributes:
        seeds: the S training seeds (one pseudo-seed for a rule that was not trained).
        returns: undiscounted sum of rewards over the visits.
        cost: sum of the safety cost.
        limited: share of visits whose requested dose was held at a hard limit.
        dose: mean delivered dose, averaged over dose dimensions.
        visits: until the course ended, at the latest the scenario's horizon; NaN in a file of an earlier
            version, which did not keep it.
    """

    seeds: tuple[int, ...]
    returns: Array
    cost: Array
    limited: Array
    dose: Array
    visits: Array


MEASURES = ("returns", "cost", "limited", "dose", "visits")


def rollout(
    factory: EnvFactory,
    act: Act,
    seeds: Sequence[int],
    patients: int,
    *,
    env_seed: int = REFERENCE_SEED,
    progress: tqdm[Any] | None = None,
) -> Outcomes:
    """Follow one rule on ``patients`` patients per seed until the course of each of them ends.

    A course that ends early counts until then; the environment is asked for no more once all have ended.

    Args:
        factory: scenario.
        act: the rule; see :data:`Act` and, for one that looks back, :class:`Listener`.
        seeds: the S seeds; consecutive seeds share one environment.
        patients: P per seed.
        env_seed: seed of the evaluation cohort.
        progress: advanced once per visit, or None.

    Raises:
        UserError: fewer than one patient.
    """
    if patients < 1:
        raise UserError(f"evaluation needs at least one patient per seed, got {patients}.")
    seeds = tuple(seeds)
    groups = _consecutive(seeds)
    envs = [factory(len(group) * patients, group[0] * patients) for group in groups]
    obs = np.concatenate([env.reset(seed=env_seed)[0] for env in envs])
    total = {name: np.zeros(len(obs)) for name in MEASURES}
    live = np.ones(len(obs), dtype=np.bool_)
    for visit in range(factory.horizon):
        dose = act(obs.reshape(len(seeds), patients, -1), visit).reshape(len(obs), -1)
        results = [
            env.step(part.astype(np.float32))
            for env, part in zip(envs, np.split(dose, _offsets(groups, patients)), strict=True)
        ]
        obs = np.concatenate([r[0] for r in results])
        reward = np.concatenate([r[1] for r in results])
        delivered = np.concatenate([r[4]["dose_delivered"] for r in results])
        seen = {
            "returns": reward,
            "cost": np.concatenate([r[4]["cost"] for r in results]),
            "limited": np.concatenate([r[4]["limited_by"] != 0 for r in results]),
            "dose": delivered.mean(-1, dtype=np.float64),
            "visits": 1.0,
        }
        for name, values in seen.items():
            total[name] += values * live
        if isinstance(act, Listener):
            pairs = (len(seeds), patients)
            act.hear(delivered.reshape(*pairs, -1), reward.reshape(pairs))
        live &= ~np.concatenate([r[2] | r[3] for r in results])
        if progress is not None:
            progress.update()
        if not live.any():
            break
    for env in envs:
        env.close()
    for name in ("limited", "dose"):
        total[name] /= total["visits"]
    return Outcomes(seeds, **{name: x.reshape(len(seeds), patients) for name, x in total.items()})


def _consecutive(seeds: tuple[int, ...]) -> list[list[int]]:
    groups: list[list[int]] = []
    for seed in seeds:
        if groups and seed == groups[-1][-1] + 1:
            groups[-1].append(seed)
        else:
            groups.append([seed])
    return groups


def _offsets(groups: list[list[int]], patients: int) -> list[int]:
    return [int(x) for x in np.cumsum([len(group) * patients for group in groups])[:-1]]


def following(policy: DosePolicy, *, sampled: bool = False) -> Act:
    """The rule that gives the recommended dose, or draws one from the law."""
    if policy.looks_back:
        return Course(policy, sampled=sampled)
    return policy.sampled if sampled else lambda obs, visit: policy.recommended(obs)


def evaluate(
    policy: DosePolicy, factory: EnvFactory, patients: int, *, progress: tqdm[Any] | None = None
) -> dict[str, Outcomes]:
    """Evaluate a stack twice on the same patients: by its recommended dose, and by sampled doses."""
    rules: dict[str, Act] = {
        "recommended": following(policy),
        "sampled": following(policy, sampled=True),
    }
    return {
        name: rollout(factory, act, policy.seeds, patients, progress=progress) for name, act in rules.items()
    }


def constant(dose: Sequence[float] | float) -> Act:
    """The rule that gives everyone the same dose."""
    value = np.atleast_1d(np.asarray(dose, dtype=np.float64))

    def act(obs: Observations, visit: int) -> Array:
        return np.broadcast_to(value, (*obs.shape[:2], len(value)))

    return act


def uniform(limits: DoseLimits, seeds: Sequence[int]) -> Act:
    """The rule that draws every dose uniformly within the limits."""
    low, high = np.asarray(limits.low), np.asarray(limits.high)

    def act(obs: Observations, visit: int) -> Array:
        draws = [generator(s, "evaluation", visit).random((obs.shape[1], len(low))) for s in seeds]
        return np.asarray(low + (high - low) * np.stack(draws))

    return act


def best_constant(factory: EnvFactory, patients: int = 10_000, *, grid: int = 41) -> tuple[float, float]:
    """Best constant dose on simulated patients kept for this search alone.

    All candidates meet the same patients; the parabola through the maximum of the grid and its neighbours
    refines it.

    Returns:
        The dose, and its mean return on the search patients (optimistic: report another cohort).

    Raises:
        UserError: the dose has more than one dimension.
    """
    if factory.limits.n_act != 1:
        raise UserError("the best constant dose is searched for one dose dimension only.")
    low, high = factory.limits.low[0], factory.limits.high[0]

    def value(dose: float) -> float:
        found = rollout(factory, constant(dose), (0,), patients, env_seed=SEARCH_SEED)
        return float(found.returns.mean())

    doses = np.linspace(low, high, grid)
    values = np.array([value(dose) for dose in doses])
    k = int(np.clip(values.argmax(), 1, grid - 2))
    left, mid, right = values[k - 1 : k + 2]
    curvature = left - 2.0 * mid + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    best = float(np.clip(doses[k] + np.clip(shift, -1.0, 1.0) * (doses[1] - doses[0]), low, high))
    return best, value(best)


def write_outcomes(path: Path, outcomes: dict[str, Outcomes]) -> None:
    """Write one row per rule, seed and patient as parquet."""
    columns: dict[str, list[Any]] = {k: [] for k in ("rule", "seed", "patient")}
    values: dict[str, list[Array]] = {k: [] for k in MEASURES}
    for rule, found in outcomes.items():
        n_seeds, patients = found.returns.shape
        columns["rule"] += [rule] * (n_seeds * patients)
        columns["seed"] += np.repeat(found.seeds, patients).tolist()
        columns["patient"] += np.tile(np.arange(patients), n_seeds).tolist()
        for name, parts in values.items():
            parts.append(getattr(found, name).reshape(-1))
    write_table(path, columns | {name: np.concatenate(parts) for name, parts in values.items()})


def read_outcomes(path: Path) -> dict[str, Outcomes]:
    """Read :func:`write_outcomes`."""
    table = read_table(path).to_pandas()
    found: dict[str, Outcomes] = {}
    for rule, rows in table.groupby("rule", sort=False):
        seeds = tuple(int(s) for s in rows["seed"].unique())
        if "visits" not in rows:
            rows = rows.assign(visits=np.nan)
        arrays = {name: rows[name].to_numpy(np.float64).reshape(len(seeds), -1) for name in MEASURES}
        found[str(rule)] = Outcomes(seeds, **arrays)
    return found
