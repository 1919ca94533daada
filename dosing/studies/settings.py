"""What the calls of a study take together: where visits come from, which agents, and on what machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dosing.errors import UserError
from dosing.models.regularisation import PLAIN, Regularisation

if TYPE_CHECKING:
    from dosing.data.external import External
    from dosing.studies.launch import Launcher


@dataclass(frozen=True)
class Cohort:
    """Patients that are simulated where a source of visits is the id of an environment."""

    patients: int = 50
    policy: str | None = None
    """Rule that doses them, see ``simulator.behaviour_policies.parse_policy``; None: the scenario's usual."""
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the environment, such as ``variant``."""


@dataclass(frozen=True)
class DataSource:
    """Recorded visits: a file or folder of parts, ``minari:ID``, or the id of an environment to simulate."""

    source: str
    cohort: Cohort = Cohort()
    """Used where ``source`` is the id of an environment."""
    external: External | None = None
    """What a file of another program does not say itself, see :func:`dosing.studies.data.external_of`."""

    @classmethod
    def of(cls, source: DataSource | str | Path) -> DataSource:
        """From a path or an id, with the usual cohort."""
        return source if isinstance(source, DataSource) else cls(str(source))

    @classmethod
    def several(
        cls, sources: DataSource | str | Path | Sequence[DataSource | str | Path]
    ) -> list[DataSource]:
        """From one source or more."""
        one = isinstance(sources, DataSource | str | Path)
        return [cls.of(source) for source in ((sources,) if one else sources)]  # type: ignore[arg-type, union-attr]


@dataclass(frozen=True)
class AgentSetup:
    """One agent as it is trained."""

    agent: str
    """Registry key."""
    config: Any = None
    """Its configuration object; None is its default."""
    regularisation: Regularisation = PLAIN
    """What networks and updates have beyond the method."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``dosing.data.dataset.Transform.fit``; evaluation is in the world's units in any case."""

    def __post_init__(self) -> None:
        """Look the agent up.

        Raises:
            UserError: there is no such agent.
        """
        import agents

        entry = agents.find(self.agent)
        if self.config is None:
            object.__setattr__(self, "config", entry.config_class()())


@dataclass(frozen=True)
class Grid:
    """Agents and the values that their settings take in turn; every combination is one setup."""

    agents: tuple[str, ...]
    """Registry keys, or ``("all",)``."""
    settings: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """``agent.field``, or ``field`` for every agent that has it, to its values."""
    preset: str | None = None
    """Named settings, see ``dosing.studies.presets``; whatever else is given wins over them."""
    families: tuple[str, ...] = ()
    """Policy families to cross with every agent that has the choice."""
    regularise: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Options of ``dosing.models.regularisation.Regularisation`` to their values."""
    data_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``dosing.data.dataset.Transform.fit``."""

    @classmethod
    def of(cls, agents: Grid | str | Sequence[str]) -> Grid:
        """From one registry key or more, with the agents' own settings."""
        if isinstance(agents, Grid):
            return agents
        return cls((agents,) if isinstance(agents, str) else tuple(agents))

    @classmethod
    def several(cls, agents: Grid | str | Sequence[str | Grid]) -> tuple[Grid, ...]:
        """From one grid, several, or registry keys with the agents' own settings."""
        if isinstance(agents, Grid | str):
            return (cls.of(agents),)
        agents = tuple(agents)
        names = tuple(agent for agent in agents if isinstance(agent, str))
        grids = tuple(agent for agent in agents if isinstance(agent, Grid))
        return ((cls(names),) if names or not grids else ()) + grids


@dataclass(frozen=True)
class Folds:
    """How recorded patients are cut for cross-validation."""

    count: int | None = None
    """K, each of two or more patients; None is 5, or 2 where the estimator ``model_based`` decides."""
    seed: int = 0


@dataclass(frozen=True)
class Resources:
    """Where and how runs are computed; no result depends on the number of workers."""

    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    workers: int | None = None
    """Processes; None is one per core on the CPU and one on a GPU."""

    cluster: str | None = None
    """``slurm`` or ``local`` submits every run as a job (``dosing.studies.cluster``); None computes here."""
    cluster_options: Mapping[str, Any] = field(default_factory=dict)
    """Such as ``partition``, ``gpus_per_node``, ``timeout_min`` and ``parallel``."""

    def launcher(self, study: Path) -> Launcher:
        """What runs the jobs of a study there.

        Raises:
            UserError: there is no such device, no workers, no such cluster, or an option that does not fit.
        """
        if self.cluster is None:
            if self.cluster_options:
                raise UserError("--cluster-option goes with --cluster.")
            from dosing.studies.launch import LocalProcesses

            return LocalProcesses(self.device, self.workers)
        if self.workers is not None:
            raise UserError("--workers is for this machine; on a cluster: --cluster-option parallel=NUMBER.")
        try:
            from dosing.studies.cluster import Cluster
        except ModuleNotFoundError as error:
            raise UserError("--cluster needs the package submitit: pip install 'dosing[cluster]'.") from error
        return Cluster(study, self.cluster, self.cluster_options)
