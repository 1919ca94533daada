"""Response model: learn how patients respond, keep a belief about each, and plan its doses.

Model-based offline reinforcement learning with a latent state. From the recorded visits alone,

    x' = f_k(x, a) + N(0, q_k),   y = x + N(0, r_k),   r = r_k(y', a),     k = 0 all patients, 1..F folds

are fitted by maximum likelihood (``dosing.models.response``, ``dosing.models.reward_model``). At a visit the
belief b_k of every model, an extended Kalman filter over all visits so far, is made into a plan

    a_0, .. a_(H-1) = argmax E_k sum_h r_k(y_(h+1), a_h)        from b_k, climbed from the constant dose a*

(``dosing.models.planning``), of which the first dose counts and the rest is planned anew at the next visit:
open-loop feedback control (Dreyfus 1965; Bertsekas 2005, European Journal of Control 11:310), on learned
models as in Chua et al. 2018 (arXiv 1805.12114). No dose beyond the recorded ones is planned.

The policy's distribution is a q-Gaussian with bounded support (q < 1) around the dose m that model 0 plans.
Its half-width is ``disagreements`` times the root mean square distance of the F fold models' doses from m.

A model that does not forecast held-out patients well enough is refused (``dosing.models.calibration``), and
the constant dose is given to everyone. Everything is fitted before the first update; updates change nothing,
and report how well the reward model of all patients does on the batch. Seeds draw nothing and agree.
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
from dosing.models.patient_model import Families, PatientModel, PatientSettings
from dosing.models.planning import PlanSettings
from dosing.models.response import Belief
from dosing.training.belief_agent import BeliefAgent
from dosing.types import About, Problem

MEAN_LIMIT = 0.999
"""Largest |mode| on the [-1, 1] axis."""
MIN_WIDTH = 1e-2
"""Half-width of the support, as a share of the room to the nearer limit: at least this, at most 1 less it."""


@dataclass(frozen=True)
class ResponseModelConfig:
    """Settings of the response model agent; none of them comes from a simulator."""

    look_ahead: int = 10
    """Visits that are planned at once, fewer where fewer are left; a dose's effect should fade within."""
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

    def __init__(self, init: Initialiser, problem: Problem, config: ResponseModelConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        settings = PatientSettings(
            config.families, config.hidden_units, config.fit_steps, config.folds, config.gate == "calibration"
        )
        like = torch.zeros((), dtype=init.dtype, device=init.device)
        self.patients = PatientModel(len(init.seeds), problem, settings, like)

    def policy_after(self, history: History) -> Distribution:
        """The distribution of one dose after a history: the filter runs over all of it."""
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
        half, room = c.disagreements * apart.square().mean(1).sqrt(), 1.0 - loc.abs()
        half = torch.maximum(torch.minimum(half, (1.0 - MIN_WIDTH) * room), MIN_WIDTH * room)
        q, scale = c.q, half / support_radius(c.q)
        if c.actor == "gaussian":
            q, scale = 1.0, scale * ((3.0 - q) / (5.0 - 3.0 * q)) ** 0.5
        return Independent(QGaussian(loc, scale, q, validate_args=False), 1, validate_args=False)

    @torch.no_grad()
    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """No losses; the reward model's mean squared error on the batch."""
        told = self.patients.rewards(slice(0, 1))(batch.next_obs, batch.act)
        return {}, {"reward/error": (told - batch.reward).square().mean(1)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Changes nothing; returns metrics ``[S]``."""
        return self.losses_and_metrics(batch)[1]


def _check(config: ResponseModelConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    names = ("look_ahead", "plan_steps", "hidden_units", "fit_steps")
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
