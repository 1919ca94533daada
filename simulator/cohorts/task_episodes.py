"""Visits recorded in any registered environment, dosed by a rule that needs no marker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dosing import NOT_FOR_PATIENTS, __version__
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, concatenate
from dosing.errors import UserError
from simulator.behaviour_policies import BehaviourPolicy, Clinic, Titration, View, parse_policy
from simulator.engine.rng import POLICY, block_streams
from simulator.envs.tasks import TaskCohort, TaskFactory


def task_episodes(
    env_id: str,
    *,
    patients: int,
    policy: str | BehaviourPolicy = "uniform",
    seed: int = 0,
    options: Mapping[str, Any],
) -> Episodes:
    """Record whole episodes of an environment that is none of our scenarios.

    Args:
        env_id: a registered id.
        patients: episodes, from number 0 on.
        policy: ``uniform`` or ``constant:DOSE``.
        seed: of starts and doses.
        options: of ``gymnasium.make``.

    Raises:
        UserError: no such environment, option or policy, or a policy that needs a marker.
    """
    rule = parse_policy(policy)
    if isinstance(rule, Titration):
        raise UserError(f"{env_id} names no marker to titrate by: dose it by uniform or constant:DOSE.")
    factory = TaskFactory(env_id, dict(options))
    env = TaskCohort(env_id, patients, 0, "train", options)
    limits = factory.limits
    act = rule.begin(Clinic(limits, np.nan, np.nan, np.nan, 0.0), patients)
    streams = block_streams(seed, "train", POLICY, 0, patients)
    seen, _ = env.reset(seed=seed)
    visits: list[dict[str, Any]] = []
    live = ~env.over
    while live.any():
        dice = np.concatenate([s.random((limits.n_act + 1, 256)) for s in streams], axis=1).T[:patients]
        nothing = np.full(patients, np.nan)
        none = np.zeros(patients, dtype=np.float32)
        dose, log_prob = act(
            View(seen, nothing, none, None, dice, np.asarray(limits.low), np.asarray(limits.high))
        )
        after, reward, terminated, truncated, info = env.step(dose.astype(np.float32))
        visits.append(
            {
                "live": live,
                "obs": seen,
                "next_obs": after,
                "act": info["dose_delivered"].astype(np.float32),
                "act_requested": info["dose_requested"].astype(np.float32),
                "reward": reward.astype(np.float32),
                "cost": info["cost"],
                "behaviour_log_prob": log_prob.astype(np.float32),
                "limited_by": info["limited_by"],
                "terminated": terminated,
                "truncated": truncated,
            }
        )
        seen, live = after, ~env.over
    env.close()
    stacked = {name: np.stack([visit[name] for visit in visits], 1) for name in visits[0]}  # [P, T, ...]
    kept = stacked.pop("live")
    patient, step = np.nonzero(kept)
    flat: dict[str, Any] = {name: values[kept] for name, values in stacked.items()}
    metadata = _metadata(factory, env, patients, rule.name, seed)
    episodes = Episodes(**flat, episode=patient.astype(np.int64), step=step.astype(np.int32))
    return concatenate([episodes], metadata)


def _metadata(
    factory: TaskFactory, env: TaskCohort, patients: int, policy: str, seed: int
) -> DatasetMetadata:
    space: Any = env.single_observation_space
    low, high = space.low, space.high
    bounded = bool(np.isfinite((low, high)).all())
    card = factory.card or {}
    entries = card.get("observations") or [{"name": f"s{i + 1}", "unit": "1"} for i in range(factory.n_obs)]
    dose = card.get("dose", {})
    version = card.get("version")
    return DatasetMetadata(
        env_id=factory.env_id,
        env_options=factory.options,
        seed=seed,
        patients=patients,
        policy=policy,
        scenario_version=None if version is None else str(version),
        code_version=__version__,
        notice=NOT_FOR_PATIENTS,
        obs_names=tuple(str(entry["name"]) for entry in entries),
        obs_units=tuple(str(entry.get("unit", "1")) for entry in entries),
        obs_low=tuple(low.tolist()) if bounded else (),
        obs_high=tuple(high.tolist()) if bounded else (),
        action_low=factory.limits.low,
        action_high=factory.limits.high,
        dose_name=str(dose.get("name", "dose")),
        dose_unit=str(dose.get("unit", "1")),
        card=card,
    )
