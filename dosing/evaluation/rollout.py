"""Roll policies out on simulated patients that no agent was trained on, with common random numbers.

Patient ``p`` of training seed ``s`` is patient ``s * patients + p`` of the evaluation cohort, whoever is
evaluated: every agent and every reference rule meets the same patients with the same noise, so differences
are paired. Environments are handed in as a factory; this module knows no scenario.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from dosing.errors import UserError
from dosing.evaluation.outcomes import IN_RANGE, MEASURES, SUCCESS, Outcomes
from dosing.evaluation.rules import consecutive, following
from dosing.policy import DosePolicy
from dosing.safety import DoseLimits
from dosing.types import Act, Array, Attending, Listener

REFERENCE_SEED = 0
"""Seed of the evaluation patients on which results are reported."""


class EnvFactory(Protocol):
    """Builds vector environments of one scenario."""

    @property
    def limits(self) -> DoseLimits:
        """Hard dose limits."""

    @property
    def horizon(self) -> int:
        """Most visits in a patient's episode."""

    @property
    def patients(self) -> int:
        """Patients per seed unless another number is asked for."""

    @property
    def searched(self) -> int:
        """Most patients on whom each constant dose is tried to find the best one; 0: none is looked for."""

    @property
    def clinic_rules(self) -> Mapping[str, Act]:
        """How clinics dose these patients, by name; empty where nobody says."""

    def __call__(self, patients: int, first_patient: int) -> VectorEnv[Any, Any, Any]:
        """Environment of evaluation patients ``first_patient`` to ``first_patient + patients - 1``."""


def rollout(
    factory: EnvFactory,
    act: Act,
    seeds: Sequence[int],
    patients: int,
    *,
    env_seed: int = REFERENCE_SEED,
    part: range | None = None,
    progress: tqdm[Any] | None = None,
) -> Outcomes:
    """Follow one rule on ``patients`` patients per seed until the episode of each of them ends.

    A episode that ends early counts until then; the environment is asked for no more once all have ended.

    Args:
        factory: scenario.
        act: the rule; see :data:`Act` and, for one that looks back, :class:`Listener`.
        seeds: the S seeds; consecutive seeds share one environment.
        patients: P per seed.
        env_seed: seed of the evaluation cohort.
        part: which of the P patients of every seed, a stretch of them; None is all.
        progress: advanced once per visit, or None.

    Raises:
        UserError: fewer than one patient.
    """
    if patients < 1:
        raise UserError(f"evaluation needs at least one patient per seed, got {patients}.")
    seeds = tuple(seeds)
    envs = _environments(factory, seeds, patients, part)
    return follow(envs, act, seeds, factory.horizon, env_seed, progress)


def follow(
    envs: Sequence[VectorEnv[Any, Any, Any]],
    act: Act,
    seeds: Sequence[int],
    horizon: int,
    env_seed: int,
    progress: tqdm[Any] | None = None,
) -> Outcomes:
    """Follow one rule in environments that hold S x P patients, those of each seed side by side.

    Args:
        envs: are closed at the end.
        act: see :func:`rollout`.
        seeds: names of the S rows of the outcomes.
        horizon: most visits of an episode.
        env_seed: what the environments are reset with.
        progress: advanced once per visit, or None.
    """
    first = [env.reset(seed=env_seed)[0] for env in envs]
    offsets, obs = np.cumsum([len(part) for part in first]), np.concatenate(first)
    patients = len(obs) // len(seeds)
    if isinstance(act, Attending):
        act.attend(envs)
    total = {name: np.zeros(len(obs)) for name in MEASURES}
    counts: dict[str, Array] = {}
    live = np.ones(len(obs), dtype=np.bool_)
    for visit in range(horizon):
        dose = act(obs.reshape(len(seeds), patients, -1), visit).reshape(len(obs), -1)
        results = [
            env.step(part.astype(np.float32))
            for env, part in zip(envs, np.split(dose, offsets[:-1]), strict=True)
        ]
        obs = np.concatenate([r[0] for r in results])
        reward = np.concatenate([r[1] for r in results])
        delivered = np.concatenate([r[4]["dose_delivered"] for r in results])
        total["returns"] += reward * live
        total["cost"] += np.concatenate([r[4]["cost"] for r in results]) * live
        total["limited"] += np.concatenate([r[4]["limited_by"] != 0 for r in results]) * live
        total["dose"] += delivered.mean(-1, dtype=np.float64) * live
        total["visits"] += 1.0 * live
        for name, flags in _flags([r[4] for r in results]).items():
            counts[name] = counts.get(name, 0.0) + flags * live
        if isinstance(act, Listener):
            pairs = (len(seeds), patients)
            act.observe(delivered.reshape(*pairs, -1), reward.reshape(pairs))
        live &= ~np.concatenate([r[2] | r[3] for r in results])
        if progress is not None:
            progress.update()
        if not live.any():
            break
    for env in envs:
        env.close()
    for name in ("limited", "dose"):
        total[name] /= total["visits"]
    shape = (len(seeds), patients)
    events = {name: x.reshape(shape) for name, x in counts.items()}
    in_range, success = events.pop(IN_RANGE, None), events.pop(SUCCESS, None)
    if success is not None:
        success = np.minimum(success, 1.0)
    measures = {name: x.reshape(shape) for name, x in total.items()}
    return Outcomes(tuple(seeds), **measures, events=events, in_range=in_range, success=success)


def _environments(
    factory: EnvFactory, seeds: tuple[int, ...], patients: int, part: range | None
) -> list[VectorEnv[Any, Any, Any]]:
    """The environments of the patients, of a part of one seed's apart from that of the next seed's."""
    if part is not None:
        return [factory(len(part), seed * patients + part.start) for seed in seeds]
    return [factory(len(group) * patients, group[0] * patients) for group in consecutive(seeds)]


def _flags(infos: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """What was or was not at this visit, by name: the scenario's events, a range that was kept, success."""
    own = (IN_RANGE, SUCCESS)
    found = [info.get("events", {}) | {k: info[k] for k in own if k in info} for info in infos]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


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
