"""All meet the same patients, returns are those of the plain environment, the best constant is found."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import VectorEnv

import agents
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation import best_constant as best_constants
from dosing.evaluation.best_constant import SEARCH_SEED, best_constant, mean_returns
from dosing.evaluation.outcomes import Outcomes, read_outcomes, write_outcomes
from dosing.evaluation.rollout import REFERENCE_SEED, evaluate, rollout
from dosing.evaluation.rules import constant, uniform
from dosing.policy import DosePolicy
from dosing.safety import DoseLimits
from dosing.types import Array
from simulator.cohorts.generate import simulate
from simulator.environment import CohortEnv
from simulator.scenarios import CohortFactory
from tests.support.samples import ENV, cohort, long_for_most, stack

FIELDS = ("returns", "cost", "limited", "dose")
every_agent = pytest.mark.parametrize("name", list(agents.AGENTS))


@pytest.fixture(scope="module")
def factory() -> CohortFactory:
    return CohortFactory(ENV, {})


def policy(name: str, seeds: tuple[int, ...]) -> DosePolicy:
    return DosePolicy(stack(name, seeds), Transform.fit(cohort()))


def same(a: Outcomes, b: Outcomes) -> bool:
    return a.seeds == b.seeds and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in FIELDS)


def reactive(obs: Any, visit: int) -> Array:
    """A rule that reads the state and the visit and often asks for more than is allowed."""
    return np.asarray(2.0 * np.tanh(obs[..., :1]) + 0.01 * visit, dtype=np.float64)


# The same patients for all


def test_returns_are_those_of_the_plain_environment(factory: CohortFactory) -> None:
    """Patient p of seed s is patient ``s * patients + p``, visit by visit, in single environments."""
    patients, seeds = 3, (4, 5, 2)
    result = rollout(factory, reactive, seeds, patients)
    assert result.seeds == seeds
    for i, seed in enumerate(seeds):
        for p in range(patients):
            env = gymnasium.make(ENV, cohort="evaluation")
            obs, info = env.reset(seed=0, options={"patient_id": seed * patients + p})
            assert info["patient"] == seed * patients + p
            returns, cost, limited, doses, over, visit = 0.0, 0.0, 0, [], False, 0
            while not over:
                asked = reactive(obs, visit).astype(np.float32)
                obs, reward, terminated, over, info = env.step(asked)
                assert not terminated
                returns, cost = returns + float(reward), cost + info["cost"]
                limited += abs(float(asked[0])) > 1.0
                doses.append(float(np.clip(asked[0], -1, 1)))
                visit += 1
            assert visit == factory.horizon == 24
            assert result.returns[i, p] == pytest.approx(returns, abs=1e-5)
            assert result.cost[i, p] == pytest.approx(cost)
            assert result.limited[i, p] == pytest.approx(limited / 24)
            assert result.dose[i, p] == pytest.approx(np.mean(doses), abs=1e-6)
    assert 0.0 < result.limited.mean() < 1.0


@pytest.mark.parametrize("rule", [reactive, constant(0.3)])
def test_a_seed_has_its_patients_whoever_is_evaluated_beside_it(factory: CohortFactory, rule: Any) -> None:
    together, other_order = rollout(factory, rule, (0, 1, 2), 40), rollout(factory, rule, (2, 0, 9, 1), 40)
    alone = rollout(factory, rule, (2,), 40)
    for name in FIELDS:
        whole, mixed = getattr(together, name), getattr(other_order, name)
        np.testing.assert_array_equal(whole[2], getattr(alone, name)[0])
        np.testing.assert_array_equal(whole[[2, 0, 1]], mixed[[0, 1, 3]])
    assert len(np.unique(together.returns)) == 120  # and no patient is met twice


def test_evaluation_patients_are_not_those_of_the_data(factory: CohortFactory) -> None:
    first = factory(8, 0).reset(seed=0)[0]
    recorded = cohort().obs[cohort().step == 0]
    assert not np.isclose(first[:, None], recorded[None]).all(-1).any()


@pytest.mark.long
@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_the_same_policy_twice_is_the_same_twice(name: str, factory: CohortFactory) -> None:
    first = evaluate(policy(name, (0, 3)), factory, 20)
    second = evaluate(policy(name, (0, 3)), factory, 20)
    assert first.keys() == second.keys() == {"recommended", "sampled"}
    for rule in first:
        assert same(first[rule], second[rule])
    assert same(first["recommended"], first["sampled"]) == (agents.AGENTS[name].about.support == "point")
    alone = evaluate(policy(name, (3,)), factory, 20)
    for rule in first:  # matrix products of another size may round differently, and an episode spreads that
        np.testing.assert_allclose(first[rule].returns[1], alone[rule].returns[0], atol=5e-3)


def test_common_patients_make_differences_precise(factory: CohortFactory) -> None:
    """Two close doses differ by far less on the same patients than two groups of patients do."""
    a, b = (rollout(factory, constant(dose), (0,), 400).returns[0] for dose in (0.40, 0.45))
    assert (a - b).std() < 0.2 * a.std()


# Rules that need no learning


def test_uniform_dosing_covers_the_limits_and_never_leaves_them() -> None:
    limits = DoseLimits((-0.2, 1.0), (0.6, 5.0))
    act, obs = uniform(limits, (3, 8)), np.zeros((2, 5000, 4), dtype=np.float32)
    doses = act(obs, 0)
    assert doses.shape == (2, 5000, 2)
    assert limits.contains(doses).all()
    np.testing.assert_allclose(doses.mean((0, 1)), [0.2, 3.0], atol=0.05)
    np.testing.assert_allclose(doses.min((0, 1)), limits.low, atol=1e-2)
    np.testing.assert_allclose(doses.max((0, 1)), limits.high, atol=1e-2)
    assert not np.isclose(doses[0], doses[1]).any(-1).all()
    assert not np.array_equal(doses, act(obs, 1))
    np.testing.assert_array_equal(doses[1:], uniform(limits, (8,))(obs[:1], 0))


def test_a_constant_rule_gives_everyone_the_dose() -> None:
    assert constant([0.1, 0.2])(np.zeros((2, 3, 4), dtype=np.float32), 5).tolist() == [[[0.1, 0.2]] * 3] * 2


# The best constant dose


class Parabola(VectorEnv[Any, Any, Any]):
    """Three visits that pay -(dose - best)^2 each, around a level of the patient's own."""

    def __init__(self, patients: int, first: int, best: float) -> None:
        self.level, self.best = np.sin(np.arange(first, first + patients)), best

    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        assert seed in (None, SEARCH_SEED)  # patients kept for the search alone
        return np.zeros((len(self.level), 1), dtype=np.float32), {}

    def step(self, dose: Any) -> Any:
        reward = self.level - (dose[:, 0].astype(np.float64) - self.best) ** 2
        nothing = np.zeros(len(self.level))
        return (
            self.reset()[0],
            reward,
            nothing > 0.0,
            nothing > 0.0,
            {"cost": nothing, "limited_by": nothing, "dose_delivered": dose},
        )


class Parabolas:
    """Factory of the above."""

    horizon = 3
    patients = 20
    searched = 50
    clinic_rules: dict = {}  # noqa: RUF012

    def __init__(self, best: float, low: float, high: float) -> None:
        self.best, self.limits = best, DoseLimits((low,), (high,))

    def __call__(self, patients: int, first_patient: int) -> Parabola:
        return Parabola(patients, first_patient, self.best)


@pytest.mark.parametrize(
    ("best", "low", "high", "expected"),
    [
        (0.3217, -1.0, 1.0, 0.3217),
        (-0.999, -1.0, 1.0, -0.999),
        (7.3, 5.0, 10.0, 7.3),
        (2.0, -1.0, 1.0, 1.0),  # the best allowed dose is a limit
        (-9.0, -1.0, 1.0, -1.0),
    ],
)
def test_the_best_constant_of_a_parabola_is_exact(
    best: float, low: float, high: float, expected: float
) -> None:
    dose, value = best_constant(Parabolas(best, low, high), 50)
    assert dose == pytest.approx(expected, abs=1e-5)
    level = np.sin(np.arange(50)).mean()
    assert value == pytest.approx(3 * (level - (expected - best) ** 2), abs=1e-5)


@pytest.mark.long
def test_the_best_constant_of_the_treatment_is_the_analytic_one(factory: CohortFactory) -> None:
    """a* = 1/(2 kappa) with kappa = E exp((1 + rho)/8), rho being Beta(4, 4) on [-1, 1] under LKJ(1).

    The return is B a - K a^2 + terms of mean 0, so that the search's error is that of B/(2K): the noise in B
    is that of 24 visits' 2 (s2 + s3 + s6 + s7), each of standard deviation 2 sqrt(2) at most, against
    2K = 48 kappa. Four of these errors at 4,000 patients are 0.016; the burn-in of the means before they are
    stationary lowers the optimum by less than 0.002.
    """
    rho = np.linspace(-1, 1, 20_001)
    weight = (1 - rho**2) ** 3  # Beta(4, 4) on [-1, 1]
    kappa = float((np.exp((1 + rho) / 8) * weight).sum() / weight.sum())
    error = math.sqrt(24 * 8) / math.sqrt(4000) / (48 * kappa)
    dose, value = best_constant(factory, 4000, grid=21)
    assert dose == pytest.approx(1 / (2 * kappa), abs=4 * error + 0.002)
    assert value == pytest.approx(
        24 / (4 * kappa), abs=4 * 9 / math.sqrt(4000)
    )  # s.d. of an episode: 9 at most


@pytest.mark.long
@pytest.mark.parametrize(("env_id", "patients"), [("dosing/Warfarin-v0", 270), ("dosing/Insulin-v0", 5)])
def test_all_constants_at_once_are_one_after_the_other(
    env_id: str, patients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit; 270 patients lie in two blocks of draws, and five doses do not fit into one roll-out."""
    monkeypatch.setattr(best_constants, "AT_ONCE", 3 * patients)
    scenario = CohortFactory(env_id, {"steps": 20})
    env = scenario.repeated(patients, 2)
    assert env is not None
    assert env.reset(seed=1)[1]["patient"].tolist() == 2 * list(range(patients))
    doses = np.linspace(scenario.limits.low[0], scenario.limits.high[0], 5)
    alone = [
        rollout(scenario, constant(d), (0,), patients, env_seed=SEARCH_SEED).returns.mean() for d in doses
    ]
    together = mean_returns(scenario, doses, patients)
    assert together.tolist() == [float(value) for value in alone]
    assert len(set(together.tolist())) > 3


def test_a_scenario_that_repeats_nobody_is_searched_one_dose_after_the_other(factory: CohortFactory) -> None:
    assert factory.repeated(5, 2) is None
    alone = [rollout(factory, constant(d), (0,), 5, env_seed=SEARCH_SEED).returns.mean() for d in (-0.3, 0.4)]
    assert mean_returns(factory, np.array([-0.3, 0.4]), 5).tolist() == [float(value) for value in alone]
    with pytest.raises(UserError, match="cannot hold 10 patients as 2 copies"):
        CohortEnv(ENV, 10, copies=2)
    with pytest.raises(UserError, match="cannot hold 9 patients as 2 copies"):
        CohortEnv("dosing/Warfarin-v0", 9, copies=2)


def test_the_search_meets_other_patients_than_the_report(factory: CohortFactory) -> None:
    reported = rollout(factory, constant(0.4), (0,), 50).returns
    named = rollout(factory, constant(0.4), (0,), 50, env_seed=REFERENCE_SEED).returns
    searched = rollout(factory, constant(0.4), (0,), 50, env_seed=SEARCH_SEED).returns
    np.testing.assert_array_equal(reported, named)
    assert not np.isclose(reported, searched).any()


# Refusals and files


@pytest.mark.parametrize("patients", [0, -5])
def test_nobody_to_evaluate_is_refused(patients: int, factory: CohortFactory) -> None:
    with pytest.raises(UserError, match="at least one patient"):
        rollout(factory, constant(0.0), (0,), patients)


def test_a_rule_of_nan_is_refused(factory: CohortFactory) -> None:
    with pytest.raises(UserError, match="finite"):
        rollout(factory, constant(float("nan")), (0,), 5)


def test_two_dose_dimensions_have_no_best_constant() -> None:
    two = Parabolas(0.0, -1.0, 1.0)
    two.limits = DoseLimits((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(UserError, match="one dose dimension"):
        best_constant(two, 10)


def test_outcomes_survive_the_file(tmp_path: Path, factory: CohortFactory) -> None:
    outcomes = {
        "first": rollout(factory, reactive, (7, 2), 5),
        "second": rollout(factory, constant(0.1), (0,), 3),
    }
    write_outcomes(tmp_path / "episodes.parquet", outcomes)
    result = read_outcomes(tmp_path / "episodes.parquet")
    assert list(result) == ["first", "second"]
    assert all(same(result[rule], outcomes[rule]) for rule in outcomes)


def test_success_survives_the_file_where_it_is_reported(tmp_path: Path) -> None:
    ones = np.ones((1, 2))
    told = Outcomes((0,), ones, ones, ones, ones, ones, success=np.array([[1.0, 0.0]]))
    write_outcomes(tmp_path / "told.parquet", {"recommended": told})
    back = read_outcomes(tmp_path / "told.parquet")["recommended"].success
    assert back is not None
    assert back.tolist() == [[1.0, 0.0]]
    write_outcomes(tmp_path / "silent.parquet", {"recommended": Outcomes((0,), ones, ones, ones, ones, ones)})
    assert read_outcomes(tmp_path / "silent.parquet")["recommended"].success is None


def test_visits_with_each_safety_event_are_counted_and_kept(tmp_path: Path) -> None:
    """Against the environment stepped by hand; nothing counts after an episode has ended."""
    factory = CohortFactory("dosing/Warfarin-v0", {"steps": 30})
    result = rollout(factory, constant(15.0), (0,), 60)
    env = factory(60, 0)
    env.reset(seed=REFERENCE_SEED)
    counts: dict[str, np.ndarray] = {}
    in_range = np.zeros(60)
    live = np.ones(60, dtype=bool)
    for _ in range(30):
        *_, terminated, _, info = env.step(np.full((60, 1), 15.0, dtype=np.float32))
        for name, flags in info["events"].items():
            counts[name] = counts.get(name, 0) + (flags & live)
        in_range += (info["truth"]["INR"] >= 2.0) & (info["truth"]["INR"] <= 3.0) & live
        live &= ~terminated
    assert counts["critical"].sum() > 0
    assert set(result.events) == set(counts)
    for name, expected in counts.items():
        np.testing.assert_array_equal(result.events[name][0], expected)
    assert 0.0 < in_range.sum() < live.size * 30
    assert result.in_range is not None
    np.testing.assert_array_equal(result.in_range[0], in_range)
    assert result.visits.min() < 30 == result.visits.max()
    write_outcomes(tmp_path / "x.parquet", {"recommended": result})
    back = read_outcomes(tmp_path / "x.parquet")["recommended"]
    for name, expected in result.events.items():
        np.testing.assert_array_equal(back.events[name], expected)
    assert back.in_range is not None
    np.testing.assert_array_equal(back.in_range, result.in_range)
    treatment = rollout(CohortFactory(ENV, {}), constant(0.0), (0,), 2)
    write_outcomes(tmp_path / "y.parquet", {"recommended": treatment})
    assert treatment.in_range is None
    assert read_outcomes(tmp_path / "y.parquet")["recommended"].in_range is None


def test_a_clinics_rule_gives_what_it_gives_as_a_behaviour_policy() -> None:
    """Which knows the genotype and answers measurements: the same returns as in a recorded cohort."""
    factory = CohortFactory("dosing/Warfarin-v0", {"steps": 35, "hide_genotype": True})
    rule = factory.clinic_rules["gage-nomogram:0"]
    result = rollout(factory, rule, (2, 5), 6)
    for k, seed in enumerate((2, 5)):
        data = simulate(
            "dosing/Warfarin-v0",
            patients=6,
            first_patient=6 * seed,
            policy="gage-nomogram:0",
            cohort="evaluation",
            steps=35,
            hide_genotype=True,
        )
        expected = data.reward.reshape(6, 35).sum(1, dtype=np.float64)
        np.testing.assert_allclose(result.returns[k], expected, rtol=1e-5)
    again = rollout(factory, rule, (2, 5), 6)  # it begins anew with every evaluation
    np.testing.assert_array_equal(again.returns, result.returns)
