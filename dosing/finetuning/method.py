"""What a method brings to a trial: an agent, what it learns from, how it doses, and what decays.

A method is a small object (:class:`Method`) that makes a :class:`Learner` from a finished offline run
(:class:`Start`); ``dosing.finetuning.trial`` runs it and asks no method's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.finetuning.patients import TreatedVisit
from dosing.finetuning.stopping import LEVEL, check_budget
from dosing.models.batch import Batch
from dosing.models.regularisation import Regularisation
from dosing.policy import Build, DosePolicy, Observations
from dosing.rng import generator
from dosing.types import Array, Problem


@dataclass(frozen=True)
class TrialSettings:
    """How long a trial is, how much is learned from it, and when it has to stop."""

    visits: int = 20_000
    """Visits that every seed's patients make, rounded up to whole visits of all of them."""
    patients: int = 32
    """P, patients of a seed who are treated side by side."""
    updates_per_visit: float = 1.0
    """Updates to data: gradient updates of a seed per visit of one of its patients."""
    start: int = 1000
    """Visits before the first update."""
    batch_size: int = 256
    """Transitions per update and seed."""
    capacity: int = 1_000_000
    """Most visits of the trial that a seed remembers."""
    evaluate_every: int = 2000
    """Visits between evaluations; the first is before the trial, the last at its end."""
    checkpoint_every: int = 2000
    """Visits between checkpoints on disk."""
    harm_budget: float | None = None
    """Largest acceptable cost per patient; None never stops a trial."""
    harm_level: float = LEVEL
    """Probability of stopping a trial that keeps to the budget."""

    @property
    def remembered(self) -> int:
        """Most visits of the trial that there can be to remember: no more room than that is needed."""
        return min(self.capacity, self.visits + self.patients)

    def check(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("visits", "patients", "batch_size", "capacity", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
        if self.start < 0:
            raise UserError(f"start must be at least 0, got {self.start}.")
        if not 0.0 <= self.updates_per_visit < math.inf:
            raise UserError(f"updates-per-visit must be at least 0, got {self.updates_per_visit}.")
        if not 0.0 < self.harm_level < 1.0:
            raise UserError(f"the level of the harm bound is between 0 and 1, got {self.harm_level}.")
        check_budget(self.harm_budget)


@dataclass(frozen=True)
class TrialProgress:
    """Where a trial stands when doses are asked for.

    Attributes:
        number: visits that every place has made: what random numbers are addressed by.
        fraction: share of the trial that is over.
        visit: visits each patient has made before ``[S, P]``.
        episode: patients treated before at each place ``[S, P]``.
    """

    number: int
    fraction: float
    visit: npt.NDArray[np.int64]
    episode: npt.NDArray[np.int64]


class Behaviour:
    """How doses are chosen in a trial: drawn from the policy or, where that is one dose, near it.

    A method with another idea overrides :meth:`__call__`, and the hooks below as far as it needs them.

    Args:
        policy: the policy that learns.
        noise: standard deviation of normal noise on the one dose of a deterministic policy, on the [-1, 1]
            axis (SPOT, Wu et al. 2022, arXiv 2202.06239: 0.1). What leaves the box is held at its edge by the
            dose limits, and counted there.
    """

    def __init__(self, policy: DosePolicy, noise: float = 0.1) -> None:
        self.policy, self.noise = policy, noise

    def __call__(self, obs: Observations, trial_progress: TrialProgress) -> Array:
        """Requested doses ``[S, P, A]`` at ``obs [S, P, O]``."""
        policy = self.policy
        base: Any = policy.distribution(obs).base_dist  # type: ignore[attr-defined]
        if base.kind != "point":
            return policy.sampled(obs, trial_progress.number, "exploration")
        dose = policy.recommended(obs)
        drawn = [
            generator(s, "exploration", trial_progress.number).standard_normal(dose.shape[1:])
            for s in policy.seeds
        ]
        return dose + policy.transform.dose_width(self.noise * np.stack(drawn))

    def seen(self, visit: TreatedVisit) -> None:
        """Hear what came of a visit."""

    def judged(self, outcomes: Mapping[str, Outcomes]) -> None:
        """Take the outcomes of an evaluation, by rule; seed k may only use row k."""

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors; nothing by default."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state`."""


class Replay(Protocol):
    """What is learned from: ``dosing.training.replay.ReplaySampler``, or a method's own."""

    @property
    def ready(self) -> bool:
        """Whether there is something to learn from."""

    def remember(
        self, obs: Tensor, act: Tensor, reward: Tensor, next_obs: Tensor, terminated: Tensor, ended: Tensor
    ) -> None:
        """Keep one visit in agents' units; see ``dosing.training.replay.ReplayBuffer.remember``."""

    def __call__(self, step: int) -> Batch:
        """Batch of update number ``step``: a function of the step and of what was remembered."""

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly."""


Decay = Callable[[float], float]
"""Factor on a setting, given the share of the trial that is over."""


@dataclass(frozen=True)
class Learner:
    """What a method brings to a trial.

    Attributes:
        agent: the stack that learns, and whose policy is evaluated. Its seeds are those of the trial.
        replay: where visits go and batches come from.
        behaviour: how doses are chosen meanwhile.
        updates: updates the agent has had: the number of its first one here, so that alternating phases and
            first phases go on where they were.
        decay: settings of the agent whose value changes: each is multiplied by its factor before updates.
    """

    agent: Agent
    replay: Replay
    behaviour: Behaviour
    updates: int = 0
    decay: Mapping[str, Decay] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What a trial starts from: a finished offline run.

    Attributes:
        name: registry key of its agent.
        config: the agent's configuration object.
        problem: sizes.
        seeds: the S seeds.
        regularisation: what the agent was built with beyond its method.
        weights: its final ``state_dict``.
        updates: updates it was trained for.
        dataset: the recorded visits in agents' units.
        build: the suite's way to make agents.
        further: final weights of the run's seeds beyond the S, stacked likewise; what a method with several
            offline policies per seed takes them from. Empty where there are none.
    """

    name: str
    config: Any
    problem: Problem
    seeds: tuple[int, ...]
    regularisation: Regularisation
    weights: Mapping[str, Tensor]
    updates: int
    dataset: Dataset
    build: Build
    further: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def transform(self) -> Transform:
        """The map between the world's and the agents' units."""
        return self.dataset.transform

    def fresh(self, name: str, config: Any, regularisation: Regularisation | None = None) -> Agent:
        """A stack of the same seeds with new weights."""
        device, dtype = self.dataset.obs.device, self.dataset.obs.dtype
        return self.build(
            name,
            config,
            self.problem,
            self.seeds,
            device=device,
            dtype=dtype,
            regularisation=regularisation,
        )

    def transferred(self, **changes: Any) -> Agent:
        """The offline stack: its networks and targets bit by bit, its optimisers without moments.

        Args:
            **changes: settings that are different from now on.

        Raises:
            UserError: the agent has no such setting.
        """
        try:
            config = replace(self.config, **changes)
        except TypeError as error:
            raise UserError(f"{self.name} cannot be changed so for a trial: {error}.") from error
        agent = self.fresh(self.name, config, self.regularisation)
        agent.load_state_dict(dict(self.weights))
        return agent


class Method(Protocol):
    """A way to go from an offline run to a trial; the registry is ``agents.finetuning.METHODS``."""

    def refusal(self, start: Start) -> str | None:
        """Why a trial cannot start from this run, in a sentence; None if it can."""

    def learner(self, start: Start, settings: TrialSettings) -> Learner:
        """Make what the loop needs.

        Raises:
            UserError: as :meth:`refusal`.
        """
