"""Recorded visits as a training takes them: all in memory, or a stream of them and a sample of the patients.

A data set in parts is streamed where its visits take :data:`LARGE` bytes or more, whatever the machine, so
that the same command computes the same everywhere; a training may say otherwise. What needs all visits at
once takes the sample: the constant dose, the monitor of unfamiliar states and doses, dose sets at recorded
states, off-policy evaluation, and agents that do not learn from single transitions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dosing.agent import Agent
from dosing.data.dataset import Dataset, Moments, Transform, check_visits, dose_limits
from dosing.data.manifest import is_parts, read_manifest
from dosing.data.metadata import DatasetMetadata
from dosing.data.row_groups import RowGroups
from dosing.data.store import COLUMNS, WIDE, Episodes, read_episodes, write_episodes
from dosing.data.survey import SAMPLE_VISITS, Survey, survey
from dosing.errors import UserError
from dosing.runs.config import DataReference, SampleReference
from dosing.runs.files import read_json, write_json
from dosing.studies.launch import progress_bar
from dosing.training.sampler import Lookahead
from dosing.training.streaming import Stream, not_streamed
from dosing.typed_json import typed

LARGE = 1 << 29
"""Bytes of visits (99 each in ``dosing/Treatment-v0``) from which a data set in parts is streamed."""


@dataclass(frozen=True)
class Visits:
    """Recorded visits for one training.

    Attributes:
        name: of the data set.
        metadata: of all visits.
        count: number of visits.
        patients: number of patients.
        moments: of all visits.
        sample: all of them, or some patients with the metadata of all.
        groups: where they are read from while they are learned from; None where all are in memory.
        sample_hash: content hash of the sample; empty where it is everything.
    """

    name: str
    metadata: DatasetMetadata
    count: int
    patients: int
    moments: Moments
    sample: Episodes
    groups: RowGroups | None = None
    sample_hash: str = ""

    def data(self, options: Mapping[str, Any], device: torch.device) -> Dataset | Stream:
        """In agents' units.

        Args:
            options: of ``Transform.fit``.
            device: where tensors live.

        Raises:
            UserError: as of ``Transform.fit`` and ``Dataset.from_episodes``.
        """
        transform = Transform.of_moments(self.moments, dose_limits(self.sample), **options)
        sample = Dataset.from_episodes(self.sample, transform, device=device)
        return sample if self.groups is None else Stream(self.groups, sample)

    def reference(self, agent: Agent, lookahead: Lookahead) -> DataReference:
        """What the run of an agent states about its data."""
        sample = None
        if self.groups is not None:
            patients = len(np.unique(self.sample.episode))
            why = not_streamed(agent, lookahead) or ""
            sample = SampleReference(len(self.sample), patients, self.sample_hash, why)
        return DataReference(self.name, self.metadata.content_hash, self.count, self.patients, sample)


def is_streamed(file: Path, stream: bool | None) -> bool:
    """Whether visits are streamed: as asked for, else where they are many.

    Raises:
        UserError: a stream is asked for of what is not in parts.
    """
    if not is_parts(file):
        if stream:
            raise UserError(f"{file} is one file: a data set is streamed from parts, see simulate --parts.")
        return False
    return size_of(read_manifest(file).metadata) >= LARGE if stream is None else stream


def size_of(metadata: DatasetMetadata) -> int:
    """Bytes that all visits take in memory as they are recorded."""
    widths = {"obs": metadata.n_obs, "next_obs": metadata.n_obs} | dict.fromkeys(WIDE[2:], metadata.n_act)
    return metadata.rows * sum(np.dtype(kind).itemsize * widths.get(n, 1) for n, kind in COLUMNS.items())


def visits_of(file: Path, study: Path, stream: bool | None = None) -> Visits:
    """The visits of a file or a folder of parts.

    Args:
        file: what :func:`dosing.studies.data.obtain_data` returned.
        study: where the sample of a data set that is streamed is kept.
        stream: see :func:`is_streamed`.

    Raises:
        UserError: the visits are missing, damaged, or not finite.
    """
    if is_streamed(file, stream):
        return _surveyed(file, study)
    episodes = read_episodes(file)
    check_visits(episodes)
    patients = len(np.unique(episodes.episode))
    return Visits(file.stem, episodes.metadata, len(episodes), patients, Moments.of(episodes), episodes)


def survey_of(file: Path, study: Path) -> tuple[Survey, Episodes]:
    """What one pass over a data set in parts found, and its sample; kept in the study and made once.

    Raises:
        UserError: as of :func:`dosing.data.survey.survey`, or what is kept was damaged.
    """
    manifest = read_manifest(file)
    record, kept = _kept(study, file.stem, manifest.metadata.content_hash)
    if record.is_file() and kept.is_file():
        found = typed(Survey, read_json(record), str(record))
        sample = read_episodes(kept)
        if sample.metadata.content_hash == found.sample:
            return found, replace(sample, metadata=manifest.metadata)
    with progress_bar(manifest.metadata.rows, f"check {file.name}", "visit", 0) as bar:
        found, sample = survey(RowGroups(file), sample_visits=SAMPLE_VISITS, progress=bar)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the study folder {study}: {error.strerror or error}.") from error
    write_episodes(sample, kept)
    write_json(record, asdict(found))
    return found, replace(sample, metadata=manifest.metadata)


def sample_of(study: Path, data: DataReference) -> Episodes:
    """The sample of the visits that a run was trained on, with the metadata it was written with.

    Raises:
        UserError: it has gone from the study, or is another one.
    """
    _, kept = _kept(study, data.name, data.content_hash)
    sample = read_episodes(kept)
    if data.sample is None or sample.metadata.content_hash != data.sample.content_hash:
        raise UserError(f"{kept} is not the sample that the run was trained with.")
    return replace(sample, metadata=replace(sample.metadata, content_hash=data.content_hash))


def _surveyed(file: Path, study: Path) -> Visits:
    found, sample = survey_of(file, study)
    groups = RowGroups(file)
    return Visits(
        file.stem,
        groups.manifest.metadata,
        found.visits,
        found.patients,
        found.moments,
        sample,
        groups,
        found.sample,
    )


def _kept(study: Path, name: str, content_hash: str) -> tuple[Path, Path]:
    """Where the survey of a data set and its sample are kept."""
    key = hashlib.sha256(json.dumps([content_hash, SAMPLE_VISITS]).encode()).hexdigest()[:8]
    return (study / "data" / f"{name}-{key}-survey.json", study / "data" / f"{name}-{key}-sample.parquet")
