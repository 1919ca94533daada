"""From a run folder to what it can do: its policy, its limits, its recommender and a recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import agents
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.policy import Build, DosePolicy
from dosing.recommendation.novelty import monitor_of
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import Recommendation, Recommender, Rules
from dosing.runs.files import read_json, read_tensors
from dosing.runs.folder import CARD, DONE, NOVELTY, NOVELTY_VISITS, WEIGHTS, RunFolder
from dosing.safety import DoseLimits
from dosing.studies.launch import device_of
from dosing.types import Problem


def policy_of(run: RunFolder, device: str = "cpu", update: int | None = None) -> DosePolicy:
    """Load the policy of a finished run; see :func:`dosing.studies.load.load_policy`."""
    return load_policy(run, agents.build, device=device_of(device), update=update)


def limits_of(run: RunFolder) -> DoseLimits:
    """Hard dose limits recorded with a run."""
    limits = run.config()["limits"]
    return DoseLimits(tuple(limits["low"]), tuple(limits["high"]), limits["unit"])


def recommender_of(run: RunFolder, device: str = "cpu") -> Recommender:
    """The guarded recommender before the policy of a finished run, every file checked against its hash.

    A run from before there were monitors and cards has none; its answers say so.

    Raises:
        UserError: the run is unfinished or damaged, or its monitor is of other data.
    """
    config, policy = run.config(), policy_of(run, device)
    vouched = read_json(run.path / DONE)
    card = read_json(run.path / CARD) if CARD in vouched else None
    rules = Rules.of(limits_of(run), config.get("obs_names") or (), config.get("obs_units") or (), card)
    monitor, note = None, "This run has no monitor of unfamiliar states: it was trained before there was one."
    if NOVELTY in vouched:
        monitor, note = monitor_of(run.path)
    if monitor is not None and monitor.data != config["data"]["content_hash"]:
        raise UserError(f"{run.path / NOVELTY} is not of the data that the run was trained on.")
    return Recommender(policy, rules, monitor, note, provenance(run))


def recommend_from(
    run: RunFolder, state: Sequence[Any], current: Sequence[Any] | None = None
) -> Recommendation:
    """Recommend a dose from a run folder, through the guarded recommender."""
    return recommend(recommender_of(run), state, current)


def provenance(run: RunFolder) -> dict[str, Any]:
    """What a recommendation rests on; the hashes are those recorded when the run finished."""
    config, vouched = run.config(), read_json(run.path / DONE)
    return {
        "run": str(run.path),
        "agent": config["agent"],
        "weights": vouched.get(WEIGHTS),
        "data": config["data"]["content_hash"],
        "card": vouched.get(CARD),
        "monitor": vouched.get(NOVELTY_VISITS),
        "env": config["env"],
        "versions": config["versions"],
    }


def load_policy(
    run: RunFolder, build: Build, *, device: torch.device | str = "cpu", update: int | None = None
) -> DosePolicy:
    """Load the policy of a finished run, after checking the run against its hashes.

    Args:
        run: the folder.
        build: makes an agent from its name, settings, sizes and seeds (the suite's registry).
        device: where to put it.
        update: after how many updates, one of the run's milestones; None is the end.

    Raises:
        UserError: missing, unfinished, changed or truncated files, weights of another agent or not finite.
    """
    config = run.config()
    run.verify()
    problem = Problem(**config["problem"])
    agent = build(
        config["agent"],
        config["agent_config"],
        problem,
        config["seeds"],
        device=device,
        regularisation=config.get("regularisation"),
    )
    tensors, _ = read_tensors(run.at(update) / WEIGHTS)
    try:
        agent.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the weights in {run.path} do not fit agent {config['agent']!r}.") from error
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(f"the weights in {run.path} hold NaN or infinity ({broken[0]}); they are not used.")
    return DosePolicy(agent, Transform.from_json(config["transform"]))
