"""Value of a policy in roll-outs of models fitted to the recorded patients: it may look back on an episode.

The response model of ``dosing.models.response`` and the reward model of ``dosing.models.reward_model`` are
fitted to the recorded patients. Imagined patients follow them under the policy, which sees what it would see
of a real patient: noisy visits, delivered doses, rewards (the direct method: Mannor et al. 2007, Management
Science 53:308). Every policy meets the same imagined patients with the same noise, so that differences are
paired.

A policy looks better in a model that it was optimised in than it is (Mannor et al., section 5), so the models
are to be fitted to other patients than those the policy was trained on; ``dosing.ope.folds`` sees to that.

Bootstrap replicates weigh the patients anew and fit both models on from those of all patients, all as one
stack; family, prior and ridge stay as chosen (Efron, Tibshirani 1993, "An introduction to the bootstrap",
chapter 9). Replicates are rolled out for fewer imagined patients: the value has the difference that these see
between a replicate and the patients themselves.

Models that ``dosing.models.calibration`` refuses value nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dosing.data.dataset import Transform
from dosing.evaluation.rules import following
from dosing.models.calibration import REASONS, calibrate
from dosing.models.missing import flags
from dosing.models.outliers import fit_without_outliers
from dosing.models.response import ResponseModel
from dosing.models.response_fit import FitSettings, refit
from dosing.models.reward_model import RewardModel, fit_reward, refit_reward
from dosing.models.rollouts import Imagined, imagine
from dosing.ope.trajectories import Trajectories, standardise
from dosing.policy import DosePolicy
from dosing.rng import generator
from dosing.safety import DoseLimits
from dosing.types import Act, Array, Listener, Observations

IMAGINED = 4096
"""Imagined patients of a value."""
IMAGINED_AGAIN = 128
"""Imagined patients of a bootstrap replicate."""
AT_ONCE = 1 << 15
"""Most imagined patients that are followed at once, over replicates and seeds."""
FIT = FitSettings(families=("saturating", "linear"))
"""How the models are fitted: families in which no marker acts on another, as the response model agent's."""
REFIT_STEPS = 80
"""Adam steps of a replicate's response model."""


@dataclass(frozen=True)
class Models:
    """Models of recorded patients and of R bootstrap replicates of them; row 0 is of the patients themselves.

    Attributes:
        response: 1 + R response models.
        reward: 1 + R reward models, in the data's unit.
        share: ``[1 + R, N]`` weight of every patient.
        middle: ``[1 + R, 1, O]`` mean of each replicate's visits, 0 for the patients themselves.
        scale: ``[1 + R, 1, O]`` standard deviation, 1 for the patients themselves.
        obs: ``[N, V, O]`` standardised visits, whose residuals are lent to imagined patients; NaN: outliers.
        act: ``[N, V - 1, A]`` doses given there, in [-1, 1].
    """

    response: ResponseModel
    reward: RewardModel
    share: Tensor
    middle: Tensor
    scale: Tensor
    obs: Tensor
    act: Tensor

    def select(self, rows: Tensor) -> Models:
        """Some of the models, or the same one several times: ``rows [L]``."""
        reward = RewardModel(self.reward.theta[rows])
        share, middle, scale = self.share[rows], self.middle[rows], self.scale[rows]
        return Models(self.response.select(rows), reward, share, middle, scale, self.obs, self.act)

    def imagine(self, patients: int, visits: int, seed: int) -> tuple[Tensor, Imagined]:
        """First levels ``[1 + R, n, O]`` of n imagined patients in each model, and what else they need.

        The same noise in every model; each lends the residuals of its own patients, by their weights.
        """
        rng, count, n_obs = generator(seed, "evaluation", 0, 0), len(self.share), self.obs.shape[-1]
        drawn = {
            "level": rng.standard_normal((patients, 1, n_obs)),
            "process": rng.standard_normal((patients, 1, visits, n_obs)),
            "order": rng.random((patients, 1, visits + 1)),
            "sign": rng.random((patients, 1, visits + 1, 1)),  # so that visits do not resemble each other
        }
        noise = {name: torch.as_tensor(x).to(self.obs).expand(count, *x.shape) for name, x in drawn.items()}
        upto = self.share.cumsum(1) / self.share.sum(1, keepdim=True)
        at = (torch.as_tensor(rng.permutation(patients)).to(self.obs) + 0.5) / patients
        lent = torch.searchsorted(upto, at.expand(count, -1).contiguous()).clamp(max=len(self.obs) - 1)
        seen = (self.obs[lent] - self.middle.unsqueeze(1)) / self.scale.unsqueeze(1)
        imagined = imagine(self.response, seen, self.act[lent], noise)
        spread = self.response.start_variance.sqrt()
        return self.response.prior(patients).mean + spread * imagined.level, imagined


def fit_models(data: Sequence[Trajectories], shares: Array) -> list[Models | str]:
    """Fit models to data sets and to bootstrap replicates of each, as one stack; a sentence where refused.

    Args:
        data: D data sets of equally many patients and visits.
        shares: ``[D, 1 + R, N]`` weight of every patient, ones first.
    """
    reasons = [_unusable(one) for one in data]
    usable = [k for k, reason in enumerate(reasons) if reason is None]
    if not usable:
        return [str(reason) for reason in reasons]
    visits, doses, rewards = (
        torch.as_tensor(np.stack([x(data[k]) for k in usable]), dtype=torch.float32)
        for x in (_visits, lambda one: one.act, lambda one: one.reward)
    )
    fitted, visits = fit_without_outliers(visits, doses, FIT)
    paid = fit_reward(visits[:, :, 1:], doses, rewards, fitted.fold)
    numbers = calibrate(fitted, visits, doses).reason(paid.explained).tolist()
    for k, number in zip(usable, numbers, strict=True):
        reasons[k] = REASONS[number] or None
    if all(reasons):
        return [str(reason) for reason in reasons]
    share = torch.as_tensor(shares[usable], dtype=torch.float32)
    middle, scale = _standards(visits, share)
    own_units = ((visits.unsqueeze(1) - middle.unsqueeze(2)) / scale.unsqueeze(2)).flatten(0, 1)
    given = doses.repeat_interleave(share.shape[1], 0)
    response = refit(fitted, own_units, given, share.flatten(0, 1), REFIT_STEPS, 2 * FIT.batch)
    result: list[Models | str] = [str(reason) for reason in reasons]
    for at, k in enumerate(usable):
        if reasons[k] is not None:
            continue
        own = torch.arange(at * share.shape[1], (at + 1) * share.shape[1])
        again = refit_reward(paid, at, visits[at, :, 1:], doses[at], rewards[at], share[at])
        weighed = (share[at], middle[at], scale[at])
        result[k] = Models(response.select(own), again, *weighed, visits[at], doses[at])
    return result


def _standards(visits: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[D, 1 + R, 1, O]`` of weighed visits, less and over those of the first.

    The prior holds what is common to all markers in standardised units: without units of its own, a replicate
    would not have the sampling error of each marker's mean.
    """
    known = visits.isfinite()
    filled = torch.where(known, visits, 0.0)
    count, *sums = (torch.einsum("drn,dnvo->dro", share, x) for x in (known.to(share), filled, filled**2))
    first, second = (x / count.clamp(min=1e-6) for x in sums)
    scale = (second - first**2).clamp(min=1e-6).sqrt()
    middle = (first - first[:, :1]).unsqueeze(2)
    return middle, (scale / scale[:, :1]).unsqueeze(2)


def _visits(data: Trajectories) -> Array:
    """All visits ``[N, T + 1, O]``, the one after the last dose too, standardised."""
    return standardise(data.transform, np.concatenate((data.obs, data.next_obs[:, -1:]), 1))


def _unusable(data: Trajectories) -> str | None:
    """Why recorded patients are not such that models can be fitted to them; None if they are."""
    visits = data.recorded.sum(1)
    if visits.min() < data.visits:
        return (
            "values in response models are those of episodes of one length, and the recorded ones have "
            f"{visits.min():.0f} to {visits.max():.0f} visits"
        )
    if (data.terminated > 0).any():
        return (
            "response models do not know what ends an episode, and some ended before their number of visits"
        )
    if data.patients < FIT.folds or data.visits < 2:
        return (
            f"response models need {FIT.folds} patients with two visits, got {data.patients} of {data.visits}"
        )
    if bool(flags(torch.as_tensor(_visits(data))[None]).are.any()):
        return "values in response models are those of measured visits, and here some entries are missing"
    return None


@dataclass(frozen=True)
class Imagination:
    """Values of policies in the models of recorded patients.

    Attributes:
        models: of the patients and their replicates.
        transform: the patients' own.
        discount: of the return.
        horizon: H visits of the return.
        seed: of the imagined patients.
    """

    models: Models
    transform: Transform
    discount: float
    horizon: int
    seed: int

    def values(self, policy: Act | DosePolicy, *, sampled: bool = False) -> Array:
        """Value ``[1 + R, S]`` of S policies, of the patients themselves first.

        Args:
            policy: a rule, or a trained stack, which may look back.
            sampled: follow a stack's draws instead of its recommended doses.
        """
        if isinstance(policy, DosePolicy):
            rule, seeds = following(policy, sampled=sampled), len(policy.seeds)
        else:  # a rule says by its answer how many it is
            first = np.zeros((1, 1, self.models.obs.shape[-1]), dtype=np.float32)
            rule, seeds = policy, len(policy(first, 0))
        rows = torch.arange(len(self.models.share))
        whole = self._mean(rule, seeds, rows[:1], IMAGINED)
        size = max(1, AT_ONCE // (seeds * IMAGINED_AGAIN))
        again = np.concatenate([self._mean(rule, seeds, part, IMAGINED_AGAIN) for part in rows.split(size)])
        replicates: Array = whole + again - again[:1]
        return replicates

    @torch.no_grad()
    def _mean(self, rule: Act, seeds: int, rows: Tensor, patients: int) -> Array:
        """Mean return ``[K, S]`` of the imagined patients of some of the models."""
        some = self.models.select(rows)
        level, imagined = some.imagine(patients, self.horizon, self.seed)
        repeated = torch.arange(len(rows)).repeat(seeds)  # [S K], the models of a seed next to each other
        world, reward = some.response.select(repeated), RewardModel(some.reward.theta[repeated])
        middle, scale = some.middle[repeated], some.scale[repeated]
        level, residual, process = (
            x.repeat(seeds, *[1] * (x.dim() - 1)) for x in (level, imagined.residual, imagined.process)
        )
        limits, shake = DoseLimits(self.transform.act_low, self.transform.act_high), world.process.sqrt()
        total = level.new_zeros(level.shape[:2], dtype=torch.float64)
        for visit in range(self.horizon):
            seen = self._worldly(middle + scale * (level + residual[:, :, visit]))
            seen = seen.reshape(seeds, len(rows) * patients, -1)
            delivered = limits.deliver(rule(seen, visit))[0].astype(np.float64)
            act = torch.as_tensor(self.transform.to_unit(delivered)).to(level).reshape(*level.shape[:2], -1)
            level = world.move(level, act) + shake * process[:, :, visit]
            paid = reward(middle + scale * (level + residual[:, :, visit + 1]), act).double()
            total += self.discount**visit * paid
            if isinstance(rule, Listener):
                rule.observe(delivered, paid.reshape(seeds, -1).numpy())
        return np.asarray(total.mean(1).reshape(seeds, len(rows)).mT.numpy())

    def _worldly(self, standardised: Tensor) -> Observations:
        """Observations in the world's units; the inverse of ``dosing.ope.trajectories.standardise``."""
        mean, scale = np.asarray(self.transform.obs_mean), np.asarray(self.transform.obs_scale)
        return np.asarray(mean + scale * standardised.double().numpy(), dtype=np.float32)
