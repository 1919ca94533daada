"""The table of trials: what they ended with, what they cost the patients treated, how they differ."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

import agents
from agents import finetuning
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, read_outcomes
from dosing.evaluation.statistics import Estimate, band_over_seeds, mean_over_seeds, paired_difference
from dosing.finetuning.trial import CURVE, REPORT, TREATED
from dosing.runs.files import read_json, read_table, write_json, write_table
from dosing.runs.folder import CONFIG, EPISODES, RunFolder
from dosing.studies.comparison_table import success_rate, success_words
from dosing.types import Array

TRIALS, TABLE, CURVES, STARTS = "trials", "table.json", "curves.parquet", "starts.parquet"
"""Folder of a study, and its files: of the trials that one command ran side by side, and of the offline
policies that they started from."""


@dataclass(frozen=True)
class TrialLine:
    """One trial in the table; every estimate is over seeds."""

    title: str
    run: str
    before: Estimate
    """Return of the evaluation patients by recommended doses before the trial."""
    after: Estimate
    """The same at its end."""
    sampled: Estimate
    """The same by sampled doses."""
    treated: float | None
    """Mean return of the patients treated meanwhile; None, as what follows, where no episode ended."""
    worst: float | None
    """Lowest return of one of them."""
    cost: float | None
    """Their mean cost."""
    limited: float | None
    """Share of their doses that a limit held."""
    patients: int
    """How many they were, over all seeds."""
    stopped: int
    """Seeds that the harm budget stopped."""
    success: Estimate | None = None
    """Share of the evaluation patients that reached success at its end; None where nothing reports it."""


@dataclass(frozen=True)
class Report:
    """The result of a finetuning command.

    Attributes:
        lines: one per trial.
        differences: every trial's return at the end less that of the first, on the same patients.
        notes: what a reader has to know besides.
    """

    lines: tuple[TrialLine, ...]
    differences: tuple[tuple[str, Estimate], ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Return the table, the differences and the notes as text."""
        told = any(line.success for line in self.lines)
        names = "method,before,after,sampled,treated,worst,cost,limited,stopped"
        head = f"{names},success rate".split(",") if told else names.split(",")
        rows = [
            (
                line.title,
                *(f"{e:.2f}" for e in (line.before, line.after, line.sampled)),
                _words(line.treated, ".2f"),
                _words(line.worst, ".2f"),
                _words(line.cost, ".3f"),
                _words(line.limited, ".1%"),
                str(line.stopped),
                *((success_words(line.success),) if told else ()),
            )
            for line in self.lines
        ]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        text = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
        ]
        if self.differences:
            text.append(f"after, less {self.lines[0].title}, paired by patient:")
            text += [f"  {name}: {estimate:.2f}" for name, estimate in self.differences]
        return "\n".join([*text, *(f"note: {note}" for note in self.notes)])


def _words(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def report_on(study: Path, done: Sequence[tuple[str, RunFolder, str]], notes: Sequence[str]) -> Report:
    """The table of finished trials, which is also written; all curves are written as one long table.

    Args:
        study: the study folder.
        done: method, run folder and title of each trial.
        notes: what a reader has to know besides.
    """
    stops = [
        f"{title}: {stop['why']}."
        for _, run, title in done
        for stop in read_json(run.path / REPORT)["stopped"]
    ]
    returns = [read_outcomes(run.path / EPISODES)["recommended"].returns for _, run, _ in done]
    differences = [
        (title, _difference(own, returns[0]))
        for (_, _, title), own in zip(done[1:], returns[1:], strict=True)
    ]
    lines = [_line(run, title, study) for _, run, title in done]
    result = Report(tuple(lines), tuple(differences), (*notes, *stops))
    rows: list[dict[str, Any]] = []
    for method, run, title in done:
        about = {"method": method, "name": title, "run": os.path.relpath(run.path, study)}
        rows += [about | row for row in read_table(run.path / CURVE).to_pylist()]
    write_table(study / TRIALS / CURVES, {name: [row[name] for row in rows] for name in rows[0]})
    table = {
        "lines": [asdict(line) for line in lines],
        "differences": [{"name": name, **asdict(e)} for name, e in differences],
        "notes": list(result.notes),
    }
    write_json(study / TRIALS / TABLE, table)
    return result


def rows_of_start(outcomes: Mapping[str, Outcomes]) -> list[dict[str, float]]:
    """What an offline policy gets on the evaluation patients, from its outcomes by rule: one row per seed."""
    best, drawn = outcomes["recommended"], outcomes["sampled"]
    return [
        {
            "seed": seed,
            "recommended": float(best.returns[k].mean()),
            "sampled": float(drawn.returns[k].mean()),
            "evaluation_cost": float(best.cost[k].mean()),
            "evaluation_worst": float(best.returns[k].min()),
        }
        for k, seed in enumerate(best.seeds)
    ]


def write_starts(study: Path, result: Mapping[Path, Sequence[Mapping[str, float]]]) -> None:
    """Write the rows of :func:`rows_of_start` of every offline run of a study.

    Args:
        study: the study folder.
        result: rows, by the folder of the offline run.
    """
    rows = [{"run": os.path.relpath(path, study), **row} for path, own in result.items() for row in own]
    write_table(study / TRIALS / STARTS, {name: [row[name] for row in rows] for name in rows[0]})


def returns_of_starts(study: Path) -> dict[Path, pd.Series]:
    """Mean return of the evaluation patients by seed, by the folder of the offline run; empty if unknown."""
    file = study / TRIALS / STARTS
    if not file.is_file():
        return {}
    table = read_table(file).to_pandas()
    return {
        Path(os.path.normpath(study / run)).resolve(): rows.set_index("seed")["recommended"]
        for run, rows in table.groupby("run")
    }


@dataclass(frozen=True)
class Progress:
    """What a trial did along its visits, seed by seed; also of one that is still running.

    The agent of a seed that the harm rule stopped stays as it was, and so does its return on the evaluation
    patients: it stands at every later evaluation of the others.

    Attributes:
        seeds: the S seeds.
        visits: visits of a seed's patients at the T evaluations ``[T]``.
        returns: mean return of the evaluation patients by the recommended dose ``[S, T]``.
        treated: mean return of the treated patients whose episodes ended since the evaluation before
            ``[S, T]``; NaN where there are none, as before the trial and after a stop.
        cost: cost of all patients treated so far, together ``[S, T]``.
        patients: how many they were ``[S]``.
        treated_mean: mean return of all of them ``[S]``; NaN, as what follows, where no episode ended.
        worst: lowest return of one of them ``[S]``.
        limited: share of their doses that a limit held ``[S]``.
        coverage: share of the dose range that the doses given so far cover ``[S, T]``
            (``dosing.finetuning.trial_log.coverage``), NaN before the first; None for a trial that did not
            record it.
    """

    seeds: tuple[int, ...]
    visits: npt.NDArray[np.int64]
    returns: Array
    treated: Array
    cost: Array
    patients: npt.NDArray[np.int64]
    treated_mean: Array
    worst: Array
    limited: Array
    coverage: Array | None

    @classmethod
    def of(cls, run: RunFolder) -> Progress | None:
        """What there is in the folder of a trial; None before its first tables are written."""
        if not (run.path / CURVE).is_file() or not (run.path / TREATED).is_file():
            return None
        curve = read_table(run.path / CURVE).to_pandas()
        episodes = read_table(run.path / TREATED).to_pandas()
        if not len(curve):
            return None
        wide = {
            name: curve.pivot(index="visits", columns="seed", values=name)
            for name in ("recommended", "treated", "cost_per_patient", "patients", "coverage")
            if name in curve
        }
        own = wide["recommended"]
        stopped = own.isna() & own.bfill().isna()  # no later row of this seed: it stands where it stopped
        at = own.index[(own.notna() | stopped).all(axis=1)]
        returns = own.ffill().loc[at]
        patients = wide["patients"].ffill().loc[at]
        total = (wide["cost_per_patient"].ffill().loc[at] * patients).fillna(0.0)
        by_seed = episodes.groupby("seed").agg(
            mean=("returns", "mean"),
            worst=("returns", "min"),
            limited=("limited", "sum"),
            visits=("visits", "sum"),
        )
        by_seed = by_seed.reindex(returns.columns)
        coverage = wide["coverage"].ffill().loc[at].to_numpy().T if "coverage" in wide else None
        return cls(
            seeds=tuple(int(seed) for seed in returns.columns),
            visits=at.to_numpy(np.int64),
            returns=returns.to_numpy().T,
            treated=wide["treated"].loc[at].to_numpy().T,
            cost=total.to_numpy().T,
            patients=patients.to_numpy(np.int64)[-1],
            treated_mean=by_seed["mean"].to_numpy(),
            worst=by_seed["worst"].to_numpy(),
            limited=(by_seed["limited"] / by_seed["visits"]).to_numpy(),
            coverage=coverage,
        )

    @property
    def band(self) -> tuple[Estimate, ...]:
        """Mean over seeds at every evaluation, with intervals that hold at all of them at once."""
        return _band(self.returns)

    @property
    def lowest(self) -> int:
        """Number of the evaluation at which the mean over seeds is lowest."""
        return int(self.returns.mean(0).argmin())

    def along(self, values: Array) -> tuple[npt.NDArray[np.int64], tuple[Estimate, ...]]:
        """The band of values ``[S, T]`` at the evaluations at which every seed has one, and their visits."""
        there = np.isfinite(values).all(0)
        return self.visits[there], _band(values[:, there]) if there.any() else ()

    def less(self, start: pd.Series) -> tuple[Estimate, ...]:
        """The same of the returns less those of a policy on the same patients, seed by seed."""
        return _band(self.returns - start.loc[list(self.seeds)].to_numpy()[:, None])

    def over_seeds(self, values: Array) -> Estimate | None:
        """Mean of one number per seed ``[S]`` with its interval; None where a seed has none."""
        return None if np.isnan(values).any() else _over_seeds(values[:, None])


def below(difference: Sequence[Estimate]) -> list[int]:
    """Evaluations at which the whole interval of a difference lies below 0."""
    return [t for t, estimate in enumerate(difference) if estimate.high < 0.0]


@dataclass(frozen=True)
class Standing:
    """A trial as its folder tells it, finished or not.

    Attributes:
        run: its folder.
        method: as it was asked for, settings included.
        title: of the method.
        offline: folder of the run that it started from.
        agent: title of that run's agent.
        shared: what trials have in common that can stand in one picture: data, environment, seeds and
            settings.
        visits: visits of a seed's patients that the trial is to have.
        finished: whether all is done.
        stops: what the harm rule said of the seeds that it stopped
            (``dosing.finetuning.trial_log.TrialLog.why``); known once the trial is finished.
        progress: what is known so far; None before the first tables are written.
    """

    run: RunFolder
    method: str
    title: str
    offline: Path
    agent: str
    shared: str
    visits: int
    finished: bool
    stops: tuple[Mapping[str, Any], ...]
    progress: Progress | None

    @classmethod
    def of(cls, run: RunFolder) -> Standing:
        """Read a folder.

        Raises:
            UserError: it is no trial's, or damaged.
        """
        config = run.verify().config if run.done else run.config()
        trial, env = config.trial, config.env
        if trial is None or env is None:
            raise UserError(f"{run.path}/{CONFIG} names no method and no environment: it is no trial's.")
        shared = [config.data.content_hash, asdict(env), trial.start_seeds, trial.settings]
        return cls(
            run=run,
            method=trial.method,
            title=finetuning.find(trial.method).title,
            offline=Path(os.path.normpath(run.path.resolve() / trial.offline_run)),
            agent=agents.find(trial.offline_agent).title,
            shared=json.dumps(shared, sort_keys=True),
            visits=int(trial.settings["visits"]),
            finished=run.done,
            stops=tuple(read_json(run.path / REPORT)["stopped"]) if run.done else (),
            progress=Progress.of(run),
        )


def trial_folders(study: Path) -> list[RunFolder]:
    """Folders of a study's trials, finished or not; first those of its table, in its order."""
    result = sorted(path.parent for path in study.glob(f"{TRIALS}/*/*/*/{CONFIG}"))
    order = {study / run: place for place, run in enumerate(titles_of(study))}
    return [RunFolder(path) for path in sorted(result, key=lambda path: order.get(path, len(order)))]


def titles_of(study: Path) -> dict[str, str]:
    """Titles in the table of the last command, by the folder of the trial within the study."""
    file = study / TRIALS / TABLE
    try:
        return {line["run"]: line["title"] for line in read_json(file)["lines"]} if file.is_file() else {}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} is no table of trials of this version; run finetune again.") from error


def _band(curves: Array) -> tuple[Estimate, ...]:
    """The band of curves ``[S, T]``; of one seed, its values without an interval."""
    return band_over_seeds(curves) if len(curves) > 1 else tuple(_alike(v[:, None]) for v in curves.T)


def _line(run: RunFolder, title: str, study: Path) -> TrialLine:
    curve = read_table(run.path / CURVE).to_pandas()
    episodes = read_table(run.path / TREATED).to_pandas()
    outcomes = read_outcomes(run.path / EPISODES)
    best = outcomes["recommended"]
    before = curve[curve["visits"] == 0]["recommended"].to_numpy()
    some = len(episodes) > 0
    return TrialLine(
        title=title,
        run=os.path.relpath(run.path, study),
        before=_over_seeds(before[:, None]),
        after=_over_seeds(best.returns),
        sampled=_over_seeds(outcomes["sampled"].returns),
        treated=float(episodes["returns"].mean()) if some else None,
        worst=float(episodes["returns"].min()) if some else None,
        cost=float(episodes["cost"].mean()) if some else None,
        limited=float(episodes["limited"].sum() / episodes["visits"].sum()) if some else None,
        patients=len(episodes),
        stopped=len(read_json(run.path / REPORT)["stopped"]),
        success=success_rate(best),
    )


def _over_seeds(returns: Array) -> Estimate:
    """Mean of returns ``[S, P]`` with its interval; of one value, that value."""
    return _alike(returns) if returns.size == 1 else mean_over_seeds(returns)


def _difference(own: Array, first: Array) -> Estimate:
    """Mean of own less first ``[S, P]`` with its interval; policies that are one differ by nothing."""
    alike = np.array_equal(own, first) or own.size == 1
    return _alike(own - first) if alike else paired_difference(own, first)


def _alike(values: Array) -> Estimate:
    """Values ``[S, P]`` that are all one."""
    value = float(values.flat[0])
    return Estimate(value, value, value, 0.95, values.size, len(values), "no spread, no interval")
