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
again from one that is finished. The folder is one of the dashboard.
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
from benchmarks.machine import describe
from benchmarks.report import table
from benchmarks.speed.processes import ROOT
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.finetuning.method import TrialSettings
from dosing.policy import DosePolicy
from dosing.runs.files import read_table, write_atomic, write_json
from dosing.runs.folder import METRICS, RunFolder
from dosing.studies import AgentSetup, Cohort, DataSource
from dosing.studies.data import episodes_of, obtain_data, recorded_states
from dosing.studies.finetune import TrialJob, conduct_trial, policy_of_trial, start_of, start_outcomes
from dosing.studies.finetune_table import Progress, below, report_on, rows_of_start, write_starts
from dosing.studies.jobs import Job as Offline
from dosing.studies.jobs import run_jobs
from dosing.studies.launch import LocalProcesses, none_lost
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks
from dosing.training.offline import TrainingDivergedError, TrainingSettings
from dosing.types import Array

ENV_ID, PATIENTS, NAME = "dosing/Treatment-v0", 200, "live_treatment"
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
DISTRIBUTIONS = {"sparse": "FtTPO", "gaussian": "Gaussian counterpart"}
"""Distributions of FtTPO's actor."""
COLUMNS, WIDTH, HEIGHT = 4, 260, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 16, 28, 30


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
    for (name, *_), run in zip(plans, run_jobs(jobs, LocalProcesses("cpu", options.workers)), strict=True):
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


def treat(job: TrialJob, position: int) -> RunFolder | TrainingDivergedError:
    """One trial, with a line of progress when it begins and when it ends."""
    name = job.method.partition(",runs=")[0]
    say(f"{name} begins")
    began = time.perf_counter()
    run = conduct_trial(job, position)
    how = f"diverged: {run}" if isinstance(run, TrainingDivergedError) else "is done"
    say(f"{name} {how}, {(time.perf_counter() - began) / 60:.1f} min")
    return run


@dataclass(frozen=True)
class TrialResult:
    """What one trial came to; estimates are over seeds.

    Attributes:
        title: of the method, and of what it started from.
        distribution: of FtTPO's actor, in part 2.
        visits: visits of a seed's patients at the evaluations.
        band: return of the evaluation patients by the recommended dose, simultaneously over ``visits``.
        difference: the same less that of the offline policy, on the same patients.
        along: mean of the return along the trial (trapezoids over visits).
        treated: mean return of the treated patients.
        cost: safety cost of all treated patients of a seed together.
        worst_patient: lowest return of a treated patient, of all seeds.
        limited: share of doses that a limit held.
        coverage: effective share of the dose range that the doses given cover, until the first evaluation
            after the start and until the end.
        half_width: mean half-width of the dose interval over recorded visits, before and after, where a
            distribution of FtTPO goes on by itself.
        patients: treated per seed.
        minutes: of training, on one core.
        by_seed: what part 2 compares, one number per seed.
    """

    title: str
    distribution: str
    visits: tuple[int, ...]
    band: tuple[Estimate, ...]
    difference: tuple[Estimate, ...]
    along: Estimate
    treated: Estimate
    cost: Estimate
    worst_patient: float
    limited: Estimate
    coverage: tuple[Estimate, Estimate]
    half_width: tuple[Estimate, Estimate] | None
    patients: int
    minutes: float
    by_seed: Mapping[str, tuple[float, ...]]

    @property
    def lowest(self) -> int:
        """Evaluation at which the return is lowest."""
        return int(np.argmin([e.value for e in self.band]))

    @property
    def below(self) -> list[int]:
        """Evaluations at which the band of the difference lies below 0."""
        return below(self.difference)

    @property
    def verdict(self) -> str:
        """Whether the method is found below the offline policy: by how much at most, and when."""
        if not self.below:
            return "no"
        most = min(self.below, key=lambda t: self.difference[t].value)
        first, last = (self.visits[self.below[i]] for i in (0, -1))
        when = f"at {first:,}" if first == last else f"first at {first:,}, last at {last:,}"
        by = minus(f"{self.difference[most]:.2f}")
        return f"yes: {by} at {self.visits[most]:,} visits; {when}"


def over(values: Array) -> Estimate:
    """Mean of one number per seed ``[S]`` with its interval."""
    return mean_over_seeds(np.asarray(values, dtype=np.float64)[:, None])


def half_widths(job: TrialJob, run: RunFolder) -> tuple[Array, Array]:
    """Mean half-width of each seed's dose interval at recorded visits ``[S]``, before and after a trial."""
    start = start_of(RunFolder(job.run), job.seeds, "cpu")
    states = recorded_states(episodes_of(RunFolder(job.run)))
    obs = np.broadcast_to(states, (len(start.seeds), *states.shape))
    policies = (DosePolicy(start.transferred(), start.transform), policy_of_trial(run))
    before, after = (policy.dose_set(obs).half_width.mean((1, 2)) for policy in policies)
    return before, after


def measure(planned: Planned, job: TrialJob, run: RunFolder, start: Outcomes) -> TrialResult:
    """Read what a finished trial wrote."""
    progress = Progress.of(run)
    if progress is None or progress.coverage is None:
        raise UserError(f"{run.path} lacks tables of a trial: remove the folder and run the command again.")
    offline = pd.Series(start.returns.mean(1), index=start.seeds)
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


def words(estimate: Estimate, spec: str = ".2f") -> str:
    """A number with its interval, with real minus signs."""
    return minus(format(estimate, f"z{spec}"))


def methods_table(result: Sequence[TrialResult]) -> str:
    """Part 1, a row per method."""
    head = (
        "method", "return at start", "lowest on the curve", "at the end", "found below the offline policy",
        "mean along the trial", "treated patients' return", "cost of all treated, per seed", "worst patient",
        "limited doses", "dose range covered", "minutes",
    )  # fmt: skip
    lines = [
        [
            x.title,
            words(x.band[0]),
            f"{words(x.band[x.lowest])} at {x.visits[x.lowest]:,}",
            words(x.band[-1]),
            x.verdict,
            words(x.along),
            words(x.treated),
            words(x.cost, ",.0f"),
            minus(f"{x.worst_patient:.1f}"),
            words(x.limited, ".1%"),
            words(x.coverage[1], ".0%"),
            f"{x.minutes:.1f}",
        ]
        for x in result
    ]
    return table(head, lines)


def distributions_table(result: Sequence[TrialResult]) -> str:
    """Part 2, a row per start and method, and the differences between the two distributions."""
    head = (
        "trial", "return at start", "at the end", "found below its start", "mean along the trial",
        "treated patients' return", "cost of all treated, per seed", "dose range covered at first",
        "dose range covered", "half-width before", "half-width after",
    )  # fmt: skip
    lines = []
    for x in result:
        widths = [words(e, ".3f") for e in x.half_width] if x.half_width else ["", ""]
        lines.append(
            [
                x.title,
                words(x.band[0]),
                words(x.band[-1]),
                x.verdict,
                words(x.along),
                words(x.treated),
                words(x.cost, ",.0f"),
                *(words(e, ".0%") for e in x.coverage),
                *widths,
            ]
        )
    for way in ("Direct from", "PEX beside"):
        sparse, twin = (
            next(x for x in result if x.title == f"{way} {name}") for name in DISTRIBUTIONS.values()
        )
        gain = {k: over(np.subtract(v, twin.by_seed[k])) for k, v in sparse.by_seed.items()}
        lines.append(
            [
                f"{way}: {DISTRIBUTIONS['sparse']} less {DISTRIBUTIONS['gaussian']}",
                "",
                words(gain["end"]),
                "",
                words(gain["along"]),
                words(gain["treated"]),
                words(gain["cost"], ",.0f"),
                words(gain["coverage at first"], ".0%"),
                words(gain["coverage"], ".0%"),
                "",
                words(gain["half-width"], ".3f") if "half-width" in gain else "",
            ]
        )
    return table(head, lines)


def page(result: Sequence[TrialResult], notes: Sequence[str], options: argparse.Namespace) -> str:
    """Everything as markdown."""
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
    first, second = [x for x in result if not x.distribution], [x for x in result if x.distribution]
    parts = [
        "# Live treatment",
        f"`OMP_NUM_THREADS=1 python benchmarks/experiments/live_treatment.py {flags}` on {describe()}; "
        "dosing "
        f"{__version__}.",
        f"{PATIENTS} recorded patients of {ENV_ID}, uniform doses; {options.offline_updates:,} offline "
        f"updates at two layers of 64 units. Then {options.visits:,} visits of {options.patients} patients "
        f"side by side per seed, {options.updates_per_visit:g} updates per visit after the first "
        f"{options.start:,}; {options.seeds} seeds. Returns are those of {options.evaluation_patients:,} "
        "new patients per seed who get the recommended dose, the same at every evaluation and for every "
        "method. Methods start from IQL's run, AWAC and those that name another agent from a run of that. "
        "Cost: visits with a dose beyond 0.9 of the largest allowed one. Dose range covered: "
        "exponential of the entropy of the doses given, over a hundred equal parts of the range; 100 % is an "
        "even spread.",
        "Start, lowest point and end are 95 % intervals (Student-t over seeds) that hold at all evaluations "
        "of a method at once; so does *found below the offline policy*, for the difference on the same "
        "patients, seed by seed. Across methods they are not corrected. All other intervals are 95 % each. "
        "JSRL's curriculum is evaluated with its guide until the end of the trial.",
        f"![Return of the recommended dose along live treatment]({NAME}.svg)",
        "## Methods",
        methods_table(first),
    ]
    if second:
        parts += [
            "## A sparse policy and its Gaussian counterpart",
            "FtTPO's actor with a bounded dose set, and the same networks with a Gaussian one, trained "
            "offline and continued alike. *Direct* goes on by itself and draws its doses from its "
            "distribution; in "
            "PEX it is frozen beside IQL's policy, and its recommended dose is one of three proposals. "
            "Half-width: of the exact support, or of the central 99 % before limits where there is none, "
            "mean over recorded visits.",
            distributions_table(second),
        ]
    return "\n\n".join([*parts, *(f"Note: {note}" for note in notes), NOT_FOR_PATIENTS]) + "\n"


def picture(result: Sequence[TrialResult], starts: Sequence[Estimate]) -> str:
    """One panel per trial: its return with the simultaneous band, over that of the offline policy."""
    ends = [v for x in result for e in x.band for v in (e.value, min(e.high, e.value + 3.0))]
    low = max(min(ends), min(e.value for e in starts) - 6.0) - 0.5  # a random policy may begin far below
    high = max(ends) + 0.5
    last = max(x.visits[-1] for x in result)
    width, height = COLUMNS * WIDTH, 44 + -(-len(result) // COLUMNS) * HEIGHT + 34
    inside = f'x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"'
    out = [
        *sheet(width, height),
        f'<clipPath id="panel"><rect {inside}/></clipPath>',
        text(8, 16, "Return of the recommended dose along live treatment", size=13),
        text(8, 33, "Blue: the method, with its simultaneous 95 % band over seeds. Grey: the offline policy "
             "that it started from, 95 %.", fill=GREY),
    ]  # fmt: skip

    def x_of(visits: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * visits / last

    def y_of(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    for number, (x, start) in enumerate(zip(result, starts, strict=True)):
        column, row = number % COLUMNS, number // COLUMNS
        out.append(f'<g transform="translate({WIDTH * column},{44 + HEIGHT * row})">')
        out.append(text(LEFT, TOP - 8, x.title, size=12))
        for value in ticks(low, high):
            out.append(stroke(LEFT, y_of(value), WIDTH - RIGHT, y_of(value), "#e4e4e4"))
            out.append(text(LEFT - 5, y_of(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
        for visits in (0, last // 2, last):
            anchor = {0: "start", last: "end"}.get(visits, "middle")
            out.append(text(x_of(visits), HEIGHT - BOTTOM + 14, f"{visits:,}", anchor=anchor, fill=GREY))
        out.append('<g clip-path="url(#panel)">')
        box = f'y="{y_of(start.high):.1f}" height="{y_of(start.low) - y_of(start.high):.1f}"'
        out.append(f'<rect x="{LEFT}" width="{WIDTH - LEFT - RIGHT}" {box} fill="{GREY}" opacity="0.25"/>')
        out.append(stroke(LEFT, y_of(start.value), WIDTH - RIGHT, y_of(start.value), GREY, 1, "4 3"))
        at = [x_of(v) for v in x.visits]
        top = [f"{a:.1f},{y_of(e.high):.1f}" for a, e in zip(at, x.band, strict=True)]
        under = [f"{a:.1f},{y_of(e.low):.1f}" for a, e in zip(at, x.band, strict=True)]
        out.append(f'<polygon points="{" ".join([*top, *under[::-1]])}" fill="{COLOURS[0]}" opacity="0.2"/>')
        line = " ".join(f"{a:.1f},{y_of(e.value):.1f}" for a, e in zip(at, x.band, strict=True))
        out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
        out.append("</g></g>")
    note = (
        "x: visits of a seed's patients; y: mean return per evaluation patient, one scale; cut at the frame"
    )
    out.append(text(8, height - 18, note, fill=GREY))
    out.append(text(8, height - 5, NOT_FOR_PATIENTS, fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"


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
    parser.add_argument("--workers", type=int, help="processes, one per core by default")
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
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers must be at least 1, got {options.workers}.")
    return options


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
    launcher = LocalProcesses("cpu", options.workers)
    begun = list({job.run: job for job in jobs}.values())
    say(f"evaluating {len(begun)} offline policies on {options.evaluation_patients:,} patients per seed")
    outcomes = dict(
        zip((job.run for job in begun), none_lost(launcher.map(start_outcomes, begun)),
            strict=True)
    )  # fmt: skip
    write_starts(options.study, {run: rows_of_start(own) for run, own in outcomes.items()})
    say(f"{len(jobs)} trials of {options.visits:,} visits x {options.seeds} seeds")
    results = list(launcher.map(treat, jobs))
    notes = [f"{x.title}: {r}" for x, r in zip(trials, results, strict=True)
             if isinstance(r, UserError)]  # fmt: skip
    done = [(x, job, r) for x, job, r in zip(trials, jobs, results, strict=True) if isinstance(r, RunFolder)]
    report_on(options.study, [(job.method, run, x.title) for x, job, run in done], notes)
    result = [measure(x, job, run, outcomes[job.run]["recommended"]) for x, job, run in done]
    starts = [over(outcomes[job.run]["recommended"].returns.mean(1)) for _, job, _ in done]
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
    text_ = page(result, notes, options)
    write_atomic(options.out / f"{NAME}.md", text_.encode())
    print(text_)
    say(f"{options.out / NAME}.md, .json, .svg")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"{NAME}: {error}")
