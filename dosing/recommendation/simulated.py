"""Following a recommender on simulated patients: every dose passes it, and every answer is counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from dosing.data.earlier_visits import EarlierVisits
from dosing.errors import UserError
from dosing.recommendation.audit_log import batch_content
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.reasons import STATUSES, reason_names
from dosing.recommendation.records import Recommender
from dosing.types import Array, Observations


class FollowRecommender:
    """The rule (``dosing.types.Act``) that gives simulated patients what the recommender says.

    Where it defers they get the policy's dose all the same, within the limits, and ``statuses`` counts it. A
    policy that looks back sees what came of its doses; the first visit here is its first.

    Args:
        recommender: policy, rules and monitor.

    Attributes:
        statuses: how many answers had each status.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._given: Array | None = None
        self.statuses: dict[str, int] = dict.fromkeys(STATUSES, 0)
        self._asked: list[Array] = []
        self._said: list[Array] = []
        self._heard: list[tuple[Array, Array, Array]] = []

    def __call__(self, obs: Observations, visit: int) -> Array:
        """Doses ``[S, P, A]`` at ``obs [S, P, O]``.

        Raises:
            UserError: the recommender refuses a dose to some patient: there is nothing to follow.
        """
        states = np.asarray(obs, dtype=np.float64).reshape(-1, obs.shape[-1])
        if visit == 0:
            self._heard.clear()
        step = self._recommender.rules.step
        told = step is not None and not step.current
        earlier = self._earlier(len(states)) if self._recommender.policy.looks_back else None
        result = recommend_all(self._recommender, states, self._given if told and visit else None, earlier)
        for status, name in enumerate(STATUSES):
            self.statuses[name] += int((result.status == status).sum())
        refused = np.flatnonzero(~np.isfinite(result.dose).all(1))
        if len(refused):
            why = result.failures.get(int(refused[0])) or ", ".join(
                reason_names(int(result.codes[refused[0]]))
            )
            raise UserError(
                f"the recommender refuses a dose to {len(refused):,} of {len(states):,} simulated patients "
                f"at visit {visit + 1} from here on ({why}): there is nothing to follow."
            )
        self._given = result.dose
        self._asked.append(states)
        self._said.append(result.dose)
        return result.dose.reshape(*obs.shape[:2], -1)

    def observe(self, delivered: Array, reward: Array) -> None:
        """What came of the visit: delivered doses ``[S, P, A]`` and rewards ``[S, P]``."""
        if self._recommender.policy.looks_back:
            dose = np.asarray(delivered, dtype=np.float64).reshape(-1, delivered.shape[-1])
            self._heard.append((self._asked[-1], dose, np.asarray(reward, dtype=np.float64).ravel()))

    def _earlier(self, states: int) -> EarlierVisits:
        """What every patient was seen with, given and paid so far."""
        visits = len(self._heard)
        if not visits:
            problem = self._recommender.policy.agent.problem
            return EarlierVisits.none(states, problem.n_obs, problem.n_act)
        obs, dose, reward = (np.concatenate(column) for column in zip(*self._heard, strict=True))
        order = np.arange(len(obs)).reshape(visits, states).T.ravel()  # the visits of a patient together
        first = visits * np.arange(states)
        return EarlierVisits(obs[order], dose[order], reward[order], first, np.full(states, visits))

    @property
    def about(self) -> dict[str, Any]:
        """Content of the audit record of all that was asked and said, without its provenance."""
        return batch_content(self._asked, np.stack(self._said), self.statuses)
