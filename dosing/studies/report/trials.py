"""Sections of the report of trials: how policies went on learning in live treatment, and its harm."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dosing.errors import UserError
from dosing.evaluation.aggregates import BY_T, holm, p_value
from dosing.evaluation.statistics import Estimate, Verdict, verdict
from dosing.runs.config import RunConfig
from dosing.runs.files import read_json
from dosing.runs.folder import WEIGHTS, RunFolder
from dosing.studies.commands import command_of
from dosing.studies.comparison_table import success_words
from dosing.studies.finetune_table import TABLE, TRIALS, Progress, Standing, TrialLine
from dosing.studies.report.document import Code, Figure, Items, Part, Quote, Section, Table, Words
from dosing.studies.report.figures import MOST_PANELS, Panel, Series, pages, panels
from dosing.studies.report.judged import ALPHA, p_words
from dosing.studies.report.svg import minus
from dosing.typed_json import typed


@dataclass(frozen=True)
class Treated:
    """One trial of the table.

    Attributes:
        line: its line.
        standing: what its folder tells.
        progress: along its visits.
        config: its configuration, checked.
        weights: SHA-256 of the weights that it ended with.
    """

    line: TrialLine
    standing: Standing
    progress: Progress
    config: RunConfig
    weights: str


@dataclass(frozen=True)
class Gap:
    """Return of one trial at its end less that of the first, on the same evaluation patients."""

    name: str
    difference: Estimate
    p: float
    adjusted: float
    """For all trials of the table together (Holm)."""

    @property
    def verdict(self) -> Verdict:
        """What is left of it after the correction."""
        return verdict(self.difference) if self.adjusted < ALPHA else "not distinguishable"


def trials(study: Path) -> list[Section]:
    """The sections, of the trials that one ``finetune`` ran side by side.

    Raises:
        UserError: the table is damaged or of another version, or a trial was changed or has gone.
    """
    file = study / TRIALS / TABLE
    content = read_json(file)
    try:
        lines = [typed(TrialLine, line, f"{file}: lines") for line in content["lines"]]
        told = [(str(d["name"]), _estimate(d, file)) for d in content["differences"]]
        notes = tuple(map(str, content["notes"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is no table of trials of this version; run finetune again.") from error
    if not lines:
        raise UserError(f"{file} names no trials, so there is nothing to report.")
    every = [_treated(study, line) for line in lines]
    gaps, missing = _gaps(told)
    return [
        Section("Live treatment: what may be quoted", tuple(_quotes(every, gaps))),
        Section("Live treatment: what was run", tuple(_run(every))),
        Section("Live treatment: results", (_ends(every), *_differences(every, gaps), *_curves(every))),
        Section("Live treatment: the patients treated", (_harm(every),)),
        Section(
            "Live treatment: stops and notes",
            (Items((*notes, *missing)) if notes or missing else Words("No stops, and no notes."),),
        ),
        Section("Live treatment: to make it again", tuple(_again(study))),
        Section("Live treatment: every setting, and hashes", (_settings(every),)),
    ]


def _estimate(fields: Mapping[str, Any], file: Path) -> Estimate:
    own = {name: value for name, value in fields.items() if name != "name"}
    return typed(Estimate, own, f"{file}: differences")


def _treated(study: Path, line: TrialLine) -> Treated:
    run = RunFolder(study / line.run)
    checked, progress = run.verify(), Progress.of(run)
    if progress is None:
        raise UserError(f"{run.path} lacks the tables of a trial; run finetune again.")
    return Treated(line, Standing.of(run), progress, checked.config, checked.hashes[WEIGHTS])


def _gaps(told: Sequence[tuple[str, Estimate]]) -> tuple[list[Gap], list[str]]:
    """Differences with their p-values, and why others have none."""
    able = [(name, gap) for name, gap in told if gap.method in BY_T]
    missing = [f"{name} has no p-value: {gap.method}." for name, gap in told if gap.method not in BY_T]
    p = [p_value(gap) for _, gap in able]
    adjusted = holm(p).tolist() if p else []
    return [Gap(*own, p=q, adjusted=a) for own, q, a in zip(able, p, adjusted, strict=True)], missing


def _quotes(every: Sequence[Treated], gaps: Sequence[Gap]) -> Iterator[Part]:
    first, count = every[0].line.title, len(gaps)
    corrected = f" after Holm's correction for {count} comparisons" if count > 1 else ""
    for gap in gaps:
        e = gap.difference
        basis = f"({e.basis}; p {p_words(gap.adjusted, '= ')}{corrected})"
        said = {
            "better": f"returned more than {first} on the same new simulated patients, by",
            "worse": f"returned less than {first} on the same new simulated patients, by",
            "not distinguishable": f"is not distinguishable from {first} on the same new simulated patients:",
        }[gap.verdict]
        yield Quote(f"After live treatment {gap.name} {said} {minus(str(e))} {basis}.")
    if not gaps:
        yield Words("Nothing: no trial stands beside another.")


def _run(every: Sequence[Treated]) -> Iterator[Part]:
    head = ("trial", "from", "data", "scenario", "seeds", "visits of each seed", "run")
    rows = tuple(
        (
            one.line.title,
            f"{one.standing.agent}, {one.config.trial.offline_run}" if one.config.trial else "-",
            one.config.data.name,
            one.config.env.id if one.config.env else "-",
            ", ".join(map(str, one.progress.seeds)),
            f"{one.progress.visits[-1]:,}",
            one.line.run.rpartition("/")[2],
        )
        for one in every
    )
    yield Table("Trials", head, rows, frozenset({5}))


def _ends(every: Sequence[Treated]) -> Table:
    head = (
        *("trial", "return before", "return at the end, recommended dose", "return at the end, sampled dose"),
        *("success rate", "n", "seeds", "interval"),
    )
    rows = tuple(
        (
            one.line.title,
            minus(str(one.line.before)),
            minus(str(one.line.after)),
            minus(str(one.line.sampled)),
            success_words(one.line.success) if one.line.success else "-",
            f"{one.line.after.n:,}",
            f"{one.line.after.n_seeds}",
            one.line.after.method,
        )
        for one in every
    )
    caption = (
        "Returns on new simulated patients, the same for all trials: sum of rewards of an episode, no unit; "
        "95 % intervals"
    )
    return Table(caption, head, rows, frozenset({1, 2, 3, 4, 5, 6}))


def _differences(every: Sequence[Treated], gaps: Sequence[Gap]) -> Iterator[Table]:
    if not gaps:
        return
    head = ("trial", "difference in return", "n", "seeds", "alone", "p", "p, Holm", "of all")
    rows = tuple(
        (
            gap.name,
            minus(str(gap.difference)),
            f"{gap.difference.n:,}",
            f"{gap.difference.n_seeds}",
            verdict(gap.difference),
            p_words(gap.p),
            p_words(gap.adjusted),
            gap.verdict,
        )
        for gap in gaps
    )
    caption = (
        f"At the end, minus {every[0].line.title}, paired by patient: no unit; 95 % intervals of each by "
        f"itself (alone), and what is left at {ALPHA:g} after Holm's correction for all {len(gaps)} (of all)"
    )
    yield Table(caption, head, rows, frozenset({1, 2, 3, 5, 6}))


def _curves(every: Sequence[Treated]) -> Iterator[Figure]:
    """Returns along the trials, each with the band that holds at all of its evaluations at once."""
    drawn = []
    for one in every:
        band, x = one.progress.band, tuple(map(float, one.progress.visits))
        if len(x) > 1:
            low, y, high = (tuple(getattr(e, name) for e in band) for name in ("low", "value", "high"))
            flat = (y[0],) * len(x)
            drawn.append(Panel(one.line.title, Series(x, y, low, high), Series(x, flat, flat, flat)))
    caption = (
        "Return of recommended doses on new patients along live treatment: mean over seeds; bars: 95 %, t "
        "over seeds, for all evaluations of a trial at once. Dashed: before the trial."
    )
    for number, part in enumerate(pages(drawn, MOST_PANELS), 1):
        yield Figure(f"trials-{number}", panels(part, "visits of a seed's patients", "return"), caption)


def _harm(every: Sequence[Treated]) -> Table:
    head = (
        *("trial", "return", "cost", "lowest return of one", "doses that a limit held", "dose range covered"),
        *("patients", "seeds stopped"),
    )
    rows = tuple(
        (
            one.line.title,
            _over(one, one.progress.treated_mean),
            _over(one, one.progress.cost[:, -1] / np.maximum(one.progress.patients, 1)),
            "-" if one.line.worst is None else minus(f"{one.line.worst:.2f}"),
            _over(one, one.progress.limited, ".1%"),
            "-" if one.progress.coverage is None else _over(one, one.progress.coverage[:, -1], ".1%"),
            f"{one.line.patients:,}",
            f"{one.line.stopped}",
        )
        for one in every
    )
    caption = (
        "The patients treated, by the policy as it was at each visit: means per patient whose episode ended, "
        "95 % intervals over seeds; cost in the scenario's own unit. Dose range covered: exponential of the "
        "entropy of the doses given, over a hundred equal parts of the range. Patients: of all seeds"
    )
    return Table(caption, head, rows, frozenset(range(1, 8)))


def _over(one: Treated, values: np.typing.NDArray[np.float64], spec: str = "") -> str:
    """One number per seed as their mean with its interval; a dash where a seed has none."""
    estimate = one.progress.over_seeds(values)
    return "-" if estimate is None else minus(format(estimate, spec))


def _again(study: Path) -> Iterator[Part]:
    command = command_of(study / TRIALS / TABLE)
    if command is None:
        yield Words(
            "Which command wrote this table is not noted: Python called for it, or an earlier version. The "
            "settings of every trial are below, and in its config.json."
        )
    else:
        yield Words("The trials, in the folder in which it was given; what is finished is not done again:")
        yield Code((command,))
    yield Words("This report:")
    yield Code((shlex.join(["python", "-m", "dosing", "report", str(study), "--out", "report.html"]),))


def _settings(every: Sequence[Treated]) -> Table:
    rows = []
    for one in every:
        trial = one.config.trial
        settings = dict(trial.settings) if trial else {}
        own = dict(one.config.agent_config) | one.config.regularisation.changed()
        rows.append(
            (
                one.line.title,
                one.standing.method,
                _listed(settings),
                _listed(own) or "-",
                trial.offline_weights if trial else "-",
                one.weights,
            )
        )
    head = (
        *("trial", "method", "settings of the trial", "settings of the agent"),
        *("SHA-256 of the weights it began with", "of those it ended with"),
    )
    return Table("Settings and hashes", head, tuple(rows), hashes=frozenset({4, 5}))


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={json.dumps(v).replace(' ', '')}" for k, v in settings.items())
