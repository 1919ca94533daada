"""The benchmark: numbers as counted by hand from the folders, resumed to the bit, one set per folder."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import agents
from dosing.cli.main import main
from dosing.errors import UserError
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant
from dosing.runs.folder import DONE, RunFolder
from dosing.studies import Resources, bench, benchmark, references
from dosing.studies.benchmark import DEFINITION, HOURS, EntryJob, entrants_of
from dosing.studies.benchmark_set import SIZES, BenchmarkSet, Task
from dosing.studies.leaderboard import LEADERBOARD, Measured, Table, cell_of, page, score_of
from dosing.training.offline import TrainingDivergedError, TrainingSettings
from simulator.scenarios import CohortFactory
from tests.test_entry_points import install, run

ROOT = Path(__file__).resolve().parents[2]
ENV, OPTIONS = "dosing/Treatment-v0", {"variant": "simenv3"}
TINY = BenchmarkSet(
    version=0,
    size="tiny",
    tasks=(Task("SimEnv3", ENV, options=OPTIONS), Task("Li I", "dosing/LiI-v0")),
    patients=(12,),
    data_seeds=(3, 4, 5),
    evaluation_seeds=(11, 7, 900),
    evaluation_patients=40,
    updates=12,
    batch_size=8,
    checkpoint_every=6,
    presets={"iql": "common"},
)
ONE = replace(TINY, tasks=TINY.tasks[:1])
HERE = Resources("cpu", workers=1)


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)


def tiny(folder: Path, names: Any, chosen: BenchmarkSet = TINY, **more: Any) -> Table:
    return bench(folder, names, chosen, resources=HERE, **more)


def but_hours(table: Table) -> dict[str, Any]:
    entries = tuple(replace(entry, hours=0.0) for entry in table.entries)
    return asdict(replace(table, entries=entries))


# Numbers


def by_hand(folder: Path, agent: str, env: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns of an agent and of the constant dose ``[data sets, patients]``, read from the files alone."""
    gained: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for file in folder.glob(f"{agent}/{env.split('/')[-1]}-*/*/episodes.parquet"):
        config = json.loads((file.parent / "config.json").read_text())
        (seed,) = config["seeds"]
        table = pd.read_parquet(file)
        own = table[table["rule"] == "recommended"].sort_values("patient")["returns"].to_numpy()
        data = config["data"]["content_hash"]
        base = [
            pd.read_parquet(kept.parent / "episodes.parquet")
            for kept in folder.glob(f"references/{env.split('/')[-1]}-*/references.json")
            if json.loads(kept.read_text())["settings"]["seeds"] == [seed]
        ]
        assert len(base) == 1, data
        rows = base[0][base[0]["rule"] == "estimated"].sort_values("patient")
        gained[seed] = own, rows["returns"].to_numpy()
    pairs = [gained[seed] for seed in TINY.evaluation_seeds]
    return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])


@pytest.mark.long
def test_the_table_is_what_the_folders_say(tmp_path: Path) -> None:
    table = tiny(tmp_path, ["bc", "iql"])
    assert {entry.agent for entry in table.entries} == {"bc", "iql"}
    for entry in table.entries:
        spreads = []
        for task, cell in zip(TINY.tasks, entry.cells, strict=True):
            own, base = by_hand(tmp_path, entry.agent, task.env)
            gains = (own - base).mean(1)
            half = stats.t.ppf(0.975, 2) * stats.sem(gains)
            assert cell.gain is not None
            assert (cell.gain.value, cell.gain.low, cell.gain.high) == pytest.approx(
                (gains.mean(), gains.mean() - half, gains.mean() + half)
            )
            assert cell.least == pytest.approx(gains.min())
            assert cell.losing == sum(g < -0.1 * np.std(b, ddof=1) for g, b in zip(gains, base, strict=True))
            assert (cell.task, cell.patients, cell.data_sets, cell.failed) == (task.name, 12, 3, ())
            spreads.append(gains / base.std(1, ddof=1))
        each = np.mean(spreads, axis=0)
        assert entry.score is not None
        assert entry.score.value == pytest.approx(each.mean())
        assert entry.score.high - each.mean() == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(each))
        seconds = [json.loads(f.read_text()) for f in tmp_path.glob(f"{HOURS}/{entry.agent}-*/*.json")]
        assert entry.hours == pytest.approx(sum(x["seconds"] for x in seconds) / 3600)
        assert len(seconds) == 6
        assert entry.hours > 0
        assert all(x["over"] for x in seconds)
        assert entry.package == entry.versions["dosing"][0].join(("dosing ", ""))
    values = [entry.score.value for entry in table.entries if entry.score]
    assert values == sorted(values, reverse=True)
    assert Table.read(tmp_path, TINY) == table
    text = (tmp_path / f"{LEADERBOARD}.md").read_text()
    assert text == page(table)
    assert all(str(cell.gain) in text for entry in table.entries for cell in entry.cells)
    assert TINY.hash in text
    assert "3 data sets of each kind, a training of 12 updates and 40 new patients for each" in text
    decided = [entry.score.low > 0 or entry.score.high < 0 for entry in table.entries if entry.score]
    assert text.count("not distinguishable") == decided.count(False)
    assert "not a medical device" in text.lower()


@pytest.mark.long
def test_new_patients_are_those_of_the_evaluation_seed(tmp_path: Path) -> None:
    """The constant dose of every data set, followed once more on the patients that the seed names."""
    table = tiny(tmp_path, "bc", ONE)
    _, base = by_hand(tmp_path, "bc", ENV)
    doses = {}
    for kept in tmp_path.glob("references/*/references.json"):
        settings = json.loads(kept.read_text())["settings"]
        doses[settings["seeds"][0]] = settings["baseline"]["dose"]
    assert len(set(doses.values())) == 3  # each of its own recorded patients
    for seed, row in zip(ONE.evaluation_seeds, base, strict=True):
        again = rollout(CohortFactory(ENV, OPTIONS), constant(doses[seed]), (seed,), 40)
        np.testing.assert_array_equal(again.returns[0], row)
    first = table.rules[0]
    assert first.value.value == pytest.approx(base.mean())
    best = next(rule for rule in table.rules if rule.name.startswith("best constant dose"))
    assert best.gain is not None
    assert best.value.value - first.value.value == pytest.approx(best.gain.value)
    assert next(rule.value.value for rule in table.rules if rule.name.startswith("ceiling")) == 8.04


def measured(gain: float, spread: float, **more: Any) -> Measured:
    base = spread * np.array([-1.0, 1.0, -1.0, 1.0]) * np.sqrt(3 / 4)  # standard deviation: spread
    return Measured(base + gain, base, **more)


def test_a_data_set_is_lost_beyond_a_share_of_the_spread() -> None:
    sets = [measured(-0.99, 10.0), measured(-1.01, 10.0), measured(-0.3, 2.0, refused=True)]
    cell = cell_of("", 1, sets, 0.1)
    assert (cell.losing, cell.refused, cell.least) == (2, 1, pytest.approx(-1.01))
    other = [measured(1.0, 1.0), measured(2.0, 1.0), measured(3.0, 1.0)]
    score = score_of([sets, other])
    assert score is not None
    assert score.value == pytest.approx((np.mean([-0.099, -0.101, -0.15]) + 2.0) / 2)


@pytest.mark.long
def test_a_training_that_diverges_leaves_no_number_and_the_last_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = benchmark.train_run

    def diverging(setup: Any, data: Path, *rest: Any, **more: Any) -> RunFolder:
        if setup.agent == "td3_bc" and rest[1] == (7,):
            raise TrainingDivergedError("training diverged at update 3.")
        return real(setup, data, *rest, **more)

    monkeypatch.setattr(benchmark, "train_run", diverging)
    table = tiny(tmp_path, ["td3_bc", "bc"], ONE)
    assert [entry.agent for entry in table.entries] == ["bc", "td3_bc"]
    entry = table.entries[1]
    (cell,) = entry.cells
    assert (entry.score, cell.gain, cell.least, cell.losing) == (None, None, None, None)
    assert cell.failed == ("training diverged at update 3.",)
    assert Table.read(tmp_path, ONE) == table


# One set per folder


@pytest.mark.long
def test_entries_join_the_table_and_finished_ones_stay_to_the_bit(tmp_path: Path) -> None:
    first = tiny(tmp_path, "bc", ONE)
    both = tiny(tmp_path, ["td3_bc", "bc"], ONE)
    assert first.entries[0] in both.entries
    kept = (tmp_path / f"{LEADERBOARD}.json").read_bytes()
    tiny(tmp_path, "td3_bc", ONE)
    assert (tmp_path / f"{LEADERBOARD}.json").read_bytes() == kept
    changed = tiny(tmp_path, "bc", ONE, settings={"bc.learning_rate": [0.1]})
    assert [e.changed for e in changed.entries if e.agent == "bc"].count({"learning_rate": 0.1}) == 1
    assert len(changed.entries) == 3
    own = tiny(tmp_path, "bc", ONE, preset="none", settings={"bc.hidden": [[8]]})
    assert len(own.entries) == 4
    assert None in [entry.preset for entry in own.entries]


@pytest.mark.long
def test_another_definition_is_refused_before_anything_runs(tmp_path: Path) -> None:
    tiny(tmp_path, "bc", ONE)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"of another definition \(version 0, size tiny, .* --out\.$"):
        tiny(tmp_path, "bc", replace(ONE, updates=13))
    (tmp_path / DEFINITION).unlink()
    with pytest.raises(UserError, match=f"definition {ONE.hash[:12]}; this is version 0, size large"):
        tiny(tmp_path, "bc", replace(ONE, size="large"))
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path.name != DEFINITION]


def test_another_version_of_a_scenario_is_refused(tmp_path: Path) -> None:
    other = replace(ONE, tasks=(replace(ONE.tasks[0], scenario_version="0.9"),))
    with pytest.raises(UserError, match=r"is on version 0\.9 of dosing/Treatment-v0, here is version 1\.0"):
        tiny(tmp_path, "bc", other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "more", "told"),
    [
        (["nobody"], {}, "there is no agent 'nobody'"),
        ([], {}, "at least one agent"),
        (["bc"], {"preset": "best"}, "there is no preset 'best'"),
        (["bc"], {"settings": {"bc.learning_rate": [0.1, 0.2]}}, "one value of bc.learning_rate, got 2"),
        (["bc"], {"settings": {"iql.expectile": [0.8]}}, "AGENT.NAME=VALUE with one of its agents"),
        (["bc"], {"settings": {"learning_rate": [0.1]}}, "AGENT.NAME=VALUE with one of its agents"),
        (["bc"], {"settings": {"bc.expectile": [0.8]}}, "has the setting 'bc.expectile'"),
        (["spot"], {}, "learns nothing in the first 1000 updates"),
        (["iqn"], {}, "none of which can start at a prior dose"),
    ],
)
def test_what_cannot_take_part_is_refused_in_one_sentence(
    tmp_path: Path, names: list[str], more: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        tiny(tmp_path, names, **more)
    assert not list(tmp_path.iterdir())


def test_of_all_those_who_cannot_are_named_with_the_reason() -> None:
    entrants, left_out = entrants_of(TINY, "all", None, {}, TrainingSettings(steps=TINY.updates))
    assert {e.setup.agent for e in entrants} | set(left_out) == set(agents.AGENTS)
    assert {"spot", "iqn"} <= set(left_out)
    presets = {e.setup.agent: e.preset for e in entrants}
    assert (presets["iql"], presets["bc"]) == ("common", "clinical-small")
    table = Table.of(TINY)
    assert "- iqn is left out: IQN chooses" in page(replace(table, left_out=left_out))


def test_a_size_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--agents", "bc", "--size", "huge", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "dosing: the benchmark has no size 'huge'; it has: small, full.\n"


def test_the_help_needs_no_torch() -> None:
    code = "import sys, dosing.cli.main as m\ntry: m.main(['bench', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


# The definition


def test_the_page_names_the_definitions_that_are_here() -> None:
    """Whoever changes the set changes its hash, which this page and every leaderboard state."""
    text = (ROOT / "docs" / "benchmark.md").read_text()
    for chosen in SIZES.values():
        assert chosen.hash in text
        assert chosen.hash_of_evaluation in text
    assert not any(str(seed) in text for chosen in SIZES.values() for seed in chosen.evaluation_seeds)
    assert len({chosen.version for chosen in SIZES.values()}) == 1


@pytest.mark.parametrize("change", [field.name for field in dataclasses.fields(BenchmarkSet)])
def test_every_field_decides_the_hash(change: str) -> None:
    value = getattr(ONE, change)
    kinds: dict[type, Any] = {int: 99, float: 0.5, str: "x", dict: {"bc": "x"}, tuple: (99,)}
    assert replace(ONE, **{change: kinds[type(value)]}).hash != ONE.hash


@pytest.mark.parametrize("size", SIZES)
def test_no_patients_are_used_twice(size: str) -> None:
    chosen = SIZES[size]
    count = len(chosen.data_seeds)
    assert (
        len(chosen.evaluation_seeds) == len({*chosen.evaluation_seeds}) == len({*chosen.data_seeds}) == count
    )
    assert min(chosen.data_seeds) >= 10_000  # settings were chosen on seeds below
    assert min(chosen.evaluation_seeds) * chosen.evaluation_patients > 10_000_000  # nor evaluated on these
    assert max(chosen.evaluation_seeds) * chosen.evaluation_patients < 2**31
    assert len({task.name for task in chosen.tasks}) == len(chosen.tasks)


# Interrupted, elsewhere, and from outside


@pytest.mark.long
def test_an_interrupted_entry_ends_with_the_same_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = replace(ONE, updates=300, checkpoint_every=100)
    whole = tiny(tmp_path / "whole", "iql", chosen)
    real, rows = benchmark.ProcessorTime.__call__, []

    def interrupted(self: Any, row: Any, *, over: bool = False) -> None:
        real(self, row, over=over)
        rows.append(row)
        if len(rows) == 6:  # the second update that is logged of the second data set
            raise KeyboardInterrupt

    monkeypatch.setattr(benchmark.ProcessorTime, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path / "cut", "iql", chosen)
    assert not (tmp_path / "cut" / f"{LEADERBOARD}.json").is_file()
    spent = [json.loads(f.read_text()) for f in (tmp_path / "cut").glob(f"{HOURS}/*/*.json")]
    assert sorted(x["over"] for x in spent) == [False, True]
    monkeypatch.setattr(benchmark.ProcessorTime, "__call__", real)
    again = tiny(tmp_path / "cut", "iql", chosen)
    assert but_hours(again) == but_hours(whole)
    assert again.entries[0].hours > sum(x["seconds"] for x in spent) / 3600  # what was spent before counts


SCRIPT = """
from tests.studies.test_benchmark import *
references.SEARCH_PATIENTS = 50
if __name__ == "__main__":
    bench(Path({out!r}), {names!r}, {chosen}, resources={resources}, preset={preset!r})
"""
TWO = replace(ONE, data_seeds=(3, 4), evaluation_seeds=(11, 7))
LONGER = replace(TWO, updates=800, checkpoint_every=100)


def script(
    folder: Path, names: list[str], chosen: str, resources: str, preset: str | None = None
) -> tuple[Path, Path]:
    """A script that computes a tiny set in a folder, and that folder."""
    out, file = folder / "out", folder / "script.py"
    text = SCRIPT.format(out=str(out), names=names, chosen=chosen, resources=resources, preset=preset)
    file.write_text(text)
    return out, file


@pytest.mark.long
def test_a_killed_command_is_given_again_and_ends_with_the_same_rows(tmp_path: Path) -> None:
    """SIGKILL in the middle of a training with two workers, then the same command with one."""
    whole = tiny(tmp_path / "whole", "iql", LONGER)
    out, file = script(tmp_path, ["iql"], "LONGER", "Resources('cpu', workers=2)")
    began = subprocess.Popen([sys.executable, file], env=os.environ | {"PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 200
    while not list(out.glob("*/*/*/checkpoint.safetensors")):
        assert began.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(began.pid, signal.SIGKILL)
    began.wait()
    assert not (out / f"{LEADERBOARD}.json").is_file()
    assert len(list(out.glob(f"*/*/*/{DONE}"))) < 2
    while any(_is_locked(file) for file in out.glob("*/*/*/.lock")):  # its workers see that it has gone
        assert time.monotonic() < until
        time.sleep(0.05)
    assert but_hours(tiny(out, "iql", LONGER)) == but_hours(whole)


def _is_locked(file: Path) -> bool:
    with file.open("w") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.long
def test_on_a_cluster_it_ends_with_the_same_rows(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    here = tiny(tmp_path / "here", "bc", TWO)
    out, file = script(tmp_path, ["bc"], "TWO", "Resources('cpu', cluster='local')")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, file], env=env, check=True, timeout=280)
    there = Table.read(out, TWO)
    assert there.entries[0].hours > 0
    assert but_hours(there)["entries"] == but_hours(here)["entries"]


@pytest.mark.long
def test_an_agent_of_a_package_takes_part(tmp_path: Path) -> None:
    """With its own settings: its distribution has no mean that could start at a constant dose."""
    install(tmp_path)
    out, file = script(tmp_path, ["half"], "TWO", "HERE", preset="none")
    done = run(tmp_path, str(file))
    assert done.returncode == 0, done.stderr[-2000:]
    (entry,) = Table.read(out, TWO).entries
    assert (entry.title, entry.package, entry.preset) == ("UpperHalf", "clinic-kit 1.2", None)
    assert entry.score is not None


@pytest.mark.long
def test_the_small_set_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command as a reader gives it, with an agent that is cheap; what it prints is the page."""
    assert main(["bench", "--agents", "bc", "--size", "small", "--workers", "1", "--out", str(tmp_path)]) == 0
    table = Table.read(tmp_path, SIZES["small"])
    assert capsys.readouterr().out == page(table) + "\n"
    (entry,) = table.entries
    assert [cell.data_sets for cell in entry.cells] == [4, 4]
    assert entry.score is not None
    ours = json.loads((ROOT / "benchmarks" / "results" / "bench.json").read_text())
    assert ours["definition"] == table.definition


def test_a_job_can_travel() -> None:
    """Its paths are fields of its own, which a cluster makes relative to the study."""
    paths = {field.name for field in dataclasses.fields(EntryJob) if "Path" in str(field.type)}
    assert paths == {"data", "study", "hours"}
