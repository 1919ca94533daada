"""Studies join data, agents, simulator and evaluation: the Python interface of this package.

A study is a folder; the same call continues in it where a killed one stopped::

    from dosing.studies import compare, recommend

    print(compare("runs/first", ["fttpo", "iql"], "dosing/Treatment-v0"))

:func:`train` one agent, :func:`compare` several, :func:`select` settings from recorded visits alone, enter
them in the benchmark (:func:`bench`),
:func:`evaluate` finished runs on new patients, :func:`load` the guarded recommender of a run, or ask it once
with :func:`recommend`. What they take together has a type: :class:`AgentSetup`, :class:`Grid`,
:class:`DataSource` with a :class:`Cohort`, :class:`TrainingSettings`, :class:`Folds`, :class:`Resources`.

Importing this package imports nothing heavy; every name comes from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dosing.studies.benchmark import bench
    from dosing.studies.compared import Comparison
    from dosing.studies.comparison import compare
    from dosing.studies.evaluation import evaluate
    from dosing.studies.loading import load, recommend
    from dosing.studies.selected import Selected
    from dosing.studies.selection import select
    from dosing.studies.settings import AgentSetup, Cohort, DataSource, Folds, Grid, Resources
    from dosing.studies.training import train
    from dosing.training.offline import TrainingSettings

__all__ = [
    "AgentSetup",
    "Cohort",
    "Comparison",
    "DataSource",
    "Folds",
    "Grid",
    "Resources",
    "Selected",
    "TrainingSettings",
    "bench",
    "compare",
    "evaluate",
    "load",
    "recommend",
    "select",
    "train",
]

_HOMES = {
    "Comparison": "dosing.studies.compared",
    "Selected": "dosing.studies.selected",
    "TrainingSettings": "dosing.training.offline",
    "bench": "dosing.studies.benchmark",
    "compare": "dosing.studies.comparison",
    "evaluate": "dosing.studies.evaluation",
    "load": "dosing.studies.loading",
    "recommend": "dosing.studies.loading",
    "select": "dosing.studies.selection",
    "train": "dosing.studies.training",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "dosing.studies.settings")), name)


def __dir__() -> list[str]:
    return __all__
