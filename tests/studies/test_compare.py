"""Comparisons: settings become rows that can be told apart, milestones a curve, data sets a table each."""

from __future__ import annotations

import dataclasses
import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import agents
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.evaluation.outcomes import read_outcomes
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import constant
from dosing.models.regularisation import PLAIN, Regularisation
from dosing.runs.files import read_json, read_table
from dosing.runs.folder import DONE, EPISODES, METRICS, MILESTONES, WEIGHTS, find_runs
from dosing.studies import Cohort, Comparison, Grid, Resources, compare, jobs, references
from dosing.studies import comparison as module
from dosing.studies.baseline import Baseline
from dosing.studies.evaluation import evaluate_runs
from dosing.studies.grid import configurations, regularisations
from dosing.studies.naming import CURVES, TABLE, distinct
from dosing.studies.presets import Preset
from dosing.training.offline import TrainingSettings
from simulator.cohorts.generate import simulate
from simulator.scenarios import CohortFactory
from tests.support.samples import ENV, cohort

ROOT = Path(__file__).resolve().parents[2]
TINY = TrainingSettings(steps=12, batch_size=8, checkpoint_every=4, log_every=4)
LONGER = TrainingSettings(steps=24, batch_size=8, checkpoint_every=4, log_every=4)
SMALL = {"hidden": [(8, 8)]}


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    return tmp_path / "visits.parquet"


def small(study: Path, names: Sequence[str], data: Sequence[Path], **options: Any) -> Comparison:
    """A comparison of a progress, in this process."""
    options = {"seeds": (0, 1), "training": TINY, "evaluation_patients": 4} | options
    options["settings"] = SMALL | options.get("settings", {})
    fields = [field.name for field in dataclasses.fields(Grid)]
    grid = Grid(tuple(names), **{name: options.pop(name) for name in fields if name in options})
    return compare(study, grid, data, resources=Resources("cpu", workers=1), **options)


# Settings


def test_several_values_of_settings_are_crossed() -> None:
    result = configurations(
        Grid(
            ("fttpo", "bc"),
            {"fttpo.q_proposal": [1, 2.5], "fttpo.temperature": [0.1, 1], "hidden": [[8]]},
        )
    )
    own = [(c.q_proposal, c.temperature) for name, c in result if name == "fttpo"]
    assert own == [(1.0, 0.1), (1.0, 1.0), (2.5, 0.1), (2.5, 1.0)]
    assert all(isinstance(x, float) for pair in own for x in pair)  # 1 and 1.0 are one run
    assert [name for name, _ in result] == ["fttpo"] * 4 + ["bc"]
    assert {c.hidden for _, c in result} == {(8,)}


def test_one_value_written_twice_is_one_run() -> None:
    result = configurations(Grid(("bc", "bc"), {"learning_rate": [1, 1.0]}, families=("beta", "beta")))
    assert [(name, c.policy_family, c.learning_rate) for name, c in result] == [("bc", "beta", 1.0)]


def test_a_setting_of_one_agent_wins_over_one_of_all() -> None:
    for order in (("discount", "iql.discount"), ("iql.discount", "discount")):
        values = {"discount": [0.5], "iql.discount": [0.7]}
        result = configurations(Grid(("iql", "sql"), {key: values[key] for key in order}))
        assert [c.discount for _, c in result] == [0.7, 0.5]


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("iql", {"discount": ["high"]}, "discount must be a number, got 'high'"),
        ("iql", {"iql.expectile": [True]}, "iql.expectile must be a number, got True"),
        ("td3_bc", {"actor_every": [1.5]}, "actor_every must be a whole number, got 1.5"),
        ("fttpo", {"share_mean": [1]}, "share_mean must be true or false, got 1"),
        ("fttpo", {"q_actor": [1.0]}, "q_actor must be below 1"),
        ("fttpo", {"bootstrap": ["nobody"]}, "bootstrap must be one of actor, proposal"),
        ("bc", {"hidden": [8]}, "does not fit agent 'bc'"),
        ("bc", {"discount": [0.9]}, "none of the chosen agents has the setting 'discount'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_runs(
    name: str, settings: dict[str, list[Any]], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        configurations(Grid((name,), settings))


@pytest.mark.long
def test_rows_tell_settings_apart_and_no_run_is_made_twice(visits: Path, tmp_path: Path) -> None:
    result = small(
        tmp_path,
        ["fttpo", "iql"],
        [visits],
        families=("clipped_gaussian", "beta"),
        settings={"fttpo.q_proposal": [1, 2], "fttpo.temperature": [0.3]},
    )
    rows = [(row.name, row.family) for row in result.rows if row.sampled]
    assert rows == [
        ("FtTPO, q_proposal=1.0", "sparse q-Gaussian"),
        ("FtTPO, q_proposal=2.0", "sparse q-Gaussian"),
        ("IQL", "clipped Gaussian"),
        ("IQL", "beta"),
    ]
    stamps = {run.path: (run.path / DONE).stat().st_mtime_ns for run in find_runs(tmp_path)}
    assert len(stamps) == 4
    again = small(
        tmp_path, ["fttpo"], [visits], settings={"fttpo.q_proposal": [2.0], "fttpo.temperature": [0.3]}
    )
    assert [row.name for row in again.rows if row.sampled] == ["FtTPO"]  # nothing to tell it apart from
    assert {run.path: (run.path / DONE).stat().st_mtime_ns for run in find_runs(tmp_path)} == stamps


@pytest.mark.long
def test_notes_name_the_distribution_where_a_name_stands_for_several(tmp_path: Path) -> None:
    episodes = simulate("dosing/Warfarin-v0", patients=6, policy="nomogram", seed=0)
    write_episodes(episodes, tmp_path / "warfarin.parquet")
    result = small(
        tmp_path, ["bc", "iql"], [tmp_path / "warfarin.parquet"], families=("clipped_gaussian", "beta")
    )
    told = next(note for note in result.notes if "with the event" in note)
    assert [row.name for row in result.rows if row.sampled] == ["BC", "BC", "IQL", "IQL"]
    for name in ("BC (clipped Gaussian)", "BC (beta)", "IQL (clipped Gaussian)", "IQL (beta)"):
        assert f"{name} " in told
    assert distinct(["IQL", "BC", "IQL"], ["beta", "beta", "truncated Gaussian"])[1] == "BC"


@pytest.mark.long
def test_regularisation_makes_rows_and_is_part_of_a_run(visits: Path, tmp_path: Path) -> None:
    """Networks of other shapes are trained, kept, loaded and evaluated; none is what it was before."""
    plain = small(tmp_path, ["iql"], [visits])
    (run,) = find_runs(tmp_path)
    assert run.config().regularisation == PLAIN
    options = {"layer_norm": [True], "critics": [None, 3]}
    result = small(tmp_path, ["iql"], [visits], regularise=options)
    assert [row.name for row in result.rows if row.sampled] == ["IQL, critics=none", "IQL, critics=3"]
    kept = [r.config().regularisation.changed() for r in find_runs(tmp_path) if r != run]
    assert sorted(kept, key=len) == [{"layer_norm": True}, {"critics": 3, "layer_norm": True}]
    assert len({row.recommended.value for row in (*plain.rows, *result.rows) if row.sampled}) == 3
    preset = Preset("", regularisation={"dropout": 0.1, "critics": 4})
    assert regularisations({"critics": [2]}, preset) == [Regularisation(dropout=0.1, critics=2)]
    assert regularisations({"weight_decay": [1, 1.0]}) == [Regularisation(weight_decay=1.0)]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"no_such": [1]}, "there is no regularisation 'no_such'; there are: critics, "),
        ({"critics": ["many"]}, "critics must be a whole number or null, got 'many'"),
        ({"dropout": [0.1, 1]}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"layer_norm": [1]}, "layer_norm must be true or false, got 1"),
    ],
)
def test_regularisation_that_cannot_be_is_refused(options: dict[str, list[Any]], told: str) -> None:
    with pytest.raises(UserError, match=told):
        regularisations(options)


# Data sets


@pytest.mark.long
def test_every_data_set_has_its_rows_and_its_rules(visits: Path, tmp_path: Path) -> None:
    write_episodes(cohort(5, seed=3), tmp_path / "other.parquet")
    result = small(tmp_path / "study", ["bc", "iql"], [visits, tmp_path / "other.parquet"])
    named = [(row.name, row.data) for row in result.rows if row.sampled]
    assert named == [("BC", "visits"), ("IQL", "visits"), ("BC", "other"), ("IQL", "other")]
    table = read_json(tmp_path / "study" / TABLE)
    paths = [run.split("/")[:2] for run in table["runs"]]  # in the order of the rows, which the pages rely on
    assert paths == [["bc", "visits"], ["iql", "visits"], ["bc", "other"], ["iql", "other"]]
    for data in ("visits", "other"):
        assert sum(row.data == data and row.name == "no dose" for row in result.rows) == 1
    first, second = str(result).split("\n\n")
    assert first.startswith("data: visits\nagent")
    assert second.startswith("data: other\nagent")
    alone = small(tmp_path / "alone", ["bc", "iql"], [tmp_path / "other.parquet"])
    assert [row for row in result.rows if row.data == "other"] == list(alone.rows)


@pytest.mark.long
def test_every_data_set_has_the_constant_dose_it_estimates(tmp_path: Path) -> None:
    """Its rows are paired with the returns of that dose, seed by seed and patient by patient."""
    sources = {"visits": cohort(20), "other": cohort(20, seed=3)}
    for name, episodes in sources.items():
        write_episodes(episodes, tmp_path / f"{name}.parquet")
    study = tmp_path / "study"
    result = small(study, ["bc"], [tmp_path / f"{name}.parquet" for name in sources])
    runs = {run.path.parent.name: run for run in find_runs(study)}
    doses = []
    for data, episodes in sources.items():
        rows = [row for row in result.rows if row.data == data]
        baseline = Baseline.of(episodes)
        assert baseline.dose is not None
        doses.append(baseline.dose)
        assert {row.baseline for row in rows} <= {baseline, None}
        (own,) = (row for row in rows if row.is_baseline)
        assert (
            own.name == f"constant dose {baseline.dose:.3f} estimated from the {baseline.patients} patients"
        )
        given = rollout(CohortFactory(ENV, {}), constant(baseline.dose), (0, 1), 4).returns
        assert own.recommended.value == pytest.approx(given.mean())
        returns = read_outcomes(runs[data].path / EPISODES)["recommended"].returns
        gain = (returns - given).mean(1)
        low, high = stats.t.interval(0.95, 1, gain.mean(), stats.sem(gain))
        told = rows[0].difference
        assert told is not None
        assert (told.value, told.low, told.high) == pytest.approx((gain.mean(), low, high))
        assert rows[0].verdict == ("worse" if high < 0 else "better" if low > 0 else "not distinguishable")
    assert abs(doses[0] - doses[1]) > 1e-3
    with pytest.raises(UserError, match="must share their data set"):
        evaluate_runs(list(runs.values()), 4)


def test_data_of_two_doses_have_no_constant_to_stand_beside(tmp_path: Path) -> None:
    either = np.where(cohort().act > 0, np.float32(0.5), np.float32(-0.5))
    write_episodes(dataclasses.replace(cohort(), act=either), tmp_path / "two.parquet")
    result = small(tmp_path / "study", ["bc"], [tmp_path / "two.parquet"])
    measured = [row for row in result.rows if row.cost]
    assert [row.name for row in measured[:3]] == ["BC", "uniform dosing", "no dose"]
    assert measured[3].name.startswith("best constant dose")
    assert {row.difference_words for row in measured} == {"no estimated constant"}
    (note,) = result.notes
    assert note.startswith("no constant dose is estimated from two: a parabola needs at least three")


@pytest.mark.long
def test_the_scale_of_the_data_changes_the_run_and_not_the_evaluation(visits: Path, tmp_path: Path) -> None:
    scaled = small(tmp_path, ["iql"], [visits])
    raw = small(tmp_path, ["iql"], [visits], data_options={"scale_reward": False})
    runs = find_runs(tmp_path)
    assert len(runs) == 2
    assert sorted(run.config().transform.reward_scale for run in runs) == pytest.approx(
        sorted([1.0, float(cohort().reward.std(dtype=np.float64))])
    )
    rules = [[row for row in result.rows if not row.sampled] for result in (scaled, raw)]
    assert rules[0] == rules[1]


@pytest.mark.long
def test_a_preset_without_an_entry_is_noted(visits: Path, tmp_path: Path) -> None:
    result = small(tmp_path, ["iql", "bc"], [visits], preset="published")
    (note,) = result.notes
    assert note == "preset published has nothing for bc: their own defaults were used."
    assert f"note: {note}" in str(result)
    assert read_json(tmp_path / TABLE)["notes"] == [note]
    assert {run.config().transform.reward_scale for run in find_runs(tmp_path)} == {1.0}


@pytest.mark.long
def test_several_grids_are_one_table_each_with_its_preset(visits: Path, tmp_path: Path) -> None:
    grids = [Grid(("fttpo",), SMALL, preset="belief"), Grid(("iql",), preset="clinical-small")]
    result = compare(tmp_path, grids, visits, training=TINY, resources=Resources("cpu", workers=1))
    policies = [row.family for row in result.rows[:2]]
    assert policies == ["sparse q-Gaussian on a belief", "clipped Gaussian"]
    learned = {run.config().agent: run.config() for run in find_runs(tmp_path)}
    assert learned["fttpo"].regularisation.advantage == "model"
    assert learned["fttpo"].agent_config["learning_rate"] == 3e-3
    assert learned["iql"].regularisation.dose_quadratic
    assert not [note for note in result.notes if "preset" in note]


@pytest.mark.parametrize("alike", [True, False])
def test_the_demonstration_learns_a_response_model_where_episodes_are_of_one_length(
    alike: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = cohort(6)
    if not alike:
        shorter = {name: column[:-1] for name, column in episodes.arrays().items()}
        episodes = dataclasses.replace(episodes, **shorter)
    write_episodes(episodes, tmp_path / "visits.parquet")
    asked: list[Any] = []
    monkeypatch.setattr(module, "obtain_data", lambda *_: tmp_path / "visits.parquet")

    def compared(study: Path, grids: Any, file: Path, **rest: Any) -> Comparison:
        asked.append((grids, file))
        return Comparison(())

    monkeypatch.setattr(module, "compare", compared)
    result = module.demo(tmp_path, seeds=(0,), steps=1, scenario=ENV, cohort=Cohort(6), device="cpu")
    ((grids, file),) = asked
    trained = {name: grid.preset for grid in grids for name in grid.agents}
    assert file == tmp_path / "visits.parquet"
    assert [("no response model" in note) for note in result.notes] == ([] if alike else [True])
    assert trained == dict(agents.DEMO_PATIENTS if alike else dict.fromkeys(agents.DEMO, "clinical-small"))


@pytest.mark.long
def test_sparse_against_gaussian_is_paired_by_patient(visits: Path, tmp_path: Path) -> None:
    values = {"fttpo.actor_loss": ["reverse_kl", "quadrature_kl"]}
    result = small(
        tmp_path, ["fttpo"], [visits], preset="sparse-vs-gaussian", settings=values, seeds=(0, 1, 4)
    )
    assert [(row.name, row.family) for row in result.rows if row.sampled] == [
        ("FtTPO, actor_loss=reverse_kl, actor=sparse", "sparse q-Gaussian"),
        ("FtTPO, actor_loss=quadrature_kl, actor=sparse", "sparse q-Gaussian"),
        ("FtTPO, actor_loss=reverse_kl, actor=gaussian", "clipped Gaussian"),
        ("FtTPO, actor_loss=quadrature_kl, actor=gaussian", "clipped Gaussian"),
    ]
    outcomes = {
        (config["actor_loss"], config["actor"]): read_outcomes(run.path / EPISODES)
        for run in find_runs(tmp_path)
        for config in [run.config().agent_config]
    }
    assert len(result.differences) == 2
    for pair, loss in zip(result.differences, values["fttpo.actor_loss"], strict=True):
        assert (pair.name, pair.distributions, pair.data) == (
            f"FtTPO, actor_loss={loss}",
            ("sparse", "Gaussian"),
            "visits",
        )
        for rule, told in (("recommended", pair.recommended), ("sampled", pair.sampled)):
            sparse, gaussian = (
                outcomes[loss, distribution][rule].returns for distribution in ("sparse", "gaussian")
            )
            gain = (sparse - gaussian).mean(1)
            low, high = stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain))
            assert (told.value, told.low, told.high) == pytest.approx((gain.mean(), low, high))
        assert str(pair) in str(result)
    kept = read_json(tmp_path / TABLE)["differences"]
    assert kept[0]["sampled"]["value"] == result.differences[0].sampled.value
    assert small(tmp_path, ["fttpo"], [visits]).differences == ()


# Milestones


@pytest.mark.long
def test_returns_along_training_are_those_of_shorter_trainings(visits: Path, tmp_path: Path) -> None:
    result = small(tmp_path, ["iql"], [visits], milestones=(4, 12, 8))
    curves = read_table(tmp_path / CURVES).to_pandas()
    assert list(curves.columns) == [
        *("agent", "name", "setting", "policy", "data", "run", "update", "seed", "recommended", "sampled")
    ]
    assert curves[["update", "seed"]].to_numpy().tolist() == [[u, s] for u in (4, 8, 12) for s in (0, 1)]
    for steps in (4, 8, 12):
        training = TrainingSettings(steps=steps, batch_size=8, checkpoint_every=4, log_every=4)
        small(tmp_path / str(steps), ["iql"], [visits], training=training)
        (run,) = find_runs(tmp_path / str(steps))
        outcomes = read_outcomes(run.path / EPISODES)
        for rule in ("recommended", "sampled"):
            here = curves[curves["update"] == steps][rule].to_numpy()
            np.testing.assert_array_equal(here, outcomes[rule].returns.mean(1))
    row = next(row for row in result.rows if row.sampled)
    assert row.recommended.value == pytest.approx(curves[curves["update"] == 12]["recommended"].mean())


@pytest.mark.long
def test_a_finished_run_gets_a_milestone_later_and_keeps_its_bits(visits: Path, tmp_path: Path) -> None:
    before = small(tmp_path, ["iql"], [visits])
    (run,) = find_runs(tmp_path)
    weights = (run.path / WEIGHTS).read_bytes()
    after = small(tmp_path, ["iql"], [visits], milestones=(8,))
    assert find_runs(tmp_path) == [run]
    assert (run.path / WEIGHTS).read_bytes() == weights
    assert after == before
    stamp = (run.at(8) / WEIGHTS).stat().st_mtime_ns
    small(tmp_path, ["iql"], [visits], milestones=(8,))
    assert (run.at(8) / WEIGHTS).stat().st_mtime_ns == stamp
    (run.at(8) / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"{MILESTONES}/8/{WEIGHTS} was changed or truncated"):
        small(tmp_path, ["iql"], [visits], milestones=(8,))


# Failures


def test_data_without_a_simulator_are_refused_before_training(tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(
        cohort(), metadata=dataclasses.replace(cohort().metadata, env_id="hospital")
    )
    write_episodes(elsewhere, tmp_path / "treated.parquet")
    with pytest.raises(UserError, match="comes from no simulator here"):
        small(tmp_path / "study", ["bc"], [tmp_path / "treated.parquet"])
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.long
def test_a_training_that_diverges_is_noted_and_the_others_stand(visits: Path, tmp_path: Path) -> None:
    result = small(tmp_path, ["iql", "bc"], [visits], settings={"iql.learning_rate": [1e30]})
    assert [row.name for row in result.rows if row.sampled] == ["BC"]
    (note,) = result.notes
    assert note.startswith("IQL on visits is not in the table: training diverged at update")
    with pytest.raises(UserError, match="training diverged"):
        small(tmp_path, ["iql"], [visits], settings={"iql.learning_rate": [1e30]})


# Kills


def command(study: Path, data: Path, *, workers: int, steps: int = 60) -> list[str]:
    """A small comparison: two agents, several settings, milestones, checkpoints every few updates."""
    words = f"--agents fttpo bc --data {data} --out {study} --seeds 2 --steps {steps} --checkpoint-every 10"
    words += f" --evaluate-at 20 --evaluation-patients 20 --workers {workers} --device cpu"
    words += " --set hidden=[8,8] --set fttpo.q_proposal=1.5,2"
    return [sys.executable, "-m", "dosing", "compare", *words.split()]


def answer(study: Path) -> dict[str, Any]:
    """All that a study says: table, curves, and the weights and outcomes of every run."""
    result: dict[str, Any] = {"table": (study / TABLE).read_bytes(), "curves": (study / CURVES).read_bytes()}
    for run in find_runs(study):
        run.verify()
        for file in (WEIGHTS, EPISODES):
            for path in (run.path / file, run.at(20) / file):
                result[str(path.relative_to(study))] = path.read_bytes()
        metrics = read_table(run.path / METRICS).to_pydict()
        result[str(run.path.relative_to(study))] = {k: v for k, v in metrics.items() if k != "seconds"}
    return result


def killed(words: list[str], seconds: float) -> bool:
    """Run a command for so long at most, then kill it and its workers at once; whether it was cut short."""
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            _, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
    assert process.returncode == 0, error.decode()
    return False


@pytest.mark.long
@pytest.mark.parametrize("stage", ["train_run", "evaluate_run", "evaluate_runs", "write_curves"])
def test_a_study_cut_short_at_any_stage_says_the_same(
    stage: str, visits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call of a stage is the last thing that happens, where there is a second."""
    small(tmp_path / "straight", ["bc", "iql"], [visits], milestones=(20,), training=LONGER)
    where = jobs if stage in ("train_run", "evaluate_run") else module
    real, calls = getattr(where, stage), 0

    def cut_short(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 or stage.endswith("s"):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(where, stage, cut_short)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "broken", ["bc", "iql"], [visits], milestones=(20,), training=LONGER)
    assert not (tmp_path / "broken" / TABLE).exists()
    monkeypatch.undo()
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)
    small(tmp_path / "broken", ["bc", "iql"], [visits], milestones=(20,), training=LONGER)
    assert answer(tmp_path / "broken") == answer(tmp_path / "straight")


@pytest.mark.slow
def test_a_study_killed_at_five_random_moments_says_the_same(tmp_path: Path) -> None:
    """SIGKILL of command and workers, whatever they are at; the same command then ends with the same bits."""
    write_episodes(cohort(), tmp_path / "visits.parquet")
    words = functools.partial(command, data=tmp_path / "visits.parquet", workers=2, steps=1500)
    began = time.monotonic()
    assert not killed(words(tmp_path / "straight"), 600)
    whole = time.monotonic() - began
    rng, kills, moments = random.Random(), 0, []
    while kills < 5:
        moments.append(rng.uniform(0.15, 0.6) * whole)
        if killed(words(tmp_path / "broken"), moments[-1]):
            kills += 1
        else:  # it was done before its time: begin again, so that five kills are five interruptions
            assert answer(tmp_path / "broken") == answer(tmp_path / "straight"), moments
            shutil.rmtree(tmp_path / "broken")
    assert not killed(words(tmp_path / "broken"), 600)
    assert answer(tmp_path / "broken") == answer(tmp_path / "straight"), moments
    assert not list((tmp_path / "broken").rglob("*.partial")), moments


# Who is left out


def test_of_all_agents_those_that_refuse_an_option_are_left_out_with_the_reason() -> None:
    (options,) = regularisations({"prior": ["constant_dose"], "dose_quadratic": [True]})
    left_out: dict[str, str] = {}
    result = configurations(Grid(("all",)), None, (options,), None, left_out)
    assert "ifql" in left_out
    assert "prior dose" in left_out["ifql"]
    assert {name for name, _ in result} == set(agents.AGENTS) - set(left_out)
    with pytest.raises(UserError, match="prior dose"):  # named, it is not left out in silence
        configurations(Grid(("ifql",)), None, (options,), None, {})
    with pytest.raises(UserError, match=r"discount must be between 0 and 1, got 1\.1"):  # nor a wrong value
        configurations(Grid(("all",), {"discount": [1.1]}), None, left_out={})
