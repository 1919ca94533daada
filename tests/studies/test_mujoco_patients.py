"""Visits of other programs from file to table, with MuJoCo tasks as the place where agents are evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from dosing.cli.main import main
from dosing.data.store import read_episodes
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes, write_outcomes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant, uniform
from dosing.runs.files import write_table
from dosing.studies import DataSource
from dosing.studies.data import external_of, obtain_data
from dosing.studies.scenarios import evaluable
from simulator.envs.mujoco import REFERENCES
from simulator.envs.tasks import TaskCohort, TaskFactory

CUT = {"max_episode_steps": 60}


def record(path: Path, episodes: int = 4) -> Path:
    """A D4RL file of uniform actions in Hopper-v5, ended by falls and by a time limit of 60 visits."""
    env = TaskCohort("Hopper-v5", episodes, 0, "train", CUT, workers=1)
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    rows: list[tuple[int, int, dict[str, Any]]] = []
    while not env.over.all():
        live = np.flatnonzero(~env.over)
        act = rng.uniform(-1, 1, (episodes, 3)).astype(np.float32)
        following, reward, terminated, truncated, _ = env.step(act)
        for k in live:
            row = {"observations": obs[k], "actions": act[k], "rewards": np.float32(reward[k])}
            row |= {"next_observations": following[k], "terminals": terminated[k], "timeouts": truncated[k]}
            rows.append((int(k), len(rows), row))
        obs = following
    rows.sort(key=lambda entry: entry[:2])
    with h5py.File(path, "w") as file:
        for name in rows[0][2]:
            file[name] = np.stack([row[name] for _, _, row in rows])
    return path


@pytest.mark.mujoco
def test_episodes_of_different_length_are_each_counted_to_their_own_end() -> None:
    factory = TaskFactory("Hopper-v5", CUT, workers=1)
    act = uniform(factory.limits, (0, 2))
    result = rollout(factory, act, (0, 2), 3)
    for k, seed in enumerate((0, 2)):
        env = factory(3, seed * 3)
        env.reset(seed=0)
        returns, visits = np.zeros(3), np.zeros(3)
        doses: list[list[float]] = [[], [], []]
        for visit in range(60):
            dose = act(np.zeros((2, 3, 11), np.float32), visit)[k].astype(np.float32)
            going = ~env.over
            reward = env.step(dose)[1]
            for p in np.flatnonzero(going):
                returns[p] += reward[p]
                visits[p] += 1
                doses[p].append(dose[p].mean(dtype=np.float64))
        np.testing.assert_allclose(result.returns[k], returns, rtol=1e-12)
        np.testing.assert_array_equal(result.visits[k], visits)
        np.testing.assert_allclose(result.dose[k], [np.mean(entries) for entries in doses], rtol=1e-9)
        np.testing.assert_array_equal(result.cost[k], visits < 60)  # one fall each
    assert len(set(result.visits.ravel())) > 1


@pytest.mark.mujoco
def test_outcomes_keep_the_visits_and_earlier_files_are_still_read(tmp_path: Path) -> None:
    factory = TaskFactory("Hopper-v5", CUT, workers=1)
    result = rollout(factory, constant([0.0] * 3), (0,), 2)
    write_outcomes(tmp_path / "new.parquet", {"none": result})
    np.testing.assert_array_equal(read_outcomes(tmp_path / "new.parquet")["none"].visits, result.visits)
    columns = pd.read_parquet(tmp_path / "new.parquet").drop(columns="visits")
    write_table(tmp_path / "old.parquet", {name: columns[name].to_numpy() for name in columns})
    old = read_outcomes(tmp_path / "old.parquet")["none"]
    assert np.isnan(old.visits).all()
    np.testing.assert_array_equal(old.returns, result.returns)


@pytest.mark.mujoco
@pytest.mark.slow
def test_random_returns_are_those_that_scores_refer_to() -> None:
    for env_id in ("Hopper-v5", "Walker2d-v5"):
        factory = TaskFactory(env_id, workers=1)
        returns = rollout(factory, uniform(factory.limits, (7,)), (7,), 300).returns
        spread = returns.std() / np.sqrt(returns.size)
        assert abs(returns.mean() - REFERENCES[env_id].random) < 4.0 * spread + 1.0


def test_a_score_is_0_at_random_and_100_at_the_expert() -> None:
    for reference in REFERENCES.values():
        assert reference.score(reference.random) == 0.0
        assert reference.score(reference.expert) == pytest.approx(100.0)


@pytest.mark.long
@pytest.mark.mujoco
def test_a_d4rl_file_goes_from_training_to_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "hops.hdf5")
    named = ["--env", "Hopper-v5", "--env-option", "max_episode_steps=60"]
    command = ["compare", "--agents", "bc", "--data", "hops.hdf5", *named, "--out", "study", "--seeds", "2"]
    small = ["--steps", "20", "--set", "hidden=[8]", "--workers", "1", "--evaluation-patients", "2"]
    assert main([*command, *small]) == 0
    printed = capsys.readouterr().out
    assert "mean length of Hopper-v5 episodes, at most 60 visits: BC " in printed
    assert "normalised scores of recommended doses (random 17.66, expert 3209.3, measured in v5" in printed
    copies = list((tmp_path / "study" / "data").iterdir())
    assert len(copies) == 1
    assert read_episodes(copies[0]).metadata.env_options == CUT
    table = json.loads((tmp_path / "study" / "table.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["BC", "uniform dosing", "no dose"]
    assert main(["evaluate", str(tmp_path / "study" / table["runs"][0]), "--patients", "2"]) == 0
    assert "normalised scores" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hops.hdf5", "study"]


def test_a_table_is_trained_on_but_meets_no_new_patients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows = {"who": np.repeat(np.arange(4), 5), "x": rng.standard_normal(20), "r": rng.standard_normal(20)}
    pd.DataFrame({**rows, "dose": rng.uniform(0, 2, 20)}).to_csv(tmp_path / "t.csv", index=False)
    data = ["--data", str(tmp_path / "t.csv"), "--out", str(tmp_path / "s"), "--seeds", "1", "--steps", "5"]
    columns = ["--columns", "obs=x", "act=dose", "reward=r", "episode=who", "terminated="]
    limits = ["--dose-low", "0", "--dose-high", "2"]
    assert main(["train", "bc", *data, *columns, *limits, "--hidden", "8"]) == 0
    told, path = capsys.readouterr().out.splitlines()
    assert "4 patients, 20 visits, 4 of them left out" in told
    run = Path(path)
    config = json.loads((run / "config.json").read_text())
    assert config["env"] is None
    assert config["obs_names"] == ["x"]
    assert config["limits"]["high"] == [2.0]
    assert main(["compare", "--agents", "bc", *data, *columns, *limits]) == 2
    assert "name it with --scenario" in capsys.readouterr().err
    assert main(["train", "bc", *data]) == 2
    assert "name its columns of obs" in capsys.readouterr().err


def test_what_the_user_says_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no environment 'Hoper-v5'"):
        external_of("Hoper-v5", {})
    with pytest.raises(UserError, match="as many low as high"):
        external_of(None, {}, low=[0.0])
    assert external_of(None, {}) is None
    with pytest.raises(UserError, match="leave the description out"):
        obtain_data(DataSource("dosing/Treatment-v0", external=external_of(None, {}, horizon=5)), tmp_path)
    with pytest.raises(UserError, match="neither a file nor an environment id nor minari:ID"):
        obtain_data(DataSource("absent.hdf5"), tmp_path)


@pytest.mark.mujoco
def test_an_environment_says_limits_and_length(tmp_path: Path) -> None:
    said = external_of("Hopper-v5", {})
    assert said is not None
    assert said.limits is not None
    assert said.limits.high == (1.0, 1.0, 1.0)
    assert said.horizon == 1000
    with pytest.raises(UserError, match="has 11 numbers per observation, Swimmer-v5 8"):
        obtain_data(
            DataSource(str(record(tmp_path / "hops.hdf5")), external=external_of("Swimmer-v5", {})), tmp_path
        )
    file = obtain_data(DataSource(str(record(tmp_path / "hops.hdf5")), external=said), tmp_path / "study")
    assert obtain_data(DataSource(str(tmp_path / "hops.hdf5"), external=said), tmp_path / "study") == file
    assert obtain_data(DataSource(str(file)), tmp_path / "study") == file
    assert isinstance(evaluable(file), TaskFactory)
