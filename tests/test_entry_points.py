"""Agents and scenarios of installed packages: entry points, found without importing the packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

AGENT = (ROOT / "examples" / "own_agent.py").read_text().split("AGENTS[")[0]

SCENARIO = """
from simulator.envs.li import LiI


class Ours(LiI):
    env_id = "clinic/Ours-v0"
    title = "A scenario of a package"
"""

ENTRIES = """
[dosing.agents]
half = clinic_half:UpperHalf
{agents}
[dosing.scenarios]
clinic/Ours-v0 = clinic_scenario:Ours
example/TwoCompartment-v0 = clinic_drug
{scenarios}
"""


def install(folder: Path, agents: str = "", scenarios: str = "") -> None:
    """A distribution as an installer leaves it, in a folder that stands on the path."""
    (folder / "clinic_half.py").write_text(AGENT)
    (folder / "clinic_scenario.py").write_text(SCENARIO)
    (folder / "clinic_drug.py").write_text((ROOT / "examples" / "two_compartment.py").read_text())
    (folder / "clinic_broken.py").write_text("raise RuntimeError('this code ran')\n")
    info = folder / "clinic_kit-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clinic-kit\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES.format(agents=agents, scenarios=scenarios))


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.long
def test_agents_and_scenarios_of_a_package_stand_beside_ours(tmp_path: Path) -> None:
    install(tmp_path)
    listed = run(tmp_path, "-m", "dosing", "agents")
    assert listed.returncode == 0
    assert listed.stderr == ""
    (line,) = (line for line in listed.stdout.splitlines() if line.startswith("half "))
    assert "UpperHalf" in line
    assert "no paper: an example" in line
    scenarios = run(tmp_path, "-m", "simulator", "list")
    assert scenarios.returncode == 0, scenarios.stderr
    for shown in (
        "clinic/Ours-v0\n    A scenario of a package",
        "example/TwoCompartment-v0\n    Infusion of a drug",
    ):
        assert shown in scenarios.stdout
    card = run(tmp_path, "-m", "simulator", "card", "clinic/Ours-v0")
    assert json.loads(card.stdout)["title"] == "A scenario of a package"


@pytest.mark.long
def test_they_are_trained_and_evaluated_in_every_process(tmp_path: Path) -> None:
    """An agent of a package on both scenarios, by two workers, in one comparison."""
    install(tmp_path)
    line = "-m dosing compare --agents half bc --data clinic/Ours-v0 example/TwoCompartment-v0 --workers 2"
    line += " --patients 5 --seeds 2 --steps 6 --batch-size 16 --evaluation-patients 3 --out study"
    done = run(tmp_path, *line.split(), "--set", "hidden=[8]")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "left out" not in done.stderr
    assert done.stdout.count("UpperHalf") >= 2
    assert len(list(tmp_path.glob("study/half/*/*/evaluation.json"))) == 2


BROKEN = {
    "agents": {
        "lost = no_such_module:Agent": "there is no module 'no_such_module'",
        "broken = clinic_broken.inside:Agent": "RuntimeError: this code ran",
        "other = clinic_half:Other": "has to hold a class Other with its `about`, and OtherConfig",
        "none = clinic_half": "has to hold a class of an agent",
        "fttpo = clinic_half:UpperHalf": "that name is taken",
    },
    "scenarios": {
        "clinic/Lost-v0 = no_such_module:Lost": "there is no module 'no_such_module'",
        "dosing/LiI-v0 = clinic_scenario:Ours": "that name is taken",
        "clinic/our own = clinic_scenario:Ours": "Malformed environment ID",
    },
}


def test_a_broken_entry_point_is_left_out_with_one_warning(tmp_path: Path) -> None:
    install(tmp_path, **{group: "\n".join(entries) for group, entries in BROKEN.items()})
    code = (
        "import agents, simulator\n"
        "print('half' in agents.AGENTS, 'clinic/Ours-v0' in simulator.ENV_IDS)\n"
        "print({'lost', 'broken', 'other', 'none'} & set(agents.AGENTS), agents.AGENTS['fttpo'].title)\n"
        "print('clinic/Lost-v0' in simulator.ENV_IDS)"
    )
    done = run(tmp_path, "-c", code)
    assert (done.returncode, done.stdout) == (0, "True True\nset() FtTPO\nFalse\n"), done.stderr
    told = [line for line in done.stderr.splitlines() if "Warning: " in line]
    assert len(told) == sum(map(len, BROKEN.values()))
    for group, entries in BROKEN.items():
        for entry, reason in entries.items():
            start = f"the entry point '{entry}' (dosing.{group}) of clinic-kit is left out: "
            (line,) = (line for line in told if start in line)
            assert reason in line.split(start)[1]


LATE = {
    "clinic/A-v0 = clinic_broken:Lost": "cannot be loaded: RuntimeError: this code ran",
    "clinic/B-v0 = clinic_scenario:Lost": "has no attribute 'Lost'",
    "clinic/C-v0 = clinic_half": "registers no 'clinic/C-v0' with gymnasium",
    "clinic/D-v0 = clinic_broken": "cannot be loaded: RuntimeError: this code ran",
}


@pytest.mark.long
def test_what_breaks_only_when_it_is_asked_for_is_told_then(tmp_path: Path) -> None:
    install(tmp_path, scenarios="\n".join(LATE))
    listed = run(tmp_path, "-m", "simulator", "list")
    assert listed.returncode == 0
    assert "A scenario of a package" in listed.stdout
    lines = listed.stderr.splitlines()
    assert len(lines) == len(LATE)
    for line, (entry, reason) in zip(sorted(lines), LATE.items(), strict=True):
        assert line.startswith(f"warning: the entry point '{entry}' (dosing.scenarios) of clinic-kit ")
        assert reason in line
    asked = run(tmp_path, "-m", "simulator", "card", "clinic/A-v0")
    assert asked.returncode == 2
    assert LATE["clinic/A-v0 = clinic_broken:Lost"] in asked.stderr
