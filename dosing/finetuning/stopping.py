"""When a trial has to stop: the harm that its patients met, held against a budget.

Harm is the safety cost of a patient's whole episode. Patients are looked at in groups that end together (a
wave). Against the hypothesis that a group's expected cost per patient, given everything before it, never
exceeds the budget b, money is bet on the mean cost X_i of every group (Waudby-Smith, Ramdas 2024, arXiv
2010.09686, section 4; costs need no upper limit, since only excess is bet on):

    K_n(b) = mean over fractions c of  prod_(i <= n) (1 + c (X_i / b - 1))

Under the hypothesis K is a supermartingale that starts at 1, so it ever reaches 1 / level with probability at
most ``level`` (Ville's inequality), however often it is looked at and however the policy changes on the way.
The rule is to stop once K_n(budget) >= 1 / level. The budgets that are refused in this way end at a one-sided
lower confidence bound of the cost per patient which holds at all times at once: the trial stops when that
bound passes the budget.
"""

from __future__ import annotations

import math

import numpy as np

from dosing.errors import UserError
from dosing.types import Array

FRACTIONS = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
"""c, shares of the money that are bet: small ones notice a slight excess, large ones a great one early."""
LEVEL = 0.05
"""Probability of stopping a trial that keeps to its budget."""
BOUND = "time-uniform lower confidence bound by betting (Waudby-Smith, Ramdas 2024)"


def check_budget(budget: float | None) -> None:
    """Refuse a budget that is none.

    Raises:
        UserError: it is negative or not finite.
    """
    if budget is not None and not 0.0 <= budget < math.inf:
        raise UserError(f"the harm budget must be a cost per patient of at least 0, got {budget}.")


def log_evidence(costs: Array, budget: float) -> float:
    """Logarithm of K after groups of mean costs ``[N]``; a budget of 0 is refused by the first cost."""
    if not costs.size:
        return 0.0
    if budget == 0.0:
        return math.inf if (costs > 0.0).any() else 0.0
    growth = np.log1p(FRACTIONS[:, None] * (costs / budget - 1.0)).sum(1)
    most = float(growth.max())
    return most + math.log(float(np.exp(growth - most).mean()))


def exceeds(costs: Array, budget: float, level: float = LEVEL) -> bool:
    """Whether groups of mean costs ``[N]`` refuse the budget: the trial has to stop."""
    return log_evidence(costs, budget) >= -math.log(level)


def lower_bound(costs: Array, level: float = LEVEL) -> float:
    """Lower confidence bound of the cost per patient from groups of mean costs ``[N]``.

    No budget below it is kept; it holds after every group at once with probability 1 - ``level``.
    """
    low, high = 0.0, float(costs.max(initial=0.0))  # at the largest cost no bet has won
    if high == 0.0:
        return 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if exceeds(costs, middle, level) else (low, middle)
    return low
