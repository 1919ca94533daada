"""Methods that change nothing but where a trial starts, what it replays, and which of its settings decay.

Scratch, Buffer and Direct are the rivals of PEX's study (Zhang, Xu, Yu 2023, arXiv 2302.00935): an
implicit-Q-learner that starts anew, from new visits alone or with half a batch of recorded ones, and any
offline agent that goes on as it was. The others are the offline methods' own ways online:

* AWAC (Nair et al. 2020, arXiv 2006.09359): the same losses, recorded visits stay in the replay;
* SPOT (Wu et al. 2022, arXiv 2202.06239): likewise; lambda shrinks to a fifth, no dropout, noise of 0.1, the
  density model stays as it was fitted. The authors also keep the optimisers' moments, which no finished run
  here has;
* Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479): the same weight, half a batch of recorded visits, and the
  return of a new visit bounds the gap once its episode has ended;
* ReBRAC (Tarasov et al. 2023, arXiv 2305.09836): both penalties shrink linearly to one half, half a batch of
  recorded visits, no noise;
* FAN (Lee et al. 2026, arXiv 2605.01663): alpha_2 is 0 and alpha_1 less than offline, recorded visits stay in
  the replay. The paper's alpha_1 goes to between 0.1 and 1 of its offline value; 0.3 is that of cube-double.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.finetuning.expansion import newcomer
from dosing.agent import Agent
from dosing.errors import UserError
from dosing.finetuning.method import Behaviour, Decay, Learner, Start, TrialSettings
from dosing.policy import DosePolicy
from dosing.training.replay import ReplaySampler, check_single

Changes = Callable[[Any], dict[str, Any]]
"""Settings that are different from now on, given the offline configuration."""


def keep(config: Any) -> dict[str, Any]:
    """Nothing changes, but that step sizes no longer decay to 0."""
    return {"actor_decay_steps": None} if hasattr(config, "actor_decay_steps") else {}


@dataclass(frozen=True)
class Transfer:
    """A method without mathematics of its own.

    Attributes:
        of: registry key of the one offline agent it goes on with; None for any.
        share: share of recorded visits in a batch; None draws from recorded and new ones alike.
        noise: standard deviation of the noise on a deterministic policy's dose, see ``Behaviour``.
        changes: of the agent's settings.
        decay: of the agent's settings, over the trial.
    """

    of: str | None = None
    share: float | None = 0.5
    noise: float = 0.1
    changes: Changes = keep
    decay: Mapping[str, Decay] = field(default_factory=dict)

    def refusal(self, start: Start) -> str | None:
        """Why a trial cannot start from this run, in a sentence; None if it can."""
        if self.of not in (None, start.name):
            return f"it goes on from a run of {self.of}, this is one of {start.name}."
        try:
            check_single(self.agent(start), start.dataset)
        except UserError as error:
            return str(error)
        return None

    def agent(self, start: Start) -> Agent:
        """The stack that learns."""
        return start.transferred(**self.changes(start.config))

    def updates(self, start: Start) -> int:
        """Updates the agent has had."""
        return start.updates

    def learner(self, start: Start, settings: TrialSettings) -> Learner:
        """Make what the loop needs.

        Raises:
            UserError: as :meth:`refusal`.
        """
        if refused := self.refusal(start):
            raise UserError(refused)
        agent = self.agent(start)
        replay = ReplaySampler(
            agent,
            start.dataset if self.share != 0.0 else None,
            settings.batch_size,
            self.share,
            capacity=settings.remembered,
            num_envs=settings.patients,
        )
        behaviour = Behaviour(DosePolicy(agent, start.transform), self.noise)
        return Learner(agent, replay, behaviour, self.updates(start), self.decay)


@dataclass(frozen=True)
class Newcomer(Transfer):
    """An implicit-Q-learner that starts anew, see :func:`agents.finetuning.expansion.newcomer`."""

    def agent(self, start: Start) -> Agent:
        """A stack with new weights."""
        return newcomer(start)

    def updates(self, start: Start) -> int:
        """None."""
        return 0


def _undropped(config: Any) -> dict[str, Any]:
    return {"dropout": 0.0}


def _less_anchored(config: Any) -> dict[str, Any]:
    return {"actor_penalty": 0.3 * config.actor_penalty, "critic_penalty": 0.0}


def to_a_fifth(fraction: float) -> float:
    """SPOT's factor on lambda: 1 - t / T, and no less than 0.2."""
    return max(0.2, 1.0 - fraction)


def to_a_half(fraction: float) -> float:
    """ReBRAC's factor on both penalties: from 1 to 1/2."""
    return 1.0 - 0.5 * fraction


SCRATCH = Newcomer(share=0.0)
BUFFER = Newcomer()
DIRECT = Transfer()
AWAC = Transfer(of="awac", share=None)
SPOT = Transfer(of="spot", share=None, changes=_undropped, decay={"penalty": to_a_fifth})
CAL_QL = Transfer(of="cal_ql")
REBRAC = Transfer(of="rebrac", noise=0.0, decay={"actor_penalty": to_a_half, "critic_penalty": to_a_half})
FAN = Transfer(of="fan", share=None, changes=_less_anchored)
