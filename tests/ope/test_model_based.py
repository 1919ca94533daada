"""Values by roll-outs in models of the patients: closed forms, one by one as in the stack, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import Agent, History
from dosing.data.dataset import Transform
from dosing.data.store import Episodes
from dosing.distributions.point import Point
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.models.batch import Batch
from dosing.models.calibration import REASONS
from dosing.ope import model_based
from dosing.ope.folds import Fold, evaluate_folds, spread_over_folds
from dosing.ope.model_based import Imagination, Models, fit_models
from dosing.ope.selection import LOOKS_BACK, Settings, evaluate_policies
from dosing.ope.targets import doses_after
from dosing.ope.trajectories import Trajectories, fold_patients
from dosing.policy import DosePolicy
from dosing.types import About, Problem
from tests.ope.ope_problems import episodes, two_states

Array = np.ndarray[Any, Any]
VISITS, KEPT, PUSHED, NOISE = 8, 0.8, 0.6, 0.3
PRICE = 0.2
GAINS = (0.6, -0.15)
MIDDLE, WIDTH = 3.0, 2.0
MODEL = Settings(estimators=("model_based", "fqe"), replicates=200, model_replicates=20, seed=3)


class Smoothing(Agent):
    """S policies that look back: the dose is -gain times the mean of all visits, the last half of it."""

    about = About("none", "point", "point", "here")

    def __init__(self, gains: tuple[float, ...]) -> None:
        super().__init__(Problem(2, 1), tuple(range(len(gains))))
        self.gain = torch.nn.Parameter(torch.tensor(gains))

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        raise NotImplementedError

    def policy_after(self, history: History) -> Distribution:
        mean = torch.zeros_like(history.obs[:, :, 0, :1])
        for visit in range(history.obs.shape[2]):
            mean = 0.5 * (mean + history.obs[:, :, visit, :1])
        return Independent(Point(-self.gain.view(-1, 1, 1) * mean), 1)


def smoothing(*gains: float) -> DosePolicy:
    """The policies, who see a marker's deviation from the middle of its range."""
    return DosePolicy(Smoothing(gains), Transform((MIDDLE,) * 2, (WIDTH,) * 2, (-1.0,), (1.0,)))


def levels(patients: int, seed: int, responds: float = 1.0) -> Episodes:
    """Linear, Gaussian: x' = 0.8 x + 0.6 a, seen with noise; what is paid falls with x'^2 and with a^2."""
    rng = np.random.default_rng(seed)
    level, sign = rng.normal(size=(patients, 2)), np.array([1.0, -1.0])
    seen, doses = [level + NOISE * rng.normal(size=level.shape)], []
    for _ in range(VISITS):
        doses.append(rng.uniform(-1.0, 1.0, size=(patients, 1)))
        level = KEPT * level + responds * PUSHED * sign * doses[-1]
        seen.append(level + NOISE * rng.normal(size=level.shape))
    y, a = np.stack(seen, 1), np.stack(doses, 1)
    reward = -(y[:, 1:, 0] ** 2) - PRICE * a[..., 0] ** 2 + 0.1 * rng.normal(size=a.shape[:2])
    return episodes(MIDDLE + WIDTH * y[:, :-1], a, reward, MIDDLE + WIDTH * y[:, 1:])


def exact(gain: float, discount: float = 1.0) -> float:
    """Expected return of a gain, by the covariance of (level, mean of the visits before)."""
    covariance, total = np.diag([1.0, 0.0]), 0.0
    for visit in range(VISITS):
        # (x, m, e) -> m' = (m + x + e) / 2, a = -gain m', x' = 0.8 x + 0.6 a
        mean = np.array([0.5, 0.5, 0.5])
        after = np.stack([KEPT * np.array([1.0, 0.0, 0.0]) - PUSHED * gain * mean, mean])
        joint = np.zeros((3, 3))
        joint[:2, :2], joint[2, 2] = covariance, NOISE**2
        covariance = after @ joint @ after.T
        paid = -(covariance[0, 0] + NOISE**2) - PRICE * gain**2 * covariance[1, 1]
        total += discount**visit * paid
    return total


def ones(recorded: Episodes, replicates: int = 0) -> Array:
    return np.ones((1 + replicates, len(np.unique(recorded.episode))))


def imagination(recorded: Episodes, discount: float = 1.0, shares: Array | None = None) -> Imagination:
    data = Trajectories.from_episodes(recorded)
    (models,) = fit_models([data], (ones(recorded) if shares is None else shares)[None])
    assert isinstance(models, Models)
    return Imagination(models, data.transform, discount, VISITS, 0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models fitted in fewer steps."""
    monkeypatch.setattr(model_based, "FIT", replace(model_based.FIT, steps=30))
    monkeypatch.setattr(model_based, "REFIT_STEPS", 10)


@pytest.fixture(scope="module")
def many() -> Episodes:
    return levels(1600, 1)


@pytest.mark.long
@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_with_many_patients_the_value_is_the_exact_one(many: Episodes, discount: float) -> None:
    """Of a policy that looks back, of one that does nothing, and of their difference."""
    world = imagination(many, discount)
    looked, nothing = world.values(smoothing(*GAINS)), world.values(constant(0.0))
    assert (looked.shape, nothing.shape) == ((1, 2), (1, 1))
    for seed, gain in enumerate(GAINS):
        gained = exact(gain, discount) - exact(0.0, discount)
        assert looked[0, seed] - nothing[0, 0] == pytest.approx(gained, rel=0.1)
        assert looked[0, seed] == pytest.approx(exact(gain, discount), rel=0.1)


@pytest.mark.long
def test_better_and_worse_are_found_and_the_exact_difference_lies_within() -> None:
    """Cross-fitted: two policies that look back and one dose of the state, by one estimator."""
    policies = {"back": smoothing(GAINS[0]), "wrong": smoothing(GAINS[1]), "dose": constant(0.0)}
    parts = [Fold(*part, policies) for part in fold_patients(levels(60, 2), 2)]
    result = evaluate_folds(parts, MODEL)
    verdicts = {name: result.values[name]["model_based"].verdict for name in policies}
    assert (verdicts["back"], verdicts["wrong"]) == ("better", "worse")
    assert result.values["dose"]["model_based"].difference is not None
    for name, gain in (("back", GAINS[0]), ("wrong", GAINS[1])):
        difference = result.values[name]["model_based"].difference
        assert difference is not None
        assert difference.low < exact(gain) - exact(0.0) < difference.high
        assert difference.method.startswith("t, spread of patient-bootstrap refits within folds, Bonferroni")
        assert result.values[name]["fqe"].refused == f"fold 1: {LOOKS_BACK}"
    assert result.values["dose"]["fqe"].difference is not None


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_a_stack_is_valued_as_its_parts_are() -> None:
    """Data sets, replicates and policies: together and one by one."""
    parts = [levels(12, seed) for seed in (4, 5)]
    data = [Trajectories.from_episodes(part) for part in parts]
    shares = np.stack([ones(part, 2) for part in parts])
    shares[:, 1, :3], shares[:, 2, 3:6] = 0.0, 2.0
    for k, together in enumerate(fit_models(data, shares)):
        (alone,) = fit_models(data[k : k + 1], shares[k : k + 1])
        assert isinstance(together, Models)
        assert isinstance(alone, Models)
        torch.testing.assert_close(together.response.pack(), alone.response.pack(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(together.reward.theta, alone.reward.theta, rtol=1e-3, atol=1e-3)
        world = Imagination(together, data[k].transform, 1.0, VISITS, 0)
        both = world.values(smoothing(*GAINS))
        assert both.shape == (3, 2)
        assert np.ptp(both[:, 0]) > 1e-3  # replicates differ
        for seed, gain in enumerate(GAINS):
            np.testing.assert_allclose(both[:, seed], world.values(smoothing(gain))[:, 0], atol=1e-4)
        first = replace(world, models=together.select(torch.tensor([0, 2])))
        np.testing.assert_allclose(first.values(smoothing(*GAINS)), both[[0, 2]], atol=1e-4)


@pytest.mark.long
def test_doses_are_those_after_the_recorded_episodes(many: Episodes) -> None:
    few = fold_patients(many, 320)[0][1]
    data = Trajectories.from_episodes(few)
    obs, doses = doses_after(smoothing(*GAINS), data, 5 * VISITS)
    assert (obs.shape, doses.shape) == ((5 * VISITS, 2), (2, 5 * VISITS, 1))
    seen = (obs.reshape(5, VISITS, 2)[:, :, 0] - MIDDLE) / WIDTH
    weights = np.array([[0.5 ** (t - s + 1) * (s <= t) for s in range(VISITS)] for t in range(VISITS)])
    for seed, gain in enumerate(GAINS):
        np.testing.assert_allclose(doses[seed].reshape(5, VISITS), -gain * seen @ weights.T, atol=1e-5)


# Intervals


def test_the_interval_is_t_of_the_replicates_around_the_value() -> None:
    drawn = [np.array([1.0, 1.5, 0.7, 1.1]), np.array([3.0, 2.0, 3.5, 3.3])]
    estimate = spread_over_folds(drawn, [5, 15], 2, 0.9, 0.95, "so")
    around = 0.25 * np.sqrt(5 / 4) * np.array([0.5, -0.3, 0.1]) + 0.75 * np.sqrt(15 / 14) * np.array(
        [-1.0, 0.5, 0.3]
    )
    half = 2.131846786 * np.sqrt((around**2).mean())  # 95 % point of t with 4 degrees of freedom
    assert estimate.value == pytest.approx(2.5)
    assert (estimate.low, estimate.high) == pytest.approx((2.5 - half, 2.5 + half))
    assert (estimate.level, estimate.n, estimate.n_seeds, estimate.method) == (0.95, 20, 2, "so")


# Refusals


def refusal(recorded: Episodes) -> str:
    result = fit_models([Trajectories.from_episodes(recorded)], ones(recorded)[None])
    assert isinstance(result[0], str)
    return result[0]


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_models_that_are_refused_value_nothing() -> None:
    """States that nothing moves: whoever is asked for, the sentence of the calibration is the answer."""
    recorded = levels(40, 6)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, *recorded.obs.shape)).astype(np.float32)
    recorded = replace(recorded, obs=noise[0], next_obs=noise[1])
    assert refusal(recorded) == REASONS[1]
    parts = [Fold(*part, {"back": smoothing(0.1)}) for part in fold_patients(recorded, 2)]
    value = evaluate_folds(parts, MODEL).values["back"]["model_based"]
    assert (value.estimate, value.difference, value.verdict) == (None, None, None)
    assert value.refused == f"fold 1: {REASONS[1]}"


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_of_a_stack_only_what_can_be_modelled_is() -> None:
    good = Trajectories.from_episodes(levels(12, 4))
    ended = replace(good, terminated=np.ones_like(good.terminated))
    first, second = fit_models([ended, good], np.ones((2, 1, 12)))
    assert "some ended before" in str(first)
    assert isinstance(second, Models)


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        (two_states(2, 3), "response models need 3 patients with two visits, got 2 of 3"),
        (two_states(5, 1), "response models need 3 patients with two visits, got 5 of 1"),
    ],
)
def test_patients_who_make_no_model_are_refused_in_a_sentence(recorded: Episodes, told: str) -> None:
    assert refusal(recorded) == told


def test_episodes_of_different_lengths_are_refused_in_a_sentence() -> None:
    recorded = levels(6, 0)
    keep = np.ones(len(recorded.reward), dtype=bool)
    keep[VISITS - 1] = False
    columns = {name: column[keep] for name, column in recorded.arrays().items()}
    assert "have 7 to 8 visits" in refusal(Episodes(**columns, metadata=recorded.metadata))


def test_visits_that_were_not_all_measured_are_refused_in_a_sentence() -> None:
    """The second entry says whether the first was measured; where not, the first reads 0."""
    recorded = levels(6, 0)
    measured = np.arange(len(recorded.reward)) % 3 > 0
    obs, next_obs = (
        np.stack((np.where(measured, x[:, 0], 0.0), measured), 1).astype(np.float32)
        for x in (recorded.obs, recorded.next_obs)
    )
    assert refusal(replace(recorded, obs=obs, next_obs=next_obs)).endswith("some entries are missing")


def test_too_few_replicates_are_refused() -> None:
    with pytest.raises(UserError, match="model replicates must be at least 2, got 1"):
        evaluate_policies(two_states(8, 3), [], replace(MODEL, model_replicates=1))
