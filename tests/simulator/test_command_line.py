import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dosing import NOT_FOR_PATIENTS
from dosing.data.store import read_episodes
from dosing.safety import DoseLimits, StepLimit
from simulator.cli import main
from simulator.cohorts.generate import simulate
from simulator.engine.latent import LatentScenario
from simulator.envs import SCENARIOS, scenario_class

ENV_ID = "dosing/Treatment-v0"


def test_list_names_every_scenario_and_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for env_id in SCENARIOS:
        scenario = scenario_class(env_id)
        assert env_id in text
        assert all(variant in text for variant in scenario.variants)


def test_run_writes_what_simulate_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "cohort.parquet"
    words = ["--patients", "50", "--steps", "24", "--policy", "uniform", "--seed", "0", "--out", str(out)]
    assert main(["run", ENV_ID, *words]) == 0
    text = capsys.readouterr().out
    assert "1,200 visits of 50 patients" in text
    assert NOT_FOR_PATIENTS in text
    data = simulate(ENV_ID, patients=50, steps=24, seed=0)
    assert read_episodes(out).content_hash() == data.content_hash()


def test_run_prints_both_doses_and_the_return(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--policy", "constant:1.5", "--variant", "simenv3", "--realism", "2", "--workers", "2"]
    assert main(["run", ENV_ID, "--patients", "3", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"dose_requested", "dose_delivered", "cost"} <= set(lines[0].split())
    assert lines[1].split()[10:12] == ["1.500", "1.000"]
    data = simulate(ENV_ID, patients=3, policy="constant:1.5", variant="simenv3", realism=2)
    mean = data.reward.reshape(3, -1).sum(axis=1).mean()
    assert f"mean undiscounted return {mean:.2f}" in "\n".join(lines)


@pytest.mark.parametrize("env_id", list(SCENARIOS))
def test_card_is_json_with_names_units_limits_formulas_and_sources(
    env_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", env_id]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["id"] == env_id
    for key in (
        "version",
        "reward",
        "cost",
        "events",
        "motion",
        "noise",
        "start",
        "sources",
        "title",
        "notice",
    ):
        assert card[key]
    scenario = scenario_class(env_id)(card["variant"])
    limits, synthetic = scenario.limits, isinstance(scenario, LatentScenario)
    dose = card["dose"]
    assert DoseLimits(dose["hard_low"], dose["hard_high"], dose["unit"]) == limits
    assert StepLimit.of(card) == scenario.step_limit
    assert dose["safe_default"] == scenario.safe_default
    assert (dose["unit"] == "1") == synthetic
    for entry in card["observations"]:
        assert entry["unit"] == "1" or not synthetic
        assert np.isfinite([entry["low"], entry["high"]]).all()
        assert entry["low"] < entry["high"]


def test_card_follows_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", ENV_ID, "--history", "1", "--missing", "0.1", "--variant", "li-evaluation"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert len(card["observations"]) == 8 + 8 + 1
    assert card["dose"]["hard_high"] == [3.0]
    assert card["visits"] == 100


def test_ceiling_prints_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ceiling", ENV_ID, "--patients", "6", "--steps", "4", "--variant", "simenv3"]) == 0
    text = capsys.readouterr().out
    for name in ("clairvoyant", "myopic, true mean", "best constant dose", "myopic, observed state"):
        assert name in text
    assert "projected gradient" in text
    assert NOT_FOR_PATIENTS in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required"),
        (["simulate"], "invalid choice"),
        (["run"], "required"),
        (["run", "dosing/Nothing-v0"], "dosing/LiIV-v0"),
        (["run", ENV_ID, "--patients", "0"], "patients must be"),
        (["run", ENV_ID, "--patients", "many"], "invalid int value"),
        (["run", ENV_ID, "--seed", "-1"], "seed must be"),
        (["run", ENV_ID, "--steps", "0"], "steps must be"),
        (["run", ENV_ID, "--policy", "best"], "titration"),
        (["run", ENV_ID, "--variant", "best"], "simenv3"),
        (["run", ENV_ID, "--colour", "red"], "unrecognized arguments"),
        (["run", ENV_ID, "--out", "cohort.xls"], ".parquet"),
        (["run", ENV_ID, "--out", "/nonexistent/cohort.csv"], "does not exist"),
        (["run", ENV_ID, "--out", "minari:cohort"], "namespace/name-v0"),
        (["card", "Treatment"], "there are: dosing/Treatment-v0"),
        (["ceiling", "dosing/LiI-v0"], "no deterministic latent mean"),
        (["ceiling", ENV_ID, "--patients", "1"], "patients must be"),
    ],
)
def test_wrong_words_give_one_sentence_and_status_two(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert message in told.err


def test_help_is_help() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", "--help"])
    assert stop.value.code == 0


LONE = """
import sys
blocked = {blocked!r}
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{{name}} is walled off")
sys.meta_path.insert(0, Wall())
import simulator
assert "scipy" not in sys.modules
from simulator.cli import main
sys.exit(main({words!r}))
"""
HEAVY = ["torch", "streamlit", "pandas", "plotly", "pyarrow", "h5py", "minari", "tqdm", "safetensors", "tyro"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["list"], 0, ""),
        (["run", ENV_ID, "--patients", "3"], 0, ""),
        (["ceiling", ENV_ID, "--patients", "3", "--steps", "2"], 0, ""),
        (["run", ENV_ID, "--out", "x.parquet"], 2, "parquet needs the package pyarrow"),
        (["run", ENV_ID, "--out", "minari:a/b-v0"], 2, "needs the package minari"),
        (
            ["ceiling", ENV_ID, "--patients", "3", "--steps", "2", "--trained"],
            2,
            "torch, which is not installed",
        ),
    ],
)
def test_only_numpy_scipy_and_gymnasium_are_needed(
    words: list[str], status: int, message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LONE.format(blocked=HEAVY, words=words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
