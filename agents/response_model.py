"""Response model: learn how patients respond, keep a belief about each, and plan its doses.

Model-based offline reinforcement learning with a latent state. From the recorded visits alone,

    x' = f_k(x, a) + N(0, q_k),   y = x + N(0, r_k),   r = r_k(y', a),     k = 0 all patients, 1..F folds

are fitted by maximum likelihood (``dosing.models.response``, ``dosing.models.reward_model``). At a visit the
belief b_k of every model, a Kalman filter of second order over all visits so far, is made into a plan

    a_0, .. a_(H-1) with a high E_k sum_h r_k(y_(h+1), a_h)      from b_k, climbed from the constant dose a*

(``dosing.models.planning``), of which the first dose counts and the rest is planned anew at the next visit:
open-loop feedback control (Dreyfus 1965; Bertsekas 2005, European Journal of Control 11:310), on learned
models as in Chua et al. 2018 (arXiv 1805.12114). No dose beyond the recorded ones is planned; a dose drawn
from the policy can lie beyond by less than the half-width.

The policy's distribution is a q-Gaussian with bounded support (q < 1) around the dose m that model 0 plans.
Its half-width is ``disagreements`` times the root mean square distance of the F fold models' doses from m.

A model that does not forecast held-out patients well enough is refused (``dosing.models.calibration``), and
the constant dose is given to everyone. All this is decided before the first update; updates go on with the
fit of the response models, on batches of patients:

    L = sum_k [ - ln L_k / entries + (strength spread(theta_k) + |weights_k|^2) / N ]       patients outside k
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import History
from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam, decay_learning_rate
from dosing.models.patient_model import Families, PatientModel, PatientSettings
from dosing.models.planning import PlanSettings
from dosing.models.policy_heads import MEAN_LIMIT
from dosing.models.response import Belief
from dosing.training.belief_agent import BeliefAgent
from dosing.types import About, Problem

MIN_WIDTH = 1e-2
"""Half-width of the support, as a share of the room to the nearer limit: at least this, at most 1 less it."""


@dataclass(frozen=True)
class ResponseModelConfig:
    """Settings of the response model agent; none of them comes from a simulator."""

    look_ahead: int = 10
    """Visits that are planned at once, fewer where fewer are left; a dose's effect should fade within."""
    learning_rate: float = 2e-3
    """Adam step size at first, as the fit goes on."""
    decay_steps: int = 200
    """Updates over which the step size falls to 0 by a cosine; later updates change nothing."""
    episodes: int = 64
    """Recorded patients per update."""
    plan_steps: int = 12
    """Steps by which a plan is improved."""
    plan_step_size: float = 0.15
    """Of the first step, on a scale on which the recorded doses are tanh; it falls to 0."""
    q: float = 0.0
    """Index of the policy's q-Gaussian, below 1."""
    actor: Literal["q_gaussian", "gaussian"] = "q_gaussian"
    """The policy's distribution; the Gaussian has the variance that the q-Gaussian would have."""
    disagreements: float = 2.0
    """Half-width of the support in root mean square differences between the fold models' doses."""
    gate: Literal["calibration", "off"] = "calibration"
    """Whether a badly calibrated model is refused and the constant dose given; off keeps every model."""
    families: Families = "own_marker"
    """Families of the response that are tried; own_marker are linear and saturating."""
    hidden_units: int = 12
    """Hidden units of the network family, which is tried with 400 or more patients."""
    fit_steps: int = 150
    """Adam steps by which a response model is fitted."""
    folds: int = 3
    """Parts of the recorded patients, each held out by one fold model."""


class ResponseModel(BeliefAgent):
    """S stacked seeds of the response model agent."""

    about = About(
        paper="Bertsekas 2005, European Journal of Control 11:310; Chua et al. 2018, arXiv 1805.12114",
        family="sparse q-Gaussian on a belief",
        support="interval",
        checked="no public code",
    )

    needs = frozenset({"episode", "mask"})
    rewards = "fixed"

    def __init__(self, init: Initialiser, problem: Problem, config: ResponseModelConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        settings = PatientSettings(
            config.families, config.hidden_units, config.fit_steps, config.folds, config.gate == "calibration"
        )
        like = torch.zeros((), dtype=init.dtype, device=init.device)
        self.patients = PatientModel(len(init.seeds), problem, settings, like)
        self.episodes = config.episodes
        self.optimizers = {"response": adam(self.patients, config.learning_rate)}

    def policy_after(self, history: History) -> Distribution:
        """The distribution of one dose after a history: the filter runs over all of it, where it is used."""
        if not bool(self.patients.trusted.any()):
            constant = self.patients.constant.expand(-1, history.obs.shape[1], -1)
            return self._around(constant, torch.zeros_like(constant))
        return self.distribution(self.patients.belief(history.obs, history.act), history.obs.shape[2] - 1)

    @torch.no_grad()
    def distribution(self, belief: Belief, visit: int) -> Distribution:
        """The distribution of the dose at a visit, counted from 0.

        Args:
            belief: of all members after the visit, ``[S (1 + F), B, O]``; see ``PatientModel``.
            visit: number of the visit.
        """
        c, members = self.config, self.patients.members
        settings = PlanSettings(c.look_ahead, c.plan_steps, c.plan_step_size)
        doses = self.patients.planned(belief, visit, settings)[0].unflatten(
            0, (-1, members)
        )  # [S, 1 + F, B, A]
        trusted, constant = self.patients.trusted, self.patients.constant
        loc = torch.where(trusted, doses[:, 0], constant).clamp(-MEAN_LIMIT, MEAN_LIMIT)
        apart = torch.where(trusted.unsqueeze(1), doses[:, 1:] - loc.unsqueeze(1), 0.0)
        return self._around(loc, c.disagreements * apart.square().mean(1).sqrt())

    def _around(self, loc: Tensor, half: Tensor) -> Distribution:
        """The law around doses ``[S, B, A]`` with this half-width, as far as the box has room for it."""
        c, room = self.config, 1.0 - loc.abs()
        loc = torch.where(half.isfinite(), loc, torch.nan)  # no dose where a fold model has none
        half = torch.maximum(torch.minimum(half, (1.0 - MIN_WIDTH) * room), MIN_WIDTH * room)
        q, scale = c.q, half / support_radius(c.q)
        if c.actor == "gaussian":
            q, scale = 1.0, scale * ((3.0 - q) / (5.0 - 3.0 * q)) ** 0.5
        return Independent(QGaussian(loc, scale, q, validate_args=False), 1, validate_args=False)

    # Learning: the fit goes on, on batches of patients

    def schedule(self, step: int) -> None:
        """Cosine decay of the step size."""
        decay_learning_rate(
            self.optimizers["response"], self.config.learning_rate, step, self.config.decay_steps
        )

    def phase(self, step: int) -> int:
        """1 once the step size is 0 and nothing changes any more."""
        return int(self.settled(step))

    def settled(self, step: int) -> bool:
        """Once the step size is 0."""
        return step >= self.config.decay_steps

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss ``response`` ``[S]``; the reward model's mean squared error on the batch as a metric."""
        filled = batch.extra["mask"] > 0.0  # [S, B, 1]
        obs, next_obs, act = (
            x.unflatten(1, (-1, batch.length))
            for x in (batch.obs, torch.where(filled, batch.next_obs, torch.nan), batch.act)
        )
        episode = batch.extra["episode"].reshape(*obs.shape[:3])[:, :, 0]
        loss = self.patients.loss(torch.cat((obs[:, :, :1], next_obs), 2), act, episode)
        with torch.no_grad():
            told = self.patients.rewards(slice(0, 1))(batch.next_obs, batch.act)
            error = ((told - batch.reward).square() * filled[..., 0]).sum(1) / filled[..., 0].sum(1)
        return {"response": loss}, {"reward/error": error}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the fit; none once the step size is 0."""
        if self.phase(batch.step) == 0:
            return super().update(batch)
        with torch.no_grad():
            losses, metrics = self.losses_and_metrics(batch)
        return {f"loss/{name}": loss for name, loss in losses.items()} | metrics

    def adjust_gradients(self) -> None:
        """Linear models stay linear."""
        if (gradient := self.patients.response.grad) is not None:
            self.patients.fix_straight(gradient)


def _check(config: ResponseModelConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    names = ("look_ahead", "plan_steps", "hidden_units", "fit_steps", "decay_steps", "episodes")
    checks = {name: (getattr(config, name) >= 1, "at least 1") for name in names}
    checks |= {
        "folds": (config.folds >= 2, "at least 2"),
        "plan_step_size": (config.plan_step_size > 0.0, "above 0"),
        "q": (config.q < 1.0, "below 1"),
        "disagreements": (config.disagreements > 0.0, "above 0"),
    }
    for name, (good, wanted) in checks.items():
        if not good:
            raise UserError(f"{name} must be {wanted}, got {getattr(config, name)}.")
