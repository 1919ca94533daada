"""The command finetune: from a run on disk to trials on disk, and what it refuses."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import scipy.stats

from agents.finetuning import METHODS
from dosing import NOT_FOR_PATIENTS
from dosing.cli import finetune as command
from dosing.cli.main import main
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.evaluation.aggregates import holm
from dosing.evaluation.outcomes import read_outcomes
from dosing.evaluation.rollout import evaluate
from dosing.evaluation.statistics import mean_over_seeds
from dosing.finetuning.method import TrialProgress, TrialSettings
from dosing.finetuning.trial import CURVE, REPORT, TREATED
from dosing.models.regularisation import Regularisation
from dosing.models.settings import reconfigure
from dosing.policy import DosePolicy
from dosing.runs.config import EnvironmentReference
from dosing.runs.files import read_json, read_table, sha256, write_table
from dosing.runs.folder import DONE, EPISODES, WEIGHTS, RunFolder, find_runs
from dosing.studies.commands import command_of
from dosing.studies.evaluation import evaluate_run
from dosing.studies.finetune import finetune, policy_of_trial, start_of
from dosing.studies.finetune_table import CURVES, TABLE, TRIALS, Progress, Report, returns_of_starts
from dosing.studies.loading import policy_of
from dosing.studies.mujoco_patients import Tasks
from dosing.studies.report.page import write_report
from dosing.studies.scenarios import factory_of
from dosing.studies.settings import AgentSetup, Resources
from dosing.studies.training import train_run
from dosing.training.offline import TrainingSettings
from dosing.training.thin_agent import Thinned
from tests.support.samples import cohort, small

TINY = TrialSettings(
    visits=96, patients=2, start=10, updates_per_visit=0.1, batch_size=8, evaluate_every=48, capacity=200
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with a run of IQL and one of SPOT, two seeds each."""
    path = tmp_path_factory.mktemp("study")
    write_episodes(cohort(), path / "visits.parquet")
    training = TrainingSettings(steps=6, batch_size=8, log_every=6)
    for name in ("iql", "spot"):
        config = small(name, hidden=(8, 8))
        train_run(AgentSetup(name, config), path / "visits.parquet", path, (0, 1), training, "cpu")
    return path


@pytest.fixture
def offline(study: Path, tmp_path: Path) -> dict[str, Path]:
    """The runs by agent, in a copy of the study."""
    shutil.copytree(study, tmp_path / "study")
    return {run.config().agent: run.path for run in find_runs(tmp_path / "study")}


def tiny(methods: list[str], runs: list[Path], **options: Any) -> Report:
    options = {"settings": TINY, "evaluation_patients": 4, "resources": Resources("cpu", 1)} | options
    return finetune(methods, runs, **options)


def folders(study: Path) -> dict[str, RunFolder]:
    """Finished trials of a study by method."""
    result = (RunFolder(done.parent) for done in sorted(study.glob(f"trials/*/*/*/{DONE}")))
    return {run.config().trial.method: run for run in result}


def test_the_command_runs_trials_and_prints_a_table(
    offline: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    study = offline["iql"].parents[2]
    line = ["finetune", "direct", "scratch", "--run", str(offline["iql"]), "--env", "dosing/Treatment-v0"]
    line += ["--visits", "96", "--patients", "2", "--start", "10", "--updates-per-visit", "0.1"]
    line += ["--batch-size", "8", "--evaluate-every", "48", "--evaluation-patients", "4", "--workers", "1"]
    line += ["--device", "cpu"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "Direct" in printed
    assert "paired by patient" in printed
    result = folders(study)
    assert list(result) == ["direct", "scratch"]
    for run in result.values():
        run.verify()
        assert set(read_json(run.path / DONE)) >= {
            TREATED,
            CURVE,
            EPISODES,
            REPORT,
            WEIGHTS,
            "metrics.parquet",
        }
        curve = read_table(run.path / CURVE).to_pandas()
        assert curve.visits.tolist() == [0, 0, 48, 48, 96, 96]
        assert curve.seed.tolist() == [0, 1] * 3
        assert (read_table(run.path / TREATED).to_pandas().groupby("seed").size() == 4).all()
    curves = read_table(study / TRIALS / CURVES).to_pandas()
    assert curves.groupby("method").size().to_dict() == {"direct": 6, "scratch": 6}
    assert command_of(study / TRIALS / TABLE) == shlex.join(["python", "-m", "dosing", *line])
    table = read_json(study / TRIALS / TABLE)
    assert [row["title"] for row in table["lines"]] == ["Direct", "Scratch"]
    assert table["lines"][0]["after"]["value"] == pytest.approx(
        curves[(curves.method == "direct") & (curves.visits == 96)].recommended.mean()
    )
    assert [run.config().agent for run in find_runs(study)] == [
        "iql",
        "spot",
    ]  # trials are no offline runs


@pytest.mark.long
def test_first_visits_may_be_those_of_the_released_code(offline: dict[str, Path]) -> None:
    """SPOT's learns at once, PEX's after 5,000 visits; Bt's is not public."""
    tiny(["spot", "direct", "bt"], list(offline.values()), published_start=True)
    study = offline["iql"].parents[2]
    begins = {name: run.config().trial.settings["start"] for name, run in folders(study).items()}
    assert (begins["spot"], begins["direct"], begins["bt"]) == (0, 5000, TINY.start)


def test_before_the_trial_the_policy_is_the_offline_one_on_the_evaluation_patients(
    offline: dict[str, Path],
) -> None:
    run = RunFolder(offline["iql"])
    tiny(["direct"], [run.path])
    evaluate_run(run, 4)
    want = read_outcomes(run.path / EPISODES)
    result = folders(run.path.parents[2])["direct"]
    curve = read_table(result.path / CURVE).to_pandas()
    first = curve[curve.visits == 0]
    np.testing.assert_array_equal(first.recommended, want["recommended"].returns.mean(1))
    np.testing.assert_array_equal(first["sampled"], want["sampled"].returns.mean(1))


def test_progress_is_read_from_the_tables_of_a_trial(offline: dict[str, Path]) -> None:
    study = offline["iql"].parents[2]
    tiny(["direct"], [offline["iql"]])
    result = folders(study)["direct"]
    progress = Progress.of(result)
    assert progress is not None
    curve, episodes = (read_table(result.path / name).to_pandas() for name in (CURVE, TREATED))
    assert progress.visits.tolist() == [0, 48, 96]
    for k, seed in enumerate(progress.seeds):
        own = episodes[episodes.seed == seed]
        np.testing.assert_array_equal(progress.returns[k], curve[curve.seed == seed].recommended)
        assert progress.cost[k].tolist() == [own[own.ended_at <= v].cost.sum() for v in (0, 48, 96)]
        assert progress.worst[k] == own.returns.min()
        assert progress.limited[k] == own.limited.sum() / own.visits.sum()
        assert progress.treated_mean[k] == own.returns.mean()
    (start,) = returns_of_starts(study).values()
    assert progress.less(start)[0].high == 0.0 == progress.less(start)[0].low
    assert progress.less(start)[2].value == pytest.approx((progress.returns[:, 2] - start.to_numpy()).mean())


def test_a_stopped_seed_stands_where_it_stopped(tmp_path: Path) -> None:
    """Seed 4 stops after 70 visits, between two evaluations of the other, and seed 7 goes on."""
    at, seeds = [0, 0, 48, 48, 70, 96, 144], [4, 7, 4, 7, 4, 7, 7]
    returns = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    patients, cost = [0, 0, 2, 2, 4, 4, 6], [np.nan, np.nan, 1.0, 2.0, 3.0, 4.0, 5.0]
    curve = {"seed": seeds, "visits": at, "recommended": returns, "treated": returns}
    write_table(tmp_path / CURVE, curve | {"patients": patients, "cost_per_patient": cost})
    ended = {"seed": [4, 7], "ended_at": [24, 24], "returns": [-1.0, -2.0]}
    write_table(tmp_path / TREATED, ended | {"cost": [1.0, 2.0], "limited": [1.0, 2.0], "visits": [4, 4]})
    progress = Progress.of(RunFolder(tmp_path))
    assert progress is not None
    assert progress.visits.tolist() == [0, 48, 96, 144]
    assert progress.returns.tolist() == [[1.0, 3.0, 5.0, 5.0], [2.0, 4.0, 6.0, 7.0]]
    assert progress.cost.tolist() == [[0.0, 2.0, 12.0, 12.0], [0.0, 4.0, 16.0, 30.0]]
    assert progress.patients.tolist() == [4, 6]
    assert progress.coverage is None
    np.testing.assert_array_equal(progress.treated[0], [1.0, 3.0, np.nan, np.nan])
    assert progress.over_seeds(progress.limited) is not None
    assert progress.over_seeds(progress.treated[:, -1]) is None


@pytest.mark.long
def test_the_policy_of_a_trial_is_read_from_its_folder(offline: dict[str, Path]) -> None:
    tiny(["direct", "scratch"], [offline["iql"]], seeds=1)
    result = folders(offline["iql"].parents[2])
    factory = factory_of(RunFolder(offline["iql"]))
    for run in result.values():
        want = read_outcomes(run.path / EPISODES)
        policy = policy_of_trial(run)
        assert policy.seeds == (0,)
        for rule, outcomes in evaluate(policy, factory, 4).items():
            np.testing.assert_array_equal(outcomes.returns, want[rule].returns)
    obs = cohort().obs[None, :5]  # the folder of a suite's agent is read as any run
    run = result["scratch"]
    np.testing.assert_array_equal(policy_of(run).recommended(obs), policy_of_trial(run).recommended(obs))
    with pytest.raises(UserError, match="is no trial"):
        policy_of_trial(RunFolder(offline["iql"]))


@pytest.mark.long
def test_settings_follow_the_name_of_a_method(offline: dict[str, Path]) -> None:
    study, specs = offline["iql"].parents[2], ["pex,members=3,draws=2", "pex,adaptive=true,logits=scaled"]
    specs += ["pex,members=3,others=online", "jsrl,stages=2", "bt"]
    report = tiny(specs, [offline["iql"]], seeds=1)
    assert [line.title for line in report.lines][1:4:2] == [
        "PEX (adaptive=true, logits=scaled)",
        "JSRL (stages=2)",
    ]
    result = folders(study)
    assert set(result) == set(specs)
    assert {run.path.parents[1].name for run in result.values()} == {"pex", "jsrl", "bt"}
    factory = factory_of(RunFolder(offline["iql"]))
    for run in result.values():
        want = read_outcomes(run.path / EPISODES)
        for rule, outcomes in evaluate(policy_of_trial(run), factory, 4).items():
            np.testing.assert_array_equal(outcomes.returns, want[rule].returns)
    with pytest.raises(
        UserError, match="a run of 3 seeds and --seeds 1; beyond those of the trial this run has 1"
    ):
        tiny(["pex,members=4"], [offline["iql"]], seeds=1)


def test_a_finished_trial_is_found_and_not_done_twice(offline: dict[str, Path]) -> None:
    before = tiny(["direct"], [offline["iql"]])
    done = folders(offline["iql"].parents[2])["direct"].path / DONE
    at = done.stat().st_mtime_ns
    assert tiny(["direct"], [offline["iql"]]) == before
    assert done.stat().st_mtime_ns == at


@pytest.mark.long
def test_all_takes_what_can_start_from_the_runs_and_says_what_cannot(offline: dict[str, Path]) -> None:
    result = tiny(["all"], [offline["iql"], offline["spot"]])
    titles = [line.title for line in result.lines]
    assert "Direct from IQL" in titles
    assert "Direct from SPOT" in titles
    assert "SPOT from SPOT" in titles
    assert "SPOT from IQL" not in titles
    notes = "\n".join(result.notes)
    assert "rebrac cannot start" in notes
    assert "spot cannot start" not in notes


@pytest.mark.long
def test_runs_of_one_agent_are_told_apart_by_their_settings(offline: dict[str, Path]) -> None:
    """A sparse policy and its Gaussian counterpart go on side by side."""
    study = offline["iql"].parents[2]
    runs = [
        short_run(study, AgentSetup("fttpo", small("fttpo", hidden=(8, 8), actor=actor)))
        for actor in ("sparse", "gaussian")
    ]
    result = tiny(["direct"], runs)
    assert [line.title for line in result.lines] == [
        f"Direct from FtTPO, actor={actor}" for actor in ("sparse", "gaussian")
    ]
    assert result.lines[0].limited == 0.0  # its support lies within the limits


def thin_run(study: Path, name: str) -> Path:
    return short_run(study, AgentSetup(name, small(name, hidden=(8, 8)), Regularisation(thin=0.0)))


def short_run(study: Path, setup: AgentSetup) -> Path:
    settings = TrainingSettings(steps=6, batch_size=8, log_every=6)
    return train_run(setup, study / "visits.parquet", study, (0, 1), settings, "cpu").path


@pytest.mark.long
def test_a_thin_policy_goes_on_as_one_and_gives_no_dose_outside_its_interval(
    offline: dict[str, Path],
) -> None:
    study = offline["iql"].parents[2]
    thin = thin_run(study, "iql")
    result = tiny(["direct"], [offline["iql"], thin])
    assert [line.title for line in result.lines] == [
        "Direct from IQL, thin=none",
        "Direct from IQL, thin=0.0",
    ]
    fat, own = result.lines
    assert own.limited == 0.0 < (fat.limited or 0.0)  # normal doses pass the limits, sparse ones cannot
    assert own.before == fat.before  # the mean is shared, and so are the patients
    trial = RunFolder(study / own.run)
    assert trial.config().agent == "iql"
    states = np.zeros((2, 1, 8), dtype=np.float32)
    before, after = policy_of(RunFolder(thin)).dose_set(states), policy_of(trial).dose_set(states)
    assert before.kind == after.kind == "interval"
    assert (before.half_width != after.half_width).all()  # the law went on learning
    np.testing.assert_array_equal(policy_of_trial(trial).dose_set(states).half_width, after.half_width)


def test_without_updates_every_dose_lies_in_the_interval_that_the_thin_policy_had(
    offline: dict[str, Path],
) -> None:
    start = start_of(RunFolder(thin_run(offline["iql"].parents[2], "iql")))
    learner = METHODS["direct"].method().learner(start, TINY)
    policy, seen = DosePolicy(learner.agent, start.transform), np.random.default_rng(3)
    for number in range(30):
        obs = seen.normal(size=(2, 50, 8)).astype(np.float32)
        visit = np.zeros((2, 50), dtype=np.int64)
        dose = learner.behaviour(obs, TrialProgress(number, 0.0, visit, visit))
        held = policy.dose_set(obs)
        assert ((held.low <= dose) & (dose <= held.high)).all()
        assert (held.half_width < 3.0).all()  # narrower than the limits: not every dose would do


def test_a_setting_that_decays_is_that_of_the_agent_inside(offline: dict[str, Path]) -> None:
    start = start_of(RunFolder(thin_run(offline["spot"].parents[2], "spot")))
    learner = METHODS["spot"].method().learner(start, TINY)
    agent = cast(Thinned, learner.agent)
    reconfigure(agent, penalty=0.125)
    assert agent.config.penalty == cast(Any, agent.inner).config.penalty == 0.125


@pytest.mark.parametrize("method", ["scratch", "buffer", "pex", "bt", "jsrl"])
def test_a_method_that_adds_a_new_policy_refuses_a_thin_one(offline: dict[str, Path], method: str) -> None:
    thin = thin_run(offline["iql"].parents[2], "iql")
    with pytest.raises(UserError, match="thin law, which a new policy beside it would not have"):
        tiny([method], [thin])


@pytest.mark.long
def test_trials_are_reported_with_what_their_folders_keep(offline: dict[str, Path], tmp_path: Path) -> None:
    study = offline["iql"].parents[2]
    result = tiny(["direct", "scratch", "buffer"], [offline["iql"]])
    page, *figures = write_report(study, tmp_path / "report.md")
    told = page.read_text().replace("\N{MINUS SIGN}", "-")
    assert [figure.name for figure in figures] == ["report-trials-1.svg"]
    p = [
        float(scipy.stats.ttest_1samp(seeds, 0.0).pvalue)
        for seeds in (ends(study, line.run) - ends(study, result.lines[0].run) for line in result.lines[1:])
    ]
    adjusted = holm(p)
    for (name, gap), own, all_ in zip(result.differences, p, adjusted, strict=True):
        assert f"| {name} | {gap} | {gap.n} | 2 |" in told
        assert f"| {own:.3f} | {all_:.3f} |" in told
    treated = read_table(study / result.lines[1].run / TREATED).to_pandas()
    cost = mean_over_seeds(treated.groupby("seed").cost.mean().to_numpy()[:, None])
    (line,) = (row for row in told.splitlines() if row.startswith("| Scratch |") and f" {cost} " in row)
    assert f" {treated.returns.min():.2f} " in line
    for words in (
        sha256(offline["iql"] / WEIGHTS),
        sha256(study / result.lines[2].run / WEIGHTS),
        *(("updates_per_visit=0.1", "not noted", NOT_FOR_PATIENTS)),
    ):
        assert words in told
    weights = study / result.lines[0].run / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="weights"):
        write_report(study, tmp_path / "report.html")


def ends(study: Path, run: str) -> npt.NDArray[np.float64]:
    """Mean return of the evaluation patients at the end of a trial, by seed."""
    outcomes = pd.read_parquet(study / run / EPISODES)
    return outcomes[outcomes.rule == "recommended"].groupby("seed").returns.mean().to_numpy()


@pytest.mark.long
def test_the_first_seeds_of_a_run_are_those_seeds(offline: dict[str, Path]) -> None:
    tiny(["direct"], [offline["iql"]])
    whole = folders(offline["iql"].parents[2])["direct"]
    other = offline["iql"].parents[2] / "one"
    tiny(["direct"], [offline["iql"]], seeds=1, study=other)
    one = read_table(folders(other)["direct"].path / CURVE).to_pandas()
    both = read_table(whole.path / CURVE).to_pandas()
    np.testing.assert_allclose(one, both[both.seed == 0], rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_stop_is_said_in_the_table_and_in_the_folder(offline: dict[str, Path]) -> None:
    settings = TrialSettings(**{**vars(TINY), "harm_budget": 0.0})
    result = tiny(["scratch"], [offline["iql"]], settings=settings)
    assert result.lines[0].stopped == 2
    assert "stopped after" in str(result)
    report = read_json(folders(offline["iql"].parents[2])["scratch"].path / REPORT)
    assert [stop["seed"] for stop in report["stopped"]] == [0, 1]
    assert report["settings"]["harm_budget"] == 0.0


def test_trials_too_short_to_end_a_episode_or_to_learn_are_reported_all_the_same(
    offline: dict[str, Path],
) -> None:
    short = TrialSettings(**{**vars(TINY), "visits": 20, "start": 20})
    result = tiny(["direct", "spot"], [offline["spot"]], settings=short)
    assert [line.treated for line in result.lines] == [None, None]
    assert result.differences[0][1].value == result.differences[0][1].low == 0.0
    assert result.lines[0].after == result.lines[1].after
    assert " - " in str(result)


@pytest.mark.parametrize(
    ("methods", "options", "match"),
    [
        (["unheard"], {}, "no method 'unheard'"),
        (["spot"], {}, "spot cannot start from .*: it goes on from a run of spot, this is one of iql"),
        (["direct"], {"env": {"variant": "li-evaluation"}}, r"doses from \[-3.0\] to \[3.0\]"),
        (["direct"], {"env": EnvironmentReference("dosing/None-v0")}, "no environment"),
        (["direct"], {"env": {"history": 1}}, "show 9 numbers at a visit; the agent sees 8"),
        (["direct"], {"seeds": 3}, "--seeds must be 1 to 2, got 3"),
    ],
)
def test_what_cannot_be_is_refused(
    offline: dict[str, Path], methods: list[str], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        tiny(methods, [offline["iql"]], **options)


@pytest.mark.long
def test_a_trial_starts_from_finished_offline_runs_of_one_data_set(
    offline: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="give --run"):
        tiny(["direct"], [])
    tiny(["direct"], [offline["iql"]])
    with pytest.raises(UserError, match="is a trial"):
        tiny(["direct"], [folders(offline["iql"].parents[2])["direct"].path])
    write_episodes(cohort(9), tmp_path / "other.parquet")
    within = train_run(
        AgentSetup("iql", small("iql", hidden=(8, 8)), Regularisation(cost_budget=1.0)),
        tmp_path / "other.parquet",
        tmp_path,
        (0,),
        TrainingSettings(steps=2, batch_size=4),
    )
    with pytest.raises(UserError, match="within a cost budget"):
        tiny(["direct"], [within.path])
    other = train_run(
        AgentSetup("iql", small("iql", hidden=(8, 8))),
        tmp_path / "other.parquet",
        tmp_path,
        (0, 1),
        TrainingSettings(steps=6, batch_size=8),
        "cpu",
    )
    with pytest.raises(UserError, match="another data set"):
        tiny(["direct"], [offline["iql"], other.path])
    (offline["iql"] / DONE).unlink()
    with pytest.raises(UserError, match="not finished"):
        tiny(["direct"], [offline["iql"]])


def test_the_command_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune"]) == 2
    assert "name a method" in capsys.readouterr().err
    assert main(["finetune", "direct"]) == 2
    assert "give --run" in capsys.readouterr().err


def test_help_says_what_the_settings_say() -> None:
    assert {name: getattr(TrialSettings(), name) for name in command._defaults} == command._defaults


@pytest.mark.mujoco
def test_an_episode_of_a_task_is_brought_back_in_the_middle() -> None:
    pytest.importorskip("mujoco")
    doses = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 2, 2, 3)).astype(np.float32)
    treated, other = (Tasks("Hopper-v5", {}, (0, 5), 2) for _ in range(2))
    treated.begin()
    for dose in doses[:40]:
        made = treated.treat(dose)
    assert treated._episode.max() > 0  # hoppers fall: places are in different episodes
    np.testing.assert_array_equal(other.load(treated.state()), made.following)
    for dose in doses[40:]:
        a, b = treated.treat(dose), other.treat(dose)
        np.testing.assert_array_equal(a.following, b.following)
        np.testing.assert_array_equal(a.reward, b.reward)
        np.testing.assert_array_equal(a.cost, a.terminated)
