"""What FtTPO's parts are worth on MuJoCo data: one changed at a time, beside the released code.

    python benchmarks/experiments/ablations_locomotion.py --data FOLDER [--sets hopper-medium-expert ...]
        [--updates N] [--at N ...] [--seeds S] [--full]

Data, widths, evaluation and scores are those of ``locomotion.py``, and so are the settings of which one part
is changed; the parts are those of ``ablations.py``, then the temperature, and how states and rewards are
scaled. The released code differs in several parts at once, see ``agents.fttpo_released``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import agents
from benchmarks import mujoco
from benchmarks.experiments import locomotion
from benchmarks.experiments.ablations import CHANGES
from benchmarks.mujoco import Trained
from dosing.errors import UserError
from dosing.studies import Grid, presets
from dosing.studies.grid import configurations
from dosing.training.offline import TrainingSettings

SCALED = ("standardise_obs", "scale_reward")
"""Options of the data that are changed."""


@dataclass(frozen=True)
class Change:
    """One line: what differs from the preset in settings, by a factor or in the data, or another agent."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, bool] = field(default_factory=dict)
    agent: str = "fttpo"

    def grid(self, short: Mapping[str, list[Any]], preset: str) -> Grid:
        """What is trained."""
        usual = presets.find(preset).settings(self.agent, agents.find(self.agent).config_class())
        scaled = {key: usual[key] * factor for key, factor in self.factors.items()}
        settings = {key: [value] for key, value in (dict(self.settings) | scaled).items()}
        return Grid((self.agent,), settings | dict(short), preset, data_options=self.data)


CHANGED = (
    *(Change(name, settings) for name, settings in CHANGES.items()),
    Change("a tenth of the temperature", factors={"temperature": 0.1}),
    Change("ten times the temperature", factors={"temperature": 10.0}),
    Change("states standardised", data={"standardise_obs": True}),
    Change("rewards over their standard deviation", data={"scale_reward": True}),
    Change("the released code", agent="fttpo_released"),
)


def namer(grids: Mapping[str, Grid], updates: int) -> Callable[[Mapping[str, Any]], str]:
    """What a run is called: by what was changed, which its agent, settings and data say.

    Args:
        grids: of one configuration each, by name.
        updates: length of the training.

    Returns:
        From the content of a run's ``config.json`` to a name.
    """
    known = {}
    for name, grid in grids.items():
        ((agent, config),) = configurations(grid, training=TrainingSettings(steps=updates))
        data = presets.find(grid.preset).data_of(agent) | dict(grid.data_options)
        known[_key(agent, asdict(config), [bool(data[option]) for option in SCALED])] = name

    def name_of(run: Mapping[str, Any]) -> str:
        transform = run["transform"]
        scaled = [any(scale != 1.0 for scale in transform["obs_scale"]), transform["reward_scale"] != 1.0]
        return known[_key(run["agent"], run["agent_config"], scaled)]

    return name_of


def _key(agent: str, config: Mapping[str, Any], scaled: list[bool]) -> str:
    return json.dumps([agent, config, scaled], sort_keys=True)


def one(name: str, options: argparse.Namespace) -> Trained:
    """Train and evaluate every change on one data set; the study is found again where it was left."""
    short, preset = mujoco.short(options, ["fttpo"]), mujoco.preset(options, name)
    grids = {change.name: change.grid(short, preset) for change in CHANGED}
    named = namer(grids, options.updates)
    return mujoco.trained(name, list(grids.values()), options, named=named)


def parts(found: Sequence[Trained], options: argparse.Namespace) -> list[str]:
    """The page."""
    return [
        "# What FtTPO's parts are worth on MuJoCo data",
        mujoco.opening(mujoco.command("ablations_locomotion", options, "name"), options, found),
        *locomotion.tables(found, options, "changed", [change.name for change in CHANGED]),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="FtTPO on MuJoCo data, one part changed at a time.")
    mujoco.add_options(parser, "ablations_locomotion", updates=10_000)
    parser.add_argument("--name", default="ablations_locomotion", help="of the page [%(default)s]")
    options = locomotion.lengthened(mujoco.checked(parser.parse_args(argv)))
    found: list[Trained] = []
    for name in options.sets:
        found.append(one(name, options))
        locomotion.keep(found, parts(found, options), options)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"ablations_locomotion: {error}")
