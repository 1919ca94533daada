"""Several runs at once: the demo, and comparisons of agents and policy families on the same data.

Runs go side by side in a pool of processes with one torch thread each; the seeds of a run go together inside
it. Every run is a folder named by what decides its result, so the same command continues where a killed one
stopped: finished runs are found, a run in flight goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agents
from dosing.data.external import External
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.runs.files import write_json
from dosing.runs.folder import EPISODES, RunFolder
from dosing.studies import presets
from dosing.studies.comparison_table import Difference, Row, difference, render
from dosing.studies.data import obtain_data
from dosing.studies.evaluate import evaluate_runs, task_notes
from dosing.studies.grid import configurations, regularisations
from dosing.studies.jobs import Job, run_jobs
from dosing.studies.launch import device_of
from dosing.studies.naming import TABLE, run_names, write_curves
from dosing.studies.scenarios import evaluable
from dosing.training.offline import TrainingDivergedError, TrainingSettings


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        rows: one per run, then those of reference rules and ceilings.
        differences: one per pair of runs that a preset sets side by side.
        notes: what a reader of the table has to know, such as runs that diverged and are not in it.
    """

    rows: tuple[Row, ...]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the table, the differences and the notes as text."""
        notes = [f"note: {note}" for note in self.notes]
        head = ["paired by patient, with 95 % intervals:"] if self.differences else []
        return "\n".join([render(self.rows), *head, *map(str, self.differences), *notes])


def compare(
    study: Path | str,
    names: Sequence[str],
    data: Sequence[str | Path],
    *,
    patients: int = 50,
    policy: str = "uniform",
    data_seed: int = 0,
    env_options: Mapping[str, Any] | None = None,
    families: Sequence[str] = (),
    settings: Mapping[str, Sequence[Any]] | None = None,
    preset: str | None = None,
    seeds: Sequence[int] = range(5),
    training: TrainingSettings | None = None,
    data_options: Mapping[str, Any] | None = None,
    regularise: Mapping[str, Sequence[Any]] | None = None,
    milestones: Sequence[int] = (),
    device: str = "auto",
    evaluation_patients: int | None = None,
    workers: int | None = None,
    external: External | None = None,
) -> Comparison:
    """Train and evaluate agents on the same visits; write ``table.json`` and ``curves.parquet``.

    Every run is evaluated on the same new patients, at its milestones and its end; the table shows the end.

    Args:
        study: study folder.
        names: registry keys, or ``["all"]``.
        data: files of recorded visits or ``minari:ID``, or environment ids that are simulated once and kept
            in the study.
        patients: simulated per environment id.
        policy: rule that doses them.
        data_seed: seed of the simulated patients.
        env_options: options of the environments.
        families: policy families to cross with every agent that has the choice.
        settings: changes to configurations, see :func:`configurations`.
        preset: named settings, see ``dosing.studies.presets``; whatever is given besides wins over them.
        seeds: trained together in every run.
        training: length and batch size; None takes the preset's.
        data_options: see ``Transform.fit``; they win over the preset's.
        regularise: options of ``dosing.models.regularisation`` to the values they take in turn; they win over
            the preset's.
        milestones: further updates at which every run is evaluated.
        device: ``auto``, ``cpu`` or ``cuda``.
        evaluation_patients: new patients per seed; None is each scenario's own number.
        workers: see :func:`run_jobs`.
        external: what files of other programs do not say themselves.

    Raises:
        UserError: bad input, a failed or a killed run.
    """
    study, chosen = Path(study), presets.find(preset)
    training = training or TrainingSettings(**chosen.training)
    training.check()
    keep = training.before_end(milestones)
    device_of(device)
    regularised = regularisations(regularise or {}, chosen)
    left_out: dict[str, str] = {}
    configured = configurations(names, families, settings or {}, chosen, regularised, training, left_out)
    files = [
        obtain_data(
            str(source),
            study,
            patients=patients,
            policy=policy,
            seed=data_seed,
            options=dict(env_options or {}),
            external=external,
        )
        for source in data
    ]
    own = {file: evaluable(file).patients for file in files}
    asked = own if evaluation_patients is None else dict.fromkeys(files, evaluation_patients)
    if twice := [file for file in files if [f.stem for f in files].count(file.stem) > 1]:
        raise UserError(f"two data sets are called {twice[0].stem}; their rows could not be told apart.")
    jobs = [
        Job(
            name,
            config,
            file,
            study,
            tuple(seeds),
            training,
            device,
            asked[file],
            keep,
            chosen.data_of(name) | dict(data_options or {}),
            regularisation,
        )
        for file in files
        for name, config in configured
        for regularisation in regularised
    ]
    results = run_jobs(jobs, workers)
    notes = [
        f"{agents.find(job.agent).title} on {job.data.stem} is not in the table: {result}"
        for job, result in zip(jobs, results, strict=True)
        if isinstance(result, TrainingDivergedError)
    ]
    notes += [f"{agents.find(name).title} is left out: {reason}" for name, reason in left_out.items()]
    unknown = [name for name in dict.fromkeys(name for name, _ in configured) if not chosen.knows(name)]
    if preset is not None and unknown:
        notes.append(f"preset {preset} has nothing for {', '.join(unknown)}: their own defaults were used.")
    runs = [result for result in results if isinstance(result, RunFolder)]
    if not runs:
        raise UserError(notes[0])
    rows: list[Row] = []
    rules: list[Row] = []
    for file in files:
        if here := [run for run in runs if run.path.parent.name == file.stem]:
            of_runs, of_rules = evaluate_runs(here, asked[file])
            rows, rules = rows + of_runs, rules + of_rules
            notes += task_notes(here, of_runs)
            if baseline := of_runs[0].baseline:
                notes += baseline.notes(file.stem)
    pairs = _differences(jobs, results, chosen.contrast) if chosen.contrast else []
    matches = Comparison((*rows, *rules), tuple(pairs), tuple(notes))
    table = {
        "rows": [row.to_json() for row in matches.rows],
        "runs": [os.path.relpath(run.path, study) for run in runs],
        "differences": [dataclasses.asdict(pair) for pair in pairs],
        "notes": notes,
    }
    write_curves(study, runs, keep)
    write_json(study / TABLE, table)
    return matches


def _differences(
    jobs: Sequence[Job], results: Sequence[RunFolder | TrainingDivergedError], contrast: presets.Contrast
) -> list[Difference]:
    """Pairs of finished runs that differ in the contrasted setting only: first minus second."""
    done = {(j.agent, j.data, j.regularisation, j.config): r for j, r in zip(jobs, results, strict=True)}
    pairs: list[tuple[RunFolder, RunFolder]] = []
    for (*same, config), first in done.items():
        distribution = contrast.of(type(config))
        if distribution is None or getattr(config, distribution) != contrast.fields[distribution][0]:
            continue
        twin = dataclasses.replace(config, **{distribution: contrast.fields[distribution][1]})
        second = next((r for (*alike, c), r in done.items() if alike == same and c == twin), None)
        if isinstance(first, RunFolder) and isinstance(second, RunFolder):
            pairs.append((first, second))
    configs = [first.config() for first, _ in pairs]
    return [
        difference(name, contrast.words, config["data"]["name"], *map(_outcomes, pair))
        for name, config, pair in zip(run_names(configs), configs, pairs, strict=True)
    ]


def _outcomes(run: RunFolder) -> dict[str, Outcomes]:
    return read_outcomes(run.path / EPISODES)


def demo(
    study: Path,
    *,
    seeds: Sequence[int],
    steps: int,
    patients: int,
    variant: str,
    device: str,
    evaluation_patients: int = 1000,
) -> Comparison:
    """The main job: simulate a cohort dosed at random, train the demonstration's agents on it."""
    return compare(
        study,
        agents.DEMO,
        ("dosing/Treatment-v0",),
        patients=patients,
        env_options={"variant": variant},
        seeds=seeds,
        training=TrainingSettings(steps=steps),
        device=device,
        evaluation_patients=evaluation_patients,
    )
