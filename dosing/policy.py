"""A trained stack of agents in the world's units: observations in, distributions and doses out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.distributions import Distribution

from dosing.agent import (
    Agent,
    AimsAtReturn,
    ConfinedToGenerator,
    HasFurtherDensities,
    History,
    LearnsReturns,
    policy_after,
    value_of,
)
from dosing.data.dataset import Transform
from dosing.data.earlier_visits import Past
from dosing.distributions.double import edges_of, in_double
from dosing.distributions.draws import Draws
from dosing.errors import UserError
from dosing.rng import generator
from dosing.types import Array

Observations = npt.NDArray[np.float32]

Build = Callable[..., Agent]
"""``build(name, config, problem, seeds, device=...)``: the suite's way to make a stack of agents."""

CENTRAL = 0.99
"""Mass of the effective interval that stands in for a support where the distribution has none."""
TOGETHER = 1024
"""States of each seed that a policy is asked about at a time on a processor."""
ROUNDING = 1e-12
"""Doses this near to each other on the [-1, 1] axis are one dose."""


@dataclass(frozen=True)
class DoseSet:
    """The doses S policies could give at B states, in dose units; every array is ``[S, B, A]``.

    Attributes:
        kind: what the distribution is: ``interval``, ``point``, ``full_box``, ``infinite_clipped``,
            ``samples``, ...
        bounded: whether ``low`` and ``high`` are exact edges outside which the density is zero. Those of a
            distribution on the whole box are none: they would say nothing about the state.
        low: lower edge of the support, or of the central 99 % where there is no bounded support.
        high: upper edge, likewise.
        mass_outside: probability outside the training data's hard dose limits before any clipping; exactly 0
            where a bounded support lies within them.
    """

    kind: str
    bounded: bool
    low: Array
    high: Array
    mass_outside: Array

    @property
    def half_width(self) -> Array:
        """Half the width of the interval, ``[S, B, A]``."""
        half: Array = 0.5 * (self.high - self.low)
        return half


class DosePolicy:
    """S stacked seeds of an agent behind the map to and from the world's units.

    Args:
        agent: the trained stack.
        transform: the map fitted to its training data.
    """

    def __init__(self, agent: Agent, transform: Transform) -> None:
        self.agent = agent.eval()
        self.transform = transform
        parameter = next(agent.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._past: Past | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The S seeds."""
        return self.agent.seeds

    def _obs(self, obs: Observations) -> torch.Tensor:
        raw = torch.from_numpy(np.asarray(obs, dtype=np.float64, order="C").copy())
        return self.transform.obs(raw).to(self._device, self._dtype)

    def after(self, past: Past) -> DosePolicy:
        """The policy after the visits before B states, about which it is then asked.

        A policy that does not look back is returned as it is.
        """
        if not self.looks_back:
            return self
        result = copy.copy(self)
        result._past = past
        return result

    def history(self, obs: Observations) -> History:
        """The episodes up to the states ``obs [S, B, O]`` in agents' units: see :meth:`after`."""
        seen = self._obs(obs)
        if self._past is None:
            return History.at_first_visit(seen, self.agent.problem.n_act)

        def of_every_seed(values: Any) -> torch.Tensor:
            return torch.as_tensor(values).to(seen).expand(*seen.shape[:2], *values.shape[1:])

        past, transform = self._past, self.transform
        return History(
            torch.cat((of_every_seed(self._obs(past.obs.astype(np.float32))), seen.unsqueeze(2)), 2),
            of_every_seed(transform.to_unit(past.dose)),
            of_every_seed(transform.scaled(past.reward)),
        )

    @torch.no_grad()
    def distribution(self, obs: Observations) -> Distribution:
        """Distribution of the dose on the [-1, 1] axis at ``obs [S, B, O]``: batch_shape ``[S, B]``.

        Of a policy that looks back: as at a first visit, or after what :meth:`after` was told. Of one with a
        cost budget and a bounded support: without the doses whose predicted cost exceeds the budget.
        """
        if self._past is not None:
            return policy_after(self.agent, self.history(obs))
        seen = self._obs(obs)
        distribution = self.agent.policy(seen)
        budget = self.agent.budget
        return distribution if budget is None else budget.trimmed(distribution, seen)

    @torch.no_grad()
    def densities(self, obs: Observations) -> dict[str, Distribution]:
        """Further distributions of the agent, such as a proposal, at ``obs [S, B, O]``."""
        agent = self.agent
        return agent.densities(self._obs(obs)) if isinstance(agent, HasFurtherDensities) else {}

    @property
    def looks_back(self) -> bool:
        """Whether the dose at a visit depends on the episode before it; see :meth:`after`."""
        return self.agent.looks_back

    def recommended(self, obs: Observations) -> Array:
        """The recommended dose ``[S, B, A]``: the mode of each seed's distribution."""
        return np.concatenate([self._mode(self.distribution(part)) for part in self._parts(obs)], 1)

    def sampled(self, obs: Observations, visit: int, purpose: str = "evaluation", block: int = 0) -> Array:
        """One dose ``[S, B, A]`` drawn from each distribution before any clipping; fixed by seed and visit.

        What is drawn for another purpose (``dosing.rng``) or another block of patients is independent of it.
        """
        laws = [self.distribution(part) for part in self._parts(obs)]
        noise = np.array_split(self._noise(laws[0], obs.shape[1], visit, purpose, block), len(laws), axis=1)
        return np.concatenate([self._drawn(*both) for both in zip(laws, noise, strict=True)], 1)

    def _parts(self, obs: Observations) -> list[Observations]:
        """The states ``[S, B, O]``, as many at a time as keep activations in a processor's cache."""
        own = type(self) is DosePolicy and self._past is None  # each state is asked about by itself
        count = obs.shape[1] // TOGETHER if own and self._device.type == "cpu" else 1
        return np.array_split(obs, max(count, 1), axis=1)

    def _mode(self, distribution: Distribution) -> Array:
        return self.transform.to_dose(distribution.mode.detach().double().cpu().numpy())

    def _noise(self, distribution: Any, states: int, visit: int, purpose: str, block: int) -> Array:
        """Uniform numbers ``[S, B, A, n]`` for doses at B states, of this distribution's kind."""
        base = distribution.base_dist
        shape = (states, *base.batch_shape[2:], base.n_uniforms)
        address = (visit, block) if block else (visit,)
        return np.stack([generator(s, purpose, *address).random(shape) for s in self.seeds])

    @torch.no_grad()
    def _drawn(self, distribution: Any, noise: Array) -> Array:
        unit = distribution.base_dist.rsample_from(
            torch.as_tensor(noise, dtype=self._dtype, device=self._device)
        )
        return self.transform.to_dose(unit.detach().double().cpu().numpy())

    def dose_set(self, obs: Observations) -> DoseSet:
        """The doses each seed could give at ``obs [S, B, O]``, computed in double precision."""
        return self._set(
            self._double(obs), np.asarray(self.transform.act_low), np.asarray(self.transform.act_high)
        )

    def consult(self, obs: Observations, low: Array, high: Array) -> tuple[Array, DoseSet]:
        """:meth:`recommended` and :meth:`dose_set` from one look at the distribution.

        ``mass_outside`` of the set is that outside the dose interval ``[low, high]``, ``[A]`` each.
        """
        distribution = self.distribution(obs)
        return self._mode(distribution), self._set(in_double(distribution), low, high)

    def central(self, obs: Observations, mass: float) -> tuple[Array, Array]:
        """Ends ``[S, B, A]`` of the interval between each distribution's quantiles (1 -+ mass) / 2."""
        distribution = self._double(obs)
        tail = torch.full_like(distribution.mode, 0.5 * (1.0 - mass))
        to_dose = self.transform.to_dose
        return to_dose(distribution.icdf(tail).numpy()), to_dose(distribution.icdf(1.0 - tail).numpy())

    def _set(self, distribution: Any, limit_low: Array, limit_high: Array) -> DoseSet:
        edges = edges_of(distribution)
        bounded = edges is not None and distribution.kind != "full_box"
        if edges is not None and bounded:
            low, high = edges
        else:
            tail = torch.full_like(distribution.mode, 0.5 * (1.0 - CENTRAL))
            low, high = distribution.icdf(tail), distribution.icdf(1.0 - tail)
        dose = self.transform.to_dose
        mass = self._mass_outside(distribution, limit_low, limit_high)
        return DoseSet(distribution.kind, bounded, dose(low.numpy()), dose(high.numpy()), mass)

    def entropy(self, obs: Observations) -> Array | None:
        """Differential entropy ``[S, B]`` in nats on the [-1, 1] axis, summed over dose dimensions.

        Before any clipping; uniform doses within the limits have ln 2 each. None without a density, or where
        the entropy is not known.
        """
        distribution = self._double(obs)
        try:
            return np.asarray(distribution.entropy().sum(-1).numpy()) if distribution.has_density else None
        except NotImplementedError:
            return None

    def mass_outside(self, obs: Observations, low: Array, high: Array) -> Array:
        """Probability ``[S, B, A]`` that each distribution puts outside the dose interval ``[low, high]``.

        It is exactly 0 where a bounded distribution's edges lie within the interval.
        """
        return self._mass_outside(self._double(obs), low, high)

    def _mass_outside(self, distribution: Any, low: Array, high: Array) -> Array:
        to_unit, to_dose = self.transform.to_unit, self.transform.to_dose
        if isinstance(distribution, Draws):  # doses on an edge are within, whichever way the units round it
            unit = distribution.values.mT.numpy()  # [S, B, M, A]
            below = unit < to_unit(low)[..., None, :] - ROUNDING
            above = unit > to_unit(high)[..., None, :] + ROUNDING
            return np.asarray((distribution.weights.mT.numpy() * (below | above)).sum(-2))
        mass = distribution.cdf(torch.as_tensor(to_unit(low))) + distribution.sf(
            torch.as_tensor(to_unit(high))
        )
        edges = edges_of(distribution)
        if edges is None:
            return np.asarray(mass.numpy())
        # in dose units, where an interval that came from these very edges compares without rounding
        within = (to_dose(edges[0].numpy()) >= low) & (to_dose(edges[1].numpy()) <= high)
        return np.where(within, 0.0, mass.numpy())

    @property
    def targets(self) -> Array | None:
        """Returns ``[S, 3]`` in the world's unit: lowest recorded, aimed at by default, highest recorded.

        None for an agent that is not conditioned on the return it shall reach.
        """
        if not isinstance(self.agent, AimsAtReturn):
            return None
        return self.transform.to_reward(self.agent.targets.double().cpu().numpy())

    def aimed_at(self, target: Array) -> DosePolicy:
        """The policy that aims at other returns: at K of them, asked about K states at a time.

        Args:
            target: ``[K]`` undiscounted returns to aim at, in the world's unit.

        Raises:
            UserError: the agent is not conditioned on a return.
        """
        agent = self.agent
        if not isinstance(agent, AimsAtReturn):
            raise UserError("this agent is not conditioned on a return: its dose has no target.")
        result = _Aimed(agent, self.transform, target)
        result._past = self._past
        return result

    @torch.no_grad()
    def returns(self, obs: Observations, dose: Array) -> Array | None:
        """K equally likely discounted returns ``[S, B, K]`` of ``dose [S, B, A]`` at ``obs [S, B, O]``.

        In the world's reward unit, as the critics of each seed see them, so of shifted rewards where the
        transform shifts them; None for an agent that learns no distribution of its returns (see
        :class:`dosing.agent.LearnsReturns`).
        """
        if not isinstance(self.agent, LearnsReturns):
            return None
        unit = torch.as_tensor(self.transform.to_unit(dose), dtype=self._dtype, device=self._device)
        result = self.agent.returns(self._obs(obs), unit)
        returns: Array = self.transform.reward_scale * result.double().cpu().numpy()
        return returns

    @torch.no_grad()
    def values(self, obs: Observations, dose: Array) -> Array | None:
        """What each seed believes the discounted return of ``dose [S, B, A]`` at ``obs [S, B, O]`` to be.

        ``[S, B]`` in the world's reward unit, with the discount, the charges and the shift of rewards; None
        for an agent without a critic (see :func:`dosing.agent.value_of`).
        """
        unit = torch.as_tensor(self.transform.to_unit(dose), dtype=self._dtype, device=self._device)
        result = value_of(self.agent, self._obs(obs), unit)
        return None if result is None else self.transform.reward_scale * result.double().cpu().numpy()

    @property
    def cost_budget(self) -> float | None:
        """Largest acceptable cost per episode, in the world's unit; None for an agent without one."""
        return None if self.agent.budget is None else self.agent.budget.budget

    @torch.no_grad()
    def predicted_cost(self, obs: Observations, dose: Array) -> Array | None:
        """Cost per episode ``[S, B]`` that each seed's cost critic predicts of ``dose [S, B, A]`` at ``obs``.

        Of the dose followed by the agent's policy, in the world's unit; None for an agent without a cost
        budget.
        """
        if self.agent.budget is None:
            return None
        unit = torch.as_tensor(self.transform.to_unit(dose), dtype=self._dtype, device=self._device)
        result: Array = self.agent.budget.predicted(self._obs(obs), unit).double().cpu().numpy()
        return result

    @torch.no_grad()
    def over_budget(self, obs: Observations) -> npt.NDArray[np.bool_] | None:
        """At which states each seed's support held no dose within the cost budget, ``[S, B]``.

        The support is then what is left around the dose of least predicted cost. None for an agent without a
        cost budget.
        """
        if self.agent.budget is None:
            return None
        seen = self._obs(obs)
        result: npt.NDArray[np.bool_] = (
            self.agent.budget.without_dose(self.agent.policy(seen), seen).cpu().numpy()
        )
        return result

    @torch.no_grad()
    def admissible(self, obs: Observations, count: int = 256) -> Array | None:
        """M doses ``[S, B, M, A]`` that each seed's generator could propose at ``obs [S, B, O]``.

        Fixed points of the set that the policy is confined to, and not its support; None for an agent without
        such a generator (see :class:`dosing.agent.ConfinedToGenerator`).
        """
        if not isinstance(self.agent, ConfinedToGenerator):
            return None
        return self.transform.to_dose(self.agent.admissible(self._obs(obs), count).double().cpu().numpy())

    def has_density(self, obs: Observations) -> bool:
        """Whether the distribution at one state ``[O]`` has a density; a deterministic policy has none."""
        distribution: Any = self.distribution(self._one(obs))
        return bool(distribution.base_dist.has_density)

    def density(self, obs: Observations, dose: Array) -> Array:
        """Mean over seeds of each dose dimension's density at ``dose [K, A]``, per dose unit: ``[K, A]``.

        Args:
            obs: one state ``[O]``.
            dose: the doses to evaluate at, a grid of its own for every dimension.
        """
        return self._mixture(self.distribution(self._one(obs)), dose)

    def extra_densities(self, obs: Observations, dose: Array) -> dict[str, Array]:
        """As :meth:`density`, for the agent's further distributions by name."""
        distributions = self.densities(self._one(obs))
        return {name: self._mixture(distribution, dose) for name, distribution in distributions.items()}

    def _one(self, obs: Observations) -> Observations:
        """One state ``[O]`` for every seed: ``[S, 1, O]``."""
        return np.broadcast_to(obs, (len(self.seeds), 1, len(obs)))

    def _mixture(self, distribution: Distribution, dose: Array) -> Array:
        unit = torch.as_tensor(self.transform.to_unit(dose))[:, None, None]  # [K, 1, 1, A]
        per_unit = in_double(distribution).log_prob(unit).exp().mean((1, 2))  # [K, S, 1, A] -> [K, A]
        per_dose: Array = per_unit.numpy() / self.transform.dose_width(np.ones(dose.shape[1]))
        return per_dose

    def _double(self, obs: Observations) -> Any:
        return in_double(self.distribution(obs))


class _Aimed(DosePolicy):
    """A policy that aims at K given returns at K states."""

    def __init__(self, agent: Agent, transform: Transform, target: Array) -> None:
        super().__init__(agent, transform)
        scaled = transform.scaled(np.asarray(target, dtype=np.float64))
        self._target = torch.as_tensor(scaled, dtype=self._dtype, device=self._device)

    @torch.no_grad()
    def distribution(self, obs: Observations) -> Distribution:
        """Distribution at ``obs [S, K, O]``, one state for every return aimed at."""
        history, agent = self.history(obs), self.agent
        assert isinstance(agent, AimsAtReturn)
        return agent.policy_for(history, self._target.expand(history.obs.shape[:2]))
