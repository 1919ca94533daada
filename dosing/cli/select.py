"""Choosing an agent's settings from recorded patients alone: no simulator, and the constant dose to beat.

Every candidate is trained once per fold on the patients outside it, valued on those inside it beside the
constant dose estimated from the same training patients (``dosing.ope.folds``), and the best that is better
than the constant dose, if there is one, is trained on all patients.

The study folder holds ``folds/``, a study of its own with the training visits and the runs of every fold; the
chosen run; and ``selection.json``. The same command continues where a killed one stopped.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.agent import Problem
from dosing.baselines import EstimatedConstant, estimated_constant
from dosing.cli import presets
from dosing.cli.compare import Job, configurations, regularisations, run_jobs
from dosing.cli.studies import device_of, family_of, names_of, obtain_data, policy_of
from dosing.data.dataset import dose_limits
from dosing.data.external import External
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.ope.folds import CrossValidation, Fold, PooledValue, enough_replicates, evaluate_folds
from dosing.ope.selection import BASELINE, Settings
from dosing.ope.trajectories import Trajectories, fold_patients
from dosing.regularisation import Regularisation
from dosing.runs import RunFolder, write_json
from dosing.safety import DoseLimits
from dosing.training import TrainingDivergedError, TrainingSettings

FOLDS, SELECTION = "folds", "selection.json"
LOOKS_BACK = "it looks back on a patient's course, and recorded visits value policies of the state alone."


@dataclass(frozen=True)
class Candidate:
    """One setting of one agent.

    Attributes:
        name: title of the agent, law of its policy, and settings that tell it from the other candidates.
        agent: registry key.
        config: its configuration.
        regularisation: what networks and updates have beyond the method.
    """

    name: str
    agent: str
    config: Any
    regularisation: Regularisation

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self) | {"regularisation": self.regularisation.changed()}


@dataclass(frozen=True)
class Selected:
    """What a selection found.

    Attributes:
        candidates: every setting that was tried: those better than the constant dose first, those without a
            number last, among them by their difference from it.
        validation: what their values are and rest on.
        criterion: how they were estimated; the first estimator decides.
        constant: the dose estimated from all patients.
        limits: hard limits of a dose, with its unit.
        run: where the first candidate was trained on all patients; None where it is not better than the
            constant dose.
        notes: what a reader has to know besides.
    """

    candidates: tuple[Candidate, ...]
    validation: CrossValidation
    criterion: Settings
    constant: EstimatedConstant
    limits: DoseLimits
    run: RunFolder | None = None
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Candidate | None:
        """The candidate to use; None for the constant dose."""
        first = self.candidates[0]
        return first if self.value(first.name).verdict == "better" else None

    def value(self, name: str) -> PooledValue:
        """What the deciding estimator says of a candidate, or of the constant dose."""
        return self.validation.values[name][self.criterion.estimators[0]]

    @property
    def verdict(self) -> str:
        """The finding in one sentence."""
        constant = (
            f"the constant dose {self.dose} estimated from the same {self.validation.patients} patients"
        )
        first = self.candidates[0].name
        difference = self.value(first).difference
        if difference is None:
            return f"No candidate has an estimated value, so none is known to beat {constant}; use that."
        by = f"{difference} in return over {self.validation.horizon} visits ({difference.basis})"
        if self.chosen:
            return f"{first} is better than {constant}, by {by}."
        if len(self.candidates) == 1:
            return f"{first} is not found better than {constant}; use that: they differ by {by}."
        return (
            f"None of these {len(self.candidates)} candidates is found better than {constant}; use that: "
            f"{first} differs from it by {by}."
        )

    @property
    def dose(self) -> str:
        """The constant dose in words, to a hundredth of the decade of the hard limits' distance."""
        digits = 2 - math.floor(math.log10(self.limits.high[0] - self.limits.low[0]))
        unit = "" if self.limits.unit == "1" else f" {self.limits.unit}"
        return f"{self.constant.dose:z.{max(digits, 0)}f}{unit}"

    def to_json(self, study: Path) -> dict[str, Any]:
        """Plain fields, with the run's path from the study folder."""
        found = self.validation
        values = {name: {e: asdict(v) for e, v in own.items()} for name, own in found.values.items()}
        return {
            "verdict": self.verdict,
            "chosen": self.chosen.to_json() if self.chosen else None,
            "run": os.path.relpath(self.run.path, study) if self.run else None,
            "constant": {
                "dose": self.constant.dose,
                "unit": self.limits.unit,
                "doses_of_folds": list(found.doses),
                "values": values[BASELINE],
            },
            "candidates": [c.to_json() | {"values": values[c.name]} for c in self.candidates],
            "decided_by": self.criterion.estimators[0],
            "criterion": asdict(self.criterion),
            "patients": found.patients,
            "horizon": found.horizon,
            "behaviour": found.behaviour,
            "notes": list(self.notes),
            "notice": NOT_FOR_PATIENTS,
        }

    def __str__(self) -> str:
        """Return the table, the notes, the chosen settings and the verdict as text."""
        lines = [self._table(), *(f"note: {note}" for note in self.notes)]
        if self.chosen:
            settings = asdict(self.chosen.config) | self.chosen.regularisation.changed()
            lines.append(
                f"chosen: {self.chosen.agent}, " + ", ".join(f"{k}={v}" for k, v in settings.items())
            )
        if self.run:
            lines.append(f"trained on all patients: {self.run.path}")
        return "\n".join([*lines, self.verdict])

    def _table(self) -> str:
        names = {BASELINE: f"constant dose of each fold's training patients, {self.dose} of all"}
        names |= {c.name: c.name for c in self.candidates}
        head = ("candidate", "estimator", "return", "minus constant dose", "verdict", "in each fold")
        body = [
            (title, estimator, *_cells(self.validation.values[name][estimator]))
            for estimator in self.criterion.estimators
            for name, title in names.items()
        ]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head) - 1)]
        lines = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]])
            for line in [head, *body]
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cells(value: PooledValue) -> tuple[str, str, str, str]:
    """Return, difference, verdict, and the difference in every fold or why there is none."""
    folds = ", ".join(f"{d:.2f}" for d in value.folds)
    estimate, difference = (str(x) if x else "-" for x in (value.estimate, value.difference))
    return estimate, difference, value.verdict or "-", f"refused: {value.refused}" if value.refused else folds


def select(
    study: Path | str,
    names: Sequence[str],
    source: str | Path,
    *,
    folds: int = 5,
    fold_seed: int = 0,
    patients: int = 50,
    policy: str = "uniform",
    data_seed: int = 0,
    env_options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Sequence[Any]] | None = None,
    preset: str | None = None,
    seeds: Sequence[int] = range(5),
    training: TrainingSettings | None = None,
    data_options: Mapping[str, Any] | None = None,
    regularise: Mapping[str, Sequence[Any]] | None = None,
    criterion: Settings | None = None,
    device: str = "auto",
    workers: int | None = None,
    external: External | None = None,
) -> Selected:
    """Cross-validate settings on recorded visits; write ``selection.json``.

    Args:
        study: study folder.
        names: registry keys, or ``["all"]`` for those that can be valued.
        source: file of recorded visits with one dose dimension, from a simulator or not; or an environment
            id, of which visits are simulated once and kept in the study. Nothing else is simulated.
        folds: K, each of two or more patients.
        fold_seed: of the cut into folds.
        patients: simulated, of an environment id.
        policy: rule that doses them.
        data_seed: seed of the simulated patients.
        env_options: options of the environment.
        settings: values that settings take in turn, see ``dosing.cli.compare.configurations``.
        preset: named settings, see ``dosing.cli.presets``; whatever is given besides wins over them.
        seeds: trained together in every run; a candidate's value is the mean over them.
        training: length and batch size; None takes the preset's.
        data_options: see ``Transform.fit``; they win over the preset's.
        regularise: options of ``dosing.regularisation`` to the values they take in turn; they win over the
            preset's.
        criterion: how values are estimated; None is fitted Q evaluation by its defaults. The first estimator
            decides, others are shown beside it. Replicates are raised to what the number of candidates needs.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: see ``dosing.cli.compare.run_jobs``.
        external: what a file of another program does not say itself.

    Raises:
        UserError: bad input, a failed or a killed run, or visits that cannot be evaluated.
    """
    study, chosen = Path(study), presets.find(preset)
    training = training or TrainingSettings(**chosen.training)
    training.check()
    device_of(device)
    candidates, left_out = _candidates(names, settings or {}, regularise or {}, chosen, training)
    file = obtain_data(
        str(source),
        study,
        patients=patients,
        policy=policy,
        seed=data_seed,
        options=dict(env_options or {}),
        external=external,
    )
    episodes = read_episodes(file)
    criterion = criterion or Settings(estimators=("fqe",))
    criterion = replace(criterion, replicates=max(criterion.replicates, enough_replicates(len(candidates))))
    recorded = Trajectories.from_episodes(episodes, behaviour=criterion.behaviour)
    constant = estimated_constant(recorded)
    criterion.check(recorded.patients, recorded.visits)
    _check_folds(folds, recorded.patients)
    parts = fold_patients(episodes, folds, fold_seed)
    evaluate_folds([Fold(*part, {}) for part in parts], criterion)  # refuses before anything is trained
    files = [_kept(study, file.stem, k, folds, part) for k, (part, _) in enumerate(parts, 1)]

    def job(candidate: Candidate, visits: Path, where: Path) -> Job:
        of = (candidate.agent, candidate.config, visits, where, tuple(seeds), training, device, None)
        options = chosen.data_of(candidate.agent) | dict(data_options or {})
        return Job(*of, data_options=options, regularisation=candidate.regularisation)

    results = run_jobs([job(c, visits, study / FOLDS) for c in candidates for visits in files], workers)
    runs = {c.name: results[k * folds : (k + 1) * folds] for k, c in enumerate(candidates)}
    validation = _validate(parts, runs, criterion)
    candidates.sort(key=lambda c: _order(validation.values[c.name][criterion.estimators[0]]))
    unknown = [name for name in dict.fromkeys(c.agent for c in candidates) if not chosen.knows(name)]
    notes = [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    if preset and unknown:
        notes.append(f"preset {preset} has nothing for {', '.join(unknown)}: their own defaults were used.")
    found = Selected(
        candidates=tuple(candidates),
        validation=validation,
        criterion=criterion,
        constant=constant,
        limits=dose_limits(episodes),
        notes=tuple(notes),
    )
    if found.chosen:
        (run,) = run_jobs([job(found.chosen, file, study)], workers)
        if isinstance(run, TrainingDivergedError):
            raise run
        found = replace(found, run=run)
    write_json(study / SELECTION, found.to_json(study))
    return found


def _candidates(
    names: Sequence[str],
    settings: Mapping[str, Sequence[Any]],
    regularise: Mapping[str, Sequence[Any]],
    preset: presets.Preset,
    training: TrainingSettings,
) -> tuple[list[Candidate], dict[str, str]]:
    """Every configuration with every regularisation, each with its own name; who of all is left out, why.

    Raises:
        UserError: an agent named cannot be valued on recorded visits.
    """
    regularised = regularisations(regularise, preset)
    refused: dict[str, str] = {}
    configured = configurations(names, (), settings, preset, regularised, training, refused)
    unable = [
        name for name, config in configured if agents.build(name, config, Problem(1, 1, 1), (0,)).looks_back
    ]
    if unable and list(names) != ["all"]:
        raise UserError(f"{unable[0]} cannot be selected: {LOOKS_BACK}")
    configured = [(name, config) for name, config in configured if name not in unable]
    every = [(agent, config, options) for agent, config in configured for options in regularised]
    told = [
        {"agent": agent, "agent_config": asdict(config), "regularisation": options.changed()}
        for agent, config, options in every
    ]
    titles = [f"{name} ({family_of(config)})" for name, config in zip(names_of(told), told, strict=True)]
    found = [Candidate(title, *one) for title, one in zip(titles, every, strict=True)]
    return found, refused | dict.fromkeys(unable, LOOKS_BACK)


def _check_folds(folds: int, patients: int) -> None:
    """Refuse folds that leave no patients to train on, or fewer than two to value a policy."""
    if patients < 4:
        raise UserError(f"two folds of two patients need at least 4 recorded patients, got {patients}.")
    if not 2 <= folds <= patients // 2:
        raise UserError(
            f"{patients} patients can be cut into 2 to {patients // 2} folds of two or more, not {folds}."
        )


def _kept(study: Path, stem: str, number: int, folds: int, visits: Episodes) -> Path:
    """File of a fold's training visits, named by what it holds."""
    name = f"{stem}-without-{number}-of-{folds}-{visits.metadata['content_hash'][:8]}.parquet"
    path = study / FOLDS / "data" / name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the study folder {study}: {error.strerror or error}.") from error
        write_episodes(visits, path)
    return path


def _validate(
    parts: Sequence[tuple[Episodes, Episodes]],
    runs: Mapping[str, Sequence[RunFolder | TrainingDivergedError]],
    criterion: Settings,
) -> CrossValidation:
    """Values of all candidates; one that diverged in a fold has none and counts as tried."""
    diverged = {
        name: dict.fromkeys(criterion.estimators, PooledValue(refused=str(result)))
        for name, found in runs.items()
        for result in found
        if isinstance(result, TrainingDivergedError)
    }
    policies = {
        name: [policy_of(run) for run in found if isinstance(run, RunFolder)]
        for name, found in runs.items()
        if name not in diverged
    }
    folds = [Fold(*part, {name: own[k] for name, own in policies.items()}) for k, part in enumerate(parts)]
    found = evaluate_folds(folds, criterion, len(runs))
    return replace(found, values=found.values | diverged)


def _order(value: PooledValue) -> tuple[bool, float]:
    """Sorts what is better than the constant dose first, then by the difference, no number last."""
    return value.verdict != "better", -value.difference.value if value.difference else math.inf
