"""The recorded visits of a study: read from a file, copied from another program's, or simulated once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dosing.data.columns import parse_columns
from dosing.data.external import External
from dosing.data.formats import MINARI, is_own
from dosing.data.manifest import is_parts
from dosing.data.partial import clear_partials
from dosing.data.sources import read_source
from dosing.data.store import Episodes, read_episodes, read_metadata, write_episodes
from dosing.data.survey import Extreme
from dosing.errors import UserError
from dosing.policy import Observations
from dosing.runs.folder import RunFolder
from dosing.safety import DoseLimits
from dosing.studies.scenarios import factory_for, unloaded, version_of
from dosing.studies.settings import DataSource
from dosing.studies.visits import is_streamed, sample_of, survey_of
from simulator.cohorts.generate import simulate, usual_policy
from simulator.envs.registered import SUFFIX, is_registered, scenario_id
from simulator.envs.relabelling import relabelling
from simulator.scenarios import evaluation_factory, known_ids

STATES = 2000
"""Most recorded visits at which dose sets are measured."""


def external_of(
    env_id: str | None,
    options: Mapping[str, Any],
    *,
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    horizon: int | None = None,
    columns: Sequence[str] = (),
    split_at_jumps: bool = False,
    clip_rounding: bool = False,
) -> External | None:
    """What the user says about a file of another program; an environment says its limits and its length.

    Args:
        env_id: id of an environment, or the file of a scenario.
        options: of that environment.
        low: lower limit of every action.
        high: upper limit of every action.
        horizon: visits after which the recording program cut an episode.
        columns: ``role=name`` pairs, see :func:`dosing.data.columns.parse_columns`.
        split_at_jumps: see ``External``.
        clip_rounding: see ``External``.

    Returns:
        None where nothing was said.

    Raises:
        UserError: an unknown environment or option, or limits that are none.
    """
    limits = n_obs = obs_range = None
    if low or high:
        limits = DoseLimits(tuple(low), tuple(high))
    if env_id is not None:
        env_id = scenario_id(env_id)
        factory = evaluation_factory(env_id, options)
        limits, horizon = limits or factory.limits, horizon or factory.horizon
        n_obs, obs_range = factory.n_obs, factory.obs_range
    said = External(
        limits=limits,
        env_id=env_id,
        env_options=dict(options) if env_id is not None else {},
        n_obs=n_obs,
        horizon=horizon,
        columns=parse_columns(columns),
        obs_range=obs_range,
        relabel=None if env_id is None else relabelling(env_id, options),
        clip_rounding=clip_rounding,
        split_at_jumps=split_at_jumps,
    )
    return None if said == External() else said


def comes_from(source: str, scenario: str) -> bool:
    """Whether a file is our own and says itself that its visits come from a scenario, which is loaded.

    Args:
        source: file, ``minari:ID`` or id.
        scenario: an id, or a file of a scenario.

    Raises:
        UserError: the scenario cannot be loaded, or the file cannot be read.
    """
    env_id = scenario_id(scenario)
    return is_recorded(source) and is_own(source) and read_metadata(source).env_id == env_id


def is_recorded(source: str) -> bool:
    """Whether a source is visits that are recorded: a Minari data set, a file, or a folder of parts."""
    return source.startswith(MINARI) or Path(source).is_file() or is_parts(source)


def obtain_data(data: DataSource, study: Path) -> Path:
    """Return the file of recorded visits: our own file itself, another program's copied, or a simulation.

    A source that ends in ``.py`` is the file of a scenario: it is loaded, which runs it, and simulated.

    A simulated file is named by everything that decides its content, the version of the scenario among it,
    and is not made twice; a copy of another program's visits, with what the user says about them, by its
    content.

    Raises:
        UserError: neither a file, a Minari data set nor an environment id, the visits are not what they
            should be, or the folder cannot be written.
    """
    for folder in (study, study / "data"):
        clear_partials(folder)
    source, cohort, external = data.source, data.cohort, data.external
    if is_recorded(source) and not source.endswith(SUFFIX):
        if external is None and not source.startswith(MINARI) and is_own(source):
            return Path(source)
        episodes = read_source(source, external)
        check_spaces(source, episodes)
        said = episodes.metadata.to_json()["metadata_hash"]  # content, names, limits and environment
        name = (
            source.removeprefix(MINARI).replace("/", "-") if source.startswith(MINARI) else Path(source).stem
        )
        return _kept(study, name, ".hdf5", {"metadata": said}, lambda: episodes)
    source = scenario_id(source)
    if not is_registered(source):
        raise UserError(
            f"--data {source!r} is neither a file nor an environment id nor {MINARI}ID nor a folder of "
            f"parts; the ids are: {', '.join(known_ids())}."
        )
    if external is not None:
        raise UserError(f"{source} is simulated here and says itself what it is; leave the description out.")
    options = dict(cohort.options)
    policy = cohort.policy or usual_policy(source)
    recipe = asdict(cohort) | {"policy": policy, "env": source, "version": version_of(source, options)}
    return _kept(
        study,
        f"{source.split('/')[-1]}-{cohort.patients}",
        ".parquet",
        recipe,
        lambda: simulate(
            source,
            patients=cohort.patients,
            policy=policy,
            seed=cohort.seed,
            progress=True,
            **options,
        ),
    )


def check_spaces(source: str, episodes: Episodes) -> None:
    """Refuse visits that the environment they name cannot have given, before anything is trained on them.

    Raises:
        UserError: the environment is known here, and has other observations or narrower limits.
    """
    meta = episodes.metadata
    factory = factory_for(meta)
    if factory is None:
        return
    n_obs = episodes.obs.shape[1]
    if n_obs != factory.n_obs:
        raise UserError(
            f"{source} has {n_obs} numbers per observation, {meta.env_id} {factory.n_obs}: it was "
            "recorded under a wrapper, or in another environment or version of it."
        )
    low, high = np.array(meta.action_low), np.array(meta.action_high)
    ours = factory.limits
    slack = 1e-6 * (np.array(ours.high) - np.array(ours.low))
    if len(low) != ours.n_act or (low < ours.low - slack).any() or (high > ours.high + slack).any():
        raise UserError(
            f"{source} has actions from {low.tolist()} to {high.tolist()}, {meta.env_id} takes "
            f"{list(ours.low)} to {list(ours.high)}: it was recorded under a wrapper, or elsewhere."
        )


def describe(path: Path, study: Path, stream: bool | None = None) -> str:
    """Patients, visits, rows left out, and the worst and the best reward of recorded visits, in words.

    Args:
        path: what :func:`obtain_data` returned.
        study: study folder.
        stream: see :func:`dosing.studies.visits.is_streamed`.

    Raises:
        UserError: the visits cannot be read.
    """
    if is_streamed(path, stream):
        found, _ = survey_of(path, study)
        words = (
            f"{path}: {found.patients:,} patients, {found.visits:,} visits, read while they are learned from"
        )
        return words + "".join(
            _extreme(name, x) for name, x in (("worst", found.worst), ("best", found.best))
        )
    episodes = read_episodes(path)
    meta, patients = episodes.metadata, len(np.unique(episodes.episode))
    left_out, clipped = meta.rows_left_out, meta.doses_clipped
    words = f"{path}: {patients:,} patients, {len(episodes) + left_out:,} visits"
    if hint := unloaded(meta):
        words = f"Runs on these visits cannot be evaluated. {hint}\n{words}"
    if left_out:
        words += f", {left_out:,} of them left out: nothing was recorded after them"
    if clipped:
        words += f"; doses of {clipped:,} visits were put at the limit they exceeded by rounding"
    if episodes.reward.min() == episodes.reward.max():
        return f"{words}; every reward is {episodes.reward[0]:g}: these rewards say nothing about doses"
    for name, row in (("worst", int(episodes.reward.argmin())), ("best", int(episodes.reward.argmax()))):
        dose = tuple(episodes.act[row].tolist())
        words += _extreme(name, Extreme(float(episodes.reward[row]), row + 1, dose))
    return words


def _extreme(name: str, visit: Extreme) -> str:
    dose = ", ".join(f"{x:g}" for x in visit.dose)
    return f"; {name} reward {visit.reward:g} (visit {visit.visit}, dose {dose})"


def _kept(
    study: Path, name: str, suffix: str, decides: Mapping[str, Any], make: Callable[[], Episodes]
) -> Path:
    """The file of the study that holds these visits, written if it is not there."""
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]
    path = study / "data" / f"{name}-{key}{suffix}"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the study folder {study}: {error.strerror or error}.") from error
        write_episodes(make(), path)
    return path


def episodes_of(run: RunFolder) -> Episodes:
    """The recorded visits a run was trained on, or the sample of them, checked against the hash it recorded.

    Raises:
        UserError: the file has gone or is another one.
    """
    config = run.config()
    if config.data.sample is not None:
        return sample_of(run.path.resolve().parents[2], config.data)
    episodes = read_episodes(Path(os.path.normpath(run.path / config.data_file)))
    if episodes.metadata.content_hash != config.data.content_hash:
        raise UserError(f"{config.data_file} is not the data that {run.path} was trained on.")
    return episodes


def recorded_states(episodes: Episodes) -> Observations:
    """At most :data:`STATES` recorded observations, evenly spaced over the data."""
    index = np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), STATES)).astype(int))
    states: Observations = episodes.obs[index]
    return states
