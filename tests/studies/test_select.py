"""Choosing settings from recorded patients alone: what is found better, what is not, and what is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.cli.main import main
from dosing.data.dataset import Transform
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, verdict
from dosing.ope.baselines import estimated_constant
from dosing.ope.folds import PooledValue
from dosing.ope.selection import Settings
from dosing.ope.trajectories import Trajectories
from dosing.runs.files import read_json
from dosing.runs.folder import DONE, WEIGHTS, find_runs
from dosing.studies import evaluation, jobs, presets
from dosing.studies.grid import configurations, regularisations
from dosing.studies.selected import FOLDS, SELECTION, Selected
from dosing.studies.selection import _candidates, _order, select
from dosing.studies.settings import Folds, Grid, Resources
from dosing.training.offline import TrainingSettings
from dosing.training.regularised import take_step
from dosing.training.sampler import Sampler
from tests.support.samples import PROBLEM, cohort, dataset

TINY = TrainingSettings(steps=8, batch_size=16, checkpoint_every=4, log_every=4)
EXACT = Settings(estimators=("fqe",), ridge=0.01)


def recorded(gain: float, patients: int = 40, visits: int = 3) -> Episodes:
    """Visits of no simulator: states that come and go by themselves, and a best dose of ``gain`` times them.

    Doses are uniform on 0 to 10 mg, 5 mg is the best constant one; the reward's noise is small.
    """
    rng = np.random.default_rng(0)
    rows = patients * visits
    state = rng.uniform(-1.0, 1.0, size=(patients, visits + 1)).astype(np.float32)
    unit = rng.uniform(-1.0, 1.0, size=rows)
    obs, after = state[:, :-1].reshape(rows, 1), state[:, 1:].reshape(rows, 1)
    reward = 1.0 - (unit - gain * obs[:, 0]) ** 2 + 0.05 * rng.normal(size=rows)
    dose = (5.0 + 5.0 * unit[:, None]).astype(np.float32)
    card = DatasetMetadata(action_low=(0.0,), action_high=(10.0,), dose_unit="mg", obs_names=("level",))
    return Episodes(
        obs=obs,
        act=dose,
        act_requested=dose,
        limited_by=np.zeros(rows, np.int8),
        reward=reward.astype(np.float32),
        next_obs=after,
        terminated=np.zeros(rows, bool),
        truncated=np.tile(np.arange(visits) == visits - 1, patients),
        cost=np.zeros(rows, np.float32),
        behaviour_log_prob=np.full(rows, np.log(0.1), np.float32),
        episode=np.repeat(np.arange(patients), visits),
        step=np.tile(np.arange(visits, dtype=np.int32), patients),
        metadata=card,
    )


def kept(folder: Path, episodes: Episodes, name: str = "treated.csv") -> Path:
    write_episodes(episodes, folder / name)
    return folder / name


def small(study: Path, names: Sequence[str], data: Path, **options: Any) -> Selected:
    """A selection of a progress, in this process."""
    options = {
        "folds": 2,
        "seeds": (0, 1),
        "training": TINY,
        "preset": "clinical-small",
    } | options
    fields = [field.name for field in dataclasses.fields(Grid)]
    grid = Grid(tuple(names), **{name: options.pop(name) for name in fields if name in options})
    folds = Folds(options.pop("folds"))
    return select(study, grid, data, folds=folds, resources=Resources("cpu", workers=1), **options)


def learnt(study: Path, data: Path, names: Sequence[str] = ("td3_bc",), **options: Any) -> Selected:
    """The same with updates enough to learn the synthetic rule, and without the pull to the constant dose."""
    settings = {"learning_rate": [0.05]} | options.pop("settings", {})
    training = TrainingSettings(steps=100, batch_size=64)
    more = {"regularise": {"weight_decay": [0]}, "training": training, "criterion": EXACT} | options
    return small(study, names, data, settings=settings, **more)


# Verdicts


@pytest.mark.long
def test_a_rule_of_the_state_is_chosen_and_trained_on_all_patients(tmp_path: Path) -> None:
    data = kept(tmp_path, recorded(0.8))
    result = learnt(tmp_path / "study", data, settings={"td3_bc.alpha": [2.5, 0.0]})
    best, _ = result.candidates
    assert result.chosen == best
    assert best.name == "TD3+BC, alpha=2.5 (deterministic)"  # alpha 0 clones doses given at random
    difference = result.value(best.name).difference
    assert difference is not None
    assert 0.0 < difference.low < 0.64 < difference.high  # 3 visits, each 0.8 squared times 1/3
    assert difference.basis.startswith(
        "95 % interval, patient bootstrap within folds, Bonferroni for 2 candidates"
    )
    assert result.verdict == (
        f"{best.name} is better than the constant dose 5.3 mg estimated from the same 40 patients, "
        f"by {difference} in return over 3 visits ({difference.basis})."
    )
    (run,) = find_runs(tmp_path / "study")
    assert result.run == run
    assert (run.config().data.patients, run.config().agent_config["alpha"]) == (40, 2.5)
    written = read_json(tmp_path / "study" / SELECTION)
    assert written["verdict"] == result.verdict
    assert written["chosen"]["agent"] == "td3_bc"
    assert tmp_path / "study" / written["run"] == run.path
    exact = estimated_constant(Trajectories.from_episodes(recorded(0.8))).dose
    assert (written["constant"]["dose"], written["constant"]["unit"]) == (pytest.approx(exact), "mg")
    assert written["notice"] == NOT_FOR_PATIENTS
    assert "alpha=2.5" in next(line for line in str(result).splitlines() if line.startswith("chosen: td3_bc"))


@pytest.mark.long
def test_where_nothing_is_better_the_constant_dose_is_the_answer(tmp_path: Path) -> None:
    data = kept(tmp_path, recorded(0.0))
    result = small(tmp_path / "study", ["fttpo", "iql"], data, settings={"fttpo.temperature": [0.1, 0.3]})
    assert (result.chosen, result.run) == (None, None)
    assert result.verdict.startswith(
        "None of these 3 candidates is found better than the constant dose 5.0 mg estimated from the same 40 "
        f"patients; use that: {result.candidates[0].name} differs from it by "
    )
    assert "95 % interval" in result.verdict
    assert "n = 40)" in result.verdict
    assert find_runs(tmp_path / "study") == []
    written = read_json(tmp_path / "study" / SELECTION)
    assert (written["chosen"], written["run"], len(written["candidates"])) == (None, None, 3)
    gains = [result.value(c.name).difference for c in result.candidates]
    assert [g.value for g in gains if g] == sorted((g.value for g in gains if g), reverse=True)
    alone = small(tmp_path / "study", ["iql"], data)
    assert alone.verdict.startswith(
        "IQL (clipped Gaussian) is not found better than the constant dose 5.0 mg estimated from the same 40 "
        "patients; use that: they differ by "
    )
    assert "Bonferroni" not in alone.verdict


@pytest.mark.long
def test_a_training_that_diverges_has_no_value_and_counts_as_tried(tmp_path: Path) -> None:
    data = kept(tmp_path, recorded(0.0))
    diverging = {"iql.learning_rate": [1e30, 0.01]}
    result = small(tmp_path, ["iql"], data, settings=diverging)
    assert [c.config.learning_rate for c in result.candidates] == [0.01, 1e30]
    refused = result.value(result.candidates[1].name)
    assert (refused.estimate, refused.verdict) == (None, None)
    assert str(refused.refused).startswith("training diverged at update")
    assert "Bonferroni for 2 candidates" in result.verdict
    assert f"refused: {refused.refused}" in str(result)
    alone = small(tmp_path, ["iql"], data, settings={"iql.learning_rate": [1e30]})
    assert alone.verdict == (
        "No candidate has an estimated value, so none is known to beat the constant dose 5.0 mg estimated "
        "from the same 40 patients; use that."
    )


def test_what_is_better_stands_before_what_only_has_a_higher_estimate() -> None:
    def valued(value: float, low: float) -> PooledValue:
        difference = Estimate(value, low, value + 1.0, 0.95, 9, 1, "")
        return PooledValue(difference, difference, verdict(difference))

    unsure, sure, surer = valued(2.0, -0.1), valued(0.5, 0.1), valued(0.7, 0.1)
    assert sorted([PooledValue(), unsure, sure, surer], key=_order) == [surer, sure, unsure, PooledValue()]


# Folds


@pytest.mark.long
def test_every_candidate_is_trained_on_the_other_folds_and_never_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a selection met a simulated patient")

    monkeypatch.setattr(jobs, "evaluate_run", simulated)
    monkeypatch.setattr(evaluation.rollout, "evaluate", simulated)
    data = kept(tmp_path, cohort(7), "visits.parquet")  # from a simulator, as the card says
    study = tmp_path / "study"
    result = small(study, ["fttpo", "bc"], data, folds=3)
    runs = [run.config() for run in find_runs(study / FOLDS)]
    assert sorted((c.agent, c.data.patients) for c in runs) == [
        *(("bc", n) for n in (4, 5, 5)),
        *(("fttpo", n) for n in (4, 5, 5)),
    ]
    files = sorted((study / FOLDS / "data").iterdir())
    trained = [set(np.unique(read_episodes(file).episode)) for file in files]
    everyone = set(np.unique(cohort(7).episode))
    assert sorted(x for part in trained for x in everyone - part) == sorted(everyone)
    doses = [estimated_constant(Trajectories.from_episodes(read_episodes(file))).dose for file in files]
    assert result.validation.doses == pytest.approx(doses)
    assert {c.data.content_hash for c in runs} == {
        read_episodes(file).metadata.content_hash for file in files
    }
    assert result.validation.horizon == 24


@pytest.mark.long
def test_the_same_command_continues_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    data = kept(tmp_path, recorded(0.8))
    study = tmp_path / "study"
    first = learnt(study, data)
    written = (study / SELECTION).read_bytes()
    runs = [*find_runs(study / FOLDS), *find_runs(study)]
    assert len(runs) == 3
    weights = {run.path: (run.path / WEIGHTS).read_bytes() for run in runs}
    stamps = {run.path: (run.path / DONE).stat().st_mtime_ns for run in runs}
    for run in (runs[1], runs[2]):
        (run.path / DONE).unlink()
    (study / SELECTION).unlink()
    assert learnt(study, data).verdict == first.verdict
    assert (study / SELECTION).read_bytes() == written
    assert {run.path: (run.path / WEIGHTS).read_bytes() for run in runs} == weights
    now = {run.path: (run.path / DONE).stat().st_mtime_ns for run in runs}
    assert [now[run.path] == stamps[run.path] for run in runs] == [True, False, False]


@pytest.mark.long
def test_further_estimators_are_shown_and_do_not_decide(tmp_path: Path) -> None:
    data = kept(tmp_path, recorded(0.8))
    alone = learnt(tmp_path, data)
    both = learnt(tmp_path, data, criterion=dataclasses.replace(EXACT, estimators=("fqe", "wis")))
    name = both.candidates[0].name
    assert both.verdict == alone.verdict
    assert "effective sample size" in str(both.validation.values[name]["wis"].refused)
    assert sum(line.startswith("TD3+BC") and " wis " in line for line in str(both).splitlines()) == 1


# The command


@pytest.mark.long
def test_the_command_prints_table_verdict_and_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = kept(tmp_path, recorded(0.0), "treated.parquet")
    words = (
        f"select --agents fttpo --data {data} --out {tmp_path / 'study'} --preset clinical-small --folds 2"
    )
    words += " --set fttpo.temperature=0.1,0.3 --regularise weight_decay=0,30 --seeds 1 --steps 4 --workers 1"
    assert main([*words.split(), "--device", "cpu"]) == 0
    table, *_, sentence, notice = capsys.readouterr().out.splitlines()
    assert table.split()[:2] == ["candidate", "estimator"]
    assert sentence == read_json(tmp_path / "study" / SELECTION)["verdict"]
    assert sentence.startswith("None of these 4 candidates")
    assert notice == NOT_FOR_PATIENTS
    names = [c["name"] for c in read_json(tmp_path / "study" / SELECTION)["candidates"]]
    assert sorted(names) == [
        f"FtTPO, temperature={t}, weight_decay={w} (sparse q-Gaussian)"
        for t in (0.1, 0.3)
        for w in (0.0, 30.0)
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--folds 1", "40 patients can be cut into 2 to 20 folds of two or more, not 1."),
        ("--folds 41", "40 patients can be cut into 2 to 20 folds of two or more, not 41."),
        ("--folds 21", "40 patients can be cut into 2 to 20 folds"),
        ("--agents no_such", "there is no agent 'no_such'; the suite has: fttpo"),
        ("--set no_such=1", "none of the chosen agents has the setting 'no_such'"),
        ("--regularise no_such=1", "there is no regularisation 'no_such'"),
        ("--preset no_such", "there is no preset 'no_such'"),
        ("--estimators magic", "estimators are fqe, neural_fqe"),
        ("--estimators fqe neural_fqe", "neural_fqe has too few bootstrap replicates"),
        ("--ridge 0", "the ridge strength must be above 0"),
        ("--seeds 0", "--seeds must be at least 1"),
        ("--workers 0", "--workers must be at least 1"),
        ("--steps 0", "steps must be at least 1"),
        ("--agents spot --steps 1000", "this agent's policy learns nothing in the first 1000 updates"),
        ("--data nowhere.csv", "neither a file nor an environment id"),
        ("--data {few}", "need at least 4 recorded patients, got 3"),
        ("--data {one_dose}", "a parabola needs at least three different recorded doses"),
        ("--data {short}", "fold 1 value no policy"),
    ],
)
def test_a_wrong_input_is_one_sentence_before_anything_is_trained(
    flags: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = recorded(0.0)
    fixed = dataclasses.replace(fixed, act=np.full_like(fixed.act, 3.0))
    files = {"few": recorded(0.0, 3), "one_dose": fixed, "short": recorded(0.0, 4, 1)}
    for name, episodes in files.items():
        if f"{{{name}}}" in flags:
            flags = flags.format(**{name: kept(tmp_path, episodes)})
    words = ["--agents", "fttpo", "--out", str(tmp_path / "study"), "--device", "cpu", "--workers", "1"]
    words += ["--folds", "2", "--data", str(kept(tmp_path, recorded(0.0), "whole.csv")), *flags.split()]
    assert main(["select", *words]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("dosing: ")
    assert told in line
    assert not list(tmp_path.rglob("config.json"))


def test_help_needs_no_torch() -> None:
    code = "import sys; from dosing.cli.main import main\ntry: main(['select', '--help'])\n"
    code += "except SystemExit: print(sorted({'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--estimators" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


# Agents that look back


def responding(patients: int, visits: int = 6) -> Episodes:
    """Levels that doses move, seen with noise; what is paid falls with the squares of level and dose."""
    rng = np.random.default_rng(1)
    level, rows = rng.normal(size=patients), patients * visits
    unit, seen = rng.uniform(-1.0, 1.0, size=(patients, visits)), [level + 0.3 * rng.normal(size=patients)]
    for visit in range(visits):
        level = 0.8 * level + 0.6 * unit[:, visit]
        seen.append(level + 0.3 * rng.normal(size=patients))
    y = np.stack(seen, 1).astype(np.float32)
    dose = (5.0 + 5.0 * unit).reshape(rows, 1).astype(np.float32)
    return dataclasses.replace(
        recorded(0.0, patients, visits),
        obs=y[:, :-1].reshape(rows, 1),
        next_obs=y[:, 1:].reshape(rows, 1),
        act=dose,
        act_requested=dose,
        reward=-(y[:, 1:].reshape(rows) ** 2) - unit.reshape(rows).astype(np.float32) ** 2,
    )


@pytest.mark.long
def test_agents_with_and_without_memory_are_answered_in_one_table(tmp_path: Path) -> None:
    data, study = kept(tmp_path, responding(80)), tmp_path / "study"
    short = {"fit_steps": 60, "decay_steps": 60, "learning_rate": 0.03}
    settings = {f"response_model.{name}": [value] for name, value in short.items()}
    training = TrainingSettings(steps=60, batch_size=64)
    names = ["response_model", "decision_transformer", "bc"]
    result = small(study, names, data, settings=settings, training=training, folds=None, seeds=(0,))
    assert result.candidates[0].agent == "response_model"
    assert "t, spread of patient-bootstrap refits within folds, Bonferroni for 3 candidates" in result.verdict
    assert result.criterion.estimators == ("model_based", "fqe")
    for candidate in result.candidates:
        own = result.validation.values[candidate.name]
        assert own["model_based"].difference is not None
        assert len(own["model_based"].folds) == 2  # halves, unless another number is asked for
        looks_back = candidate.agent != "bc"
        assert ("looks back on the episode" in str(own["fqe"].refused)) == looks_back
    assert any("model_based decides" in note and "decision_transformer" in note for note in result.notes)
    assert read_json(study / SELECTION)["decided_by"] == "model_based"


def test_an_agent_that_looks_back_is_refused_where_another_estimator_decides(tmp_path: Path) -> None:
    data = kept(tmp_path, recorded(0.0))
    with pytest.raises(UserError, match="decision_transformer cannot be selected: it looks back"):
        small(tmp_path, ["bc", "decision_transformer"], data, criterion=EXACT)
    assert not list(tmp_path.rglob("config.json"))


def test_of_all_agents_those_that_can_be_valued_are_taken() -> None:
    every = (Grid(("all",)), presets.find(None), TrainingSettings())
    result, left_out = _candidates(*every, ("fqe",))
    assert left_out.keys() == {"decision_transformer", "response_model"}
    assert "looks back on a patient's episode" in left_out["decision_transformer"]
    assert [c.agent for c in result] == [name for name in agents.AGENTS if name not in left_out]
    for deciding in ((), ("model_based",)):
        result, left_out = _candidates(*every, deciding)
        assert left_out == {}
        assert [c.agent for c in result] == list(agents.AGENTS)


@pytest.mark.long
def test_a_model_that_is_refused_values_nobody(tmp_path: Path) -> None:
    result = small(
        tmp_path, ["bc"], kept(tmp_path, recorded(0.8)), criterion=Settings(estimators=("model_based",))
    )
    assert "does not forecast held-out patients at least 2 % better" in str(
        result.value(result.candidates[0].name).refused
    )
    assert result.verdict.startswith("No candidate has an estimated value")


# The preset for few patients


@pytest.mark.long
@pytest.mark.parametrize("name", list(agents.AGENTS))
def test_every_agent_learns_under_the_preset_for_few_patients(name: str) -> None:
    preset = presets.find("clinical-small")
    ((_, config),) = configurations(Grid((name,)), preset)
    (options,) = regularisations({}, preset)
    try:
        agents.build(name, config, PROBLEM, (0, 1), regularisation=options)
    except UserError as refusal:
        pytest.skip(str(refusal))
    agent = agents.build(name, config, PROBLEM, (0, 1), regularisation=options)
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    sampler = Sampler(dataset(), agent, 32)
    for step in range(2):
        for report in take_step(agent, sampler(step)).values():
            assert bool(report.isfinite().all())
    after = agent.state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in after.items() if "prior" not in key)
    assert all(bool(value.isfinite().all()) for value in after.values())


def test_the_settings_for_few_patients() -> None:
    """Numbers typed, not read from the preset."""
    result = dict(configurations(Grid(("all",), preset="clinical-small")))
    for name, config in result.items():
        if name != "quasi_optimal":  # no networks, gradient descent
            assert (getattr(config, "hidden", ()), config.learning_rate) == ((), 1e-3)
        assert getattr(config, "discount", 0.9) == 0.9
        assert getattr(config, "target_rate", 0.005) == 0.005
    assert (result["fttpo"].temperature, result["quasi_optimal"].learning_rate) == (0.3, 1e-2)
    assert result["spot"].vae_hidden == (256, 256)
    (options,) = regularisations({}, presets.find("clinical-small"))
    assert options.changed() == {"dose_quadratic": True, "weight_decay": 30.0, "prior": "constant_dose"}
    scaled = Transform.fit(cohort(), **presets.find("clinical-small").data)
    assert scaled.reward_scale == pytest.approx(cohort().reward.std())
