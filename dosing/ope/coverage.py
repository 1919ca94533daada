"""What recorded visits can say of a policy at all: of doses near the recorded ones, of returns they allow.

A value says nothing of doses that nobody was given. At recorded states the policy's doses are held against
the doses recorded at states like them (``dosing.data.dose_support``; recorded doses of usual patients are
beyond its threshold with probability at most its level). Where a policy gives more than
:data:`MOST_UNRECORDED` of its doses beyond it, over that level, it has no value. Below, the rewards of that
share e of its visits are anything between the worst and the best recorded one, and intervals are widened by
e (value - lowest) and e (highest - value) (Manski 1990, American Economic Review 80:319: worst-case bounds).

No return is higher than what the best recorded reward at every visit gives, or lower than what the worst one
gives; an estimate beyond is refused, and so are the parts of intervals beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dosing.data.dose_support import DoseSupport
from dosing.ope.targets import Target
from dosing.ope.trajectories import Trajectories
from dosing.types import Array

MOST_UNRECORDED = 0.05
"""Largest share of doses without recorded ones near, over the level of the threshold, of a policy with a
value."""
CHECKED = 2000
"""Most recorded states at which a policy's doses are held against the recorded ones."""


@dataclass(frozen=True)
class Coverage:
    """The recorded doses and the returns that are possible by the recorded rewards.

    Attributes:
        support: which doses were recorded at states like one; doses on the [-1, 1] axis.
        obs: ``[B, O]`` recorded states at which policies are checked.
        low: lowest return that the recorded rewards allow.
        high: highest.
    """

    support: DoseSupport
    obs: Array
    low: float
    high: float

    @classmethod
    def of(cls, data: Trajectories, discount: float, horizon: int) -> Coverage:
        """Take both from recorded patients.

        Raises:
            UserError: too few visits of too few patients.
        """
        rows = data.recorded > 0
        obs, reward = data.obs[rows], data.reward[rows]
        support = DoseSupport.fit(obs, data.act[rows], np.nonzero(rows)[0])
        total = float((discount ** np.arange(horizon, dtype=np.float64)).sum())
        visits = (1.0, total) if (data.terminated > 0).any() else (total,)  # an episode may end early
        returns = [n * float(r) for n in visits for r in (reward.min(), reward.max())]
        checked = np.unique(np.linspace(0, len(obs) - 1, min(len(obs), CHECKED)).astype(np.int64))
        return cls(support, obs[checked], min(returns), max(returns))

    def unrecorded(self, policy: Target) -> Array:
        """Share ``[S]`` of the policy's doses near which none was recorded at states like theirs."""
        doses, weights = policy.nodes(self.obs)  # [K, S, B, A]
        share = [w * self.share(self.obs, d) for w, d in zip(weights, doses, strict=True)]
        return np.asarray(np.sum(share, axis=0), dtype=np.float64)

    def share(self, obs: Array, doses: Array) -> Array:
        """Share ``[S]`` of doses ``[S, B, A]`` near which none was recorded at states like ``obs [B, O]``."""
        return np.asarray(self.support.unrecorded(obs, doses).mean(-1), dtype=np.float64)

    def refusal(self, unrecorded: Array) -> str | None:
        """Why a policy with this share ``[S]`` of unrecorded doses has no value; None if it has one."""
        worst, most = float(unrecorded.max()), MOST_UNRECORDED + self.support.rule.level
        if worst <= most:
            return None
        return (
            f"at {worst:.1%} of the recorded states no dose near the policy's was recorded; a value is for "
            f"at most {most:.1%}"
        )

    def excess(self, unrecorded: Array) -> float:
        """Mean over seeds of the share ``[S]`` over what recorded doses themselves would have."""
        return float(np.maximum(unrecorded - self.support.rule.level, 0.0).mean())

    def impossible(self, returns: Array) -> str | None:
        """Why an estimate ``[S]`` is no return at all; None if it may be one."""
        slack = 1e-6 * max(abs(self.low), abs(self.high), 1e-12)
        if ((returns >= self.low - slack) & (returns <= self.high + slack)).all():
            return None
        worst = float(returns[np.argmax(np.maximum(self.low - returns, returns - self.high))])
        return (
            f"the estimate {worst:.3g} is no return that the recorded rewards allow, {self.low:.3g} to "
            f"{self.high:.3g}"
        )

    def within(self, returns: Array) -> Array:
        """Estimates held to the returns that are possible."""
        return np.asarray(np.clip(returns, self.low, self.high))

    def unknown(self, value: float, excess: float) -> tuple[float, float]:
        """How far below and above ``value`` the return may lie, for want of recorded doses near."""
        return excess * max(value - self.low, 0.0), excess * max(self.high - value, 0.0)
