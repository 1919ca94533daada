"""BT, behaviour transfer: a pre-trained policy is followed in flights, and is one more choice by value.

Campos, Sprechmann, Hansen, Barreto, Kapturowski, Vitvitskyi, Puigdomenech Badia, Blundell 2021, arXiv
2102.13515, for doses in place of a finite set of actions. An implicit-Q-learner starts anew and learns from
new visits alone; beside it the pre-trained policy stays as it is. At a visit that is not part of a flight

* with probability eps a flight begins: the pre-trained policy's dose is given at this visit and the N - 1
  that follow it in the same episode, with P(N = n) proportional to n^-mu (a zeta distribution);
* else the pre-trained policy's dose and a draw of the learner are compared, and that of the higher
  min_i Q_i(s, a) is given.

Where actions are finitely many, following the policy is one more of them, with a value of its own; with
critics of state and dose, the value of following it once is that of its dose. What differs from PEX is
commitment over several visits, and a switch at random instead of by a softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.finetuning.expansion import Composing, Expanded, held, newcomer, not_thin, refused
from agents.iql import IQL
from dosing.agent import Agent
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.finetuning.method import Learner, Start, TrialProgress, TrialSettings
from dosing.policy import DosePolicy, Observations
from dosing.rng import generator
from dosing.training.replay import ReplaySampler
from dosing.types import Array


@dataclass(frozen=True)
class BTConfig:
    """Settings of BT: the paper's exponent; eps is a choice of ours."""

    flight_probability: float = 0.1
    """eps, probability that a flight begins at a visit that is not part of one."""
    exponent: float = 2.0
    """mu of the zeta distribution of a flight's length: near 1 flights are long."""
    draws: int = 8
    """Draws of the learner that stand for its distribution in that of the composite policy."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: one of the settings is out of range.
        """
        if not 0.0 <= self.flight_probability <= 1.0:
            raise UserError(f"flight_probability must be between 0 and 1, got {self.flight_probability}.")
        if not self.exponent > 1.0:
            raise UserError(
                f"exponent must be above 1, where a zeta distribution begins, got {self.exponent}."
            )
        if self.draws < 1:
            raise UserError(f"draws must be at least 1, got {self.draws}.")


class BTAgent(Expanded):
    """S stacked seeds of an implicit-Q-learner beside the pre-trained policy; the higher value doses."""

    def __init__(self, online: IQL, pretrained: Agent, config: BTConfig) -> None:
        super().__init__(online, [pretrained], config.draws)
        self.config = config

    def probabilities(self, values: Tensor) -> Tensor:
        """1 for the highest value ``[S, ..., K]``, the pre-trained policy's if they are equal."""
        best = values.argmax(-1, keepdim=True)
        return torch.zeros_like(values).scatter(-1, best, 1.0)


class Flights(Composing):
    """The choice by value, with flights of the pre-trained policy in between.

    Attributes:
        left: visits still to come of the flight under way at every place ``[S, P]``.
    """

    def __init__(self, agent: BTAgent, transform: Transform, config: BTConfig, num_envs: int) -> None:
        super().__init__(agent, transform)
        self.config = config
        pretrained: Any = agent.frozen[0]
        self.pretrained = DosePolicy(pretrained, transform)
        self.left = np.zeros((len(agent.seeds), num_envs), dtype=np.int64)

    def __call__(self, obs: Observations, trial_progress: TrialProgress) -> Array:
        """Requested doses ``[S, P, A]`` at ``obs [S, P, O]``."""
        follow = self.flying(trial_progress)[..., None]
        return np.where(follow, self.pretrained.recommended(obs), self.composed(obs, trial_progress))

    def flying(self, trial_progress: TrialProgress) -> npt.NDArray[np.bool_]:
        """Where this visit is part of a flight ``[S, P]``; a flight ends with its episode."""
        c, num_envs = self.config, self.left.shape[1]
        streams = [generator(s, "exploration", trial_progress.number, 0) for s in self.policy.seeds]
        begins = np.stack([stream.random(num_envs) for stream in streams]) < c.flight_probability
        length = np.stack([stream.zipf(c.exponent, num_envs) for stream in streams])
        self.left[trial_progress.visit == 0] = 0
        self.left = np.where((self.left == 0) & begins, length, self.left)
        follow = self.left > 0
        self.left = self.left - follow
        return follow

    def state(self) -> dict[str, Tensor]:
        """The flights under way."""
        return {"left": torch.from_numpy(self.left.copy())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state`."""
        self.left = state["left"].numpy().copy()


@dataclass(frozen=True)
class BehaviourTransfer:
    """The method.

    Attributes:
        config: settings.
    """

    config: BTConfig = field(default_factory=BTConfig)

    def refusal(self, start: Start) -> str | None:
        """Why a trial cannot start from this run, in a sentence; None if it can."""
        return refused(self.config.check, lambda: not_thin(start), lambda: held(start.transferred()))

    def learner(self, start: Start, settings: TrialSettings) -> Learner:
        """Make what the loop needs.

        Raises:
            UserError: as :meth:`refusal`.
        """
        if sentence := self.refusal(start):
            raise UserError(sentence)
        agent = BTAgent(newcomer(start), held(start.transferred()), self.config)
        replay = ReplaySampler(
            agent, None, settings.batch_size, 0.0, capacity=settings.remembered, num_envs=settings.patients
        )
        behaviour = Flights(agent, start.transform, self.config, settings.patients)
        return Learner(agent, replay, behaviour)


BT = BehaviourTransfer()
