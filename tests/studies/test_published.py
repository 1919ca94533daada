"""Presets of published experiments hold every value of a table that was typed from papers and their code.

The table, ``tests/presets/published.toml``, has a row for every setting of every agent with a published
experiment on locomotion, whether the preset sets it or leaves the agent's own default: a default that moves,
or a setting that is added, is noticed.
"""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from pathlib import Path
from typing import Any

import pytest

import agents
from dosing.studies import Grid, presets
from dosing.studies.grid import configurations
from dosing.training.offline import TrainingSettings

STEPS = 12_345
TASKS = [
    f"{t}-{q}"
    for t in ("halfcheetah", "hopper", "walker2d")
    for q in ("medium-expert", "medium", "medium-replay")
]
TABLE: dict[str, Any] = tomllib.loads(
    (Path(__file__).parent.parent / "presets" / "published.toml").read_text(encoding="utf-8")
)
MAZES = ["umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"]
WITHOUT = {
    *("fql", "ifql", "fan", "faql", "nbrac", "nfql", "iqn", "c51", "value_flows"),
    *("quasi_optimal", "response_model"),
}
"""Agents without a published experiment on these tasks."""


@functools.cache
def configured(name: str) -> dict[str, dict[str, Any]]:
    """Every agent's settings under a preset, for a training of ``STEPS`` updates."""
    preset, result = presets.find(name), {}
    for agent, entry in agents.AGENTS.items():
        config_class = entry.config_class()
        result[agent] = vars(config_class(**preset.settings(agent, config_class, STEPS)))
    return result


def typed(value: Any) -> Any:
    """A value of the table as a configuration has it."""
    return {"none": None, "the training's": STEPS}.get(value, value) if isinstance(value, str) else value


def same(have: Any, want: Any) -> bool:
    """Whether a setting has a value of the table, which may be rounded to three digits."""
    if isinstance(want, float) and have is not None:
        return bool(have == pytest.approx(want, rel=1e-3))
    return bool((list(have) if isinstance(have, tuple) else have) == typed(want))


def rows(part: str, task: str, agent: str | None = None) -> dict[tuple[str, str], Any]:
    """Values by agent and field for one task; those of the task alone win over those of all."""
    chosen = [row for row in TABLE[part] if row[1] in ("all", task) and agent in (None, row[0])]
    return {(row[0], row[2]): row[3] for row in sorted(chosen, key=lambda row: row[1] == task)}


def test_the_table_is_complete() -> None:
    """Every row names an agent, a task, a field and a place; no row stands twice."""
    known = {
        name: {f.name for f in dataclasses.fields(e.config_class())} for name, e in agents.AGENTS.items()
    }
    for part in ("treatment", "locomotion", "antmaze", "departures"):
        for agent, task, field, _, source, *reason in TABLE[part]:
            assert field in known[agent], (agent, field)
            assert task in ("all", "treatment", *(MAZES if part == "antmaze" else TASKS))
            assert ": " in source
            assert len(reason) == (part == "departures")
        keys = [tuple(row[:3]) for row in TABLE[part]]
        assert len(keys) == len(set(keys))
    for agent, reasons in TABLE["unpublished"].items():
        assert {field for fields in reasons.values() for field in fields} <= known[agent]


@pytest.mark.parametrize("task", TASKS)
def test_locomotion_settings_are_the_published_ones(task: str) -> None:
    have = configured(f"d4rl-mujoco/{task}")
    pairs = {(a, f): (have[a][f], value) for (a, f), value in rows("locomotion", task).items()}
    assert not {key: pair for key, pair in pairs.items() if not same(*pair)}
    departed = rows("departures", task)
    assert not [(a, f) for (a, f), value in departed.items() if same(have[a][f], value)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("agent", [name for name in agents.AGENTS if name not in WITHOUT])
def test_no_setting_of_a_published_experiment_is_silent(agent: str, task: str) -> None:
    """A field is in the table, departs from it with a reason, or is named as unpublished; only once."""
    said = [field for _, field in [*rows("locomotion", task, agent), *rows("departures", task, agent)]]
    said += [field for fields in TABLE["unpublished"].get(agent, {}).values() for field in fields]
    fields = [f.name for f in dataclasses.fields(agents.find(agent).config_class())]
    assert sorted(said) == sorted(fields)


@pytest.mark.parametrize("task", ["", *TASKS])
def test_the_preset_sets_nothing_beyond_the_table(task: str) -> None:
    preset = presets.find(f"d4rl-mujoco/{task}" if task else "d4rl-mujoco")
    table = rows("locomotion", task)
    for agent, own in preset.agents.items():
        if agent not in WITHOUT:
            beyond = [f for f, v in own.items() if (agent, f) not in table or not same(v, table[agent, f])]
            assert not beyond, agent
    for agent in WITHOUT:
        assert set(preset.agents.get(agent, {})) <= {"hidden", "learning_rate"}


def test_the_length_of_the_training_is_that_of_the_decay() -> None:
    for agent in ("iql", "sql", "eql", "xql"):
        assert configured("d4rl-mujoco")[agent]["actor_decay_steps"] == STEPS
        assert configured("common")[agent]["actor_decay_steps"] is None
    preset = presets.find("d4rl-mujoco")
    grid = Grid(("iql",), {"actor_decay_steps": [7]})
    ((_, config),) = configurations(grid, preset, training=TrainingSettings(steps=STEPS))
    assert config.actor_decay_steps == 7


def test_treatment_settings_are_the_published_ones_and_no_others() -> None:
    table = rows("treatment", "treatment")
    have = {(a, f): v for a, own in presets.find("published").agents.items() for f, v in own.items()}
    assert have.keys() == table.keys()
    assert not {key: v for key, v in have.items() if not same(v, table[key])}


@pytest.mark.parametrize("task", TASKS)
def test_data_are_scaled_as_published(task: str) -> None:
    preset, table = presets.find(f"d4rl-mujoco/{task}"), rows("locomotion_data", task)
    scaled = {agent for agent, _ in table}
    for agent in agents.AGENTS:
        want = {f: v for (name, f), v in table.items() if name == agent}
        assert preset.data_of(agent) == (want or {"standardise_obs": False, "scale_reward": False}), agent
    assert scaled <= set(agents.AGENTS)


@pytest.mark.parametrize("maze", MAZES)
@pytest.mark.parametrize("agent", ["iql", "spot", "fan", "fql"])
def test_settings_in_mazes_are_the_published_ones(agent: str, maze: str) -> None:
    have, table = configured(f"d4rl-antmaze/{maze}")[agent], rows("antmaze", maze, agent)
    assert have.keys() == {field for _, field in table}
    assert not {f: (have[f], v) for (_, f), v in table.items() if not same(have[f], v)}


def test_no_other_agent_has_settings_in_mazes() -> None:
    preset = presets.find("d4rl-antmaze")
    assert set(preset.agents) == {"iql", "spot", "fan", "fql"} == {row[0] for row in TABLE["antmaze"]}
    assert list(preset.variants) == MAZES


@pytest.mark.parametrize("maze", MAZES)
def test_sparse_rewards_are_shifted_and_scaled_as_published(maze: str) -> None:
    preset = presets.find(f"d4rl-antmaze/{maze}")
    for (agent, field), value in rows("antmaze_data", maze).items():
        assert preset.data_of(agent)[field] == value, agent
    usual = {"standardise_obs": False, "scale_reward": False, "shift_reward": -1.0}
    assert preset.data_of("iql") == preset.data_of("sql") == usual
