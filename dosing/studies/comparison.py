"""Several runs at once: the demo, and comparisons of agents and policy families on the same data.

Runs go side by side in a pool of processes with one torch thread each; the seeds of a run go together inside
it. Every run is a folder named by what decides its result, so the same command continues where a killed one
stopped: finished runs are found, a run in flight goes on from its checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import agents as registry
from dosing.data.store import read_episodes
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.runs.files import write_json
from dosing.runs.folder import EPISODES, RunFolder
from dosing.studies import presets
from dosing.studies.compared import Comparison, Difference, difference
from dosing.studies.comparison_table import Row
from dosing.studies.data import obtain_data
from dosing.studies.evaluation import baseline_notes, evaluate_runs, task_notes
from dosing.studies.grid import configurations, refusal, regularisations
from dosing.studies.index import question, reopened, write_index
from dosing.studies.jobs import Job, JobResult, RulesJob, SurveyJob, run_jobs, survey_data
from dosing.studies.launch import Launcher
from dosing.studies.naming import TABLE, run_names, write_curves
from dosing.studies.policy_table import policy_rows
from dosing.studies.scenarios import evaluable
from dosing.studies.settings import AgentSetup, Cohort, DataSource, Grid, Resources
from dosing.studies.visits import is_streamed
from dosing.training.offline import TrainingSettings

FEW_PATIENTS = "clinical-small"
"""The preset for tens to hundreds of recorded patients."""


def compare(
    study: Path | str,
    agents: Grid | str | Sequence[str | Grid],
    data: DataSource | Path | str | Sequence[DataSource | Path | str],
    *,
    seeds: Sequence[int] = range(5),
    training: TrainingSettings | None = None,
    milestones: Sequence[int] = (),
    evaluation_patients: int | None = None,
    resources: Resources | None = None,
) -> Comparison:
    """Train and evaluate agents on the same visits; write ``table.json`` and ``curves.parquet``.

    Every run is evaluated on the same new patients, at its milestones and its end; the table shows the end.

    Args:
        study: study folder.
        agents: registry keys, ``"all"``, a grid of their settings, or several grids, each with its preset.
        data: one source of recorded visits or several: files, ``minari:ID``, or environment ids that are
            simulated once and kept in the study.
        seeds: trained together in every run.
        training: length and batch size; None takes the first preset's.
        milestones: further updates at which every run is evaluated.
        evaluation_patients: new patients per seed; None is each scenario's own number.
        resources: where it is computed.

    Raises:
        UserError: bad input, a failed or a killed run.
    """
    study, resources = Path(study), resources or Resources()
    launcher = resources.launcher(study)
    wanted = asked_of(agents, data, seeds, training, milestones, evaluation_patients)
    key = question(wanted)
    if (known := reopened(study, key, wanted.sources)) is not None:
        return known
    work = work_of(study, wanted, resources.device)
    jobs, rules, asked, keep = work.jobs, work.rules, work.patients, wanted.milestones
    grids, chosen, left_out, not_thin = wanted.grids, wanted.presets, work.left_out, work.not_thin
    streamed = [file for file in asked if is_streamed(file, wanted.training.stream)]
    survey_data([SurveyJob(file, study) for file in streamed], launcher)
    results = list(run_jobs(jobs, launcher, rules))
    notes = _notes(jobs, results, left_out, not_thin, grids)
    runs = [result for result in results if isinstance(result, RunFolder)]
    if not runs:
        raise UserError(notes[0])
    notes += [*_kinds(runs), *_samples(runs)]
    rows = _rows(runs, asked, notes, launcher)
    contrast = next((p.contrast for p in chosen if p.contrast), None)
    pairs = _differences(jobs, results, contrast)
    policies = [row for own in _by_data(runs) for row in policy_rows(own, contrast, not_thin, launcher)]
    result = Comparison(tuple(rows), tuple(pairs), tuple(notes), tuple(policies))
    write_curves(study, runs, keep)
    named = list(dict.fromkeys(grid.preset for grid in grids if grid.preset is not None))
    made = {"runs": [os.path.relpath(run.path, study) for run in runs], "presets": named}
    write_json(study / TABLE, result.to_json() | made)
    if len(runs) == len(jobs):  # what is missing is tried again
        write_index(study, key, list(asked))
    return result


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a comparison is asked for, checked.

    Attributes:
        grids: agents and settings.
        presets: of each grid.
        sources: of recorded visits.
        seeds: trained together in every run.
        training: length and batch size.
        milestones: updates before the end at which runs are evaluated.
        evaluation_patients: for each seed; None is each scenario's own number.
    """

    grids: tuple[Grid, ...]
    presets: tuple[presets.Preset, ...]
    sources: tuple[DataSource, ...]
    seeds: tuple[int, ...]
    training: TrainingSettings
    milestones: tuple[int, ...]
    evaluation_patients: int | None


@dataclasses.dataclass(frozen=True)
class Work:
    """What there is to do, once the data are there.

    Attributes:
        jobs: one for each run.
        rules: reference rules beside each data set.
        patients: evaluated for each seed, by data set.
        left_out: who of all agents cannot work so, and why.
        not_thin: who has no thin row, and why.
    """

    jobs: list[Job]
    rules: list[RulesJob]
    patients: dict[Path, int]
    left_out: dict[str, str]
    not_thin: dict[str, str]


def asked_of(
    agents: Grid | str | Sequence[str | Grid],
    data: DataSource | Path | str | Sequence[DataSource | Path | str],
    seeds: Sequence[int],
    training: TrainingSettings | None,
    milestones: Sequence[int] = (),
    evaluation_patients: int | None = None,
) -> Asked:
    """What :func:`compare` is asked for by its arguments; see there.

    Raises:
        UserError: an unknown preset, or a training that cannot be.
    """
    grids = Grid.several(agents)
    chosen = tuple(presets.find(grid.preset) for grid in grids)
    training = training or TrainingSettings(**chosen[0].training)
    training.check()
    keep = training.before_end(milestones)
    sources = tuple(DataSource.several(data))
    return Asked(grids, chosen, sources, tuple(seeds), training, keep, evaluation_patients)


def work_of(study: Path, asked: Asked, device: str) -> Work:
    """Build every agent to see whether it can work so, obtain the data, and list what there is to do.

    Raises:
        UserError: agents, settings or data that cannot be.
    """
    left_out: dict[str, str] = {}
    not_thin: dict[str, str] = {}
    every: list[AgentSetup] = []
    for grid, preset in zip(asked.grids, asked.presets, strict=True):
        every += _setups(grid, preset, asked.training, left_out, not_thin)
    setups = list({(s.agent, s.config, s.regularisation, repr(s.data_options)): s for s in every}.values())
    files = [obtain_data(source, study) for source in asked.sources]
    patients = {file: evaluable(file).patients for file in files}
    if asked.evaluation_patients is not None:
        patients = dict.fromkeys(files, asked.evaluation_patients)
    if twice := [file for file in files if [f.stem for f in files].count(file.stem) > 1]:
        raise UserError(f"two data sets are called {twice[0].stem}; their rows could not be told apart.")
    jobs = [
        Job(setup, file, study, asked.seeds, asked.training, device, patients[file], asked.milestones)
        for file in files
        for setup in setups
    ]
    rules = [RulesJob(file, study, asked.seeds, patients[file], asked.training.stream) for file in files]
    return Work(jobs, rules, patients, left_out, not_thin)


def _setups(
    grid: Grid,
    preset: presets.Preset,
    training: TrainingSettings,
    left_out: dict[str, str],
    not_thin: dict[str, str],
) -> list[AgentSetup]:
    """Every agent of the grid as it is trained, with why of those who cannot.

    Who of all cannot work goes to ``left_out``. Where policies stand beside their thin laws, who has none
    goes to ``not_thin``, and keeps its other rows. Of the distributions that a preset sets side by side the
    agent's own is thinned.
    """
    contrast = preset.contrast
    thin = {"thin": [None, contrast.thin]} if contrast else {}
    regularised = regularisations(thin | dict(grid.regularise), preset)
    fat = [options for options in regularised if options.thin is None]
    configured = configurations(grid, preset, fat or regularised, training, left_out)
    result = []
    for name, config in configured:
        choice = contrast.of(type(config)) if contrast else None
        beside = choice is not None and config != (own := choice.own(config)) and (name, own) in configured
        for options in regularised:
            thinned = bool(fat) and options.thin is not None
            if thinned and beside:
                continue
            if thinned and (why := refusal(name, config, options)) is not None:
                not_thin[name] = why
            else:
                data = preset.data_of(name) | dict(grid.data_options)
                result.append(AgentSetup(name, config, options, data))
    return result


def _rows(
    runs: Sequence[RunFolder], patients: Mapping[Path, int], notes: list[str], launcher: Launcher
) -> list[Row]:
    """Rows of all runs, then of the rules beside each data set; what they leave to say goes to ``notes``."""
    rows: list[Row] = []
    rules: list[Row] = []
    for file, count in patients.items():
        if here := [run for run in runs if run.path.parent.name == file.stem]:
            of_runs, of_rules = evaluate_runs(here, count, launcher)
            rows, rules = rows + of_runs, rules + of_rules
            notes += [*task_notes(here, of_runs), *baseline_notes(of_runs)]
    return rows + rules


def _by_data(runs: Sequence[RunFolder]) -> list[list[RunFolder]]:
    """The runs of every data set."""
    names = dict.fromkeys(run.path.parent.name for run in runs)
    return [[run for run in runs if run.path.parent.name == name] for name in names]


def _kinds(runs: Sequence[RunFolder]) -> list[str]:
    """On which kinds of processors the runs were computed, where there is more than one."""
    configs = [run.config() for run in runs]
    kinds = sorted({f"{config.versions.get('processor')} ({config.device})" for config in configs})
    if len(kinds) < 2:
        return []
    return [
        f"runs were computed on {', '.join(kinds)}: the same bits are promised between like processors only."
    ]


def _samples(runs: Sequence[RunFolder]) -> list[str]:
    """What was learned from what, of data sets that were not in memory."""
    configs = [run.config() for run in runs]
    told = [f"{name}: {c.data}" for name, c in zip(run_names(configs), configs, strict=True) if c.data.sample]
    return list(dict.fromkeys(told))


def _notes(
    jobs: Sequence[Job],
    results: Sequence[JobResult],
    left_out: Mapping[str, str],
    not_thin: Mapping[str, str],
    grids: Sequence[Grid],
) -> list[str]:
    """What is not in the table, and whom the preset does not know."""
    notes = [
        f"{registry.find(job.setup.agent).title} on {job.data.stem} is not in the table: {result}"
        for job, result in zip(jobs, results, strict=True)
        if isinstance(result, UserError)
    ]
    notes += [f"{registry.find(name).title} is left out: {reason}" for name, reason in left_out.items()]
    notes += [f"{registry.find(name).title} has no thin row: {reason}" for name, reason in not_thin.items()]
    trained = dict.fromkeys(job.setup.agent for job in jobs)
    for grid in grids:
        names = trained if grid.agents == ("all",) else [name for name in trained if name in grid.agents]
        unknown = [name for name in names if not presets.find(grid.preset).knows(name)]
        if grid.preset is not None and unknown:
            told = f"preset {grid.preset} has nothing for {', '.join(unknown)}"
            notes.append(f"{told}: their own defaults were used.")
    return notes


def _differences(
    jobs: Sequence[Job], results: Sequence[JobResult], contrast: presets.Contrast | None
) -> list[Difference]:
    """Finished runs beside those that differ in their policy's distribution only: first minus second.

    The distribution of an agent's own beside the others of a contrast; a thin law beside the policy that it
    is distilled from, and beside those others.
    """
    done = {
        (j.setup.agent, j.data, j.setup.config, j.setup.regularisation): r
        for j, r in zip(jobs, results, strict=True)
        if isinstance(r, RunFolder)
    }
    pairs: dict[bool, list[tuple[tuple[str, str], RunFolder, RunFolder]]] = {False: [], True: []}
    for (agent, data, config, options), first in done.items():
        fat = dataclasses.replace(options, thin=None)
        choice = contrast.of(type(config)) if contrast else None
        others = [(c, choice.word(c)) for c in choice.others(config)] if choice else []
        own = choice.word(config) if choice else ""
        if options.thin is not None:
            own, others = "thin", [(config, "fat"), *others]
        for other, word in others:
            if (second := done.get((agent, data, other, fat))) is not None:
                pairs[options.thin is not None].append(((own, word), first, second))
    result = []
    for group in pairs.values():
        configs = [first.config() for _, first, _ in group]
        result += [
            difference(name, words, config.data.name, _outcomes(first), _outcomes(second))
            for name, config, (words, first, second) in zip(run_names(configs), configs, group, strict=True)
        ]
    return result


def _outcomes(run: RunFolder) -> dict[str, Outcomes]:
    return read_outcomes(run.path / EPISODES)


def demo(
    study: Path,
    *,
    seeds: Sequence[int],
    steps: int,
    scenario: str,
    cohort: Cohort,
    device: str,
    preset: str | None = None,
    evaluation_patients: int = 1000,
) -> Comparison:
    """The main job: simulate a scenario's cohort, train the demonstration's agents, evaluate them.

    Each agent has its own preset, or all have the same one. Where recorded episodes differ in length, no
    response model is learned, and the agents that do without have the preset for few patients.
    """
    file = obtain_data(DataSource(scenario, cohort), study)
    visits = np.unique(read_episodes(file).episode, return_counts=True)[1]
    several = preset is None and visits.min() < visits.max()
    grids = [Grid((name,), preset=settings) for name, settings in registry.DEMO_PATIENTS.items()]
    if preset is not None or several:
        grids = [Grid(registry.DEMO, preset=preset or FEW_PATIENTS)]
    result = compare(
        study,
        grids,
        file,
        seeds=seeds,
        training=TrainingSettings(steps=steps),
        evaluation_patients=evaluation_patients,
        resources=Resources(device),
    )
    if not several:
        return result
    left_out = (
        "the demonstration learns no response model from episodes of several lengths: it does not know what "
        "ends them, and takes long where they are long; compare trains it"
    )
    return dataclasses.replace(result, notes=(*result.notes, left_out))
