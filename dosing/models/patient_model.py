"""What recorded patients say of how patients respond: fitted models, the belief they give, and their gate.

    x' = f_k(x, a) + N(0, q_k),   y = x + N(0, r_k),   r = r_k(y', a),     k = 0 all patients, 1..F folds

``k = 1..F`` are fitted without the patients of one fold each (``dosing.models.response_fit``,
``dosing.models.reward_model``). Numbers far from what the models of other patients forecast
are passed over (``dosing.models.outliers``), and those that were not measured where an entry of the state
tells so (``dosing.models.missing``). A model that does not forecast held-out patients well enough is
refused (``dosing.models.calibration``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.calibration import REASONS, Calibration, calibrate
from dosing.models.missing import Flags, flags
from dosing.models.outliers import fit_without_outliers
from dosing.models.planning import PlanSettings, Range, plan
from dosing.models.policy_heads import MEAN_LIMIT
from dosing.models.prior import constant_doses
from dosing.models.response import FAR, STRAIGHT, Belief, Family, ResponseModel, Sizes, unpack
from dosing.models.response_fit import FitSettings, spread, weights
from dosing.models.reward_model import RewardModel, fit_reward, powers
from dosing.types import Problem

LARGEST_BELIEF = 6.0
"""Beliefs are shown to a policy up to so many standard deviations of the recorded visits."""
CLOCK = 3
"""Numbers that tell a policy the visit."""
NUMBERS = ("skill_last_value", "skill_mean", "coverage", "left_over", "uniform", "autocorrelation")
"""What is kept of a calibration, means over the horizons; see ``dosing.models.calibration.Calibration``."""

Families = Literal["all", "own_marker", "linear", "saturating", "network"]
FAMILIES: dict[Families, tuple[Family, ...]] = {
    "all": ("saturating", "linear", "network"),
    "own_marker": ("saturating", "linear"),
    "linear": ("linear",),
    "saturating": ("saturating",),
    "network": ("network",),
}


@dataclass(frozen=True)
class PatientSettings:
    """How the models are fitted, and whether a badly calibrated one is refused."""

    families: Families = "own_marker"
    hidden_units: int = 12
    fit_steps: int = 150
    folds: int = 3
    gated: bool = True


class PatientModel(nn.Module):
    """Response and reward models of S data sets, 1 + F members each; blank until :meth:`fit`.

    Attributes:
        response: ``[S, 1 + F, P]`` packed response models.
        reward: ``[S, 1 + F, rows, powers]`` coefficients of the reward models.
        constant: ``[S, 1, A]`` the estimated constant dose.
        low: ``[S, 1, A]`` lowest recorded dose.
        high: ``[S, 1, A]`` highest recorded dose.
        horizon: ``[S, 1]`` recorded visits of the longest episode.
        reason: ``[S, 1]`` number of the reason why the models are refused, 0 for none, -1 before the fit.
        numbers: ``[S, 6]`` of the calibration, by ``NUMBERS``.
        pooling: ``[S, 1]`` strength of the prior by which the response models are fitted.
        count: ``[S, 1]`` recorded patients.
        outlying: ``[S, 1]`` share of the recorded numbers passed over as outliers, -1 before the fit.
        flag_of, flag_middle, flag_instead: ``[S, O]``, see ``dosing.models.missing``; below 0 before the fit.
    """

    reward: Tensor
    constant: Tensor
    low: Tensor
    high: Tensor
    horizon: Tensor
    reason: Tensor
    numbers: Tensor
    pooling: Tensor
    count: Tensor
    outlying: Tensor
    flag_of: Tensor
    flag_middle: Tensor
    flag_instead: Tensor

    def __init__(self, count: int, problem: Problem, settings: PatientSettings, like: Tensor) -> None:
        super().__init__()
        self.settings, self.members = settings, 1 + settings.folds
        families = FAMILIES[settings.families]
        hidden = settings.hidden_units if "network" in families else 0
        self.sizes = Sizes(problem.n_obs, problem.n_act, hidden)
        zero = torch.zeros(count, 1, dtype=like.dtype, device=like.device)
        blank = ResponseModel.blank(self.sizes, count * self.members, zero).pack()
        self.response = nn.Parameter(blank.unflatten(0, (count, self.members)).contiguous())
        rows = 1 + problem.n_obs + problem.n_obs**2
        n_powers = powers(zero.new_zeros(1, problem.n_act)).shape[-1]
        self.register_buffer("reward", zero.new_zeros(count, self.members, rows, n_powers))
        for name, value in (("constant", 0.0), ("low", -1.0), ("high", 1.0)):
            self.register_buffer(name, zero.new_full((count, 1, problem.n_act), value))
        for name in ("horizon", "pooling", "count"):
            self.register_buffer(name, zero.clone())
        self.register_buffer("outlying", torch.full_like(zero, -1.0))
        for name, unknown in _by_name(Flags.unknown(count, problem.n_obs, zero)).items():
            self.register_buffer(name, unknown)
        self.register_buffer("reason", torch.full_like(zero, -1, dtype=torch.long))
        self.register_buffer("numbers", zero.new_zeros(count, len(NUMBERS)))
        self._coupled, self._held, self._flagged = False, True, False

    @property
    def fitted(self) -> bool:
        """Whether it is."""
        return bool((self.reason >= 0).all())

    @torch.no_grad()
    def fit(self, dataset: Dataset) -> None:
        """Fit and calibrate the models, and estimate the constant dose; models once fitted are kept.

        Raises:
            UserError: there are too few patients or doses.
        """
        if self.fitted:
            return
        visits, s = recorded_visits(dataset), self.settings
        act = visits.act
        families = FAMILIES[s.families]
        how = FitSettings(steps=s.fit_steps, folds=s.folds, families=families, hidden=s.hidden_units)
        found = flags(visits.obs)
        for name, value in _by_name(found).items():
            getattr(self, name).copy_(value)
        recorded = found.recorded(visits.obs)
        fitted, seen = fit_without_outliers(recorded, act, how)
        without_flags = torch.where(found.are[:, None, None], 0.0, seen[:, :, 1:])
        rewards = fit_reward(without_flags, act, visits.reward, fitted.fold)
        calibration = calibrate(fitted, seen, act)
        reason = calibration.reason(rewards.explained)
        self.response.copy_(fitted.packed)
        self.reward.copy_(rewards.theta)
        self.low.copy_(visits.doses.amin(1, keepdim=True))
        self.high.copy_(visits.doses.amax(1, keepdim=True))
        best = constant_doses(act, visits.reward, visits.filled)
        self.constant.copy_(best.clamp(-MEAN_LIMIT, MEAN_LIMIT).unsqueeze(1))
        self.horizon.copy_(visits.filled.sum(2).amax(1, keepdim=True))
        self.count.fill_(float(act.shape[1]))
        kept, every = (x.isfinite().sum((1, 2, 3)).unsqueeze(1) for x in (seen, recorded))
        self.outlying.copy_(1.0 - kept / every)
        self.pooling.copy_(torch.tensor(fitted.pooling).unsqueeze(1))
        self.numbers.copy_(_numbers(calibration))
        self.reason.copy_((reason if s.gated else torch.zeros_like(reason)).unsqueeze(1))
        self._notice()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        state_dict.setdefault(f"{prefix}outlying", torch.zeros_like(self.outlying))  # of older runs
        for name, none in _by_name(
            Flags.none(len(self.response), self.flag_of.shape[1], self.constant)
        ).items():
            state_dict.setdefault(f"{prefix}{name}", none)
        super()._load_from_state_dict(state_dict, prefix, *arguments)  # of itself or as part of an agent
        self._notice()

    def _notice(self) -> None:
        """Whether any model has hidden units at work, levels that are held, or flags; else skipped."""
        self._flagged = bool(self.flags.are.any())
        own = sum(torch.Size(shape).numel() for shape in self.sizes._replace(hidden=0).shapes().values())
        self._coupled = bool(self.response[..., own:].any())
        every = unpack(self.response.flatten(0, 1), self.sizes).parameters
        self._held = bool((every["low"] > -FAR).any() or (every["high"] < FAR).any())

    @property
    def refusals(self) -> tuple[str, ...]:
        """For every seed why its models are refused and the constant dose given; empty where they are not."""
        return tuple(
            f"{REASONS[k]}: the constant dose is used." if k > 0 else "" for k in self.reason[:, 0].tolist()
        )

    @property
    def trusted(self) -> Tensor:
        """Where the models are not refused, ``[S, 1, 1]``."""
        return (self.reason <= 0).unsqueeze(-1)

    @property
    def flags(self) -> Flags:
        """Which entries of the state tell whether others were measured."""
        return Flags(self.flag_of, self.flag_middle, self.flag_instead)

    def recorded(self, obs: Tensor) -> Tensor:
        """States ``[S, ..., O]`` with NaN for what was not measured; a flag gives way to what it tells of."""
        return self.flags.recorded(obs) if self._flagged else obs

    def responses(self, members: slice = slice(None)) -> ResponseModel:
        """The response models of some members, ``S x members`` of them, members innermost."""
        packed = self.response[:, members].flatten(0, 1)
        sizes = self.sizes
        if not self._coupled:
            sizes = sizes._replace(hidden=0)
            packed = packed[:, : sum(torch.Size(shape).numel() for shape in sizes.shapes().values())]
        return replace(unpack(packed, sizes), held=self._held)

    def rewards(self, members: slice = slice(None)) -> RewardModel:
        """The reward models of some members, as :meth:`responses`."""
        return RewardModel(self.reward[:, members].flatten(0, 1))

    def loss(self, obs: Tensor, act: Tensor, episode: Tensor) -> Tensor:
        """What the response models are fitted by, on some of the patients, sum over members: ``[S]``.

        Mean negative log-likelihood of an entry, by every fold's model of the patients outside that fold, and
        the prior; see ``dosing.models.response_fit``.

        Args:
            obs: ``[S, n, T + 1, O]``.
            act: ``[S, n, T, A]``.
            episode: ``[S, n]`` number of each patient in the data set.
        """
        model = replace(self.responses(), held=False)
        outside = episode.unsqueeze(1) % self.settings.folds != torch.arange(
            -1, self.settings.folds, device=obs.device
        ).view(-1, 1)  # [S, 1 + F, n]; no patient's number leaves -1
        seen, given = (x.repeat_interleave(self.members, 0) for x in (self.recorded(obs), act))
        weight = outside.flatten(0, 1).to(obs.dtype)
        entries = (seen.isfinite().sum((2, 3)) * weight).sum(1).clamp(min=1.0)
        fit = -(model.log_likelihood(seen, given) * weight).sum(1) / entries
        prior = spread(model).unflatten(0, (-1, self.members)) * self.pooling + weights(model).unflatten(
            0, (-1, self.members)
        )
        total: Tensor = (fit.unflatten(0, (-1, self.members)) + prior / self.count).sum(1)
        return total

    @torch.no_grad()
    def fix_straight(self, gradient: Tensor) -> None:
        """Leave the saturation level of linear models where it is: its share of ``gradient`` becomes 0."""
        level = unpack(self.response.flatten(0, 1), self.sizes).parameters["log_level"]
        own = unpack(gradient.view(-1, gradient.shape[-1]), self.sizes).parameters["log_level"]
        own.masked_fill_(level > 0.5 * math.log(STRAIGHT), 0.0)

    # The belief of every member, [S (1 + F), B, O]

    def first_belief(self, patients: int) -> Belief:
        """Before the first visit."""
        return self.responses().prior(patients)

    def take_in(self, belief: Belief, obs: Tensor) -> Belief:
        """After a visit ``obs [S, B, O]``."""
        return self.responses().correct(belief, self.recorded(obs).repeat_interleave(self.members, 0))[0]

    def carry_on(self, belief: Belief, act: Tensor) -> Belief:
        """At the next visit, before it, after delivered doses ``act [S, B, A]``."""
        return self.responses().predict(belief, act.repeat_interleave(self.members, 0))

    def belief(self, obs: Tensor, act: Tensor) -> Belief:
        """After the last of visits ``obs [S, B, T, O]``, with doses ``act [S, B, T - 1, A]`` between them."""
        belief = self.first_belief(obs.shape[1])
        for visit, seen in enumerate(obs.unbind(2)):
            if visit > 0:
                belief = self.carry_on(belief, act[:, :, visit - 1])
            belief = self.take_in(belief, seen)
        return belief

    # What is done with it

    def span(self, members: slice = slice(None)) -> Range:
        """Recorded doses, of the models of some members."""
        count = len(range(*members.indices(self.members)))
        return Range(*(x.repeat_interleave(count, 0) for x in (self.low, self.high)))

    def planned(
        self, belief: Belief, visit: int, settings: PlanSettings, members: slice = slice(None)
    ) -> Tensor:
        """Doses ``[H, S x members, B, A]`` planned at a visit, counted from 0, in models of some members.

        Beyond the recorded visits one visit is left.
        """
        left = max(round(float(self.horizon.max())) - visit, 1)
        count = len(range(*members.indices(self.members)))
        start = self.constant.repeat_interleave(count, 0)
        return plan(
            self.responses(members), self.rewards(members), belief, start, self.span(members), left, settings
        )

    def clock(self, visit: int) -> Tensor:
        """What tells a policy the visit, counted from 0: ``[S, 1, CLOCK]``, each between 0 and 1."""
        left = (self.horizon - 1.0 - visit).clamp(min=0.0)
        early = torch.exp(torch.full_like(left, -0.5 * visit))
        share = visit / self.horizon.clamp(min=1.0)
        return torch.stack((share.clamp(max=1.0), early, torch.exp(-0.5 * left)), -1)

    def features(self, mean: Tensor, visit: int, before: Tensor) -> Tensor:
        """The belief as a state ``[S, B, O + CLOCK + A]``.

        Its variance is left out: it depends on the visit above all, where every visit is recorded.

        Args:
            mean: ``[S, B, O]`` of the belief.
            visit: from 0.
            before: ``[S, B, A]`` dose of the visit before; 0 at the first.
        """
        limited = mean.clamp(-LARGEST_BELIEF, LARGEST_BELIEF)
        return torch.cat((limited, self.clock(visit).expand(-1, mean.shape[1], -1), before), -1)


@dataclass(frozen=True)
class RecordedVisits:
    """Visits of R data sets of N patients each; T is the longest episode, shorter ones end in empty visits.

    Attributes:
        obs: ``[R, N, T + 1, O]``, NaN where nothing was recorded.
        act: ``[R, N, T, A]``, the mean recorded dose at an empty visit.
        reward: ``[R, N, T]``, NaN at an empty visit.
        filled: ``[R, N, T]``, False at an empty visit.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    filled: Tensor

    @property
    def doses(self) -> Tensor:
        """The recorded doses, all visits of a data set one after the other, ``[R, M, A]``."""
        doses: Tensor = self.act[self.filled].unflatten(0, (len(self.act), -1))
        return doses


def recorded_visits(dataset: Dataset) -> RecordedVisits:
    """The visits of a data set by patient; one with a number that is not finite counts as empty.

    (A loader refuses such numbers, and an update that meets one stops the training.)

    Raises:
        UserError: replicates differ in their number of episodes.
    """
    sets, rows = dataset.replicates, len(dataset) // dataset.replicates
    lengths = dataset.starts.diff()
    patients = len(lengths) // sets
    if not torch.equal(dataset.starts[::patients] if patients else dataset.starts, _ends(dataset, rows)):
        raise UserError("every data set of a stack needs the same number of episodes.")
    within = torch.arange(int(lengths.max()), device=lengths.device)
    place = (within < lengths.unsqueeze(1)).unflatten(0, (sets, patients))  # [R, N, T]
    columns = (dataset.obs, dataset.act, dataset.reward[:, None], dataset.next_obs)
    usable = torch.cat(columns, 1).isfinite().all(1)
    filled = place.clone()
    filled[place] = usable

    def by_patient(column: Tensor, empty: Tensor) -> Tensor:
        """Rows ``[M, ...]`` as ``[R, N, T, ...]``."""
        full = empty.expand(*place.shape, *column.shape[1:]).clone()
        full[filled] = column[usable]
        return full

    nan = dataset.obs.new_full((), math.nan)
    first = dataset.obs[dataset.starts[:-1]].unflatten(0, (sets, patients))
    known = usable.unsqueeze(1)
    given, count = (
        torch.where(known, dataset.act, 0.0).unflatten(0, (sets, rows)),
        known.unflatten(0, (sets, rows)),
    )
    mean = given.sum(1) / count.sum(1).clamp(min=1)
    return RecordedVisits(
        torch.cat((first.unsqueeze(2), by_patient(dataset.next_obs, nan)), 2),
        by_patient(dataset.act, mean[:, None, None]),
        by_patient(dataset.reward, nan),
        filled,
    )


def _by_name(found: Flags) -> dict[str, Tensor]:
    """The buffers that keep flags."""
    return {f"flag_{name}": value for name, value in found._asdict().items()}


def _ends(dataset: Dataset, rows: int) -> Tensor:
    """First row of every replicate, and the end of the last."""
    return torch.arange(dataset.replicates + 1, device=dataset.starts.device) * rows


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
