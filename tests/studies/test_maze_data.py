"""From a walk through a maze to the table with success rates, offline and in a trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dosing.cli.main import main
from dosing.data.store import read_episodes, write_episodes
from dosing.errors import UserError
from dosing.finetuning.method import TrialSettings
from dosing.runs.files import read_json
from dosing.runs.folder import RunFolder
from dosing.studies import Grid, Resources, TrainingSettings, compare
from dosing.studies.comparison_table import render
from dosing.studies.finetune import finetune
from dosing.studies.maze_data import MazePlan, collect_maze
from simulator.envs.tasks import episode_seed, make_task

pytestmark = pytest.mark.mazes

POINT = "PointMaze_UMaze-v3"


def test_a_walk_is_what_the_task_gives_again() -> None:
    result = collect_maze(MazePlan(POINT, 150, seed=3, env_options={"max_episode_steps": 40}))
    assert len(result) == 150
    assert (result.cost == 0.0).all()
    with make_task(POINT, {"max_episode_steps": 40}) as task:
        for number in np.unique(result.episode):
            rows = np.flatnonzero(result.episode == number)
            obs, _ = task.reset(seed=episode_seed(3, "train", int(number)))
            for row in rows:
                np.testing.assert_array_equal(result.obs[row], obs.astype(np.float32))
                obs, reward, terminated, _, _ = task.step(result.act[row])
                assert (result.reward[row], result.terminated[row]) == (reward, terminated)
                np.testing.assert_array_equal(result.next_obs[row], obs.astype(np.float32))
    again = collect_maze(MazePlan(POINT, 150, seed=3, env_options={"max_episode_steps": 40}))
    np.testing.assert_array_equal(result.act, again.act)
    assert 0.2 < result.act.std() < 1.0


def test_the_command_walks_in_mazes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "walk.hdf5"
    assert main(["collect", POINT, "--transitions", "40", "--out", str(out), "--noise", "0.1"]) == 0
    assert "waypoints: 40 visits in " in capsys.readouterr().out
    assert read_episodes(out).metadata.collected["noise"] == 0.1
    assert main(["collect", "Hopper-v5", "--noise", "1", "--out", str(out)]) == 2
    assert "--noise is of a walk in a maze" in capsys.readouterr().err
    with pytest.raises(UserError, match="noise must be at least 0"):
        MazePlan(POINT, 1, noise=-1.0)


@pytest.mark.long
def test_tables_tell_the_success_rate(tmp_path: Path) -> None:
    plan = MazePlan(POINT, 300, env_options={"max_episode_steps": 60})
    write_episodes(collect_maze(plan), tmp_path / "walk.hdf5")
    study, resources = tmp_path / "study", Resources("cpu", 1)
    result = compare(
        study,
        Grid(("iql",), {"hidden": [(8,)]}, "d4rl-antmaze/umaze"),
        tmp_path / "walk.hdf5",
        seeds=range(1),
        training=TrainingSettings(steps=3, batch_size=8),
        evaluation_patients=4,
        resources=resources,
    )
    row = result.rows[0]
    assert row.success is not None
    assert row.success.n == 4
    assert row.success.value == row.recommended.value  # the sparse reward of the one visit that ends it
    assert "success rate" in render(result.rows)
    assert "(n = 4)" in render(result.rows)
    (name,) = read_json(study / "table.json")["runs"]
    run = study / name
    assert RunFolder(run).config().transform.reward_shift == -1.0
    trial = finetune(
        ["pex,evaluation_epsilon=0.1"],
        [run],
        settings=TrialSettings(visits=8, start=2, evaluate_every=8, batch_size=4),
        evaluation_patients=4,
        resources=resources,
    )
    assert trial.lines[0].success is not None
    assert trial.lines[0].success.value == trial.lines[0].after.value
    assert "success rate" in str(trial)
