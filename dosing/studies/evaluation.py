"""Evaluating finished runs on new patients, beside reference rules on the same patients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dosing.data.store import Episodes
from dosing.errors import UserError
from dosing.evaluation import rollout
from dosing.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes
from dosing.runs.files import read_json, sha256, write_json
from dosing.runs.folder import EPISODES, EVALUATION, WEIGHTS, RunFolder
from dosing.studies.baseline import Baseline
from dosing.studies.compared import Comparison
from dosing.studies.comparison_table import Row, agent_row, ceiling_row, reference_rows
from dosing.studies.data import episodes_of
from dosing.studies.dose_sets import beside_interval, doses_of
from dosing.studies.launch import Launcher, progress_bar
from dosing.studies.loading import policy_of
from dosing.studies.many_patients import on_many
from dosing.studies.naming import distinct, family_of, run_names
from dosing.studies.references import REFERENCES, References, references
from dosing.studies.scenarios import environment_of, factory_of
from simulator.bounds.published import measured
from simulator.envs.tasks import TaskFactory
from simulator.scenarios import EvaluationFactory

MANY = 100_000
"""Most patients per seed whose outcomes are kept one by one."""


def evaluate(
    runs: RunFolder | Path | str | Sequence[RunFolder | Path | str], patients: int | None = None
) -> Comparison:
    """Evaluate finished runs on new simulated patients, beside reference rules on the same patients.

    Args:
        runs: one run folder or several, of one data set and with the same seeds.
        patients: new patients per seed; None is the scenario's own number. More than :data:`MANY` are treated
            a stretch at a time in constant memory; the runs then keep the outcome of that own number.

    Returns:
        One row per run, then the reference rules and ceilings; notes on the task.

    Raises:
        UserError: a run is unfinished or damaged, or they are of different data sets, scenarios or seeds.
    """
    several = [runs] if isinstance(runs, RunFolder | Path | str) else runs
    folders = [run if isinstance(run, RunFolder) else RunFolder(Path(run)) for run in several]
    many = patients is not None and patients > MANY
    rows, rules = evaluate_runs(folders, None if many else patients)
    if patients is not None and many:
        first = folders[0]
        kept = references_for(
            first.path.resolve().parents[2],
            factory_of(first),
            episodes_of(first),
            policy_of(first).seeds,
            factory_of(first).patients,
        )
        policies = [policy_of(run) for run in folders]
        rows, rules, notes = on_many(factory_of(first), policies, rows, rules, kept, patients)
        return Comparison((*rows, *rules), notes=(*notes, *baseline_notes(rows)))
    return Comparison((*rows, *rules), notes=(*task_notes(folders, rows), *baseline_notes(rows)))


def baseline_notes(rows: Sequence[Row]) -> list[str]:
    """What a reader has to know of the constant dose that the rows of one data set are compared with."""
    baseline = rows[0].baseline
    return baseline.notes(rows[0].data) if baseline else []


def evaluate_run(
    run: RunFolder, patients: int | None, *, update: int | None = None, position: int = 0
) -> None:
    """Evaluate a finished run on new patients and keep the outcome in its folder; nothing is done twice.

    The record names the weights and the hash of the outcome, so that no other or half-written one passes. At
    the end of a run its doses at recorded visits are kept too (``dosing.studies.dose_sets``).

    Args:
        run: the run.
        patients: per seed, the same at every update; None is the scenario's own number.
        update: one of its milestones; None is the end.
        position: line of the progress bar.
    """
    factory = factory_of(run)
    patients = factory.patients if patients is None else patients
    config, folder = run.verify().config, run.at(update)
    wanted = {"patients": patients, "seeds": list(config.seeds), "weights": sha256(folder / WEIGHTS)}
    record, episodes = folder / EVALUATION, folder / EPISODES
    present = record.is_file() and episodes.is_file()
    if not present or read_json(record) != wanted | {"episodes": sha256(episodes)}:
        text = f"evaluate {config.agent} x {len(config.seeds)} seeds"
        with progress_bar(2 * factory.horizon, text, "visit", position) as bar:
            outcomes = rollout.evaluate(policy_of(run, update=update), factory, patients, progress=bar)
        write_outcomes(episodes, outcomes)
        write_json(record, wanted | {"episodes": sha256(episodes)})
    if update is None:
        doses_of(run)


def references_for(
    study: Path, factory: EvaluationFactory, episodes: Episodes, seeds: Sequence[int], patients: int
) -> References:
    """Reference rules of a scenario and of the visits recorded in it, kept in the study folder."""
    folder = _references_folder(study, factory.env_id, factory.options, episodes.metadata.content_hash)
    return references(folder, factory, seeds, patients, Baseline.of(episodes))


def references_of(run: RunFolder) -> dict[str, Outcomes] | None:
    """Outcomes of the reference rules that stand beside a run, as its study keeps them.

    None where there are none, or where the scenario that names them is not loaded.

    Raises:
        UserError: they were changed since.
    """
    config = run.config()
    factory = environment_of(config.env.id, config.env.options) if config.env else None
    if factory is None:
        return None
    data = config.data.sample.content_hash if config.data.sample else config.data.content_hash
    folder = _references_folder(run.path.resolve().parents[2], factory.env_id, factory.options, data)
    if not (folder / REFERENCES).is_file() or not (folder / EPISODES).is_file():
        return None
    if read_json(folder / REFERENCES).get("episodes") != sha256(folder / EPISODES):
        raise UserError(f"{folder / EPISODES} was changed since it was written; it is not used.")
    return read_outcomes(folder / EPISODES)


def _references_folder(study: Path, env_id: str, options: Mapping[str, Any], data: str) -> Path:
    """Where the reference rules of a scenario and of the visits with this hash are kept."""
    key = hashlib.sha256(json.dumps([env_id, options, data], sort_keys=True).encode()).hexdigest()[:8]
    return study / "references" / f"{env_id.split('/')[-1]}-{key}"


def evaluate_runs(
    runs: Sequence[RunFolder], patients: int | None, launcher: Launcher | None = None
) -> tuple[list[Row], list[Row]]:
    """Evaluate runs of one data set and the reference rules on the same patients.

    Args:
        runs: finished ones.
        patients: new patients per seed; None is the scenario's own number.
        launcher: where many runs are set beside another; None is here.

    Returns:
        One row per run, and the rows of reference rules and ceilings.

    Raises:
        UserError: the runs are of different data sets, scenarios or seeds.
    """
    for run in runs:
        evaluate_run(run, patients)
    first, configs = runs[0], [run.config() for run in runs]
    factory = factory_of(first)
    patients = factory.patients if patients is None else patients
    played = (configs[0].env, configs[0].versions.get("scenario"))
    others = [
        run
        for run, config in zip(runs, configs, strict=True)
        if (config.env, config.versions.get("scenario")) != played
    ]
    seeds = configs[0].seeds
    if any(factory_of(run) != factory for run in others) or any(c.seeds != seeds for c in configs):
        raise UserError("runs in one table must share their scenario and seeds.")
    if len({config.data.content_hash for config in configs}) > 1:
        raise UserError("runs in one table must share their data set, whose constant dose they stand beside.")
    study = first.path.resolve().parents[2]
    result = references_for(study, factory, episodes_of(first), seeds, patients)
    doses = [doses_of(run) for run in runs]
    sparse = next((run for run, own in zip(runs, doses, strict=True) if own.interval), None)
    outside = beside_interval(runs, sparse, launcher) if sparse else [None] * len(runs)
    rows = [
        agent_row(
            name,
            family_of(config),
            own,
            read_outcomes(run.path / EPISODES),
            result,
            None if mass is None else sum(mass) / len(mass),
        )
        for run, config, name, own, mass in zip(
            runs, configs, run_names(configs), doses, outside, strict=True
        )
    ]
    known = measured(factory.env_id, factory.options)
    ceilings = [ceiling_row(m.policy, m.knows, m.value, m.half_width, m.patients) for m in known]
    data = configs[0].data.name
    rules = [*reference_rows(result), *ceilings]
    return [replace(row, data=data) for row in rows], [replace(row, data=data) for row in rules]


def task_notes(runs: Sequence[RunFolder], rows: Sequence[Row]) -> list[str]:
    """What is said beside returns: patients with safety events; of tasks, normalised scores and lengths.

    Args:
        runs: of one data set.
        rows: theirs, in the same order.
    """
    factory = factory_of(runs[0])
    names = distinct([row.name for row in rows], [row.family for row in rows])
    if not isinstance(factory, TaskFactory):
        return _event_notes([read_outcomes(run.path / EPISODES)["recommended"] for run in runs], names)
    visits = [read_outcomes(run.path / EPISODES)["recommended"].visits.mean() for run in runs]
    lengths = ", ".join(f"{name} {length:.0f}" for name, length in zip(names, visits, strict=True))
    notes = [f"mean length of {factory.env_id} episodes, at most {factory.horizon} visits: {lengths}"]
    if reference := factory.reference:
        score = reference.score
        scores = [
            f"{name} {score(e.value):.1f} [{score(e.low):.1f}, {score(e.high):.1f}]"
            for name, row in zip(names, rows, strict=True)
            for e in (row.recommended,)
        ]
        between = f"random {reference.random:g}, expert {reference.expert:g}, {reference.source}"
        notes.append(f"normalised scores of recommended doses ({between}): {', '.join(scores)}")
    return notes


def _event_notes(outcomes: Sequence[Outcomes], names: Sequence[str]) -> list[str]:
    """Share of the patients who had each safety event at all; of one event alone the cost says as much."""
    events = list(outcomes[0].events)
    if len(events) < 2:
        return []
    notes = []
    for event in events:
        shares = ", ".join(
            f"{name} {100 * float((one.events[event] > 0).mean()):.1f} %"
            for name, one in zip(names, outcomes, strict=True)
            if event in one.events
        )
        notes.append(f"patients with the event {event} at any visit, recommended doses: {shares}")
    return notes
