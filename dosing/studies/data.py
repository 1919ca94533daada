"""The recorded visits of a study: read from a file, copied from another program's, or simulated once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dosing.data.columns import parse_columns
from dosing.data.external import External
from dosing.data.formats import MINARI, is_own
from dosing.data.sources import read_source
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.policy import Observations
from dosing.runs.folder import RunFolder
from dosing.safety import DoseLimits
from simulator.cohorts.generate import simulate
from simulator.envs.tasks import is_registered
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
) -> External | None:
    """What the user says about a file of another program; an environment says its limits and its length.

    Args:
        env_id: id of one of our scenarios or of a MuJoCo task.
        options: of that environment.
        low: lower limit of every action.
        high: upper limit of every action.
        horizon: visits after which the recording program cut an episode.
        columns: ``role=name`` pairs, see :func:`dosing.data.columns.parse_columns`.
        split_at_jumps: see ``External``.

    Returns:
        None where nothing was said.

    Raises:
        UserError: an unknown environment or option, or limits that are none.
    """
    limits = n_obs = None
    if low or high:
        limits = DoseLimits(tuple(low), tuple(high))
    if env_id is not None:
        factory = evaluation_factory(env_id, options)
        limits, horizon, n_obs = limits or factory.limits, horizon or factory.horizon, factory.n_obs
    options = dict(options) if env_id is not None else {}
    said = External(limits, env_id, options, n_obs, horizon, parse_columns(columns), split_at_jumps)
    return None if said == External() else said


def obtain_data(
    source: str,
    study: Path,
    *,
    patients: int,
    policy: str,
    seed: int,
    options: dict[str, Any],
    external: External | None = None,
) -> Path:
    """Return the file of recorded visits: our own file itself, another program's copied, or a simulation.

    A simulated file is named by everything that decides its content and is not made twice; a copy of another
    program's visits, with what the user says about them, by its content.

    Raises:
        UserError: neither a file, a Minari data set nor an environment id, the visits are not what they
            should be, or the folder cannot be written.
    """
    if source.startswith(MINARI) or Path(source).is_file():
        if external is None and not source.startswith(MINARI) and is_own(source):
            return Path(source)
        episodes = read_source(source, external)
        card = {name: episodes.metadata.get(name) for name in ("content_hash", "env_id", "env_options")}
        card |= {name: episodes.metadata[name] for name in ("action_low", "action_high")}
        name = (
            source.removeprefix(MINARI).replace("/", "-") if source.startswith(MINARI) else Path(source).stem
        )
        return _kept(study, name, ".hdf5", card, lambda: episodes)
    if not is_registered(source):
        raise UserError(
            f"--data {source!r} is neither a file nor an environment id nor {MINARI}ID; the ids are: "
            f"{', '.join(known_ids())}."
        )
    if external is not None:
        raise UserError(f"{source} is simulated here and says itself what it is; leave the description out.")
    recipe = {"env": source, "patients": patients, "policy": policy, "seed": seed, "options": options}
    return _kept(
        study,
        f"{source.split('/')[-1]}-{patients}",
        ".parquet",
        recipe,
        lambda: simulate(source, patients=patients, policy=policy, seed=seed, progress=True, **options),
    )


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
    """The recorded visits a run was trained on, checked against the hash it recorded.

    Raises:
        UserError: the file has gone or is another one.
    """
    config = run.config()
    episodes = read_episodes(Path(os.path.normpath(run.path / config["data_file"])))
    if episodes.metadata["content_hash"] != config["data"]["content_hash"]:
        raise UserError(f"{config['data_file']} is not the data that {run.path} was trained on.")
    return episodes


def recorded_states(episodes: Episodes) -> Observations:
    """At most :data:`STATES` recorded observations, evenly spaced over the data."""
    index = np.unique(np.linspace(0, len(episodes) - 1, min(len(episodes), STATES)).astype(int))
    states: Observations = episodes.obs[index]
    return states
