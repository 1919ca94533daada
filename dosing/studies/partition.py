"""Simulated patients in parts: processes or jobs write files beside each other, a manifest seals them.

A part is one file that appears whole or not at all, and is the same whoever writes it: a command that was
killed goes on with the parts that are missing, and a second one at the same time changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dosing.data.formats import SUFFIXES
from dosing.data.manifest import MANIFEST, Manifest, Part, part_of
from dosing.data.metadata import DatasetMetadata
from dosing.data.partial import clear_partials
from dosing.data.store import EpisodeWriter
from dosing.errors import UserError
from dosing.runs.files import write_json
from dosing.studies.launch import Launcher, none_lost, progress_bar
from dosing.studies.ledger import JOBS
from simulator.cohorts.generate import SimulationPlan, plan_of

GROUP_VISITS = 1 << 15
"""Visits of a row group, about: what a training that streams reads at a time."""
OWN_FIELDS = ("rows", "n_obs", "n_act", "content_hash", "metadata_hash", "code_version")
"""Of a part's metadata, what the request for it does not decide."""


@dataclass(frozen=True)
class Request:
    """Which patients are simulated, and how they are dosed and seen; see ``generate.simulate``."""

    env_id: str
    patients: int
    policy: str | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the environment."""

    def plan(self) -> SimulationPlan:
        """The request, checked.

        Raises:
            UserError: as of ``generate.plan_of``.
        """
        return plan_of(
            self.env_id, patients=self.patients, policy=self.policy, seed=self.seed, **self.options
        )


@dataclass(frozen=True)
class PartJob:
    """One part to write."""

    folder: Path
    request: Request
    number: int
    parts: int


def simulate_parts(folder: Path, request: Request, parts: int, launcher: Launcher) -> Manifest:
    """Simulate patients into a data set in parts; parts that are there already are kept.

    Args:
        folder: of the data set.
        request: whose visits.
        parts: number of files, each of about equally many patients.
        launcher: where they are written.

    Returns:
        The manifest, which is in the folder once every part is.

    Raises:
        UserError: a wrong request, fewer patients than parts, a folder that cannot be written or holds other
            visits, or a part was not written; the same call goes on.
    """
    plan = request.plan()
    if not 1 <= parts <= plan.patients:
        raise UserError(f"--parts must be from 1 to the number of patients, {plan.patients:,}; got {parts}.")
    if folder.suffix.lower() in SUFFIXES:
        raise UserError(f"{folder} names a file; parts are written to a folder, whose name has no such end.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
    clear_partials(folder)
    jobs = [PartJob(folder, request, number, parts) for number in range(parts)]
    names = {_name(number, parts) for number in range(parts)}
    if strange := sorted(file.name for file in folder.glob("*.parquet") if file.name not in names):
        raise UserError(
            f"{folder} holds {strange[0]}, which is none of these {parts} parts: choose another folder."
        )
    missing = [job for job in jobs if _written(job, plan) is None]
    for _ in none_lost(launcher.map(write_part, missing)):
        pass
    written = [_written(job, plan) for job in jobs]
    if lacking := [job for job, one in zip(jobs, written, strict=True) if one is None]:
        raise UserError(
            f"{folder / _name(lacking[0].number, parts)} was not written, or has gone since: delete "
            f"{folder / JOBS}, if it is there, and give the same command."
        )
    found = [one for one in written if one is not None]
    widths = (found[0][1].n_obs, found[0][1].n_act)
    manifest = Manifest.of(plan.metadata, [part for part, _ in found], widths)
    write_json(folder / MANIFEST, manifest.to_json())
    return manifest


def write_part(job: PartJob, position: int) -> None:
    """Write one part, whole or not at all; ``position`` is the line of its progress bar."""
    plan = _plan_of(job, job.request.plan())
    file = job.folder / _name(job.number, job.parts)
    text = f"part {job.number + 1} of {job.parts}"
    with (
        progress_bar(plan.patients * plan.steps, text, "visit", position) as bar,
        EpisodeWriter(file, plan.metadata) as writer,
    ):
        for chunk in plan.chunks(1, False, GROUP_VISITS):
            writer.write(chunk)
            bar.update(len(chunk))


def _plan_of(job: PartJob, whole: SimulationPlan) -> SimulationPlan:
    """The patients of one part."""
    first, end = (whole.patients * k // job.parts for k in (job.number, job.number + 1))
    return whole.part(whole.first + first, end - first)


def _written(job: PartJob, whole: SimulationPlan) -> tuple[Part, DatasetMetadata] | None:
    """What a part says about itself; None where it is to be written.

    Raises:
        UserError: the file holds visits of another request.
    """
    file = job.folder / _name(job.number, job.parts)
    if not file.is_file():
        return None
    try:
        part, metadata = part_of(file)
    except UserError:  # damaged: it is written anew
        return None
    if _decisive(metadata) != _decisive(_plan_of(job, whole).metadata):
        raise UserError(
            f"{file} holds visits of another request (other patients, policy, seed, options or version of "
            "the scenario): choose another folder, or delete it."
        )
    return part, metadata


def _decisive(metadata: DatasetMetadata) -> str:
    """What a request decides of the metadata of a part."""
    content = {name: value for name, value in metadata.to_json().items() if name not in OWN_FIELDS}
    return json.dumps(content, sort_keys=True)


def _name(number: int, parts: int) -> str:
    return f"part-{number:05d}-of-{parts:05d}.parquet"
