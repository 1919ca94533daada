"""Choosing an agent's settings from recorded patients alone: no simulator, and the constant dose to beat.

Every candidate is trained once per fold on the patients outside it, valued on those inside it beside the
constant dose estimated from the same training patients (``dosing.ope.folds``), and the best that is better
than the constant dose, if there is one, is trained on all patients.

Agents that look back on a patient's episode are valued in roll-outs of models of the held-out patients
(``dosing.ope.model_based``), and so are then all candidates, on halves of the patients: the models of a fold
are fitted to its own patients alone, and want as many as there can be.

The study folder holds ``folds/``, a study of its own with the training visits and the runs of every fold; the
chosen run; and ``selection.json``. The same command continues where a killed one stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import agents as registry
from dosing.data.dataset import dose_limits
from dosing.data.store import Episodes, write_episodes
from dosing.errors import UserError
from dosing.ope.baselines import EstimatedConstant, estimated_constant
from dosing.ope.folds import Fold, PooledValue, enough_replicates, evaluate_folds
from dosing.ope.selection import FEWEST_MODELS, OF_EPISODES, Settings
from dosing.ope.trajectories import Trajectories, fold_patients
from dosing.runs.files import write_json
from dosing.studies import presets
from dosing.studies.data import obtain_data
from dosing.studies.grid import configurations, regularisations
from dosing.studies.jobs import Job, SurveyJob, run_jobs, survey_data
from dosing.studies.naming import family_of, run_names
from dosing.studies.selected import FOLDS, SELECTION, Candidate, Selected
from dosing.studies.settings import AgentSetup, DataSource, Folds, Grid, Resources
from dosing.studies.validation import ValueJob, validate
from dosing.studies.visits import is_streamed, visits_of
from dosing.training.offline import TrainingSettings
from dosing.types import Problem

PARTS, PARTS_OF_MODELS = 5, 2
"""Folds unless another number is asked for; those of estimators that fit models to the held-out patients."""


def select(
    study: Path | str,
    agents: Grid | str | Sequence[str],
    data: DataSource | Path | str,
    *,
    folds: Folds | None = None,
    seeds: Sequence[int] = range(5),
    training: TrainingSettings | None = None,
    criterion: Settings | None = None,
    resources: Resources | None = None,
) -> Selected:
    """Cross-validate settings on recorded visits; write ``selection.json``.

    Args:
        study: study folder.
        agents: registry keys, ``"all"`` for those that can be valued, or a grid of their settings.
        data: file of recorded visits with one dose dimension, from a simulator or not; or an environment
            id, of which visits are simulated once and kept in the study. Nothing else is simulated.
        folds: how the patients are cut; None is five folds, or two where ``model_based`` decides.
        seeds: trained together in every run; a candidate's value is the mean over them.
        training: length and batch size; None takes the preset's.
        criterion: how values are estimated; the first estimator decides, others are shown beside it. None,
            or no estimator, is fitted Q evaluation, and before it ``model_based`` where a candidate looks
            back. Replicates are raised to what the number of candidates needs.
        resources: where it is computed.

    Raises:
        UserError: bad input, a failed or a killed run, or visits that cannot be evaluated.
    """
    study, grid = Path(study), Grid.of(agents)
    folds, resources = folds or Folds(), resources or Resources()
    chosen, launcher = presets.find(grid.preset), resources.launcher(study)
    if chosen.contrast:
        raise UserError(f"preset {grid.preset} sets runs side by side: it is for compare.")
    training = training or TrainingSettings(**chosen.training)
    training.check()
    criterion = criterion or Settings(estimators=())
    candidates, left_out = _candidates(grid, chosen, training, criterion.estimators[:1])
    file = obtain_data(DataSource.of(data), study)
    if is_streamed(file, training.stream):
        survey_data([SurveyJob(file, study)], launcher)
    visits = visits_of(file, study, training.stream)
    episodes = visits.sample
    memory = [candidate.agent for candidate in candidates if _looks_back(candidate)]
    criterion = replace(
        criterion,
        estimators=criterion.estimators or (("model_based", "fqe") if memory else ("fqe",)),
        replicates=max(criterion.replicates, enough_replicates(len(candidates))),
    )
    parts, constant, horizon = _cut(episodes, folds, criterion)
    count = len(parts)
    files = [_kept(study, file.stem, k, count, part) for k, (part, _) in enumerate(parts, 1)]

    def job(candidate: Candidate, source: Path, where: Path, stream: bool | None = None) -> Job:
        options = chosen.data_of(candidate.agent) | dict(grid.data_options)
        setup = AgentSetup(candidate.agent, candidate.config, candidate.regularisation, options)
        return Job(setup, source, where, tuple(seeds), replace(training, stream=stream), resources.device)

    jobs = [job(candidate, source, study / FOLDS) for candidate in candidates for source in files]
    results = list(run_jobs(jobs, launcher))
    runs = {c.name: results[k * count : (k + 1) * count] for k, c in enumerate(candidates)}
    content, how = visits.metadata.content_hash, replace(criterion, horizon=horizon)
    asked = ValueJob(file, study, content, training.stream, (count, folds.seed), how)
    validation, costs = validate(asked, parts, runs, launcher)
    candidates.sort(key=lambda c: _order(validation.values[c.name][criterion.estimators[0]]))
    notes, limits = _notes(candidates, left_out, grid.preset, memory), dose_limits(episodes)
    if visits.groups is not None:
        patients = len(np.unique(episodes.episode))
        part = f"{len(episodes):,} of {visits.count:,} visits, those of {patients:,} patients"
        notes = (f"values and the constant dose rest on a sample of {file.name}: {part}.", *notes)
    result = Selected(tuple(candidates), validation, criterion, constant, limits, notes=notes, costs=costs)
    if result.chosen:
        (run,) = run_jobs([job(result.chosen, file, study, training.stream)], launcher)
        if isinstance(run, UserError):
            raise run
        result = replace(result, run=run)
    write_json(study / SELECTION, result.to_json(study))
    return result


def _cut(
    episodes: Episodes, folds: Folds, criterion: Settings
) -> tuple[list[tuple[Episodes, Episodes]], EstimatedConstant, int]:
    """Training and held-out visits of every fold, the constant dose of all patients, and the horizon.

    Raises:
        UserError: whatever would make the evaluation fail once everything is trained.
    """
    recorded = Trajectories.from_episodes(episodes, behaviour=criterion.behaviour)
    constant = estimated_constant(recorded)
    criterion.check(recorded.patients, recorded.visits)
    count = folds.count
    if count is None:
        count = PARTS_OF_MODELS if criterion.estimators[0] in OF_EPISODES else PARTS
    _check_folds(count, recorded.patients)
    parts = fold_patients(episodes, count, folds.seed)
    few = replace(criterion, model_replicates=FEWEST_MODELS)
    tried = evaluate_folds([Fold(*part, {}) for part in parts], few)
    return parts, constant, tried.horizon


def _notes(
    candidates: Sequence[Candidate], left_out: Mapping[str, str], preset: str | None, memory: Sequence[str]
) -> tuple[str, ...]:
    """Who is left out, what decides where candidates look back, and whom the preset does not know."""
    notes = [f"{name} is left out: {reason}" for name, reason in left_out.items()]
    if memory:
        who = ", ".join(dict.fromkeys(memory))
        notes.append(
            f"model_based decides between all candidates, since {who} looks back on a patient's episode and "
            "other estimators value policies of the state alone."
        )
    names = dict.fromkeys(candidate.agent for candidate in candidates)
    unknown = [name for name in names if not presets.find(preset).knows(name)]
    if preset and unknown:
        notes.append(f"preset {preset} has nothing for {', '.join(unknown)}: their own defaults were used.")
    return tuple(notes)


def _candidates(
    grid: Grid, preset: presets.Preset, training: TrainingSettings, deciding: Sequence[str]
) -> tuple[list[Candidate], dict[str, str]]:
    """Every configuration with every regularisation, each with its own name; who of all is left out, why.

    Raises:
        UserError: an agent named cannot be valued by the estimator that decides.
    """
    regularised = regularisations(grid.regularise, preset)
    refused: dict[str, str] = {}
    configured = configurations(grid, preset, regularised, training, refused)
    every = [Candidate("", agent, config, options) for agent, config in configured for options in regularised]
    if deciding and deciding[0] not in OF_EPISODES:
        unable = [candidate.agent for candidate in every if _looks_back(candidate)]
        reason = (
            f"it looks back on a patient's episode, and {deciding[0]} values policies of the state "
            "alone; let model_based decide."
        )
        if unable and grid.agents != ("all",):
            raise UserError(f"{unable[0]} cannot be selected: {reason}")
        every = [candidate for candidate in every if candidate.agent not in unable]
        refused |= dict.fromkeys(unable, reason)
    result = [
        replace(one, name=f"{name} ({family_of(one)})")
        for name, one in zip(run_names(every), every, strict=True)
    ]
    return result, refused


def _looks_back(candidate: Candidate) -> bool:
    """Whether its policy depends on the episode before a visit."""
    return registry.build(
        candidate.agent,
        candidate.config,
        Problem(1, 1, 1),
        (0,),
        regularisation=candidate.regularisation,
        fresh=False,
    ).looks_back


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
    name = f"{stem}-without-{number}-of-{folds}-{visits.metadata.content_hash[:8]}.parquet"
    path = study / FOLDS / "data" / name
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the study folder {study}: {error.strerror or error}.") from error
        write_episodes(visits, path)
    return path


def _order(value: PooledValue) -> tuple[bool, float]:
    """Sorts what is better than the constant dose first, then by the difference, no number last."""
    return value.verdict != "better", -value.difference.value if value.difference else math.inf
