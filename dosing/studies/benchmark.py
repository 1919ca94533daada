"""The benchmark: one fixed set for every agent, resumable, on any launcher, and a row of the leaderboard.

Every data set trains one seed and meets new patients of its own. The folder is a study: visits, runs and
reference rules lie where they do in any other, and the same call goes on where a killed one stopped.
``definition.json`` says of which set it is; ``hours/`` has the processor time of every run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import Any

import agents as registry
from dosing import __version__
from dosing.agent import HoldsBelief
from dosing.entry_points import AGENTS
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import EPISODES, RunFolder
from dosing.studies import benchmark_set, presets
from dosing.studies.benchmark_set import BenchmarkSet, Task
from dosing.studies.data import obtain_data
from dosing.studies.evaluation import evaluate_run, references_for
from dosing.studies.grid import configurations, regularisations
from dosing.studies.jobs import JobResult, RulesJob, run_jobs
from dosing.studies.leaderboard import Entry, Measured, Table, cell_of, constant_of, rules_of, score_of
from dosing.studies.loading import policy_of
from dosing.studies.references import References
from dosing.studies.scenarios import evaluable, version_of
from dosing.studies.settings import AgentSetup, Cohort, DataSource, Grid, Resources
from dosing.studies.training import train_run
from dosing.studies.visits import visits_of
from dosing.training.logged import Logged
from dosing.training.offline import TrainingDivergedError, TrainingSettings

DEFINITION = "definition.json"
HOURS = "hours"
OWN = "none"
"""The preset that leaves an agent its own settings."""


@dataclass(frozen=True)
class Entrant:
    """An agent as it takes part."""

    setup: AgentSetup
    preset: str | None
    changed: Mapping[str, Any]

    @property
    def settings(self) -> str:
        """SHA-256 of everything that it is trained with."""
        setup = self.setup
        content = [setup.agent, asdict(setup.config), asdict(setup.regularisation), dict(setup.data_options)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class EntryJob:
    """One entrant on one data set.

    Attributes:
        setup: the agent.
        data: file of recorded visits.
        study: folder of the benchmark.
        seed: of the agent and of its new patients.
        training: length and batch size.
        device: where it is trained.
        patients: new ones.
        hours: file of its processor time.
    """

    setup: AgentSetup
    data: Path
    study: Path
    seed: int
    training: TrainingSettings
    device: str
    patients: int
    hours: Path


def bench(
    out: Path | str,
    agents: str | Sequence[str],
    size: str | BenchmarkSet = "small",
    *,
    preset: str | None = None,
    settings: Mapping[str, Sequence[Any]] | None = None,
    resources: Resources | None = None,
) -> Table:
    """Let agents take part in the benchmark; write ``leaderboard.json`` and ``leaderboard.md``.

    Entries of earlier calls in the same folder stay in the table, which is written after every entry.

    Args:
        out: folder of the benchmark, of one set.
        agents: registry keys, or ``"all"``.
        size: ``small`` or ``full``, or a set of one's own.
        preset: settings by name in place of the set's, ``"none"`` for the agents' own.
        settings: ``agent.field`` to its one value; wins over the preset.
        resources: where it is computed; no row but its hours depends on the number of workers.

    Raises:
        UserError: no such agent, size or setting, the folder is of another set, a failed or a killed run.
    """
    out, resources = Path(out), resources or Resources()
    chosen = size if isinstance(size, BenchmarkSet) else benchmark_set.find(size)
    training = TrainingSettings(
        steps=chosen.updates, batch_size=chosen.batch_size, checkpoint_every=chosen.checkpoint_every
    )
    entrants, left_out = entrants_of(chosen, agents, preset, settings or {}, training)
    launcher = resources.launcher(out)
    _begin(out, chosen)
    files = {cell: _data_sets(chosen, *cell, out) for cell in _numbered(chosen)}
    pairs = [
        (file, seed)
        for sets in files.values()
        for file, seed in zip(sets, chosen.evaluation_seeds, strict=True)
    ]
    count = chosen.evaluation_patients
    for _ in run_jobs((), launcher, [RulesJob(file, out, (seed,), count, False) for file, seed in pairs]):
        pass
    rules = {file: _references(file, out, seed, count) for file, seed in pairs}
    jobs = [
        EntryJob(e.setup, file, out, seed, training, resources.device, count, _hours_file(out, e, file))
        for e in entrants
        for file, seed in pairs
    ]
    results = launcher.map(work, jobs)
    beside = tuple(_rules(chosen, files, rules))
    for k, entrant in enumerate(entrants):
        own = jobs[k * len(pairs) : (k + 1) * len(pairs)]
        done = list(zip(own, islice(results, len(pairs)), strict=True))
        entry = _entry(chosen, entrant, files, rules, done)
        table = dataclasses.replace(Table.read(out, chosen).taking(entry, left_out), rules=beside)
        table.write(out)
    assert next(results, None) is None  # nothing is left; the launcher ends what it began
    return table


def entrants_of(
    chosen: BenchmarkSet,
    agents: str | Sequence[str],
    preset: str | None,
    settings: Mapping[str, Sequence[Any]],
    training: TrainingSettings,
) -> tuple[list[Entrant], dict[str, str]]:
    """Every agent with its settings; of ``"all"`` those that can work with them, and why the others cannot.

    Raises:
        UserError: no such agent or setting, a setting with several values, or an agent named that cannot
            work with its settings or the length of the training.
    """
    names = [agents] if isinstance(agents, str) else list(agents)
    everyone = names == ["all"]
    names = list(registry.AGENTS) if everyone else list(dict.fromkeys(names))
    for name in names:
        registry.find(name)
    for key, values in settings.items():
        if key.rpartition(".")[0] not in names:
            raise UserError(f"a setting of an entry is AGENT.NAME=VALUE with one of its agents, got {key!r}.")
        if len(values) != 1:
            raise UserError(f"an entry has one value of {key}, got {len(values)}; `select` chooses.")
    result: list[Entrant] = []
    left_out: dict[str, str] = {}
    for name in names:
        try:
            result.append(_entrant(chosen, name, preset, settings, training))
        except UserError as error:
            if not everyone:
                raise
            left_out[name] = str(error)
    if not result:
        raise UserError(next(iter(left_out.values()), "the benchmark needs at least one agent."))
    return result, left_out


def _entrant(
    chosen: BenchmarkSet,
    name: str,
    preset: str | None,
    settings: Mapping[str, Sequence[Any]],
    training: TrainingSettings,
) -> Entrant:
    """One agent with its settings."""
    asked = preset or chosen.preset_of(name)
    own = None if asked == OWN else asked
    mine = {key: values for key, values in settings.items() if key.rpartition(".")[0] == name}
    grid, found = Grid((name,), mine, preset=own), presets.find(own)
    (regularisation,) = regularisations({}, found)
    ((_, config),) = configurations(grid, found, (regularisation,), training)
    changed = {key.rpartition(".")[2]: values[0] for key, values in mine.items()}
    return Entrant(AgentSetup(name, config, regularisation, found.data_of(name)), own, changed)


def _begin(out: Path, chosen: BenchmarkSet) -> None:
    """Say of which set the folder is.

    Raises:
        UserError: it is of another one already, or the scenarios here are of other versions.
    """
    for task in chosen.tasks:
        if (here := version_of(task.env, task.options)) != task.scenario_version:
            raise UserError(
                f"version {chosen.version} of the benchmark is on version {task.scenario_version} of "
                f"{task.env}, here is version {here}: results could not stand in one table."
            )
    path, content = out / DEFINITION, json.loads(json.dumps(asdict(chosen))) | {"hash": chosen.hash}
    if path.is_file() and (other := read_json(path)) != content:
        raise UserError(
            f"{out} is of another definition (version {other.get('version')}, size {other.get('size')}, "
            f"{str(other.get('hash'))[:12]}) than this one (version {chosen.version}, size {chosen.size}, "
            f"{chosen.hash[:12]}): give another folder by --out."
        )
    Table.read(out, chosen)
    write_json(path, content)


def _numbered(chosen: BenchmarkSet) -> Iterator[tuple[int, int]]:
    """Every cell as place of its task and number of recorded patients, which can be keys."""
    return ((k, patients) for k in range(len(chosen.tasks)) for patients in chosen.patients)


def _data_sets(chosen: BenchmarkSet, place: int, patients: int, out: Path) -> list[Path]:
    """The files of one cell, one per data seed."""
    task: Task = chosen.tasks[place]
    return [
        obtain_data(DataSource(task.env, Cohort(patients, task.policy, seed, task.options)), out)
        for seed in chosen.data_seeds
    ]


def _references(file: Path, out: Path, seed: int, patients: int) -> References:
    """The reference rules of one data set, which a job has made."""
    return references_for(out, evaluable(file), visits_of(file, out, False).sample, (seed,), patients)


def _rules(
    chosen: BenchmarkSet,
    files: Mapping[tuple[int, int], Sequence[Path]],
    rules: Mapping[Path, References],
) -> Iterator[Any]:
    """The rules of every cell."""
    for (place, patients), sets in files.items():
        task = chosen.tasks[place]
        own = {file.stem: rules[file] for file in sets}
        yield from rules_of(task.name, patients, (task.env, task.options), own)


def _hours_file(out: Path, entrant: Entrant, file: Path) -> Path:
    return out / HOURS / f"{entrant.setup.agent}-{entrant.settings[:12]}" / f"{file.stem}.json"


class ProcessorTime:
    """Seconds of processor time of one run in a file: this process, its threads and its children.

    It is written along the training, so that what was spent before a kill counts; a run that is over counts
    no further.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        kept = read_json(path) if path.is_file() else {"seconds": 0.0, "over": False}
        self._before, self._over = float(kept["seconds"]), bool(kept["over"])
        self._began = self._clock()

    @staticmethod
    def _clock() -> float:
        return sum(os.times()[:4])

    def __call__(self, row: Logged | None, *, over: bool = False) -> None:
        """Write what was spent so far."""
        del row
        if not self._over:
            seconds = round(self._before + self._clock() - self._began, 3)
            write_json(self._path, {"seconds": seconds, "over": over})


def work(job: EntryJob, position: int) -> RunFolder | TrainingDivergedError:
    """Train one entrant on one data set and evaluate it; a training that diverges is a finding."""
    spent = ProcessorTime(job.hours)
    try:
        run = train_run(
            job.setup,
            job.data,
            job.study,
            (job.seed,),
            job.training,
            job.device,
            position=position,
            on_log=spent,
        )
    except TrainingDivergedError as error:
        spent(None, over=True)
        return error
    evaluate_run(run, job.patients, position=position)
    spent(None, over=True)
    return run


def _entry(
    chosen: BenchmarkSet,
    entrant: Entrant,
    files: Mapping[tuple[int, int], Sequence[Path]],
    rules: Mapping[Path, References],
    results: Sequence[tuple[EntryJob, JobResult]],
) -> Entry:
    """The row of one entrant."""
    runs = [result for _, result in results if isinstance(result, RunFolder)]
    measured = {job.data: _measured(job.data, rules[job.data], result) for job, result in results}
    sets = [[measured[file] for file in own] for own in files.values()]
    configs = [run.config() for run in runs]
    spec = registry.find(entrant.setup.agent)
    names = ("dosing", "python", "torch", "numpy", "gymnasium")
    versions = {name: tuple(sorted({str(c.versions.get(name)) for c in configs})) for name in names}
    kinds = {f"{config.versions.get('processor')} ({config.device})" for config in configs}
    return Entry(
        agent=entrant.setup.agent,
        title=spec.title,
        package=package_of(entrant.setup.agent),
        preset=entrant.preset,
        changed=dict(entrant.changed),
        settings=entrant.settings,
        score=score_of(sets),
        cells=tuple(
            cell_of(chosen.tasks[place].name, patients, own, chosen.margin)
            for (place, patients), own in zip(files, sets, strict=True)
        ),
        hours=sum(float(read_json(job.hours)["seconds"]) for job, _ in results if job.hours.is_file())
        / 3600.0,
        versions=versions,
        processors=tuple(sorted(kinds)),
    )


def _measured(file: Path, rules: References, result: JobResult) -> Measured:
    """What one run came to beside the constant dose."""
    constant = constant_of(file.stem, rules).returns.reshape(-1)
    if not isinstance(result, RunFolder):
        return Measured(None, constant, failed=str(result))
    agent = policy_of(result).agent
    refused = isinstance(agent, HoldsBelief) and any(agent.refusals)
    returns = read_outcomes(result.path / EPISODES)["recommended"].returns.reshape(-1)
    return Measured(returns, constant, refused)


def package_of(agent: str) -> str:
    """The package that brings an agent, with its version."""
    module = registry.find(agent).module
    for entry in entry_points(group=AGENTS, name=agent):
        if entry.module == module and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    return f"dosing {__version__}"
