"""PEX, policy expansion: a frozen offline policy and a new one that learns, chosen between by value.

Zhang, Xu, Yu 2023, arXiv 2302.00935. The members of a set propose doses a_1, ..., a_K at every visit, frozen
ones the mode of their distribution, the one that learns a draw, and one of them is given with probability

    w_k = exp(Q(s, a_k) / alpha) / sum_j exp(Q(s, a_j) / alpha),    Q = min_i Q_i of the critics that learn.

Q, V and their targets come from the offline run and go on learning by IQL's losses; the new policy starts
from the seed's initial weights. Its loss is IQL's advantage-weighted regression, by default not at the doses
of the batch but at doses a~ that the composite policy proposes anew at the batch's states, as executed:

    L_pi = - E [ min(exp(beta (Qbar(s, a~) - V(s))), clip) ln pi(a~ | s) ].

Half of every batch are recorded visits (``share``). The recommended dose is, of the members' modes, that of
highest Q.

Beyond the paper, all settings of :class:`PEXConfig`:

* ``members`` K > 2. Further frozen policies per seed come from other seeds of the offline run, from other
  runs, or from the trial itself: the policy that learns is frozen as it stands, and a new one begins. The
  largest of K noisy values is too large by about sigma_Q sqrt(2 ln K).
* ``adaptive`` alpha. Per seed, alpha descends on E [alpha (H(w) - H*)], as the temperature of SAC does, where
  H* falls linearly from ``entropy`` to ``entropy_end`` of ln K.
* ``logits = "scaled"``. Q / sigma in place of Q, with sigma the standard deviation of the proposals' values
  over the batch and its members, a running mean per seed: what does not change when rewards are multiplied.
  (Subtracting the members' mean, as would be usual, changes no softmax.)
* ``mix``. What is mixed in place of policies. One policy, the offline one, goes on learning and alone doses,
  from its distribution:

  - ``values``: the advantage in its loss is the mean over K of Qbar_k(s, a) - V_k(s) at the batch's doses,
    where the K-th pair learns and the others are frozen ones of offline runs;
  - ``gradients``: its loss is the expectation over the choice that PEX draws,
    L_pi = - E sum_k w_k min(exp(beta (Qbar(s, a_k) - V(s))), clip) ln pi(a_k | s).

* ``offline_step_size``. The offline policy adapts: it goes on learning by the same regression, at the doses
  of the batch, with the critics that learn.

The paper evaluates with an epsilon of 0.1: the new policy proposes its mode and the dose of highest Q is
given, but with probability epsilon each, independently, it proposes a draw and the choice is drawn as above.
``evaluation_epsilon`` makes that the distribution that is evaluated; in the trial doses are chosen as ever.

Not taken over: evaluation within the training environment; log-densities of doses outside the limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot

from agents.finetuning.expansion import (
    Composing,
    Expanded,
    by_weight,
    executed,
    fixed_draws,
    further,
    held,
    newcomer,
    not_thin,
    of_run,
    pick,
    point_set,
    refused,
    take_over,
    uniforms,
)
from agents.finetuning.pex_settings import PEXConfig
from agents.iql import IQL
from dosing.agent import Agent
from dosing.errors import UserError
from dosing.finetuning.method import Behaviour, Learner, Start, TrialSettings
from dosing.models.batch import Batch
from dosing.models.losses import target_copy
from dosing.models.optimisers import adam
from dosing.policy import DosePolicy
from dosing.training.replay import ReplaySampler
from dosing.types import Noise

SPREAD_RATE = 0.005
"""Share of a batch's standard deviation in the running one, per update."""
CALIBRATION = 4096
"""Recorded visits that the first one is of."""


class PEXAgent(Expanded):
    """S stacked seeds of PEX: an implicit-Q-learner, frozen members, and room for frozen policies of its own.

    Args:
        online: what learns.
        frozen: constant agents; for ``mix = "values"`` all of IQL.
        config: settings.
        snapshots: policies of the trial that will be frozen.
    """

    taken: Tensor
    spread: Tensor

    def __init__(self, online: IQL, frozen: Sequence[Agent], config: PEXConfig, snapshots: int = 0) -> None:
        super().__init__(online, frozen, config.draws)
        self.config = config
        like = next(online.parameters())
        ones = torch.ones(len(self.seeds), 1, dtype=like.dtype, device=like.device)
        self.snapshots = nn.ModuleList(target_copy(online.actor) for _ in range(snapshots))
        self.register_buffer("taken", ones.new_zeros(len(self.seeds), max(snapshots, 1)))
        self.register_buffer("spread", ones.clone())
        if snapshots:
            self.blank = target_copy(online.actor)
        if config.offline_step_size is not None:
            offline = cast(IQL, self.frozen[0]).actor.requires_grad_(True)
            self.optimizers["offline"] = adam(offline, config.offline_step_size)
        if config.adaptive:
            self.log_temperature = nn.Parameter(-ones * torch.tensor(config.inverse_temperature).log())
            self.optimizers["temperature"] = adam([self.log_temperature], config.temperature_learning_rate)

    @property
    def inverse_temperature(self) -> Tensor:
        """1 / alpha ``[S, 1]``, without gradient."""
        if self.config.adaptive:
            return (-self.log_temperature.detach()).exp()
        return torch.full_like(self.spread, self.config.inverse_temperature)

    @property
    def present(self) -> Tensor:
        """Which members there are already ``[S, K]``."""
        ones = torch.ones_like(self.spread)
        own = self.taken[:, : len(self.snapshots)]
        return torch.cat((ones.expand(-1, len(self.frozen)), own, ones), 1) > 0.0

    def offers(self, obs: Tensor) -> Tensor:
        """Doses ``[S, B, K - 1, A]`` of the frozen members; of one yet to come, that of the first."""
        offers = super().offers(obs)
        if not len(self.snapshots):
            return offers
        own = torch.stack([policy(obs).mode for policy in self.snapshots], 2)
        there = self.taken[:, None, :, None] > 0.0
        return torch.cat((offers, torch.where(there, own, offers[:, :, :1])), 2)

    def probabilities(self, values: Tensor) -> Tensor:
        """Chances w ``[S, ..., K]``, by values ``[S, ..., K]``; 0 for a member yet to come."""
        scale = self.inverse_temperature
        if self.config.logits == "scaled":
            scale = scale / self.spread
        middle = [1] * (values.dim() - 2)
        present = self.present.view(len(self.seeds), *middle, -1)
        logits = values * scale.view(len(self.seeds), *middle, 1)
        return torch.softmax(logits.masked_fill(~present, -torch.inf), -1)

    def policy(self, obs: Tensor) -> Distribution:
        """The composite policy; where no policies are mixed, the one that learns."""
        if self.config.mix != "policies":
            return self.online.policy(obs)
        epsilon = self.config.evaluation_epsilon
        return super().policy(obs) if epsilon is None else self._evaluated(obs, epsilon)

    def _evaluated(self, obs: Tensor, epsilon: float) -> Distribution:
        """The paper's evaluation: doses of the members, the mode and M draws of the one that learns."""
        distribution, offers = self.online.policy(obs), self.offers(obs)
        own = torch.cat((distribution.mode.unsqueeze(2), fixed_draws(distribution, self.draws)), 2)
        count, doses = offers.shape[2], torch.cat((offers, own), 2)
        with torch.no_grad():
            frozen, of_own = self.worth(obs, doses).split((count, 1 + self.draws), -1)
        each = torch.cat((frozen.unsqueeze(2).expand(-1, -1, 1 + self.draws, -1), of_own.unsqueeze(-1)), -1)
        best = each.masked_fill(~self.present[:, None, None], -torch.inf).argmax(-1)  # [S, B, 1 + M]
        chosen = epsilon * self.probabilities(each)
        chosen = chosen + (1.0 - epsilon) * one_hot(best, count + 1).to(chosen)
        proposed = chosen.new_full((1 + self.draws,), epsilon / self.draws)
        proposed[0] = 1.0 - epsilon
        chosen = chosen * proposed.unsqueeze(-1)
        weights = torch.cat((chosen[..., :-1].sum(2), chosen[..., -1]), -1)
        highest = torch.cat((frozen, of_own[..., :1]), -1).argmax(-1)
        return point_set(doses, weights, pick(doses, highest))

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the proposed dose, and of the choice."""
        if self.config.mix == "values":
            return {}
        with torch.no_grad():
            like = next(self.online.parameters())
            width = uniforms(self.online.policy(like.new_zeros(len(self.seeds), 1, self.problem.n_obs)))
        return {"own": Noise("uniform", (batch_size, width)), "choice": Noise("uniform", (batch_size,))}

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """IQL's losses with the policy's own, and those of what else adapts by settings, each ``[S]``."""
        c = self.config
        losses, metrics = self.online.losses_and_metrics(batch)
        if c.offline_step_size is not None:
            with torch.no_grad():
                gained = _advantage(self.online, batch.obs, batch.act)
            losses["offline"] = cast(IQL, self.frozen[0]).regression(batch.obs, batch.act, gained).mean(-1)
        if c.mix == "values":
            members = [cast(IQL, agent) for agent in (*self.frozen, self.online)]
            with torch.no_grad():
                advantage = torch.stack([_advantage(m, batch.obs, batch.act) for m in members]).mean(0)
            losses["actor"] = self.online.regression(batch.obs, batch.act, advantage).mean(-1)
            return losses, metrics
        with torch.no_grad():
            act = executed(self.proposed(batch.obs, batch.noise["own"]))  # [S, B, K, A]
            values = self.worth(batch.obs, act)
            chances = self.probabilities(values)  # [S, B, K]
        if c.mix == "gradients":
            losses["actor"] = (chances.flatten(1) * self._regression(batch.obs, act)).sum(-1) / act.shape[1]
        elif c.doses == "proposed":
            taken = pick(act, by_weight(chances, batch.noise["choice"])).unsqueeze(2)
            losses["actor"] = self._regression(batch.obs, taken).mean(-1)
        entropy = torch.special.entr(chances).sum(-1).mean(-1)  # [S]
        if c.adaptive:
            missing = entropy - c.entropy * self.present.sum(1).to(entropy).log()
            losses["temperature"] = self.log_temperature.exp().squeeze(-1) * missing
        metrics |= {
            "entropy": entropy,
            "online": chances[..., -1].mean(-1),
            "inverse_temperature": self.inverse_temperature.squeeze(-1),
            "spread": values.flatten(1).std(-1),
        }
        return losses, metrics

    def _regression(self, obs: Tensor, act: Tensor) -> Tensor:
        """Terms ``[S, B K]`` of the policy's loss at doses ``[S, B, K, A]``."""
        states = obs.unsqueeze(2).expand(-1, -1, act.shape[2], -1).flatten(1, 2)
        doses = act.flatten(1, 2)
        with torch.no_grad():
            advantage = _advantage(self.online, states, doses)
        return self.online.regression(states, doses, advantage)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Take one training step, and follow the spread of values."""
        metrics = super().update(batch)
        if self.config.logits == "scaled" and "spread" in metrics:
            self.spread.lerp_(metrics["spread"].unsqueeze(-1), SPREAD_RATE)
        return metrics

    @torch.no_grad()
    def calibrate(self, obs: Tensor) -> None:
        """Take the first spread of values from the proposals at ``obs [S, B, O]``."""
        width = uniforms(self.online.policy(obs[:, :1]))
        act = self.proposed(obs, torch.full_like(obs[..., :1], 0.5).expand(-1, -1, width))
        self.spread.copy_(self.worth(obs, act).flatten(1).std(-1, keepdim=True))

    def schedule(self, step: int) -> None:
        """Freeze the policy and begin a new one, every ``snapshot_every`` updates."""
        self.online.schedule(step)
        every = self.config.snapshot_every
        if every is not None and step > 0 and step % every == 0 and step // every <= len(self.snapshots):
            self.expand(step // every - 1)

    @torch.no_grad()
    def expand(self, number: int) -> None:
        """Freeze the policy that learns as snapshot ``number``; it begins anew, its optimiser too."""
        self.snapshots[number].load_state_dict(self.online.actor.state_dict())
        self.taken[:, number] = 1.0
        self.online.actor.load_state_dict(self.blank.state_dict())
        self.optimizers["actor"].state.clear()


def _advantage(agent: IQL, obs: Tensor, act: Tensor) -> Tensor:
    """Qbar - V of an implicit-Q-learner ``[S, B]``."""
    advantage: Tensor = agent.critic_target.pessimistic(obs, act) - agent.value(obs)
    return advantage


@dataclass(frozen=True)
class PolicyExpansion:
    """The method.

    Attributes:
        config: settings.
    """

    config: PEXConfig = field(default_factory=PEXConfig)

    def refusal(self, start: Start) -> str | None:
        """Why a trial cannot start from this run, in a sentence; None if it can."""
        if start.name != "iql":
            return f"it goes on from a run of iql, this is one of {start.name}."
        return refused(self.config.check, lambda: not_thin(start), lambda: self._frozen(start))

    def learner(self, start: Start, settings: TrialSettings) -> Learner:
        """Make what the loop needs.

        Raises:
            UserError: as :meth:`refusal`.
        """
        if sentence := self.refusal(start):
            raise UserError(sentence)
        config, frozen = self.config, self._frozen(start)
        online = newcomer(
            start,
            expectile=config.expectile,
            inverse_temperature=config.beta,
            learning_rate=config.step_size,
        )
        if config.mix != "policies":
            online.actor.load_state_dict(cast(IQL, frozen[0]).actor.state_dict())
        if config.critic == "offline":
            take_over(online, frozen[0])
        snapshots = config.members - 2 if config.others == "online" else 0
        if snapshots and config.snapshot_every is None:
            updates = int(settings.updates_per_visit * max(settings.visits - settings.start, 0))
            config = replace(config, snapshot_every=max(updates // (snapshots + 1), 1))
        agent = PEXAgent(online, frozen, config, snapshots)
        if config.logits == "scaled":
            obs = start.dataset.obs[:CALIBRATION]
            agent.calibrate(obs.expand(len(start.seeds), -1, -1))
        replay = ReplaySampler(
            agent,
            start.dataset if config.share > 0.0 else None,
            settings.batch_size,
            config.share,
            capacity=settings.remembered,
            num_envs=settings.patients,
        )
        behaviour: Behaviour = (
            Composing(agent, start.transform)
            if config.mix == "policies"
            else Behaviour(DosePolicy(agent, start.transform))
        )
        decay = {"entropy": self._fall} if config.adaptive else {}
        return Learner(agent, replay, behaviour, 0, decay)

    def _fall(self, fraction: float) -> float:
        """Factor on the target entropy: linear, from 1 to ``entropy_end / entropy``."""
        return 1.0 + fraction * (self.config.entropy_end / self.config.entropy - 1.0)

    def _frozen(self, start: Start) -> list[Agent]:
        """The frozen members: the run's own policy first.

        Raises:
            UserError: there are too few seeds or another run does not fit.
        """
        config, count = self.config, self.config.members - 2
        own = held(start.transferred())
        if config.others == "online" or count == 0:
            return [own]
        if config.others == "runs":
            others = [held(of_run(Path(folder), start)) for folder in config.folders]
        else:
            others = [held(agent) for agent in further(start, count)]
        if config.mix == "values" and not all(isinstance(agent, IQL) for agent in others):
            raise UserError("mix=values mixes values of IQL: every run must be one of iql.")
        return [own, *others]


PEX = PolicyExpansion()
