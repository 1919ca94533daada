"""Sections of the report of a comparison."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from dosing.errors import UserError
from dosing.runs.config import RunConfig
from dosing.studies import presets
from dosing.studies.commands import command_of
from dosing.studies.naming import TABLE, settings_of
from dosing.studies.report.document import Code, Items, Part, Quote, Section, Table, Words
from dosing.studies.report.judged import judge, sentences
from dosing.studies.report.pooled import pooled
from dosing.studies.report.results import curves, results
from dosing.studies.report.study import Compared


def compared(study: Compared, reference: str | None = None) -> list[Section]:
    """The sections, from what may be quoted to every setting.

    Args:
        study: the comparison.
        reference: see :func:`dosing.studies.report.judged.judge`.
    """
    judged, missing = judge(study, reference)
    quotes: list[Part] = [Quote(words) for words in sentences(judged)]
    refused = [*study.notes, *missing]
    refused += [f"{path} is a run without a result: it was not finished." for path in study.unfinished]
    parts = [
        Section(
            "What may be quoted", tuple(quotes or [Words("Nothing: no policy stands beside a reference.")])
        ),
        Section("What was run", tuple(_run(study))),
        Section("On which data", tuple(_data(study))),
        Section("Results", tuple(results(study, judged))),
        Section("Over seeds and data sets", tuple(pooled(study))),
    ]
    if along := tuple(curves(study)):
        parts.append(Section("Along training", along))
    return [
        *parts,
        Section("Computing", tuple(_computing(study))),
        Section(
            "What was refused, left out or failed, and notes",
            (Items(tuple(dict.fromkeys(refused))) if refused else Words("Nothing, and no notes."),),
        ),
        Section("To make it again", tuple(_again(study, reference))),
        Section("Every setting, and hashes", tuple(_settings(study))),
    ]


def _run(study: Compared) -> Iterator[Part]:
    configs = [one.config for one in study.trained]
    settings = settings_of(configs)
    head = ("policy", "distribution", "data", "settings that differ", "seeds", "updates", "batch", "run")
    rows = tuple(
        (
            one.row.name.split(",")[0],
            one.row.family,
            study.which(one.row.data),
            ", ".join(own) or "-",
            _numbers(one.config.seeds),
            f"{one.config.updates:,}",
            f"{one.config.training.get('batch_size', '-')}",
            one.path.rpartition("/")[2],
        )
        for one, own in zip(study.trained, settings, strict=True)
    )
    yield Table("Trained policies", head, rows, frozenset({5, 6}))
    for name in study.presets:
        yield Words(f"Settings by the preset {name}: {_about(name)}.")
    if study.beside:
        yield Words(f"{study.beside} more finished runs are in the folder and not in this table.")


def _about(preset: str) -> str:
    """What a preset says of itself."""
    try:
        return presets.find(preset).about
    except UserError:
        return "this version does not know it"


def _data(study: Compared) -> Iterator[Part]:
    head = (
        "data",
        "patients",
        "visits",
        "SHA-256 of the visits",
        "scenario",
        "doses by",
        "seed",
        "learned from",
    )
    rows = []
    for name in study.names:
        config, said = study.on(name)[0].config, study.data.get(name)
        sample = config.data.sample
        rows.append(
            (
                name,
                f"{config.data.patients:,}",
                f"{config.data.visits:,}",
                config.data.content_hash,
                _scenario(config),
                (said.policy if said else None) or "-",
                "-" if said is None or said.seed is None else f"{said.seed}",
                "-" if sample is None else str(config.data),
            )
        )
    yield Table("Recorded visits", head, tuple(rows), frozenset({1, 2}), frozenset({3}))
    gone = [name for name in study.names if name not in study.data]
    if gone:
        yield Words(
            f"The files of {', '.join(gone)} are no longer where the runs found them; hashes and numbers are "
            "those that the runs keep."
        )


def _scenario(config: RunConfig) -> str:
    if config.env is None:
        return "-"
    version = config.versions.get("scenario")
    options = "".join(f", {k}={v}" for k, v in config.env.options.items())
    return f"{config.env.id}{f' version {version}' if version else ''}{options}"


def _computing(study: Compared) -> Iterator[Part]:
    head = ("policy", "data", "training, s", "device", "processor", "threads", "begun (UTC)")
    rows = tuple(
        (
            one.title,
            study.which(one.row.data),
            "-" if one.seconds is None else f"{one.seconds:.1f}",
            one.config.device or "-",
            one.config.versions.get("processor") or "-",
            f"{one.config.threads}",
            one.config.created.removesuffix("+00:00").replace("T", " ") or "-",
        )
        for one in study.trained
    )
    total = sum(one.seconds for one in study.trained if one.seconds is not None)
    yield Table(
        "Seconds by the clock of each training, all seeds together, without evaluation",
        head,
        rows,
        frozenset({2, 5}),
    )
    yield Words(f"{total:,.0f} s of training in all" + (f" ({total / 3600:.1f} h)." if total > 3600 else "."))
    told: dict[str, list[str]] = {}
    for one in study.trained:
        words = {k: v for k, v in one.config.versions.items() if k not in ("processor", "scenario") and v}
        told.setdefault(", ".join(f"{k} {v}" for k, v in words.items()), []).append(one.title)
    for versions, who in told.items():
        whose = "" if len(told) == 1 else f" of {', '.join(who)}"
        yield Words(f"Versions{whose}: {versions}.")


def _again(study: Compared, reference: str | None) -> Iterator[Part]:
    command = command_of(study.path / TABLE)
    if command is None:
        yield Words(
            "Which command wrote this table is not noted: Python called for it, or an earlier version. The "
            "settings of every run are below, and in its config.json."
        )
    else:
        yield Words("The table, in the folder in which it was given; what is finished is not done again:")
        yield Code((command,))
    yield Words("This report:")
    words = ["python", "-m", "dosing", "report", str(study.path), "--out", "report.html"]
    yield Code((shlex.join([*words, *(["--reference", reference] if reference else [])]),))


def _settings(study: Compared) -> Iterator[Part]:
    rows = []
    for one in study.trained:
        config, transform = one.config, one.config.transform
        own = _listed(config.agent_config)
        more = _listed(config.regularisation.changed())
        standardised = any(transform.obs_mean) or any(s != 1.0 for s in transform.obs_scale)
        scaled = (
            f"states {'' if standardised else 'not '}standardised, rewards over {transform.reward_scale:.4g}"
        )
        rows.append(
            (
                f"{one.title} on {one.row.data}",
                own,
                more or "-",
                f"{_listed(config.training)}; {scaled}",
            )
        )
    head = ("policy", "settings of the agent", "beyond the method", "training")
    yield Table("Settings in full", head, tuple(rows))
    hashes = tuple((one.title, one.path, one.weights) for one in study.trained)
    names = ("policy", "run, in the study folder", "SHA-256 of the weights")
    yield Table("Runs", names, hashes, hashes=frozenset({2}))


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={json.dumps(v).strip(chr(34))}" for k, v in fields.items())


def _numbers(seeds: tuple[int, ...]) -> str:
    """Seeds in words: a stretch by its ends."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))
