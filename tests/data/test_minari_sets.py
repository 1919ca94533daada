"""Minari data sets of other programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
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
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.safety import DoseLimits
from dosing.studies.data import check_spaces
from dosing.studies.scenarios import factory_for
from simulator.cohorts.generate import simulate
from simulator.envs.tasks import episode_seed

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
    assert result.metadata.action_low == (
        -1.0,
        -1.0,
    )
    assert result.metadata.source == {"layout": "Minari", "id": "other/set-v0"}
    assert result.metadata.env_id is None


def test_the_user_may_name_limits_and_environment() -> None:
    make("other/free-v0", act=Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(UserError, match="does not state the limits"):
        read_source("minari:other/free-v0")
    wide = External(limits=DoseLimits((-2.0, -2.0), (2.0, 2.0)), env_id="Other-v5")
    result = read_source("minari:other/free-v0", wide)
    assert result.metadata.action_high == (
        2.0,
        2.0,
    )
    assert result.metadata.env_id == "Other-v5"


def test_the_environment_is_that_of_the_set() -> None:
    make("other/swing-v0", env="Pendulum-v1", width=1)
    result = read_source("minari:other/swing-v0")
    assert result.metadata.env_id == "Pendulum-v1"
    assert result.metadata.env_options == {}
    assert result.metadata.action_high == (2.0,)
    short = gymnasium.make("Pendulum-v1", max_episode_steps=7).spec
    make("other/short-v0", env=short, width=1)
    assert read_source("minari:other/short-v0").metadata.env_options == {"max_episode_steps": 7}


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


def record(name: str, env: gymnasium.Env[Any, Any], episodes: int = 2) -> None:
    """Record random actions, as a public script would."""
    import minari
    from minari.data_collector import EpisodeBuffer

    env.action_space.seed(0)
    buffers = []
    for number in range(episodes):
        rows: dict[str, list[Any]] = {
            key: [] for key in ("observations", "actions", "rewards", "terminations", "truncations")
        }
        rows["observations"].append(env.reset(seed=number)[0])
        while not rows["actions"] or not (rows["terminations"][-1] or rows["truncations"][-1]):
            action = env.action_space.sample()
            rows["actions"].append(action)
            made = env.step(action)[:4]
            for key, value in zip(
                ("observations", "rewards", "terminations", "truncations"), made, strict=True
            ):
                rows[key].append(value)
        buffers.append(EpisodeBuffer(id=number, infos={}, **rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # minari warns about every field that an author leaves out
        minari.create_dataset_from_buffers(name, buffers, env=env)


def pendulum() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Pendulum-v1", max_episode_steps=9)


WRAPPED: dict[str, tuple[Callable[[Any], Any], list[Any], list[float], int]] = {
    "rescaled": (
        lambda env: gymnasium.wrappers.RescaleAction(env, 0.0, 10.0),
        [{"name": "RescaleAction", "kwargs": {"min_action": 0.0, "max_action": 10.0}}],
        [10.0],
        3,
    ),
    "timed": (
        gymnasium.wrappers.TimeAwareObservation,
        [
            {
                "name": "TimeAwareObservation",
                "kwargs": {"flatten": True, "normalize_time": False, "dict_time_key": "time"},
            }
        ],
        [2.0],
        4,
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_of_the_spec_are_applied_where_agents_are_evaluated(name: str) -> None:
    wrap, wrappers, high, width = WRAPPED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium makes numbers of Python's to single precision
        record(f"pub/{name}-v0", wrap(pendulum()))
        alone = wrap(pendulum())
    result = read_source(f"minari:pub/{name}-v0")
    assert result.metadata.env_options == {"max_episode_steps": 9, "wrappers": wrappers}
    assert result.metadata.action_high == tuple(high)
    factory = factory_for(result.metadata)
    assert factory is not None
    assert (factory.limits.high, factory.horizon, factory.n_obs) == (tuple(high), 9, width)
    check_spaces("it", result)
    played = factory(1, 0)
    obs, _ = played.reset(seed=0)
    expected, _ = alone.reset(seed=episode_seed(0, "evaluation", 0))
    for dose in np.linspace(0.1, 1.9, 9):
        np.testing.assert_array_equal(obs[0], expected.astype(np.float32))
        obs, reward, *_ = played.step(np.array([[dose]], dtype=np.float32))
        expected, wanted, *_ = alone.step(np.array([dose], dtype=np.float32))
        assert reward[0] == pytest.approx(float(wanted), rel=1e-6)
    without = replace(result, metadata=replace(result.metadata, env_options={}))
    with pytest.raises(UserError, match="was recorded under a wrapper"):
        check_spaces("it", without)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (gymnasium.wrappers.NormalizeObservation, "NormalizeObservation"),
        (gymnasium.wrappers.NormalizeReward, "NormalizeReward"),
        (lambda env: gymnasium.wrappers.ClipReward(env, -1.0, 0.0), "ClipReward"),
    ],
)
def test_a_wrapper_whose_spec_does_not_say_all_is_refused_by_name(wrap: Any, name: str) -> None:
    record("pub/other-v0", wrap(pendulum()))
    with pytest.raises(UserError, match=f"was recorded under the wrapper {name}, which cannot be applied"):
        read_source("minari:pub/other-v0")
    named = read_source("minari:pub/other-v0", External(env_id="Pendulum-v1"))  # the user knows better
    assert named.metadata.env_options == {}


def test_a_set_recorded_from_our_environment_opens_with_its_options() -> None:
    record("pub/treated-v0", gymnasium.make("dosing/Treatment-v0", steps=5, missing=0.2))
    result = read_source("minari:pub/treated-v0")
    assert result.metadata.env_options == {"steps": 5, "missing": 0.2}
    factory = factory_for(result.metadata)
    assert factory is not None
    assert (factory.horizon, factory.n_obs) == (5, result.obs.shape[1])
    wrapped = gymnasium.wrappers.TimeAwareObservation(gymnasium.make("dosing/Treatment-v0"))
    record("pub/timed-v0", wrapped)
    with pytest.raises(
        UserError, match="under the wrapper TimeAwareObservation; patients of dosing/Treatment"
    ):
        read_source("minari:pub/timed-v0")


def test_our_exports_say_how_long_an_episode_is() -> None:
    import minari

    write_episodes(simulate("dosing/Treatment-v0", patients=2, steps=6), "minari:dosing/ours-v0")
    spec = minari.load_dataset("dosing/ours-v0").env_spec
    assert spec is not None
    assert spec.max_episode_steps == 6
    assert gymnasium.make(spec).spec.max_episode_steps == 6  # type: ignore[union-attr]


def test_recorded_costs_are_kept() -> None:
    import minari
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations=rng.standard_normal((4, 3)),
            actions=rng.uniform(-1, 1, (3, 2)).astype(np.float32),
            rewards=[1.0, 2.0, 3.0],
            terminations=[False, False, True],
            truncations=[False] * 3,
            infos={"cost": np.array(costs)},
        )
        for costs in ([9.0, 0.0, 1.0, 0.5], [9.0, 2.0, 0.0, 0.0])  # that of the reset comes first
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "pub/costs-v0",
            buffers,
            observation_space=Box(-np.inf, np.inf, (3,), np.float64),
            action_space=Box(-1.0, 1.0, (2,), np.float32),
        )
    np.testing.assert_array_equal(read_source("minari:pub/costs-v0").cost, [0.0, 1.0, 0.5, 2.0, 0.0, 0.0])


def said(source: str) -> str:
    """What a set is refused with; empty where it is read."""
    try:
        read_source(source)
    except UserError as error:
        return str(error)
    return ""


def test_a_damaged_set_is_one_sentence_whatever_is_damaged(root: Path) -> None:
    make("other/set-v0", env="Pendulum-v1", width=1)
    write_episodes(simulate("dosing/Treatment-v0", patients=2, steps=3), "minari:dosing/ours-v0")
    rng = np.random.default_rng(0)
    refused = 0
    for name in ("other/set-v0", "dosing/ours-v0"):
        for path in sorted((root / name / "data").iterdir()):
            content = path.read_bytes()
            for cut in rng.integers(0, len(content), 12):
                damaged = bytearray(content)
                if cut % 2:
                    damaged[cut] ^= int(rng.integers(1, 256))
                else:
                    del damaged[cut:]
                path.write_bytes(damaged)
                told = said(f"minari:{name}")
                assert "\n" not in told
                refused += told != ""
            path.write_bytes(content)
    assert refused >= 20
    (root / "other" / "set-v0" / "data" / "metadata.json").unlink()
    with pytest.raises(UserError, match="the Minari data set other/set-v0 is damaged"):
        read_source("minari:other/set-v0")
