"""A scenario of a Python file: loaded when a person names it, never because a file or a folder does."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from dosing.errors import UserError
from simulator.cli import main
from simulator.cohorts.generate import simulate, simulate_to
from simulator.envs import SCENARIOS
from simulator.envs.registered import TRUSTED, file_of, is_registered, load_trusted_files, scenario_id
from simulator.scenarios import card_of, evaluation_factory, known_ids
from tests.support.registries import own_registries

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "two_compartment.py"
ENV = "example/TwoCompartment-v0"

TANK = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Tank(gymnasium.Env):
    observation_space, action_space = Box(0.0, 9.0, (1,), np.float32), Box(0.0, 2.0, (1,), np.float32)
    card = {"version": "7", "observations": [{"name": "level", "unit": "mg/L"}]}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level = 0.0
        return np.array([self.level], np.float32), {}

    def step(self, action):
        self.level = 0.5 * self.level + float(action[0])
        return np.array([self.level], np.float32), self.level, False, False, {}


"""
REGISTER = 'gymnasium.register("clinic/FileTank-v0", entry_point=Tank, max_episode_steps=4)\n'

BATCHED = """
from simulator.envs.li import LiI


class Ours(LiI):
    env_id = "clinic/Ours-v0"
    title = "A scenario of the batched simulator"
"""


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    with own_registries():
        yield


@pytest.fixture
def tank(tmp_path: Path) -> Path:
    path = tmp_path / "tank.py"
    path.write_text(TANK + REGISTER)
    return path


def test_it_is_registered_under_its_own_id_and_known_everywhere(tank: Path) -> None:
    assert scenario_id(tank) == scenario_id(str(tank)) == "clinic/FileTank-v0"
    assert is_registered("clinic/FileTank-v0")
    assert "clinic/FileTank-v0" in known_ids()
    visits = simulate("clinic/FileTank-v0", patients=3, seed=1)
    np.testing.assert_allclose(visits.next_obs[:, 0], 0.5 * visits.obs[:, 0] + visits.act[:, 0], rtol=1e-6)
    assert evaluation_factory("clinic/FileTank-v0", {}).horizon == 4


def test_its_card_names_file_and_content(tank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario_id(tank)
    content = hashlib.sha256(tank.read_bytes()).hexdigest()
    card = card_of("clinic/FileTank-v0", {})
    assert card["file"] == {"path": str(tank), "sha256": content}
    assert card["version"] == f"7+{content[:12]}"
    assert simulate("clinic/FileTank-v0", patients=1).metadata.scenario_version == card["version"]
    monkeypatch.chdir(tank.parent)
    assert card_of("clinic/FileTank-v0", {})["file"]["path"] == "tank.py"


def test_a_changed_file_is_run_again_and_has_another_version(tank: Path) -> None:
    scenario_id(tank)
    before = card_of("clinic/FileTank-v0", {})["version"]
    time = tank.stat().st_mtime_ns
    tank.write_text((TANK + REGISTER).replace("=4)", "=5)"))
    os.utime(tank, ns=(time, time))  # of the same size and time: what a cache of byte code would take it for
    assert scenario_id(tank) == "clinic/FileTank-v0"
    assert evaluation_factory("clinic/FileTank-v0", {}).horizon == 5
    assert card_of("clinic/FileTank-v0", {})["version"] != before


def test_a_scenario_of_the_batched_simulator_is_taken_as_ours(tmp_path: Path) -> None:
    path = tmp_path / "ours.py"
    path.write_text(BATCHED)
    assert scenario_id(path) == "clinic/Ours-v0"
    one, ours = simulate("dosing/LiI-v0", patients=3, seed=2), simulate("clinic/Ours-v0", patients=3, seed=2)
    np.testing.assert_array_equal(one.obs, ours.obs)
    assert ours.metadata.card["title"] == "A scenario of the batched simulator"
    assert ours.metadata.card["file"]["path"] == str(path)
    assert gymnasium.make("clinic/Ours-v0").reset(seed=0)[0].shape == one.obs.shape[1:]


def test_a_named_file_says_by_which_policy_its_visits_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a process that is told of the file and has not loaded it yet."""
    path = tmp_path / "ours.py"
    path.write_text(BATCHED + '    recorded_by = "titration"\n')
    monkeypatch.setenv(TRUSTED, str(path))
    assert simulate("clinic/Ours-v0", patients=3, seed=2).metadata.policy.startswith("titration")


def test_a_copy_of_a_file_is_the_same_scenario(tank: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run" / "scenario.py"
    copy.parent.mkdir()
    copy.write_bytes(tank.read_bytes())
    assert scenario_id(tank) == scenario_id(copy) == "clinic/FileTank-v0"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read the scenario file"),
        ("x = 1 / 0\n", "fails: ZeroDivisionError: division by zero"),
        ("def broken(:\n", "fails: SyntaxError"),
        (TANK, "it registers none"),
        (TANK + REGISTER + REGISTER.replace("File", "Other"), "it registers several: clinic/FileTank-v0"),
        (TANK + REGISTER.replace("clinic/FileTank", "dosing/Treatment"), "which is taken"),
        (BATCHED.replace("clinic/Ours", "dosing/LiI"), "which is taken"),
        (BATCHED.replace("clinic/Ours", "clinic/our own"), "fails: Error: Malformed environment ID"),
        (BATCHED.replace("class Ours", "class Ours(LiI):\n    pass\n\n\nclass More"), "it registers several"),
    ],
)
def test_a_file_that_is_no_scenario_is_refused_and_leaves_nothing(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "scenario.py"
    if content is not None:
        path.write_text(content)
    before = dict(gymnasium.registry), dict(SCENARIOS)
    with pytest.raises(UserError, match=words):
        scenario_id(path)
    assert before == (dict(gymnasium.registry), dict(SCENARIOS))
    assert not os.environ.get(TRUSTED)


def test_a_comma_would_end_its_name_in_the_list(tmp_path: Path) -> None:
    path = tmp_path / "tank,v2.py"
    path.write_text(TANK + REGISTER)
    with pytest.raises(UserError, match="has a comma in its name"):
        scenario_id(path)


def test_only_what_is_trusted_is_loaded_by_itself(tank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_registered("clinic/FileTank-v0")
    with pytest.raises(UserError, match="there is no environment 'clinic/FileTank-v0'"):
        evaluation_factory("clinic/FileTank-v0", {})
    monkeypatch.setenv(TRUSTED, f"json,{tank}")
    load_trusted_files()
    assert is_registered("clinic/FileTank-v0")
    found = file_of("clinic/FileTank-v0")
    assert found is not None
    assert found.content == tank.read_bytes()


def test_nothing_is_left_beside_the_file_or_on_the_path(tank: Path) -> None:
    before = list(sys.path)
    scenario_id(tank)
    assert [path.name for path in tank.parent.iterdir()] == ["tank.py"]
    assert sys.path == before


def test_the_simulator_alone_lists_it_simulates_it_and_shows_its_card(
    tank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", str(EXAMPLE)]) == 0
    assert f"{ENV}\n    Infusion of a drug with two compartments" in capsys.readouterr().out
    assert main(["card", str(tank)]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "clinic/FileTank-v0"
    assert main(["run", str(tank), "--patients", "3", "--out", str(tmp_path / "x.csv")]) == 0
    assert "12 visits of 3 patients" in capsys.readouterr().out
    assert main(["run", str(tank), "--patients", "3"]) == 0
    with pytest.raises(UserError, match="cohort train alone"):
        simulate_to(tmp_path / "y.csv", "clinic/FileTank-v0", patients=2, cohort="evaluation")


def test_the_two_compartments_follow_their_equations() -> None:
    """Concentrations of the example against the differential equations, integrated step by step."""
    assert len(EXAMPLE.read_text().splitlines()) < 60
    scenario_id(EXAMPLE)
    env: Any = gymnasium.make(ENV).unwrapped
    env.reset(seed=5)
    clearance = -env.flow[0, 0] * 10.0 - 4.0  # L/h
    assert 1.0 < clearance < 12.0
    amounts = np.zeros(2)  # mg

    def change(time: float, amount: Any, rate: float) -> list[float]:
        central, tissue = amount[0] / 10.0, amount[1] / 20.0  # mg/L
        flow = 4.0 * (central - tissue)
        return [rate - clearance * central - flow, flow]

    for dose in (1000.0, 0.0, 1500.0):
        seen, reward, *_, info = env.step(np.array([dose], np.float32))
        solved = solve_ivp(change, (0.0, 24.0), amounts, args=(dose / 24.0,), rtol=1e-9, atol=1e-9)
        amounts = solved.y[:, -1]
        np.testing.assert_allclose(seen, amounts / (10.0, 20.0), rtol=1e-5)
        assert reward == pytest.approx(-max(5.0 - seen[0], seen[0] - 10.0, 0.0), rel=1e-5)
        assert info["cost"] == float(seen[0] > 15.0)
