"""References are computed once per question, rows are paired with them, and the table says what is exact."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import agents
from dosing.data.dataset import Transform
from dosing.data.store import Episodes
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.rollout import evaluate, rollout
from dosing.evaluation.rules import constant
from dosing.evaluation.statistics import Estimate
from dosing.policy import DosePolicy
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import EPISODES
from dosing.safety import DoseLimits
from dosing.studies import references as references_module
from dosing.studies.baseline import Baseline
from dosing.studies.comparison_table import (
    Row,
    agent_row,
    ceiling_row,
    mass_words,
    reference_rows,
    render,
)
from dosing.studies.dose_sets import doses_at, mass_outside
from dosing.studies.references import References, references
from simulator.scenarios import CohortFactory
from tests.support.samples import ENV, PROBLEM, cohort, is_bounded, long_for_most, small, stack

SEEDS = (0, 1, 2)
PATIENTS = 40
NAMES = list(agents.AGENTS)
BOUNDED = [name for name in NAMES if agents.AGENTS[name].about.support == "interval"]
UNBOUNDED = [name for name in NAMES if not is_bounded(name)]
BASELINE = Baseline(0.25, 8)
NO_BASELINE = Baseline(None, 8, "the visits tell none.")


@pytest.fixture(autouse=True)
def quick_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references_module, "SEARCH_PATIENTS", 200)


@pytest.fixture(scope="module")
def factory() -> CohortFactory:
    return CohortFactory(ENV, {})


@pytest.fixture(scope="module")
def result(factory: CohortFactory, tmp_path_factory: pytest.TempPathFactory) -> References:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references_module, "SEARCH_PATIENTS", 200)
        return references(tmp_path_factory.mktemp("references"), factory, SEEDS, PATIENTS, BASELINE)


def policy(name: str, seeds: tuple[int, ...] = SEEDS) -> DosePolicy:
    return DosePolicy(stack(name, seeds), Transform.fit(cohort()))


def row(name: str, result: References, factory: CohortFactory, sparse: DosePolicy | None) -> Row:
    own = policy(name)
    states = cohort().obs[:50]
    beside = None if sparse is None else float(np.mean(mass_outside(own, sparse, states)))
    outcomes = evaluate(own, factory, PATIENTS)
    return agent_row(name, "distribution", doses_at(own, states), outcomes, result, beside)


# The estimated constant


def recorded(act: list[Any], reward: list[float], patients: int = 2) -> Episodes:
    """Recorded visits of as many patients with these doses and rewards."""
    visits = len(reward)
    rows = {name: values[:visits].copy() for name, values in cohort().arrays().items()}
    doses = np.asarray(act, dtype=np.float32).reshape(visits, -1)
    half = [1.0] * doses.shape[1]
    patient = np.arange(visits) * patients // visits
    changed = {
        "act": doses,
        "act_requested": doses,
        "reward": np.asarray(reward, dtype=np.float32),
        "episode": patient,
    }
    limits = {"action_low": tuple(-x for x in half), "action_high": tuple(half)}
    return Episodes(**rows | changed, metadata=dataclasses.replace(cohort().metadata, card={}, **limits))


def test_the_estimated_dose_is_the_top_of_the_regressed_parabola() -> None:
    """By hand: 1 + 3 d - 4 d^2 has its top at 3/8; noise on the data moves it as numpy's polyfit says."""
    doses = [-0.5, 0.0, 0.25, 0.5, 0.75, 1.0] * 4
    result = Baseline.of(recorded(doses, [1 + 3 * d - 4 * d**2 for d in doses], patients=6))
    assert result.dose == pytest.approx(0.375, abs=1e-6)
    assert (result.patients, result.missing, result.recorded) == (6, "", pytest.approx((-0.5, 1.0)))
    for seed in (0, 1):
        data = cohort(12, seed)
        c2, c1, _ = np.polyfit(data.act[:, 0].astype(float), data.reward.astype(float), 2)
        assert c2 < 0
        assert Baseline.of(data).dose == pytest.approx(-c1 / (2 * c2), abs=1e-6)


@pytest.mark.parametrize(
    ("act", "told"),
    [([0.0, 0.5, 0.5, 0.0], "three different recorded doses"), ([[0.1, 0.2]] * 4, "one dose dimension only")],
)
def test_data_that_tell_no_constant_say_why(act: list[Any], told: str) -> None:
    result = Baseline.of(recorded(act, [0.0, 1.0, 2.0, 3.0]))
    assert result.dose is None
    assert told in result.missing


@pytest.mark.parametrize("rising", [True, False])
def test_a_dose_that_rewards_do_not_tell_is_named_and_judges_nothing(
    rising: bool, tmp_path: Path, factory: CohortFactory
) -> None:
    """The highest recorded dose where more was always better; the median one where all were alike."""
    doses = [-0.5, 0.0, 0.1, 0.2, 0.3, 0.4] * 4
    base = Baseline.of(recorded(doses, doses if rising else [1.0] * 24, patients=6))
    result = references(tmp_path, factory, SEEDS, PATIENTS, base)
    rows = reference_rows(result)
    (note,) = base.notes("here")
    assert Baseline.from_json(json.loads(json.dumps(asdict(base)))) == base
    if rising:
        assert (base.dose, base.edge) == (pytest.approx(0.4), "the highest recorded")
        named = "constant dose 0.400 estimated from the 6 patients, the highest recorded"
        assert named in [r.name for r in rows]
        assert "whether one beyond would be better cannot be told" in note
        return
    assert (base.dose, base.median) == (None, pytest.approx(0.1))
    assert any(r.name.startswith("median recorded dose 0.100 of the 6 patients") for r in rows)
    assert all(r.difference is None and r.verdict is None and not r.is_baseline for r in rows)
    assert "no rule is called better or worse by them" in note
    old = {k: v for k, v in asdict(base).items() if k != "recorded"}
    with pytest.raises(KeyError, match="recorded"):
        Baseline.from_json(old)


def test_without_an_estimated_constant_nothing_is_compared(tmp_path: Path, factory: CohortFactory) -> None:
    result = references(tmp_path, factory, SEEDS, PATIENTS, NO_BASELINE)
    assert references(tmp_path, factory, SEEDS, PATIENTS, NO_BASELINE).outcomes.keys() == {
        "uniform",
        "none",
        "best",
    }
    rows = [row(BOUNDED[0], result, factory, None), *reference_rows(result)]
    for line, text in zip(rows, render(rows).splitlines()[2:], strict=True):
        assert line.difference is line.verdict is None
        assert not line.is_baseline
        assert "  no estimated constant  " in text


# References


def test_reference_rules_meet_the_agents_patients(result: References, factory: CohortFactory) -> None:
    assert list(result.outcomes) == ["uniform", "none", "estimated", "best"]
    assert result.dose is not None
    for rule, dose in (("none", 0.0), ("estimated", 0.25), ("best", result.dose)):
        again = rollout(factory, constant(dose), SEEDS, PATIENTS)
        np.testing.assert_array_equal(result.outcomes[rule].returns, again.returns)
    assert -1.0 < result.dose < 1.0
    assert result.outcomes["uniform"].returns.mean() < result.outcomes["best"].returns.mean()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    real = rollout

    def counting(*arguments: Any, **options: Any) -> Outcomes:
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(references_module, "rollout", counting)
    return calls


@pytest.mark.long
def test_references_are_kept_for_the_same_question_only(
    tmp_path: Path, factory: CohortFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    first = references(tmp_path, factory, SEEDS, PATIENTS, BASELINE)
    assert len(calls) == 4
    second = references(tmp_path, factory, SEEDS, PATIENTS, BASELINE)
    assert len(calls) == 4
    assert (second.dose, second.search_return) == (first.dose, first.search_return)
    for rule in first.outcomes:
        np.testing.assert_array_equal(first.outcomes[rule].returns, second.outcomes[rule].returns)
    references(tmp_path, factory, SEEDS, PATIENTS + 1, BASELINE)
    assert len(calls) == 8
    other = references(tmp_path, factory, (0, 1), PATIENTS, BASELINE)
    assert len(calls) == 12
    assert other.outcomes["uniform"].returns.shape == (2, PATIENTS)
    last = references(tmp_path, factory, (0, 1), PATIENTS, Baseline(0.5, 8))
    assert len(calls) == 16
    assert (last.outcomes["estimated"].dose > other.outcomes["estimated"].dose).all()


@pytest.mark.long
def test_kept_references_that_do_not_belong_together_are_made_again(
    tmp_path: Path, factory: CohortFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two files, or one of them changed: neither is shown beside the other."""
    first = references(tmp_path, factory, SEEDS, PATIENTS, BASELINE)
    calls = counted(monkeypatch)
    (tmp_path / EPISODES).write_bytes((tmp_path / EPISODES).read_bytes()[:-1])
    again = references(tmp_path, factory, SEEDS, PATIENTS, BASELINE)
    assert len(calls) == 4
    assert again.dose == first.dose
    (tmp_path / EPISODES).unlink()
    references(tmp_path, factory, SEEDS, PATIENTS, BASELINE)
    assert len(calls) == 8
    write_json(tmp_path / references_module.REFERENCES, {"some": "other file"})
    references(tmp_path, factory, SEEDS, PATIENTS, BASELINE)
    assert len(calls) == 12
    assert read_json(tmp_path / references_module.REFERENCES)["dose"] == first.dose


def test_no_dose_is_no_rule_where_it_is_not_allowed(tmp_path: Path) -> None:
    factory = CohortFactory(ENV, {})
    object.__setattr__(factory, "limits", DoseLimits((0.1,), (1.0,)))
    assert list(references(tmp_path, factory, (0,), 5, BASELINE).outcomes) == ["uniform", "estimated", "best"]


def test_reference_rows_are_one_sample_of_all_patients(result: References) -> None:
    rows = {row.name: row for row in reference_rows(result)}
    estimated = "constant dose 0.250 estimated from the 8 patients"
    best = f"best constant dose {result.dose:.3f}, known to the simulator only"
    assert list(rows) == ["uniform dosing", "no dose", estimated, best]
    base = result.outcomes["estimated"].returns.ravel()
    for name, rule in (("uniform dosing", "uniform"), ("no dose", "none"), (best, "best")):
        returns = result.outcomes[rule].returns.ravel()
        difference = rows[name].difference
        assert difference is not None
        assert difference.value == pytest.approx((returns - base).mean())
        low, high = stats.t.interval(0.95, len(base) - 1, (returns - base).mean(), stats.sem(returns - base))
        assert (difference.low, difference.high) == pytest.approx((low, high))
        assert rows[name].recommended.value == pytest.approx(returns.mean())
        assert rows[name].recommended.n == len(SEEDS) * PATIENTS
    assert [name for name, line in rows.items() if line.is_baseline] == [estimated]
    assert rows[estimated].difference is rows[estimated].verdict is None
    assert rows["uniform dosing"].verdict == "worse"
    assert rows[best].verdict == "better"
    costs = {name: line.cost.value for name, line in rows.items() if line.cost}
    assert costs["no dose"] == 0.0 < costs["uniform dosing"]


# Agents


@pytest.mark.parametrize("name", long_for_most(NAMES))
def test_an_agents_row_is_paired_with_the_estimated_constant(
    name: str, result: References, factory: CohortFactory
) -> None:
    sparse = policy(BOUNDED[0])
    line = row(name, result, factory, sparse)
    own = policy(name)
    outcome = evaluate(own, factory, PATIENTS)
    gain = (outcome["recommended"].returns - result.outcomes["estimated"].returns).mean(1)
    assert line.difference is not None
    assert line.difference.value == pytest.approx(gain.mean())
    low, high = stats.t.interval(0.95, len(SEEDS) - 1, gain.mean(), stats.sem(gain))  # seeds are the sample
    assert (line.difference.low, line.difference.high) == pytest.approx((low, high))
    assert line.recommended.value == pytest.approx(outcome["recommended"].returns.mean())
    assert line.sampled is not None
    assert line.sampled.value == pytest.approx(outcome["sampled"].returns.mean())
    assert line.cost is not None
    assert line.cost.value == pytest.approx(outcome["recommended"].cost.mean())

    obs = np.broadcast_to(cohort().obs[:50], (3, 50, 8))
    sets, interval = own.dose_set(obs), sparse.dose_set(obs)
    assert line.half_width == pytest.approx(sets.half_width.mean())
    assert line.mass_outside_limits == pytest.approx(sets.mass_outside.mean())
    assert line.mass_outside_sparse == pytest.approx(
        own.mass_outside(obs, interval.low, interval.high).mean()
    )
    if is_bounded(name):
        assert line.width_kind == "exact support"
        assert line.mass_outside_limits == 0.0 or name == "fttpo_released"  # whose edges may leave the box
    else:
        assert line.width_kind == "central 99%"
        clipped = agents.AGENTS[name].about.support == "infinite_clipped"
        assert ((line.mass_outside_limits or 0.0) > 0.0) == clipped
        assert (line.mass_outside_sparse or 0.0) > 0.0


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bounded_agent_has_exactly_no_mass_outside_its_own_interval(
    name: str, result: References, factory: CohortFactory
) -> None:
    assert row(name, result, factory, policy(name)).mass_outside_sparse == 0.0


def test_without_a_comparable_interval_there_is_no_mass(result: References, factory: CohortFactory) -> None:
    assert row(UNBOUNDED[0], result, factory, None).mass_outside_sparse is None


# The table


def test_rows_survive_json(result: References, factory: CohortFactory) -> None:
    ceiling = ceiling_row("one", "a truth", 7.4, 0.5, 300)
    missing = dataclasses.replace(ceiling, baseline=NO_BASELINE)
    rows = [row(BOUNDED[0], result, factory, None), *reference_rows(result), ceiling, missing]
    back = [Row.from_json(json.loads(json.dumps(line.to_json(), allow_nan=False))) for line in rows]
    assert back == rows


def test_the_table_has_a_line_per_row_and_says_what_is_exact(
    result: References, factory: CohortFactory
) -> None:
    sparse = policy(BOUNDED[0])
    rows = [row(BOUNDED[0], result, factory, sparse), row(UNBOUNDED[0], result, factory, sparse)]
    text = render([*rows, *reference_rows(result)])
    head, rule, *lines = text.splitlines()
    assert len(lines) == 6
    assert set(rule) == {"-"}
    for title in (
        "return",
        "minus estimated constant",
        "half-width",
        "outside limits",
        "outside sparse interval",
    ):
        assert title in head
    bounded, unbounded, *rest = lines
    assert bounded.count("0 (exactly)") == 2
    assert "exact support" in bounded
    assert "exactly" not in unbounded
    assert "central 99%" in unbounded
    assert [line.split("  ")[0] for line in rest] == [
        "uniform dosing",
        "no dose",
        "constant dose 0.250 estimated from the 8 patients",
        f"best constant dose {result.dose:.3f}, known to the simulator only",
    ]
    columns = {name: head.index(name) for name in ("policy", "minus estimated constant", "cost")}
    assert all(line[start - 2 : start] == "  " for line in lines for start in columns.values())


def test_a_ceiling_says_what_it_knows() -> None:
    line = ceiling_row("open loop", "the latent mean", 7.4, 0.5, 300)
    assert (line.recommended.low, line.recommended.high, line.recommended.n) == (6.9, 7.9, 300)
    text = render([line]).splitlines()[-1]
    assert text.startswith("ceiling: open loop  knows the latent mean  7.4")
    assert "cost" not in render([line]).splitlines()[0]


@pytest.mark.parametrize(
    ("value", "bounded", "text"),
    [
        (0.0, True, "0 (exactly)"),
        (0.0, False, "0 (as computed)"),  # a Gaussian's mass rounds to it, and a generator's draws miss
        (1e-12, True, "1.00e-12"),
        (0.25, False, "0.2500"),
        (None, True, "-"),
    ],
)
def test_only_a_bounded_distribution_has_an_exact_zero(value: float | None, bounded: bool, text: str) -> None:
    assert mass_words(value, bounded) == text


def first_patients(outcome: Outcomes, count: int) -> Outcomes:
    fields = {n: x for n, x in vars(outcome).items() if n not in ("seeds", "events", "in_range")}
    return Outcomes(
        outcome.seeds, **{name: None if x is None else x[:, :count] for name, x in fields.items()}
    )


def test_the_lower_tail_is_that_of_the_worst_patients(result: References, factory: CohortFactory) -> None:
    own = policy(BOUNDED[0])
    outcomes = evaluate(own, factory, PATIENTS)
    line = agent_row("agent", "distribution", doses_at(own, cohort().obs[:50]), outcomes, result, None)
    worst = np.sort(outcomes["recommended"].returns, axis=1)[:, :2].mean()  # 5 % of 40 patients
    assert line.lower_tail is not None
    assert line.lower_tail.value == pytest.approx(worst)
    assert line.lower_tail.low <= worst <= line.lower_tail.high
    assert str(line.lower_tail) in render([line])
    assert (line.foreseen, line.foreseen_words) == (None, "-")
    few = {rule: first_patients(o, 19) for rule, o in outcomes.items()}
    others = References(
        result.dose, None, BASELINE, {rule: first_patients(o, 19) for rule, o in result.outcomes.items()}
    )
    short = agent_row("agent", "distribution", doses_at(own, cohort().obs[:50]), few, others, None)
    assert short.lower_tail is None, "5 % of 19 patients is less than one"


def test_foreseen_returns_are_shown_with_their_lower_tail(
    result: References, factory: CohortFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the world's unit, at the recommended dose; 5 % of 40 equally likely returns are the lowest two."""
    own = policy(BOUNDED[0])
    asked: list[Any] = []

    def returns(obs: torch.Tensor, act: torch.Tensor) -> torch.Tensor:
        asked.append(act)
        return torch.arange(40.0).expand(*act.shape[:2], 40)

    monkeypatch.setattr(own.agent, "returns", returns, raising=False)
    states = cohort().obs[:50]
    outcomes = evaluate(own, factory, PATIENTS)
    line = agent_row("agent", "distribution", doses_at(own, states), outcomes, result, None)
    scale = own.transform.reward_scale
    assert scale != 1.0
    assert line.foreseen == pytest.approx((19.5 * scale, 0.5 * scale))
    obs = np.broadcast_to(states, (len(SEEDS), *states.shape))
    np.testing.assert_allclose(asked[0].numpy(), own.transform.to_unit(own.recommended(obs)), atol=1e-6)
    assert render([line]).endswith(f"{19.5 * scale:.2f} ({0.5 * scale:.2f})")
    assert Row.from_json(json.loads(json.dumps(line.to_json()))) == line


def test_a_table_of_an_earlier_version_is_read(result: References) -> None:
    line = reference_rows(result)[0]
    fields = {k: v for k, v in line.to_json().items() if k not in ("lower_tail", "foreseen")}
    assert Row.from_json(json.loads(json.dumps(fields))) == dataclasses.replace(line, lower_tail=None)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (None, "-"),
        (1.0, "1: exceeded (predicted 4.20)"),
        (5.0, "5: open (predicted 4.20)"),
        (6.5, "6.5: met (predicted 4.20)"),
    ],
)
def test_the_table_says_whether_a_cost_budget_was_met(
    budget: float | None, words: str, result: References, factory: CohortFactory
) -> None:
    """Met where the whole interval of the cost lies within the budget."""
    cost = Estimate(5.0, 4.0, 6.0, 0.95, 120, 3, "t over seeds")
    told = dataclasses.replace(
        row(BOUNDED[0], result, factory, None),
        cost=cost,
        budget=budget,
        predicted_cost=None if budget is None else 4.2,
    )
    assert told.budget_words == words
    head, _, line = render([told]).splitlines()
    assert ("cost budget" in head) == (budget is not None)  # a column of dashes is left out
    names = ["return, recommended dose", "cost", "cost budget", "return, sampled"]
    columns = [head.index(name) for name in names if name in head]
    assert columns == sorted(columns)
    assert line[columns[1] :].startswith(str(cost))
    assert budget is None or line[columns[2] :].startswith(words)
    assert Row.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_a_row_has_the_budget_and_the_predicted_cost_of_its_agent(
    result: References, factory: CohortFactory
) -> None:
    agent = agents.build("fttpo", small("fttpo"), PROBLEM, SEEDS, regularisation={"cost_budget": 2.0})
    own, states = DosePolicy(agent, Transform.fit(cohort())), cohort().obs[:50]
    outcomes = evaluate(own, factory, PATIENTS)
    line = agent_row("FtTPO", "sparse", doses_at(own, states), outcomes, result, None)
    obs = np.broadcast_to(states, (len(SEEDS), *states.shape))
    predicted = own.predicted_cost(obs, own.recommended(obs))
    assert predicted is not None
    assert line.budget == 2.0
    assert line.predicted_cost == pytest.approx(predicted.mean())


def test_time_in_range_stands_in_the_table_where_there_is_a_range(
    result: References, factory: CohortFactory
) -> None:
    plain = row(BOUNDED[0], result, factory, None)
    share = Estimate(0.5771, 0.55, 0.601, 0.95, 120, 3, "t over seeds")
    told = dataclasses.replace(plain, in_range=share)
    assert "time in range" not in render([plain])
    assert "57.7 [55.0, 60.1] %" in render([plain, told]).splitlines()[-1]
    assert Row.from_json(json.loads(json.dumps(told.to_json()))) == told
