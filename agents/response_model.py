"""Response model: a policy on the belief about a patient, improved in roll-outs of fitted response models.

Model-based offline reinforcement learning with a latent state. From the recorded visits alone,

    x' = f_k(x, a) + N(0, q_k),, y = x + residual, r = r_k(y', a),    k = 0 all patients, 1..F without a fold

are fitted by maximum likelihood (``dosing.models.response``, ``dosing.models.reward_model``). The policy sees
the belief of model 0, an extended Kalman filter: its mean b_t, the visit t of T, and the dose before:

    m_t = tanh(M(b_t, t/T, exp(-t/2), exp(-(T - 1 - t)/2), a_(t-1)) + atanh a*)        a* the constant dose
    J_k = E sum_t r_k(y_(t+1), m_t),      C_k = the same with a* throughout
    maximise (1 - p) mean_k (J_k - C_k) + p min_k (J_k - C_k)                          p the pessimism

by back-propagation through the roll-outs, filter included (PILCO, Deisenroth, Rasmussen 2011, ICML; value
gradients, Heess et al. 2015, arXiv 1510.09142), over an ensemble of models as in Chua et al. 2018
(arXiv 1805.12114) and with the least gain as in robust control (Rajeswaran et al. 2017, arXiv 1610.01283).
Residuals are those of recorded patients, in a random order and with a random sign, so that whatever ties the
markers of a visit together is kept. M is nearly 0 at first: the policy starts at the constant dose.

The policy's distribution is a q-Gaussian with bounded support (q < 1) around m. Its half-width is how far the
doses stand apart that the F fold models' beliefs about the same history lead to.

A model that does not forecast held-out patients well enough is refused (``dosing.models.calibration``), and
the constant dose is given to everyone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from dosing.agent import Agent, EpisodeBelief, HeldOutForecasts, History
from dosing.data.dataset import Dataset
from dosing.distributions.q_gaussian import QGaussian, support_radius
from dosing.errors import UserError
from dosing.models import response as state_space
from dosing.models.batch import Batch
from dosing.models.calibration import REASONS, Calibration, calibrate
from dosing.models.networks import Initialiser, Mlp
from dosing.models.optimisers import adam, clip_by_seed, decay_learning_rate
from dosing.models.prior import PRIOR_LIMIT, constant_doses
from dosing.models.response import FAR, Belief, Sizes, unpack
from dosing.models.response_fit import FitSettings, fit_response, usable_patients
from dosing.models.reward_model import RewardModel, fit_reward, powers
from dosing.models.rollouts import imagine, returns
from dosing.types import About, Noise, Problem

MEAN_LIMIT = 0.999
"""Largest |mode| on the [-1, 1] axis."""
MIN_WIDTH = 1e-2
"""Half-width of the support, as a share of the room to the nearer limit: at least this, at most 1 less it."""
LARGEST_BELIEF = 6.0
"""Beliefs are shown to the policy up to so many standard deviations of the recorded visits."""
HEAD = 1e-2
"""Bound of the initial weights of the last layer."""
NUMBERS = ("skill_last_value", "skill_mean", "coverage", "left_over", "uniform", "autocorrelation")
"""What is kept of a calibration, means over the horizons; see ``dosing.models.calibration.Calibration``."""


@dataclass(frozen=True)
class ResponseModelConfig:
    """Settings of the response model agent; none of them comes from a simulator."""

    hidden: tuple[int, ...] = (24, 24)
    """Hidden widths of the policy."""
    learning_rate: float = 3e-2
    """Adam step size of the policy at first."""
    decay_steps: int = 600
    """Updates over which the step size falls to 0 by a cosine; later updates change nothing."""
    gradient_clip: float = 1.0
    """Largest norm of a seed's gradient; a larger one is scaled down to it."""
    episodes: int = 64
    """Recorded patients per update whose residuals are used, each in one roll-out of every model."""
    pessimism: float = 0.3
    """Weight of the least gain over models against the mean gain: 0 trusts the mean, 1 the least."""
    q: float = 0.0
    """Index of the policy's q-Gaussian, below 1."""
    actor: Literal["q_gaussian", "gaussian"] = "q_gaussian"
    """The policy's distribution; the Gaussian has the variance that the q-Gaussian would have."""
    disagreements: float = 2.0
    """Half-width of the support in root mean square differences between the fold models' doses."""
    gate: Literal["calibration", "off"] = "calibration"
    """Whether a badly calibrated model is refused and the constant dose given; off keeps every model."""
    families: Literal["all", "own_marker", "linear", "saturating", "network"] = "own_marker"
    """Families of the response that are tried; own_marker are linear and saturating."""
    hidden_units: int = 12
    """Hidden units of the network family, which is tried with 400 or more patients."""
    fit_steps: int = 150
    """Adam steps by which a response model is fitted."""
    folds: int = 3
    """Parts of the recorded patients, each held out by one fold model."""


FAMILIES: dict[str, tuple[Any, ...]] = {
    "all": ("saturating", "linear", "network"),
    "own_marker": ("saturating", "linear"),
    "linear": ("linear",),
    "saturating": ("saturating",),
    "network": ("network",),
}


class ResponseModel(Agent):
    """S stacked seeds of the response model agent."""

    about = About(
        paper="Deisenroth, Rasmussen 2011, ICML",
        family="sparse q-Gaussian on a belief",
        support="interval",
        checked="no public code",
    )

    response: Tensor
    reward: Tensor
    prior_dose: Tensor
    horizon: Tensor
    reason: Tensor
    numbers: Tensor

    def __init__(self, init: Initialiser, problem: Problem, config: ResponseModelConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        self.episodes = config.episodes
        families = FAMILIES[config.families]
        self.sizes = Sizes(problem.n_obs, problem.n_act, config.hidden_units if "network" in families else 0)
        self.actor = Mlp(
            init,
            [problem.n_obs + 3 + problem.n_act, *config.hidden, problem.n_act],
            activation="gelu",
            last_bound=HEAD,
        )
        seeds, members = len(init.seeds), 1 + config.folds
        zero = torch.zeros(seeds, 1, dtype=init.dtype, device=init.device)
        blank = (
            state_space.ResponseModel.blank(self.sizes, seeds * members, zero)
            .pack()
            .unflatten(0, (seeds, members))
        )
        n_powers = powers(zero.new_zeros(1, problem.n_act)).shape[-1]
        rows = 1 + problem.n_obs + problem.n_obs**2
        self.register_buffer("response", blank)
        self.register_buffer("reward", zero.new_zeros(seeds, members, rows, n_powers))
        self.register_buffer("prior_dose", zero.new_zeros(seeds, 1, problem.n_act))
        self.register_buffer("horizon", zero.clone())
        self.register_buffer("reason", torch.full_like(zero, -1, dtype=torch.long))
        self.register_buffer("numbers", zero.new_zeros(seeds, len(NUMBERS)))
        self._coupled, self._held = False, True
        self.optimizers = {"actor": adam(self.actor, config.learning_rate)}

    @property
    def looks_back(self) -> bool:
        """Always: the belief is made of all visits so far."""
        return True

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Noise of the roll-outs: levels, process, and the order and sign of residuals.

        Each recorded patient of the batch lends its residuals to one roll-out in every model.
        """
        n_obs, visits = self.problem.n_obs, batch_size // self.config.episodes
        lead = (self.config.episodes, 1 + self.config.folds)
        return {
            "level": Noise("normal", (*lead, n_obs)),
            "process": Noise("normal", (*lead, visits, n_obs)),
            "order": Noise("uniform", (*lead, visits + 1)),
            "sign": Noise("uniform", (*lead, 1, 1)),
        }

    # What is taken from the data

    def prepare(self, dataset: Dataset) -> None:
        """Fit the response and reward models, calibrate them, and take the estimated constant dose.

        Raises:
            UserError: episodes differ in length, or there are too few patients or different doses.
        """
        if bool((self.reason >= 0).all()):
            return
        visits = dataset.starts.diff()
        if int(visits.min()) != int(visits.max()):
            raise UserError(
                f"the response model learns from episodes of one length; the data set's have "
                f"{int(visits.min())} to {int(visits.max())} visits."
            )
        split = (dataset.replicates, -1, int(visits.max()))
        obs, act, reward, next_obs = (
            x.unflatten(0, split) for x in (dataset.obs, dataset.act, dataset.reward, dataset.next_obs)
        )
        obs, act, reward, next_obs = usable_patients(obs, act, reward, next_obs)
        seen = torch.cat((obs, next_obs[:, :, -1:]), 2)  # [R, N, T + 1, O]
        c = self.config
        settings = FitSettings(
            steps=c.fit_steps, folds=c.folds, families=FAMILIES[c.families], hidden=c.hidden_units
        )
        fitted = fit_response(seen, act, settings)
        rewards = fit_reward(next_obs, act, reward, fitted.fold)
        calibration = calibrate(fitted, seen, act)
        reason = calibration.reason(rewards.explained)
        self.response.copy_(fitted.packed)
        self.reward.copy_(rewards.theta)
        self.prior_dose.copy_(
            torch.atanh(constant_doses(act, reward).clamp(-PRIOR_LIMIT, PRIOR_LIMIT)).unsqueeze(1)
        )
        self.horizon.fill_(float(split[2]))
        self.numbers.copy_(_numbers(calibration))
        self.reason.copy_((reason if c.gate == "calibration" else torch.zeros_like(reason)).unsqueeze(1))
        self._notice()

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As in torch; the models may be of another family than before."""
        loaded = super().load_state_dict(*arguments, **options)
        self._notice()
        return loaded

    def _notice(self) -> None:
        """Whether any model has hidden units at work or a level that is held; else they are not computed."""
        own = sum(torch.Size(shape).numel() for shape in self.sizes._replace(hidden=0).shapes().values())
        self._coupled = bool(self.response[..., own:].any())
        every = unpack(self.response.flatten(0, 1), self.sizes).parameters
        self._held = bool((every["low"] > -FAR).any() or (every["high"] < FAR).any())

    @property
    def refusals(self) -> tuple[str, ...]:
        """For every seed why its model was refused and the constant dose is given; empty where it was not."""
        return tuple(
            f"{REASONS[k]}: the constant dose is used." if k > 0 else "" for k in self.reason[:, 0].tolist()
        )

    def models(self, members: slice) -> state_space.ResponseModel:
        """The response models of some members, ``S x members`` of them, members innermost."""
        packed = self.response[:, members].flatten(0, 1)
        sizes = self.sizes
        if not self._coupled:
            sizes = sizes._replace(hidden=0)
            packed = packed[:, : sum(torch.Size(shape).numel() for shape in sizes.shapes().values())]
        return replace(unpack(packed, sizes), held=self._held)

    # Policy

    def dose(self, mean: Tensor, visit: int, before: Tensor) -> Tensor:
        """Recommended dose ``[S, B, A]``.

        Args:
            mean: of the belief, ``[S, B, O]``.
            visit: from 0.
            before: dose of the visit before, ``[S, B, A]``; 0 at the first.
        """
        left = (self.horizon - 1.0 - visit).clamp(min=0.0)
        about = (visit / self.horizon.clamp(min=1.0), torch.exp(torch.full_like(left, -0.5 * visit)))
        clock = torch.stack((*about, torch.exp(-0.5 * left)), -1).expand(-1, mean.shape[1], -1)
        seen = torch.cat((mean.clamp(-LARGEST_BELIEF, LARGEST_BELIEF), clock, before), -1)
        trusted = (self.reason <= 0).unsqueeze(-1)
        return MEAN_LIMIT * torch.tanh(torch.where(trusted, self.actor(seen), 0.0) + self.prior_dose)

    def first_belief(self, patients: int) -> Belief:
        """Beliefs of all members ``[S (1 + F), B, O]`` before the first visit."""
        return self.models(slice(None)).prior(patients)

    def take_in(self, belief: Belief, obs: Tensor) -> Belief:
        """Beliefs of all members after a visit ``obs [S, B, O]``."""
        members = 1 + self.config.folds
        return self.models(slice(None)).correct(belief, obs.repeat_interleave(members, 0))[0]

    def carry_on(self, belief: Belief, act: Tensor) -> Belief:
        """Beliefs of all members at the next visit, after delivered doses ``act [S, B, A]``."""
        members = 1 + self.config.folds
        return self.models(slice(None)).predict(belief, act.repeat_interleave(members, 0))

    def distribution(self, belief: Belief, visit: int, before: Tensor) -> Distribution:
        """The dose's distribution given beliefs of all members ``[S (1 + F), B, O]``; see :meth:`dose`."""
        members = 1 + self.config.folds
        means = belief.mean.unflatten(0, (-1, members))  # [S, 1 + F, B, O]
        loc = self.dose(means[:, 0], visit, before)
        with torch.no_grad():
            others = means[:, 1:].flatten(1, 2)
            doses = self.dose(others, visit, before.repeat(1, self.config.folds, 1))
            apart = doses.unflatten(1, (self.config.folds, -1)) - loc.unsqueeze(1)
            half = self.config.disagreements * apart.square().mean(1).sqrt()  # [S, B, A]
        room = 1.0 - loc.abs()
        half = torch.maximum(torch.minimum(half, (1.0 - MIN_WIDTH) * room), MIN_WIDTH * room)
        q = self.config.q
        scale = half / support_radius(q)
        if self.config.actor == "gaussian":
            q, scale = 1.0, scale * ((3.0 - q) / (5.0 - 3.0 * q)) ** 0.5
        return Independent(QGaussian(loc, scale, q, validate_args=False), 1, validate_args=False)

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of one dose at a first visit."""
        return self.policy_after(History.at_first_visit(obs, self.problem.n_act))

    def policy_after(self, history: History) -> Distribution:
        """The distribution of one dose after a history: the filter runs over all of it."""
        visits = history.obs.shape[2]
        before = history.obs.new_zeros(*history.obs.shape[:2], self.problem.n_act)
        belief = self.first_belief(history.obs.shape[1])
        for visit in range(visits):
            if visit > 0:
                before = history.act[:, :, visit - 1]
                belief = self.carry_on(belief, before)
            belief = self.take_in(belief, history.obs[:, :, visit])
        return self.distribution(belief, visits - 1, before)

    # What it believes, for people

    @property
    def constant_dose(self) -> Tensor:
        """The constant dose ``[S, A]``, which is given where the model is refused."""
        return MEAN_LIMIT * torch.tanh(self.prior_dose[:, 0])

    @property
    def held_out(self) -> HeldOutForecasts:
        """Forecasts of held-out patients, means over the horizons."""
        number = dict(zip(NUMBERS, self.numbers.unbind(1), strict=True))
        last_value, mean = 1.0 - number["skill_last_value"], 1.0 - number["skill_mean"]
        return HeldOutForecasts(last_value, mean, number["coverage"])

    @torch.no_grad()
    def belief_after(self, history: History, coming: Tensor) -> EpisodeBelief:
        """The belief of model 0, which the policy sees, and its forecasts under ``coming [S, B, K, A]``."""
        model = self.models(slice(0, 1))
        beliefs, _ = model.filter(history.obs, history.act)
        mean, variance = model.forecast(beliefs[-1], coming)
        level = torch.stack([belief.diagonal for belief in beliefs], 2)
        means = torch.stack([belief.mean for belief in beliefs], 2)
        return EpisodeBelief(means, level.sqrt(), mean, variance.sqrt())

    # Learning

    def schedule(self, step: int) -> None:
        """Cosine decay of the step size."""
        decay_learning_rate(
            self.optimizers["actor"], self.config.learning_rate, step, self.config.decay_steps
        )

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss ``actor`` ``[S]``: the gain over the constant dose, negated; gains by model as metrics."""
        gain = self._gains(batch)
        mean, least = gain.mean(1), gain.amin(1)
        p = self.config.pessimism
        metrics = {"gain/mean": mean.detach(), "gain/least": least.detach()}
        metrics["dose/recorded"] = batch.act.mean((1, 2))
        return {"actor": -((1.0 - p) * mean + p * least)}, metrics

    def _gains(self, batch: Batch) -> Tensor:
        """Mean return in every model less that of the constant dose, ``[S, 1 + F]``."""
        obs, act = (x.unflatten(1, (-1, batch.length)) for x in (batch.obs, batch.act))
        last = batch.next_obs.unflatten(1, (-1, batch.length))[:, :, -1:]
        world, own = self.models(slice(None)), self.models(slice(0, 1))
        noise = {name: batch.noise[name] for name in ("level", "process", "order", "sign")}
        imagined = imagine(own, torch.cat((obs, last), 2), act, noise)
        reward, constant = RewardModel(self.reward.flatten(0, 1)), MEAN_LIMIT * torch.tanh(self.prior_dose)
        with torch.no_grad():
            base = returns(world, reward, imagined, constant)
        own = replace(own, complete=True)
        gain: Tensor = (returns(world, reward, imagined, constant, own, self.dose) - base).mean(1)
        return gain.view(len(self.seeds), -1)

    def adjust_gradients(self) -> None:
        """Every seed's gradient is scaled down to the largest norm."""
        clip_by_seed(self.actor, self.config.gradient_clip)


def _numbers(calibration: Calibration) -> Tensor:
    """What is kept of a calibration, ``[R, numbers]``."""
    skill = calibration.skill.mean(1)
    rest = (
        calibration.coverage.mean(1),
        calibration.left_over,
        calibration.uniform,
        calibration.autocorrelation,
    )
    return torch.stack((skill[:, 0], skill[:, 1], *rest), 1)


def _check(config: ResponseModelConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    names = ("decay_steps", "episodes", "hidden_units", "fit_steps")
    checks = {name: (getattr(config, name) >= 1, "at least 1") for name in names}
    checks |= {
        "folds": (config.folds >= 2, "at least 2"),
        "gradient_clip": (config.gradient_clip > 0.0, "above 0"),
        "pessimism": (0.0 <= config.pessimism <= 1.0, "between 0 and 1"),
        "q": (config.q < 1.0, "below 1"),
        "disagreements": (config.disagreements > 0.0, "above 0"),
    }
    for name, (good, wanted) in checks.items():
        if not good:
            raise UserError(f"{name} must be {wanted}, got {getattr(config, name)}.")
