"""What a run is: agent, settings, seeds, data, limits; kept as ``config.json``, read and checked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.safety import DoseLimits
from dosing.typed_json import typed
from dosing.types import Problem

SCHEMA = 2
"""Version of ``config.json``; folders of any other are refused."""

CIRCUMSTANCES = ("versions", "device", "threads", "created", "data_file")
"""Fields of a run that do not decide its result."""


@dataclass(frozen=True)
class SampleReference:
    """Some patients of visits that are too many for memory, for what needs all visits at once."""

    visits: int
    patients: int
    content_hash: str
    """SHA-256 of the sample."""
    instead: str
    """Why the agent learned from the sample alone; empty where it learned from a stream of all visits."""


@dataclass(frozen=True)
class DataReference:
    """The recorded visits of a run."""

    name: str
    """Name of the file without its suffix."""
    content_hash: str
    """SHA-256 of the visits."""
    visits: int
    patients: int
    sample: SampleReference | None = None
    """None where all visits were in memory."""

    def __str__(self) -> str:
        """What was learned from what, in one sentence."""
        if self.sample is None:
            return f"all {self.visits:,} visits of {self.name} are learned from in memory."
        sample = f"a sample of {self.sample.visits:,} visits of {self.sample.patients:,} patients"
        rest = "the constant dose, the monitor of unfamiliar states and dose sets"
        if self.sample.instead:
            return f"{sample} of {self.name} is learned from, since {self.sample.instead}; likewise {rest}."
        return (
            f"all {self.visits:,} visits of {self.name} are streamed; {rest} rest on {sample}, and so does "
            "what an agent takes from the data before its first update."
        )


@dataclass(frozen=True)
class EnvironmentReference:
    """The environment that a run can be evaluated in."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialReference:
    """What makes a run a trial: how an offline policy went on learning from patients under treatment."""

    method: str
    """Registry key of the method."""
    start_seeds: tuple[int, ...]
    """Seeds of the offline run that it started from."""
    settings: Mapping[str, Any]
    """Fields of ``dosing.finetuning.method.TrialSettings``, and ``evaluation_patients`` per seed."""
    offline_agent: str
    """Registry key of the offline run's agent."""
    offline_weights: str
    """SHA-256 of its weights."""
    offline_run: str = ""
    """Its folder, from the trial's."""


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run, an offline training or a trial.

    Raises:
        UserError: sizes, limits and transform contradict each other, or there are no seeds.
    """

    agent: str
    """Registry key; empty for an agent that only the method of a trial makes."""
    agent_config: Mapping[str, Any]
    """Fields of the agent's configuration."""
    seeds: tuple[int, ...]
    problem: Problem
    transform: Transform
    limits: DoseLimits
    """Hard dose limits of the recorded visits."""
    data: DataReference
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``dosing.training.offline.TrainingSettings``; empty for a trial."""
    env: EnvironmentReference | None = None
    """None where the visits come from no environment that is known here."""
    regularisation: Regularisation = PLAIN
    obs_names: tuple[str, ...] = ()
    obs_units: tuple[str, ...] = ()
    dose_name: str = "dose"
    trial: TrialReference | None = None
    versions: Mapping[str, str | None] = field(default_factory=dict)
    """Of the packages, and of the scenario."""
    device: str = ""
    threads: int = 0
    created: str = ""
    """Time in UTC, ISO 8601."""
    data_file: str = ""
    """The recorded visits, as a path from the run's folder."""

    def __post_init__(self) -> None:
        """Refuse a configuration that contradicts itself."""
        n_obs, n_act = self.problem.n_obs, self.problem.n_act
        if not self.seeds:
            raise UserError("a run needs at least one seed.")
        if (self.transform.act_low, self.transform.act_high) != (self.limits.low, self.limits.high):
            raise UserError(
                f"the dose limits {list(self.limits.low)} to {list(self.limits.high)} are not those that the "
                f"agent's doses are mapped to, {list(self.transform.act_low)} to "
                f"{list(self.transform.act_high)}."
            )
        if self.limits.n_act != n_act or {len(self.transform.obs_mean), len(self.transform.obs_scale)} != {
            n_obs
        }:
            raise UserError(
                f"an agent for {n_obs} observed numbers and {n_act} dose(s) does not fit limits of "
                f"{self.limits.n_act} and a transform of {len(self.transform.obs_mean)}."
            )
        for name in ("obs_names", "obs_units"):
            if (entries := getattr(self, name)) and len(entries) != n_obs:
                raise UserError(f"{name} has {len(entries)} entries for {n_obs} observed numbers.")

    @property
    def updates(self) -> int:
        """Gradient updates of the training; 0 for a trial."""
        return int(self.training.get("steps", 0))

    @property
    def key(self) -> str:
        """Short name of the run: a hash of everything that decides its result."""
        decisive = {k: v for k, v in self._fields().items() if k not in CIRCUMSTANCES}
        if self.trial is not None:
            decisive["trial"] = {k: v for k, v in asdict(self.trial).items() if k != "offline_run"}
        return hash_of({"schema": SCHEMA} | decisive)[:12]

    def _fields(self) -> dict[str, Any]:
        data = {name: value for name, value in asdict(self.data).items() if value is not None}
        transform = self.transform.to_json()
        changed = self.regularisation.changed()
        return asdict(self) | {"regularisation": changed, "data": data, "transform": transform}

    def to_json(self) -> dict[str, Any]:
        """Plain fields with the schema, and the hash of all of them."""
        content = {"schema": SCHEMA} | self._fields()
        return content | {"hash": hash_of(content)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> RunConfig:
        """Inverse of :meth:`to_json`.

        Args:
            content: the JSON object.
            where: the file, for messages.

        Raises:
            UserError: another schema, a field that is missing, unknown or of another type, values that
                contradict each other, or a hash that is not theirs.
        """
        if content.get("schema") != SCHEMA:
            raise UserError(
                f"{where} has schema {content.get('schema')}, this version reads {SCHEMA}: train the run "
                "again."
            )
        rest = {name: value for name, value in content.items() if name != "hash"}
        if content.get("hash") != hash_of(rest):
            raise UserError(f"{where} was edited: its fields do not have its hash; the run is not used.")
        return typed(cls, {k: v for k, v in rest.items() if k != "schema"}, where)


def hash_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON fields, whatever their order."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
