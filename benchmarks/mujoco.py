"""What the experiments on MuJoCo locomotion data share: studies, normalised scores, curves, pages."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.curves import Line, Panel
from benchmarks.machine import describe
from benchmarks.report import spelled
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli.options import add_resources, resources_of
from dosing.data.formats import MINARI, is_own
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.finetuning.method import TrialSettings
from dosing.finetuning.trial import CURVE
from dosing.runs.files import read_json, read_table, write_atomic, write_json
from dosing.runs.folder import CONFIG, EPISODES, METRICS, RunFolder
from dosing.studies import DataSource, Grid, compare
from dosing.studies.comparison_table import Row
from dosing.studies.data import comes_from, episodes_of, external_of
from dosing.studies.finetune import finetune
from dosing.studies.naming import TABLE
from dosing.training.offline import TrainingSettings
from dosing.types import Array
from simulator.envs.mujoco import REFERENCES

RESULTS = Path(__file__).resolve().parent / "results"
VARIABLE = "DOSING_MUJOCO_DATA"
ENVS = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}
QUALITIES = ("medium", "medium-expert", "medium-replay")
"""Qualities of the data for which settings are published."""
OF_Y = "normalised score"
Rule = Literal["recommended", "sampled"]
"""What is given at a visit: the recommended action, or one drawn from the policy."""
SCORES = (
    "Normalised scores in v5 (0: random policy, 100: expert; measured, not D4RL's). They do not compare with "
    "D4RL's published scores, whose rewards, data and lengths of training differ."
)


@dataclass(frozen=True)
class Trained:
    """What a study on one data set came to.

    Attributes:
        task: such as ``hopper``.
        quality: such as ``medium-expert``.
        folder: of the study.
        runs: finished runs, by name.
        rows: of the agents in the study's table, by name.
        visits: recorded transitions.
        behaviour: normalised score of the mean recorded episode.
        notes: what the study says besides, such as who diverged.
        seconds: by the clock that each run was trained for.
    """

    task: str
    quality: str
    folder: Path
    runs: Mapping[str, Path]
    rows: Mapping[str, Row]
    visits: int
    behaviour: float
    notes: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Task and quality."""
        return f"{self.task} {self.quality}"

    def scored(self, name: str, rule: Rule = "recommended") -> Estimate:
        """Normalised score of a run at the end of its training."""
        row = self.rows[name]
        if rule == "sampled":
            assert row.sampled is not None  # what is no agent has no row here
            return scored(self.task, row.sampled)
        return scored(self.task, row.recommended)

    def points(
        self, name: str, updates: Sequence[int], rule: Rule = "recommended"
    ) -> list[tuple[int, Estimate]]:
        """Normalised scores of a run after each of these updates that it has reached, and at its end."""
        run = RunFolder(self.runs[name])
        last = run.config().updates
        marks = sorted({u for u in updates if u < last and (run.at(u) / EPISODES).is_file()} | {last})
        return [
            (u, estimated(self.task, (run.path if u == last else run.at(u)) / EPISODES, rule)) for u in marks
        ]


@dataclass(frozen=True)
class TrialResult:
    """A trial's title, its score at every evaluation, and the mean score of the episodes it learned from."""

    title: str
    points: Sequence[tuple[int, Estimate]]
    treated: float | None

    @property
    def along(self) -> float:
        """Mean score over the evaluations."""
        return float(np.mean([estimate.value for _, estimate in self.points]))


def found_files(folder: Path, task: str, quality: str) -> list[Path]:
    """The files of this task and quality."""
    return [p for p in sorted(folder.glob(f"{task}*.hdf5")) if _quality(p, task) == quality]


def _quality(path: Path, task: str) -> str:
    """``hopper-medium-expert-100k-s0`` is medium-expert, and ``hopper_medium_expert-v2`` too."""
    rest = path.stem.replace("_", "-").removeprefix(f"{task}-")
    known = [q for q in QUALITIES if rest == q or rest.startswith(f"{q}-")]
    return max(known, key=len, default="")


def named_file(folder: Path, name: str) -> tuple[str, str, str]:
    """Task, quality and source of a data set such as ``hopper-medium`` or ``minari:mujoco/hopper/medium-v0``.

    Raises:
        UserError: there is no such task or quality, or the folder does not have one file of it.
    """
    words = name.removeprefix(MINARI).split("/")
    task, _, quality = name.partition("-")
    if name.startswith(MINARI):
        task, quality = (words[-2], words[-1].rpartition("-")[0]) if len(words) > 1 else ("", "")
    if task not in ENVS or quality not in QUALITIES:
        raise UserError(
            f"a data set is TASK-QUALITY or {MINARI}mujoco/TASK/QUALITY-VERSION with TASK {', '.join(ENVS)} "
            f"and QUALITY {', '.join(QUALITIES)}; got {name!r}."
        )
    if name.startswith(MINARI):
        return task, quality, name
    paths = found_files(folder, task, quality)
    if len(paths) > 1:
        raise UserError(
            f"{folder} has several of {name}: {', '.join(p.name for p in paths)}; leave one there, or name "
            "another folder."
        )
    if not paths:
        raise UserError(
            f"{folder} has no {name}*.hdf5: put one of D4RL's there, or record one with python -m dosing "
            "collect and name it so."
        )
    return task, quality, str(paths[0])


def folder_of(name: str) -> str:
    """Name of a data set's folder."""
    return re.sub("[:/]", "-", name)


def preset(options: argparse.Namespace, name: str) -> str:
    """The preset with the published settings for a data set."""
    task, quality, _ = named_file(options.data, name)
    return f"d4rl-mujoco/{task}-{quality}"


def trained(
    name: str,
    grids: Sequence[Grid],
    options: argparse.Namespace,
    *,
    folder: Path | None = None,
    updates: int | None = None,
    seeds: int | None = None,
    named: Callable[[Mapping[str, Any]], str] | None = None,
) -> Trained:
    """Train and evaluate on one data set; the study is found again where it was left.

    Args:
        name: of the data set, see :func:`named_file`.
        grids: agents and settings.
        options: of :func:`add_options`.
        folder: of the study; None is one in ``--out`` that goes by the data set.
        updates: None is ``--updates``.
        seeds: None is ``--seeds``.
        named: a run's name, from the content of its ``config.json``; None is that of the study's table.

    Raises:
        UserError: see :func:`named_file`; or the data are of another task.
        RuntimeError: two runs have one name.
    """
    task, quality, source = named_file(options.data, name)
    folder = folder or options.out / folder_of(name)
    updates = updates or options.updates
    external = None if is_own(source) else external_of(ENVS[task], {})
    if external is None and not comes_from(source, ENVS[task]):
        raise UserError(f"{source} says that it is not of {ENVS[task]}, though its name does.")
    result = compare(
        folder,
        list(grids),
        DataSource(source, external=external),
        seeds=range(seeds or options.seeds),
        training=TrainingSettings(steps=updates),
        milestones=[u for u in options.at if u < updates],
        evaluation_patients=options.episodes,
        resources=resources_of(options),
    )
    runs = [folder / run for run in read_json(folder / TABLE)["runs"]]
    rows = [row for row in result.rows if row.sampled]
    data = episodes_of(RunFolder(runs[0]))
    episodes = 1 + int((data.episode[1:] != data.episode[:-1]).sum())
    names = [named(read_json(run / CONFIG)) for run in runs] if named else [row.name for row in rows]
    if len(set(names)) < len(names):
        raise RuntimeError(f"runs of {folder} have one name: {sorted(names)}")
    return Trained(
        task,
        quality,
        folder,
        dict(zip(names, runs, strict=True)),
        dict(zip(names, rows, strict=True)),
        len(data),
        score(task, float(data.reward.sum()) / episodes),
        result.notes,
        {name: _seconds(run) for name, run in zip(names, runs, strict=True)},
    )


def _seconds(run: Path) -> float:
    """Training time of a run, before and after interruptions; evaluations are not in it."""
    return float(read_table(run / METRICS).column("seconds").to_numpy()[-1])


def score(task: str, value: float) -> float:
    """Normalised score of a return in v5."""
    return REFERENCES[ENVS[task]].score(value)


def scored(task: str, returns: Estimate) -> Estimate:
    """Normalised score of a mean return, with its interval."""
    low, value, high = (score(task, v) for v in (returns.low, returns.value, returns.high))
    return replace(returns, low=low, value=value, high=high)


def estimated(task: str, episodes: Path, rule: Rule = "recommended") -> Estimate:
    """Normalised score of the recommended or of a drawn action in an evaluation's file of episodes."""
    returns: Array = read_outcomes(episodes)[rule].returns
    return scored(task, mean_over_seeds(returns))


def shown(estimate: Estimate) -> str:
    """A score with its interval, where there is one."""
    if estimate.n == 1:
        return f"{estimate.value:z.1f}"
    return f"{estimate.value:z.1f} [{estimate.low:z.1f}, {estimate.high:z.1f}]"


def trials(
    found: Trained, methods: Sequence[str], runs: Sequence[Path], options: argparse.Namespace
) -> list[TrialResult]:
    """Let finished runs go on in the task itself, every method from each run that it can start from."""
    settings = TrialSettings(
        visits=options.visits,
        patients=options.patients,
        start=min(1_000, options.visits // 5),
        evaluate_every=max(1, options.visits // options.evaluations),
    )
    report = finetune(
        methods,
        runs,
        study=found.folder,
        settings=settings,
        published_start=options.full,
        seeds=options.seeds,
        evaluation_patients=options.episodes,
        resources=resources_of(options),
    )
    return [
        TrialResult(
            line.title,
            trial_points(found.task, found.folder / line.run),
            None if line.treated is None else score(found.task, line.treated),
        )
        for line in report.lines
    ]


def trial_points(task: str, run: Path) -> list[tuple[int, Estimate]]:
    """Normalised score of the recommended action at every evaluation of a trial, over seeds."""
    result = []
    for visits, rows in read_table(run / CURVE).to_pandas().groupby("visits", sort=True):
        returns = rows["recommended"].to_numpy(np.float64)
        value = float(returns.mean())
        estimate = (
            mean_over_seeds(returns[:, None])
            if len(returns) > 1
            else Estimate(value, value, value, 0.95, 1, 1, "one seed, no interval")
        )
        result.append((int(visits), scored(task, estimate)))
    return result


def panels(found: Sequence[Trained], updates: Sequence[int], rule: Rule = "recommended") -> list[Panel]:
    """Learning curves: a panel per agent, a line per data set."""
    names = list(dict.fromkeys(name for x in found for name in x.runs))
    result = []
    for name in names:
        lines = []
        for x in found:
            if name in x.runs:
                at, estimates = zip(*x.points(name, updates, rule), strict=True)
                lines.append(Line(x.title, at, estimates))
        result.append(Panel(name, tuple(lines)))
    return result


def add_options(
    parser: argparse.ArgumentParser, name: str, *, updates: int, sets: Sequence[str] | None = None
) -> None:
    """Data, lengths and folders, the same for every script; ``sets`` None is what the folder holds."""
    default = os.environ.get(VARIABLE)
    parser.add_argument("--data", type=Path, default=default, help=f"folder of the data [{VARIABLE}]")
    parser.add_argument(
        "--sets",
        nargs="*",
        default=sets,
        help="TASK-QUALITY or minari:ID, such as hopper-medium [%(default)s]",
    )
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="folder of the studies")
    parser.add_argument("--updates", type=int, default=updates, help="offline [%(default)s]")
    parser.add_argument(
        "--at", type=int, nargs="*", default=[], help="updates to evaluate at, beside the last"
    )
    parser.add_argument("--seeds", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--episodes", type=int, default=10, help="evaluation episodes per seed [%(default)s]")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256], help="widths, short of --full")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the page")
    parser.add_argument("--full", action="store_true", help="published widths and lengths, 5 seeds")
    add_resources(parser)


def add_trial_options(parser: argparse.ArgumentParser, *, visits: int) -> None:
    """Lengths of live treatment."""
    parser.add_argument("--visits", type=int, default=visits, help="of live treatment [%(default)s]")
    parser.add_argument("--patients", type=int, default=4, help="episodes side by side [%(default)s]")
    parser.add_argument("--evaluations", type=int, default=5, help="along a trial [%(default)s]")


def opening(
    command: str, options: argparse.Namespace, found: Sequence[Trained], names: Sequence[str] = ()
) -> str:
    """The paragraph of every page that says what was trained, for how long and on what.

    Args:
        command: makes the page.
        options: of that command.
        found: the studies.
        names: agents, for what a short training changes in some of them.
    """
    visits = " and ".join(dict.fromkeys(f"{x.visits:,}" for x in found))
    how = "t over seeds" if options.seeds > 1 else "over episodes of the one seed"
    hours = sum(sum(x.seconds.values()) for x in found) / 3600.0
    return (
        f"`{command}`. Version {__version__}. {describe()}. {options.updates:,} offline updates, "
        f"{options.seeds} seed(s), {visits} transitions per data set, {options.episodes} evaluation episodes "
        f"per seed and evaluation; 95 % intervals {how}. {hours:.2f} hours of offline training. "
        f"{shortened(options, names)} {SCORES}"
    )


def keep(
    options: argparse.Namespace,
    name: str,
    parts: Sequence[str],
    content: Mapping[str, Any],
    pictures: Mapping[str, str],
) -> None:
    """Write a page, its numbers and its pictures, and print the page."""
    page = "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"
    options.results.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": describe(),
        "version": __version__,
        "updates": options.updates,
        "seeds": options.seeds,
    }
    write_json(options.results / f"{name}.json", about | dict(content))
    for picture, drawn in pictures.items():
        write_atomic(options.results / f"{picture}.svg", drawn.encode())
    write_atomic(options.results / f"{name}.md", page.encode())
    print(page, flush=True)


def short(options: argparse.Namespace, names: Sequence[str]) -> dict[str, list[Any]]:
    """Settings of a short training: every width ``--hidden``, SPOT's first phase a fifth of the updates."""
    if options.full:
        return {}
    width = tuple(options.hidden)
    own = {"spot.vae_hidden": [width], "spot.vae_steps": [max(1, options.updates // 5)]}
    return {"hidden": [width]} | (own if "spot" in names else {})


def shortened(options: argparse.Namespace, names: Sequence[str]) -> str:
    """What :func:`short` changes, in words."""
    if options.full:
        return "Published widths."
    widths = " and ".join(map(str, options.hidden))
    first = " SPOT's first phase is a fifth of the updates." if "spot" in names else ""
    return f"Hidden layers of {widths} in every network, whatever was published.{first}"


def checked(options: argparse.Namespace) -> argparse.Namespace:
    """The options of :func:`add_options` with a folder of data, and all its sets where none were named.

    Raises:
        UserError: no folder was named though one is needed, or it holds none.
    """
    elsewhere = bool(options.sets) and all(name.startswith(MINARI) for name in options.sets)
    if options.data is None and not elsewhere:
        raise UserError(f"name the folder of the data with --data or {VARIABLE}.")
    if options.sets is None:
        every = [(task, quality) for task in ENVS for quality in QUALITIES]
        options.sets = [f"{t}-{q}" for t, q in every if found_files(options.data, t, q)]
    if not options.sets:
        raise UserError(f"{options.data} holds no TASK-QUALITY*.hdf5 of {', '.join(ENVS)}.")
    return options


def command(script: str, options: argparse.Namespace, *more: str) -> str:
    """What to type for the same page; ``more`` names further options, said where they have a value."""
    width = ("full",) if options.full else ("hidden",)
    said = spelled(options, "sets", "updates", "at", "seeds", "episodes", *width, *more)
    return f"python benchmarks/experiments/{script}.py --data FOLDER {said}"


def numbers(found: Trained, updates: Sequence[int]) -> dict[str, Any]:
    """A study's scores as JSON fields."""

    def along(rule: Rule) -> dict[str, Any]:
        return {
            name: [{"update": u, **vars(estimate)} for u, estimate in found.points(name, updates, rule)]
            for name in found.runs
        }

    return {
        "set": found.title,
        "visits": found.visits,
        "behaviour": found.behaviour,
        "scores": along("recommended"),
        "drawn": along("sampled"),
        "notes": list(found.notes),
        "seconds": dict(found.seconds),
    }
