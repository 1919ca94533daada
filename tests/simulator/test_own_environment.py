"""A user's own environment, registered with gymnasium under any name, is recorded and evaluated like ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dosing.errors import UserError
from simulator.cohorts.generate import simulate
from simulator.environment import PatientEnv
from simulator.envs.registered import TRUSTED, is_registered, scenario_id
from simulator.scenarios import evaluation_factory, known_ids

ENV = "clinic/Tank-v0"


class Tank(gymnasium.Env[Any, Any]):
    """One level that a dose fills and time empties; it overflows above 3, which ends the episode."""

    observation_space = Box(-5.0, 5.0, (2,), np.float32)
    action_space = Box(0.0, 2.0, (1,), np.float32)
    card = {  # noqa: RUF012
        "id": ENV,
        "observations": [{"name": "level", "unit": "mg/L"}, {"name": "rate", "unit": "1"}],
        "dose": {"name": "infusion", "unit": "mg", "hard_low": [0.0], "hard_high": [2.0]},
    }

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.level = float(self.np_random.uniform(0.0, 1.0))
        return np.array([self.level, 0.5], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.level = 0.5 * self.level + float(action[0])
        info = {"cost": float(self.level > 1.5)}
        return np.array([self.level, 0.5], np.float32), -abs(self.level - 1.0), self.level > 3.0, False, info


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(TRUSTED, "")
    gymnasium.register(ENV, entry_point=Tank, max_episode_steps=6)
    gymnasium.register("clinic/Endless-v0", entry_point=Tank)
    yield
    for env_id in (ENV, "clinic/Endless-v0"):
        del gymnasium.registry[env_id]


def test_its_visits_are_recorded_with_its_card_and_costs() -> None:
    episodes = simulate(ENV, patients=5, seed=3)
    assert len(np.unique(episodes.episode)) == 5
    assert episodes.metadata.obs_names == ("level", "rate")
    assert episodes.metadata.dose_unit == "mg"
    assert episodes.metadata.card == Tank.card
    np.testing.assert_array_equal(episodes.cost, episodes.next_obs[:, 0] > 1.5)
    np.testing.assert_allclose(
        episodes.next_obs[:, 0], 0.5 * episodes.obs[:, 0] + episodes.act[:, 0], rtol=1e-6
    )
    np.testing.assert_allclose(episodes.behaviour_log_prob, -np.log(2.0), rtol=1e-6)
    ends = episodes.terminated | episodes.truncated
    assert ends.sum() == 5
    assert episodes.act.min() >= 0.0
    assert episodes.act.max() <= 2.0


def test_a_patient_is_the_same_in_a_larger_cohort() -> None:
    few, many = simulate(ENV, patients=2, seed=1), simulate(ENV, patients=7, seed=1)
    rows = many.episode < 2
    np.testing.assert_array_equal(few.obs, many.obs[rows])
    np.testing.assert_array_equal(few.act, many.act[rows])


def test_it_is_evaluated_within_its_own_limits() -> None:
    factory = evaluation_factory(ENV, {})
    assert (factory.horizon, factory.n_obs, factory.limits.high) == (6, 2, (2.0,))
    assert factory.card == Tank.card  # type: ignore[union-attr]
    env = factory(3, 0)
    first, _ = env.reset(seed=0)
    again, _ = factory(3, 0).reset(seed=0)
    np.testing.assert_array_equal(first, again)
    *_, info = env.step(np.full((3, 1), 9.0, np.float32))
    np.testing.assert_array_equal(info["dose_delivered"], 2.0)
    assert ENV in known_ids()


@pytest.mark.parametrize(
    ("env_id", "change", "words"),
    [
        ("clinic/None-v0", {}, "there is no environment 'clinic/None-v0'"),
        ("clinic/Endless-v0", {}, "register it with max_episode_steps"),
        (ENV, {"action_space": Discrete(3)}, "a dose must be a Box"),
        (ENV, {"action_space": Box(-np.inf, np.inf, (1,))}, "finite limits"),
        (ENV, {"observation_space": Box(0.0, 1.0, (2, 2))}, "a Box of one dimension"),
    ],
)
def test_what_a_policy_cannot_work_with_is_refused(
    monkeypatch: pytest.MonkeyPatch, env_id: str, change: dict[str, Any], words: str
) -> None:
    for name, space in change.items():
        monkeypatch.setattr(Tank, name, space)
    with pytest.raises(UserError, match=words):
        evaluation_factory(env_id, {})


def test_titration_needs_a_marker() -> None:
    with pytest.raises(UserError, match="names no marker"):
        simulate(ENV, patients=2, policy="titration")


def test_a_module_in_front_of_the_id_is_imported_first() -> None:
    assert is_registered("simulator:dosing/Treatment-v0")
    scenario_id("no_such_module_here:Tank-v0")
    assert not is_registered("no_such_module_here:Tank-v0")


def test_a_module_that_a_file_names_is_imported_only_if_somebody_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named_by_a_file.py").write_text("raise RuntimeError('this code ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_registered("named_by_a_file:Tank-v0")
    scenario_id("named_by_a_file:Tank-v0")
    with pytest.raises(RuntimeError, match="this code ran"):
        is_registered("named_by_a_file:Tank-v0")


def test_gymnasium_makes_ours_without_a_render_mode_and_refuses_one() -> None:
    env = gymnasium.make("dosing/Treatment-v0", render_mode=None)
    assert env.render_mode is None
    with pytest.raises(UserError, match="draws nothing"):
        PatientEnv("dosing/Treatment-v0", render_mode="human")
