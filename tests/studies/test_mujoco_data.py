"""Collected data: what the task would give again, with a card that says how it was made."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from dosing.cli.main import main
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.studies import Resources, mujoco_data
from dosing.studies.mujoco_data import CollectionPlan, collect
from dosing.studies.scenarios import evaluable
from simulator.envs.mujoco import Reference
from simulator.envs.tasks import TaskFactory, episode_seed

pytestmark = pytest.mark.mujoco

SMALL: dict[str, Any] = {
    "start": 40,
    "evaluate_every": 60,
    "most_steps": 120,
    "env_options": {"max_episode_steps": 25},
    "hidden": (8,),
}


def plan(quality: str, transitions: int = 100, **changes: Any) -> CollectionPlan:
    return CollectionPlan("Hopper-v5", quality, transitions, **SMALL | changes)


def known(patch: pytest.MonkeyPatch, random: float, expert: float) -> None:
    patch.setattr(mujoco_data, "REFERENCES", {"Hopper-v5": Reference(random, expert, "a test")})


def assert_whole(result: Episodes) -> None:
    """Episodes follow each other without a gap, and rows within them."""
    inside = result.episode[1:] == result.episode[:-1]
    np.testing.assert_array_equal(result.obs[1:][inside], result.next_obs[:-1][inside])
    np.testing.assert_array_equal((result.terminated | result.truncated)[:-1], ~inside)
    assert (result.terminated | result.truncated)[-1]
    assert not (result.terminated & result.truncated).any()
    assert np.isin(np.diff(result.episode), [0, 1]).all()
    np.testing.assert_array_equal(result.cost, result.terminated)
    assert np.abs(result.act).max() <= 1.0


def test_a_replay_is_what_the_task_gives_again() -> None:
    result = collect(plan("replay", seed=3))
    assert_whole(result)
    assert len(result) == 100
    task = gymnasium.make("Hopper-v5", max_episode_steps=25)
    for number in range(int(result.episode[-1]) + 1):
        rows = np.flatnonzero(result.episode == number)
        obs, _ = task.reset(seed=episode_seed(3, "train", number))
        for row in rows:
            np.testing.assert_array_equal(result.obs[row], obs.astype(np.float32))
            obs, reward, terminated, _, _ = task.step(result.act[row])
            np.testing.assert_array_equal(result.next_obs[row], obs.astype(np.float32))
            assert result.reward[row] == np.float32(reward)
            assert result.terminated[row] == terminated
    (part,) = result.metadata.collected["parts"]
    assert part["steps"] == part["transitions"] == 100
    assert part["episodes"] == result.episode[-1] + 1
    returns = [
        result.reward[result.episode == k].sum(dtype=np.float64) for k in range(part["complete_episodes"])
    ]
    assert part["mean_return"] == pytest.approx(np.mean(returns), rel=1e-6)


@pytest.mark.long
def test_the_same_plan_is_the_same_data_and_another_seed_is_not() -> None:
    first, second, other = (collect(plan("replay", 80, seed=seed)) for seed in (0, 0, 1))
    assert first.content_hash() == second.content_hash() != other.content_hash()


def test_medium_stops_training_at_its_score(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, -1000.0, -500.0)  # any return scores more than 100
    result = collect(plan("medium", 70))
    assert_whole(result)
    (part,) = result.metadata.collected["parts"]
    assert (part["quality"], part["steps"], part["transitions"]) == ("medium", 60, 70)
    assert part["score"] == pytest.approx(100.0 * (part["evaluated"] + 1000.0) / 500.0)
    reference = result.metadata.collected["reference"]
    assert reference == {"random": -1000.0, "expert": -500.0, "source": "a test"}


def test_mixed_is_half_medium_half_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, -1000.0, -500.0)
    result = collect(plan("mixed", 71))
    assert_whole(result)
    parts = result.metadata.collected["parts"]
    assert [(part["quality"], part["transitions"]) for part in parts] == [("medium", 35), ("expert", 36)]
    assert result.truncated[34]


@pytest.mark.long
def test_a_quality_out_of_reach_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known(monkeypatch, 0.0, 1e9)
    with pytest.raises(UserError, match=r"after 120 steps the score is 0.0 and medium begins at 33.3"):
        collect(plan("medium"))
    command = ["collect", "Hopper-v5", "--quality", "expert", "--out", str(tmp_path / "x.hdf5")]
    assert main([*command, "--start", "5", "--most-steps", "8", "--transitions", "10"]) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.hdf5", "x.parquet"])
def test_the_command_writes_data_that_can_be_evaluated(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["collect", "Hopper-v5", "--quality", "replay", "--transitions", "60", "--start", "50"]
    assert main([*command, "--out", str(tmp_path / name)]) == 0
    printed = capsys.readouterr().out
    assert f"60 visits in {read_episodes(tmp_path / name).metadata.patients} episodes" in printed
    assert "after 60 training steps the policy without noise returns" in printed
    assert "normalised score" in printed
    assert isinstance(evaluable(tmp_path / name), TaskFactory)


@pytest.mark.long
def test_the_demonstration_records_once_and_compares_two_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mujoco_data, "DEMO", plan("replay", 60))
    monkeypatch.setattr(
        mujoco_data, "compare", functools.partial(mujoco_data.compare, resources=Resources("cpu", 1))
    )
    command = ["demo", "--no-serve", "--out", str(tmp_path), "--seeds", "1", "--steps", "3"]
    assert main([*command, "--data", "mujoco"]) == 0
    printed = capsys.readouterr().out
    assert "replay: 60 visits" in printed
    assert "normalised scores of recommended doses" in printed
    recorded = tmp_path / "data" / "hopper-replay-60.hdf5"
    before = recorded.read_bytes()
    monkeypatch.setattr(mujoco_data, "collect", None)
    assert main([*command, "--data", "mujoco"]) == 0
    assert main([*command, "--data", str(recorded)]) == 0
    assert recorded.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} >= {"fttpo", "iql", "table.json"}


@pytest.mark.minari
def test_minari_keeps_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    result = collect(plan("replay", 60))
    write_episodes(result, "minari:own/hopper-v0")
    again = read_episodes("minari:own/hopper-v0")
    assert again.content_hash() == result.content_hash()
    spec: Any = minari.load_dataset("own/hopper-v0").spec.env_spec
    assert spec.id == "Hopper-v5"
    with pytest.raises(UserError, match="already exists"):
        mujoco_data.check_free("minari:own/hopper-v0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": "good"}, "quality must be one of medium, expert, mixed, replay"),
        ({"transitions": 0}, "transitions must be at least 1"),
        ({"quality": "mixed", "transitions": 1}, "transitions must be at least 2"),
        ({"start": 0}, "start must be at least 1"),
        ({"env_id": "Ant-v5"}, "which is known for Hopper-v5, .*of Ant-v5 only replay"),
    ],
    ids=str,
)
def test_what_cannot_be_collected_is_refused(changes: dict[str, Any], message: str) -> None:
    fields = {"env_id": "Hopper-v5", "quality": "medium", "transitions": 10} | changes
    with pytest.raises(UserError, match=message):
        CollectionPlan(**fields)


def test_places_that_cannot_be_written_are_refused_before_training(tmp_path: Path) -> None:
    for out, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "x.hdf5", "does not exist"),
        (tmp_path / "x.txt", "episodes are kept in"),
    ):
        with pytest.raises(UserError, match=message):
            mujoco_data.check_free(str(out))
    assert list(tmp_path.iterdir()) == []
