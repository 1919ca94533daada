"""What the benchmark computes, as data: scenarios, cohort sizes, seeds and settings, versioned and hashed.

Nothing here may change under a version: a change of any field is another hash, and takes another version, so
that rows of one table are rows of one set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import agents
from dosing.errors import UserError

VERSION = 1


@dataclass(frozen=True)
class Task:
    """Patients of one kind, and how those who are learned from were dosed.

    Attributes:
        name: in the tables.
        env: scenario.
        scenario_version: of its card; another one is refused.
        policy: by which the recorded patients were dosed.
        options: of the scenario.
    """

    name: str
    env: str
    scenario_version: str = "1.0"
    policy: str = "uniform"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkSet:
    """One size of a version of the set: every task at every number of recorded patients, several times.

    Attributes:
        version: of the set.
        size: its name.
        tasks: see :class:`Task`.
        patients: recorded patients of a data set.
        data_seeds: one per data set; its recorded patients.
        evaluation_seeds: one per data set; the agent's own random numbers, and its new patients.
        evaluation_patients: new patients per data set.
        updates: gradient updates.
        batch_size: visits per update.
        checkpoint_every: updates between checkpoints.
        margin: a data set is lost where the mean gain is below minus this share of the standard deviation,
            between patients, of the constant dose's return.
        presets: settings of single agents, see :mod:`dosing.studies.presets`.
        preset: settings of all others.
    """

    version: int
    size: str
    tasks: tuple[Task, ...]
    patients: tuple[int, ...]
    data_seeds: tuple[int, ...]
    evaluation_seeds: tuple[int, ...]
    evaluation_patients: int
    updates: int
    batch_size: int = 256
    checkpoint_every: int = 500
    margin: float = 0.1
    presets: Mapping[str, str] = field(default_factory=dict)
    preset: str = "clinical-small"

    @property
    def hash(self) -> str:
        """SHA-256 of everything that the set states."""
        return _hash(asdict(self))

    @property
    def hash_of_evaluation(self) -> str:
        """SHA-256 of the seeds of agents and new patients."""
        return _hash(self.evaluation_seeds)

    @property
    def cells(self) -> list[tuple[Task, int]]:
        """Every task with every number of recorded patients."""
        return [(task, patients) for task in self.tasks for patients in self.patients]

    def preset_of(self, agent: str) -> str:
        """The settings an agent has unless its entry names others."""
        return self.presets.get(agent, self.preset)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


_SIMENV3 = Task("SimEnv3", "dosing/Treatment-v0", options={"variant": "simenv3"})
_LI_I = Task("Li I", "dosing/LiI-v0")
_DATA = tuple(range(20_001, 20_011))
_EVALUATION = (289185, 961070, 129518, 736690, 622635, 376223, 800546, 191453, 769198, 659791)
_SHARED: dict[str, Any] = {"version": VERSION, "presets": dict(agents.DEMO_PATIENTS)}

SIZES: Mapping[str, BenchmarkSet] = {
    "small": BenchmarkSet(
        size="small",
        tasks=(_SIMENV3, _LI_I),
        patients=(50,),
        data_seeds=_DATA[:4],
        evaluation_seeds=_EVALUATION[:4],
        evaluation_patients=500,
        updates=500,
        checkpoint_every=200,
        **_SHARED,
    ),
    "full": BenchmarkSet(
        size="full",
        tasks=(
            _SIMENV3,
            Task("SimEnv3, realism 4", _SIMENV3.env, options={"variant": "simenv3", "realism": 4}),
            Task("SimEnv3 by titration", _SIMENV3.env, policy="titration", options=_SIMENV3.options),
            _LI_I,
            Task("Li II", "dosing/LiII-v0"),
            Task("Li IV", "dosing/LiIV-v0"),
        ),
        patients=(25, 50, 400),
        data_seeds=_DATA,
        evaluation_seeds=_EVALUATION,
        evaluation_patients=2000,
        updates=2000,
        **_SHARED,
    ),
}
"""The set by the name of its size."""


def find(size: str) -> BenchmarkSet:
    """The set of a size.

    Raises:
        UserError: there is no such size; the message lists those there are.
    """
    if size not in SIZES:
        raise UserError(f"the benchmark has no size {size!r}; it has: {', '.join(SIZES)}.")
    return SIZES[size]
