"""Minari data sets of other programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Space
from gymnasium.spaces import Dict as DictSpace

from dosing.data.external import External
from dosing.data.sources import read_source
from dosing.errors import UserError
from dosing.safety import DoseLimits

pytestmark = pytest.mark.minari

LENGTHS = (4, 1, 3)
ENDS = ((True, False), (False, True), (False, False))
"""Terminated and truncated at the last visit of each episode; the third was cut without a word."""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def make(
    name: str,
    *,
    obs: Space[Any] | None = None,
    act: Space[Any] | None = None,
    env: Any = None,
    width: int = 2,
    change: Callable[[dict[str, Any]], None] | None = None,
    lengths: tuple[int, ...] = LENGTHS,
) -> list[dict[str, Any]]:
    """Create a data set as a public script would, with double-precision observations as MuJoCo has them."""
    import minari
    from minari.data_collector import EpisodeBuffer

    obs = obs or Box(-np.inf, np.inf, (3,), np.float64)
    act = act or Box(-1.0, 1.0, (2,), np.float32)
    rng = np.random.default_rng(0)
    episodes = []
    for length, (terminated, truncated) in zip(lengths, ENDS, strict=True):
        flags = np.zeros((2, length), dtype=bool)
        flags[:, -1] = terminated, truncated
        episode: dict[str, Any] = {
            "observations": rng.standard_normal((length + 1, 3)),
            "actions": rng.uniform(-1, 1, (length, width)).astype(np.float32),
            "rewards": rng.standard_normal(length),
            "terminations": flags[0],
            "truncations": flags[1],
        }
        if isinstance(act, Discrete):
            episode["actions"] = rng.integers(0, 2, length)
        if isinstance(obs, DictSpace):
            episode["observations"] = {"observation": episode["observations"]}
        if change is not None:
            change(episode)
        episodes.append(episode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # minari warns about every field that an author leaves out
        minari.create_dataset_from_buffers(
            name,
            [EpisodeBuffer(id=k, infos={}, **e) for k, e in enumerate(episodes)],
            **({"env": env} if env else {"observation_space": obs, "action_space": act}),
        )
    return episodes


def test_every_transition_is_the_arrays_own() -> None:
    episodes = make("other/set-v0")
    result = read_source("minari:other/set-v0")
    np.testing.assert_array_equal(np.bincount(result.episode), LENGTHS)
    for k, episode in enumerate(episodes):
        rows = result.episode == k
        np.testing.assert_array_equal(result.obs[rows], episode["observations"][:-1].astype(np.float32))
        np.testing.assert_array_equal(result.next_obs[rows], episode["observations"][1:].astype(np.float32))
        np.testing.assert_array_equal(result.act[rows], episode["actions"])
        np.testing.assert_array_equal(result.reward[rows], episode["rewards"].astype(np.float32))
    np.testing.assert_array_equal(np.flatnonzero(result.terminated), [3])
    np.testing.assert_array_equal(np.flatnonzero(result.truncated), [4, 7])
    assert result.metadata["action_low"] == [-1.0, -1.0]
    assert result.metadata["source"] == {"layout": "Minari", "id": "other/set-v0"}
    assert "env_id" not in result.metadata


def test_the_user_may_name_limits_and_environment() -> None:
    make("other/free-v0", act=Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(UserError, match="does not state the limits"):
        read_source("minari:other/free-v0")
    wide = External(limits=DoseLimits((-2.0, -2.0), (2.0, 2.0)), env_id="Other-v5")
    result = read_source("minari:other/free-v0", wide)
    assert result.metadata["action_high"] == [2.0, 2.0]
    assert result.metadata["env_id"] == "Other-v5"


def test_the_environment_is_that_of_the_set() -> None:
    make("other/swing-v0", env="Pendulum-v1", width=1)
    result = read_source("minari:other/swing-v0")
    assert result.metadata["env_id"] == "Pendulum-v1"
    assert result.metadata["env_options"] == {}
    assert result.metadata["action_high"] == [2.0]
    short = gymnasium.make("Pendulum-v1", max_episode_steps=7).spec
    make("other/short-v0", env=short, width=1)
    assert read_source("minari:other/short-v0").metadata["env_options"] == {"max_episode_steps": 7}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("observations", np.nan, "episode 0: observations of row 2 .* must be finite"),
        ("rewards", np.inf, "episode 0: rewards of row 2 is inf"),
        ("actions", 3.0, r"action \[3.0, 3.0\] of row 2 lies outside"),
        ("terminations", True, "episode 0 goes on after it ended at visit 2"),
    ],
)
def test_a_broken_row_is_refused(name: str, value: Any, message: str) -> None:
    def change(episode: dict[str, Any]) -> None:
        if len(episode["rewards"]) == LENGTHS[0]:
            episode[name][1] = value

    make("other/broken-v0", change=change)
    with pytest.raises(UserError, match=message):
        read_source("minari:other/broken-v0")


def test_spaces_that_are_no_vectors_are_refused() -> None:
    make("other/choice-v0", act=Discrete(2))
    with pytest.raises(UserError, match="has the actions Discrete"):
        read_source("minari:other/choice-v0")
    make("other/dict-v0", obs=DictSpace({"observation": Box(-np.inf, np.inf, (3,), np.float64)}))
    with pytest.raises(UserError, match=r"observes a Dict.*need vectors"):
        read_source("minari:other/dict-v0")


def test_lengths_that_differ_and_absent_sets_are_refused(root: Path) -> None:
    make("other/short-v0")
    with h5py.File(root / "other" / "short-v0" / "data" / "main_data.hdf5", "a") as file:
        rewards = file["episode_2/rewards"][:-1]
        del file["episode_2/rewards"]
        file["episode_2/rewards"] = rewards
    with pytest.raises(UserError, match="episode 2: 4 observations need 3 of each of: act 3, reward 2"):
        read_source("minari:other/short-v0")
    with pytest.raises(UserError, match="no local Minari"):
        read_source("minari:other/absent-v0")
