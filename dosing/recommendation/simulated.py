"""Following a recommender on simulated patients: every dose passes it, and every answer is counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from dosing.errors import UserError
from dosing.recommendation.audit_log import batch_content
from dosing.recommendation.batch import recommend_all
from dosing.recommendation.reasons import STATUSES, reason_names
from dosing.recommendation.records import Recommender
from dosing.types import Array, Observations


class FollowRecommender:
    """The rule (``dosing.types.Act``) that gives simulated patients what the recommender says.

    Where it defers they get the policy's dose all the same, within the limits, and ``statuses`` counts it.

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

    def __call__(self, obs: Observations, visit: int) -> Array:
        """Doses ``[S, P, A]`` at ``obs [S, P, O]``.

        Raises:
            UserError: the recommender refuses a dose to some patient: there is nothing to follow.
        """
        states = np.asarray(obs, dtype=np.float64).reshape(-1, obs.shape[-1])
        step = self._recommender.rules.step
        told = step is not None and not step.current
        result = recommend_all(self._recommender, states, self._given if told and visit else None)
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

    @property
    def about(self) -> dict[str, Any]:
        """Content of the audit record of all that was asked and said, without its provenance."""
        return batch_content(self._asked, np.stack(self._said), self.statuses)
