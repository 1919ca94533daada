"""From a run folder to what it can do: its policy, its limits, its recommender and a recommendation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import agents
from dosing.errors import UserError
from dosing.policy import DosePolicy
from dosing.recommendation import recommender
from dosing.recommendation.novelty import monitor_of
from dosing.recommendation.records import EarlierVisit, Recommendation, Recommender, Rules
from dosing.runs.files import read_json, read_tensors
from dosing.runs.folder import CARD, NOVELTY, NOVELTY_VISITS, WEIGHTS, RunFolder, VerifiedRun
from dosing.studies.launch import device_of
from dosing.studies.scenarios import environment_of, version_of


def policy_of(run: RunFolder, device: str = "cpu", update: int | None = None) -> DosePolicy:
    """Load the policy of a finished run, after checking the run against its hashes.

    Args:
        run: the folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        update: after how many updates, one of the run's milestones; None is the end.

    Raises:
        UserError: missing, unfinished, changed or truncated files, weights of another agent or not finite.
    """
    return policy_of_verified(run.verify(), device, update)


def policy_of_verified(run: VerifiedRun, device: str = "cpu", update: int | None = None) -> DosePolicy:
    """As :func:`policy_of`, of a run that was checked."""
    config = run.config
    agent = agents.build(
        config.agent,
        config.agent_config,
        config.problem,
        config.seeds,
        device=device_of(device),
        regularisation=config.regularisation,
        fresh=False,
    )
    tensors, _ = read_tensors(run.at(update) / WEIGHTS)
    try:
        agent.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"the weights in {run.path} do not fit agent {config.agent!r}.") from error
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(f"the weights in {run.path} hold NaN or infinity ({broken[0]}); they are not used.")
    return DosePolicy(agent, config.transform)


def recommender_of(run: RunFolder, device: str = "cpu") -> Recommender:
    """The guarded recommender before the policy of a finished run, every file checked against its hash.

    A run from before there were monitors and cards has none; its answers say so.

    Raises:
        UserError: the run is unfinished or damaged, or its monitor is of other data.
    """
    verified = run.verify()
    config, policy = verified.config, policy_of_verified(verified, device)
    card = read_json(run.path / CARD) if CARD in verified.hashes else None
    _check_limits(verified, card)
    rules = Rules.of(config.limits, config.obs_names, config.obs_units, card)
    monitor, note = None, "This run has no monitor of unfamiliar states: it was trained before there was one."
    if NOVELTY in verified.hashes:
        monitor, note = monitor_of(run.path)
    if monitor is not None and monitor.data != config.data.content_hash:
        raise UserError(f"{run.path / NOVELTY} is not of the data that the run was trained on.")
    return Recommender(policy, rules, monitor, note, provenance(verified))


def _check_limits(run: VerifiedRun, card: Mapping[str, Any] | None) -> None:
    """Refuse a run whose dose limits are not those of its scenario, whatever its hashes say.

    Raises:
        UserError: the card in the folder or the scenario itself, if of the same version, has others.
    """
    if card is None:
        return
    limits, env = run.config.limits, run.config.env
    dose = card.get("dose") or {}
    told = {f"its {CARD}": (dose.get("hard_low", limits.low), dose.get("hard_high", limits.high))}
    scenario = environment_of(env.id, env.options) if env else None
    if scenario and version_of(scenario.env_id, scenario.options) == run.config.versions.get("scenario"):
        told[scenario.env_id] = (scenario.limits.low, scenario.limits.high)
    for where, (low, high) in told.items():
        if (tuple(low), tuple(high)) != (limits.low, limits.high):
            raise UserError(
                f"{run.path} states dose limits of {list(limits.low)} to {list(limits.high)}, {where} "
                f"{list(low)} to {list(high)}; the run is not used."
            )


def load(run: RunFolder | Path | str, device: str = "cpu") -> Recommender:
    """The guarded recommender of a run folder; see :func:`recommender_of`."""
    return recommender_of(run if isinstance(run, RunFolder) else RunFolder(Path(run)), device)


def recommend(
    run: RunFolder | Path | str,
    state: Sequence[Any],
    current: Sequence[Any] | None = None,
    earlier: Sequence[EarlierVisit] | None = None,
) -> Recommendation:
    """Recommend a dose from a run folder, through the guarded recommender.

    Args:
        run: folder of a finished run.
        state: the O observed numbers of one visit, as measured.
        current: the A doses that are given now, where the rules ask for them.
        earlier: the visits of the same patient before this one, for a policy that looks back.

    Returns:
        The dose with its limits and reasons, or why there is none; bad states are refused in it.

    Raises:
        UserError: the run is unfinished or damaged, or its monitor is of other data.
    """
    return recommender.recommend(load(run), state, current, earlier)


def provenance(run: VerifiedRun) -> dict[str, Any]:
    """What a recommendation rests on; the hashes are those recorded when the run finished."""
    config, hashes = run.config, run.hashes
    return {
        "run": str(run.path),
        "agent": config.agent,
        "weights": hashes.get(WEIGHTS),
        "data": config.data.content_hash,
        "card": hashes.get(CARD),
        "monitor": hashes.get(NOVELTY_VISITS),
        "env": asdict(config.env) if config.env else None,
        "versions": dict(config.versions),
    }
