"""From 200 recorded patients to live treatment: every method from the same offline policies, and its harm.

    OMP_NUM_THREADS=1 python benchmarks/experiments/live_treatment.py [--seeds 5] [--visits 20000] [--all]
    [--methods ...]

1. IQL learns offline from 200 patients of the treatment simulator, dosed uniformly within the limits; so do
   the agents that some methods go on from (AWAC, CQL; with ``--all`` SPOT, Cal-QL, ReBRAC and FAN as well).
2. Every method goes on in live treatment, S seeds stacked in one process, evaluated on the same patients.
3. Does a method ever fall below the policy that it started from? At every evaluation, the difference of the
   two returns on the same patients, seed by seed, with intervals that hold at all evaluations at once: it
   falls below where one of them lies below 0.
4. The same with FtTPO, whose dose set is an interval, and with its Gaussian counterpart: as they go on by
   themselves, and beside IQL's policy in PEX.

Every run stays in the study folder: the same command continues a study that was stopped, and makes the page
again from one that is finished. The folder is one of the dashboard. ``--cluster`` as of ``compare``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd

import agents
from agents import finetuning
from benchmarks.experiments.live_treatment_page import (
    DISTRIBUTIONS,
    ENV_ID,
    NAME,
    PATIENTS,
    TrialResult,
    over,
    page,
    picture,
)
from benchmarks.machine import describe
from benchmarks.speed.processes import ROOT
from dosing import __version__
from dosing.cli.options import add_workers, resources_of
from dosing.errors import UserError
from dosing.finetuning.method import TrialSettings
from dosing.policy import DosePolicy
from dosing.runs.files import read_table, write_atomic, write_json
from dosing.runs.folder import METRICS, RunFolder
from dosing.studies import AgentSetup, Cohort, DataSource
from dosing.studies.data import episodes_of, obtain_data, recorded_states
from dosing.studies.finetune import TrialJob, conduct_trial, evaluate_start, policy_of_trial, start_of
from dosing.studies.finetune_table import Progress, report_on, write_starts
from dosing.studies.jobs import Job as Offline
from dosing.studies.jobs import run_jobs
from dosing.studies.launch import none_lost
from dosing.training.offline import TrainingSettings
from dosing.types import Array

SETTINGS: dict[str, Any] = {"hidden": (64, 64), "vae_hidden": (64, 64), "learning_rate": 1e-3}
"""Of every offline agent that has them."""
METHODS = (
    "scratch",
    "buffer",
    "direct",
    "pex",
    "pex,members=4",
    "pex,members=8",
    "pex,members=16",
    "pex,adaptive=true",
    "bt",
    "jsrl",
    "jsrl,variant=random",
    "awac",
    "off2on",
)
MORE = ("spot", "cal_ql", "rebrac", "fan")
GOES_ON_FROM = {"off2on": "cql"} | {name: name for name in ("awac", *MORE)}
"""Offline agents of the methods that go on from one only; the others start from IQL here."""


@dataclass(frozen=True)
class Planned:
    """One trial of the plan: its method, the run that it starts from, and what the page calls it."""

    title: str
    method: str
    start: str
    distribution: str = ""


def key_of(method: str) -> str:
    """Name of a method without its settings."""
    return method.partition(",")[0]


def start_for(method: str) -> str:
    """Offline agent that a method starts from."""
    return GOES_ON_FROM.get(key_of(method), "iql")


def seeds_for(agent: str, methods: Sequence[str], seeds: int) -> int:
    """Seeds of an offline run: those of the trial, and those that some methods freeze or join besides."""
    most = 1
    for method in methods:
        config = getattr(finetuning.find(method).method(), "config", None)
        if start_for(method) == agent and getattr(config, "others", "seeds") == "seeds":
            members = getattr(config, "members", 1)
            most = max(most, members - 1 if agent == "iql" else members)
    return seeds * most


def learn_offline(options: argparse.Namespace, data: Path) -> dict[str, Path]:
    """Train what trials start from, or find it done; folders by name, FtTPO's by its distribution."""
    names = ["iql", *dict.fromkeys(start_for(m) for m in options.methods if start_for(m) != "iql")]
    plans: list[tuple[str, str, dict[str, Any], int]] = [
        (name, name, {}, seeds_for(name, options.methods, options.seeds)) for name in names
    ]
    if options.distributions:
        plans += [
            (distribution, "fttpo", {"actor": distribution}, options.seeds) for distribution in DISTRIBUTIONS
        ]
    training = TrainingSettings(steps=options.offline_updates, batch_size=options.batch_size)
    jobs = []
    for _, agent, changes, count in plans:
        config_class = agents.find(agent).config_class()
        known = {k: v for k, v in SETTINGS.items() if k in config_class.__dataclass_fields__}
        config = config_class(**known | changes)
        setup = AgentSetup(agent, config)
        jobs.append(Offline(setup, data, options.study, tuple(range(count)), training, "cpu"))
    say(f"offline: {', '.join(f'{name} x {count} seeds' for name, _, _, count in plans)}")
    result = {}
    for (name, *_), run in zip(plans, run_jobs(jobs, options.resources.launcher(options.study)), strict=True):
        if isinstance(run, UserError):
            raise UserError(f"{name}: {run}")
        result[name] = run.path.resolve()
    return result


def plan(options: argparse.Namespace, runs: Mapping[str, Path]) -> list[Planned]:
    """All trials: those of part 1, then those of part 2."""
    result = []
    for method in options.methods:
        title = finetuning.find(method).title.replace("=true", "")
        start = start_for(method)
        agent = agents.find(start).title
        result.append(Planned(title if start == "iql" or agent == title else f"{title} from {agent}",
                             method, start))  # fmt: skip
    if options.distributions:
        for distribution, name in DISTRIBUTIONS.items():
            result.append(Planned(f"Direct from {name}", "direct", distribution, distribution))
            beside = f"pex,members=3,others=runs,runs={runs[distribution]}"
            result.append(Planned(f"PEX beside {name}", beside, "iql", distribution))
    return result


def say(words: str) -> None:
    """One line of progress, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def half_widths(job: TrialJob, run: RunFolder) -> tuple[Array, Array]:
    """Mean half-width of each seed's dose interval at recorded visits ``[S]``, before and after a trial."""
    start = start_of(RunFolder(job.run), job.seeds, "cpu")
    states = recorded_states(episodes_of(RunFolder(job.run)))
    obs = np.broadcast_to(states, (len(start.seeds), *states.shape))
    policies = (DosePolicy(start.transferred(), start.transform), policy_of_trial(run))
    before, after = (policy.dose_set(obs).half_width.mean((1, 2)) for policy in policies)
    return before, after


def measure(planned: Planned, job: TrialJob, run: RunFolder, offline: pd.Series) -> TrialResult:
    """Read what a finished trial wrote; ``offline`` is the return of each seed's policy before it."""
    progress = Progress.of(run)
    if progress is None or progress.coverage is None:
        raise UserError(f"{run.path} lacks tables of a trial: remove the folder and run the command again.")
    span = progress.visits[-1] - progress.visits[0]
    own: dict[str, Array] = {
        "end": progress.returns[:, -1],
        "along": np.trapezoid(progress.returns, progress.visits, axis=1) / span,
        "treated": progress.treated_mean,
        "cost": progress.cost[:, -1],
        "coverage at first": progress.coverage[:, 1],
        "coverage": progress.coverage[:, -1],
    }
    widths = half_widths(job, run) if planned.start in DISTRIBUTIONS else None
    if widths:
        own["half-width"] = widths[1]
    return TrialResult(
        title=planned.title,
        distribution=planned.distribution,
        visits=tuple(progress.visits.tolist()),
        band=progress.band,
        difference=progress.less(offline),
        along=over(own["along"]),
        treated=over(own["treated"]),
        cost=over(own["cost"]),
        worst_patient=float(progress.worst.min()),
        limited=over(progress.limited),
        coverage=(over(own["coverage at first"]), over(own["coverage"])),
        half_width=(over(widths[0]), over(widths[1])) if widths else None,
        patients=int(progress.patients[0]),
        minutes=float(read_table(run.path / METRICS).to_pandas()["seconds"].max() / 60.0),
        by_seed={name: tuple(map(float, values)) for name, values in own.items()},
    )


DEFAULTS: dict[str, int] = {
    "offline_updates": 1500,
    "patients": 32,
    "start": 1000,
    "batch_size": 256,
    "evaluate_every": 2000,
    "evaluation_patients": 1000,
}


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=5, help="stacked in one process [%(default)s]")
    parser.add_argument("--visits", type=int, default=20_000, help="of a seed's patients [%(default)s]")
    parser.add_argument("--updates-per-visit", type=float, default=0.25, help="[%(default)s]")
    parser.add_argument("--methods", dest="named", nargs="+", default=[], metavar="METHOD",
                        help=f"with settings, as of finetune [{' '.join(METHODS)}]")  # fmt: skip
    parser.add_argument("--all", action="store_true", help=f"also {', '.join(MORE)}, from runs of their own")
    parser.add_argument(
        "--no-distributions", dest="distributions", action="store_false", help="without FtTPO and its twin"
    )
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help="[%(default)s]")
    add_workers(parser)
    parser.add_argument("--study", type=Path, default=ROOT / "runs" / NAME, help="[runs/live_treatment]")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the page"
    )
    options = parser.parse_args(argv)
    options.methods = list(dict.fromkeys([*(options.named or METHODS), *(MORE if options.all else ())]))
    for method in options.methods:
        finetuning.find(method)
    if options.seeds < 2:
        raise UserError("an interval over seeds needs at least two: --seeds 2 or more.")
    options.resources = resources_of(options)
    return options


def command_of(options: argparse.Namespace) -> str:
    """The command of the page: what differs from its defaults, but for where it is computed."""
    flags = (
        f"--seeds {options.seeds} --visits {options.visits} --updates-per-visit {options.updates_per_visit:g}"
    )
    for name, default in DEFAULTS.items():
        if (value := getattr(options, name)) != default:
            flags += f" --{name.replace('_', '-')} {value}"
    flags += " --all" if options.all else ""
    flags += "" if options.distributions else " --no-distributions"
    if options.named:
        flags += f" --methods {' '.join(options.named)}"
    return f"OMP_NUM_THREADS=1 python benchmarks/experiments/live_treatment.py {flags}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run or continue the study and write the page."""
    options = parsed(argv)
    settings = TrialSettings(
        visits=options.visits,
        patients=options.patients,
        updates_per_visit=options.updates_per_visit,
        start=options.start,
        batch_size=options.batch_size,
        evaluate_every=options.evaluate_every,
    )
    settings.check()
    data = obtain_data(DataSource(ENV_ID, Cohort(PATIENTS)), options.study)
    runs = learn_offline(options, data)
    trials = plan(options, runs)
    jobs = [
        TrialJob(x.method, runs[x.start], options.study, settings, seeds=options.seeds,
            evaluation_patients=options.evaluation_patients, device="cpu")
        for x in trials
    ]  # fmt: skip
    launcher = options.resources.launcher(options.study)
    begun = list({job.run: job for job in jobs}.values())
    say(f"evaluating {len(begun)} offline policies on {options.evaluation_patients:,} patients per seed")
    told = none_lost(launcher.map(evaluate_start, begun))
    rows = {job.run: own for job, own in zip(begun, told, strict=True)}
    write_starts(options.study, rows)
    returns = {run: pd.DataFrame(own).set_index("seed")["recommended"] for run, own in rows.items()}
    say(f"{len(jobs)} trials of {options.visits:,} visits x {options.seeds} seeds")
    results = list(launcher.map(conduct_trial, jobs))
    notes = [f"{x.title}: {r}" for x, r in zip(trials, results, strict=True)
             if isinstance(r, UserError)]  # fmt: skip
    done = [(x, job, r) for x, job, r in zip(trials, jobs, results, strict=True) if isinstance(r, RunFolder)]
    report_on(options.study, [(job.method, run, x.title) for x, job, run in done], notes)
    result = [measure(x, job, run, returns[job.run]) for x, job, run in done]
    starts = [over(returns[job.run].to_numpy()) for _, job, _ in done]
    options.out.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": describe(),
        "version": __version__,
        "settings": asdict(settings),
        "seeds": options.seeds,
        "offline_updates": options.offline_updates,
        "evaluation_patients": options.evaluation_patients,
        "notes": notes,
        "trials": [
            asdict(x) | {"start": asdict(start), "verdict": x.verdict}
            for x, start in zip(result, starts, strict=True)
        ],
    }
    write_json(options.out / f"{NAME}.json", about)
    write_atomic(options.out / f"{NAME}.svg", picture(result, starts).encode())
    words = page(result, notes, about, command_of(options))
    write_atomic(options.out / f"{NAME}.md", words.encode())
    print(words)
    say(f"{options.out / NAME}.md, .json, .svg")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"{NAME}: {error}")
