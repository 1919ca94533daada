"""Policies that look back: a rule that keeps the visits and outcomes since visit 0 and acts on them."""

from __future__ import annotations

from dataclasses import replace

import torch

from dosing.agent import History, policy_after
from dosing.errors import UserError
from dosing.policy import DosePolicy, Observations
from dosing.types import Array


class HistoryPolicy:
    """A rule that follows a policy which looks back: it keeps what it saw and heard since visit 0.

    Args:
        policy: the trained stack.
        sampled: draw doses from the distribution instead of giving the recommended one.
        block: see :meth:`dosing.policy.DosePolicy.sampled`.
    """

    def __init__(self, policy: DosePolicy, *, sampled: bool = False, block: int = 0) -> None:
        self._policy, self._sampled, self._block = policy, sampled, block
        self._past: History | None = None

    @torch.no_grad()
    def __call__(self, obs: Observations, visit: int) -> Array:
        """Requested doses ``[S, P, A]`` at ``obs [S, P, O]``; visit 0 begins new episodes.

        Raises:
            UserError: the visit does not follow one whose outcome was heard.
        """
        policy, seen = self._policy, self._policy._obs(obs).unsqueeze(2)
        if visit == 0:
            none = seen.new_zeros(*obs.shape[:2], 0)
            act = seen.new_zeros(*none.shape, policy.agent.problem.n_act)
            self._past = History(seen[:, :, :0], act, none)
        past = self._past
        if past is None or not visit == past.obs.shape[2] == past.reward.shape[2]:
            raise UserError(
                f"the policy looks back: before visit {visit + 1} it has to be asked at every earlier "
                "one and to hear what came of it."
            )
        self._past = replace(past, obs=torch.cat((past.obs, seen), 2))
        distribution = policy_after(policy.agent, self._past)
        if self._sampled:
            noise = policy._noise(distribution, seen.shape[1], visit, "evaluation", self._block)
            return policy._drawn(distribution, noise)
        return policy._mode(distribution)

    def observe(self, delivered: Array, reward: Array) -> None:
        """What came of the visit: delivered doses ``[S, P, A]`` and rewards ``[S, P]``, in the world's units.

        Raises:
            UserError: there is no visit whose outcome is still open.
        """
        past, transform = self._past, self._policy.transform
        if past is None or past.obs.shape[2] != past.reward.shape[2] + 1:
            raise UserError("there is no visit to hear of: every outcome follows one request for doses.")
        act, paid = torch.as_tensor(transform.to_unit(delivered)), torch.as_tensor(transform.scaled(reward))
        self._past = History(
            past.obs,
            torch.cat((past.act, act.unsqueeze(2).to(past.act)), 2),
            torch.cat((past.reward, paid.unsqueeze(2).to(past.reward)), 2),
        )
