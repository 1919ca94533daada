"""Reasons for and against a recommended dose, and the status that follows from them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "limited", "deferred", "refused"]

DISAGREEMENT = 0.5
"""The seeds disagree where the standard deviation of their doses is more than this share of that of the doses
recorded in the training data. Our choice. Trained with defaults on 50 patients, FtTPO reaches it on 4 % of
the visits of new ones, IQL on none (``benchmarks/speed/recommend.py``)."""


class Reason(enum.IntFlag):
    """Reasons met on the way to a dose; a status follows from these alone, see :func:`status_of`."""

    WRONG_LENGTH = enum.auto()
    NOT_A_NUMBER = enum.auto()
    NOT_FINITE = enum.auto()
    OUT_OF_RANGE = enum.auto()
    CURRENT_DOSE = enum.auto()
    EARLIER_VISITS = enum.auto()
    POLICY_NOT_FINITE = enum.auto()
    FAILED = enum.auto()
    LEFT_LIMITS = enum.auto()
    UNFAMILIAR = enum.auto()
    UNRECORDED_DOSE = enum.auto()
    NO_MONITOR = enum.auto()
    SEEDS_APART = enum.auto()
    BETWEEN_SEEDS = enum.auto()
    OVER_BUDGET = enum.auto()
    HARD_LIMIT = enum.auto()
    STEP_LIMIT = enum.auto()
    BASELINE_LIMIT = enum.auto()
    CUMULATIVE_LIMIT = enum.auto()


REFUSES = Reason(Reason.UNFAMILIAR - 1)
"""Reasons before the first that defers."""


DEFERS = (
    Reason.UNFAMILIAR
    | Reason.UNRECORDED_DOSE
    | Reason.NO_MONITOR
    | Reason.SEEDS_APART
    | Reason.BETWEEN_SEEDS
    | Reason.OVER_BUDGET
)


LIMITS = Reason.HARD_LIMIT | Reason.STEP_LIMIT | Reason.BASELINE_LIMIT | Reason.CUMULATIVE_LIMIT

LIMIT_WORDS = {
    "cumulative_limit": "the limit of what earlier doses have left",
    "baseline_limit": "a multiple of the baseline",
    "step_limit": "a step limit",
}
"""Words for the limit that held a dose by the name of its reason, the last that binds first."""


def held_at(codes: Sequence[str]) -> str:
    """Words for the limit that held a limited dose, from the names of its reasons."""
    return next((words for name, words in LIMIT_WORDS.items() if name in codes), "a hard limit")


STATUSES: tuple[Status, ...] = ("ok", "limited", "deferred", "refused")


def status_of(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index into :data:`STATUSES` of each sum of :class:`Reason` values: the gravest reason decides."""
    graver = [(codes & int(mask)) != 0 for mask in (REFUSES, DEFERS, LIMITS)]
    return np.select(graver, [3, 2, 1], 0)


def reason_names(code: int) -> tuple[str, ...]:
    """Names of the reasons in a sum of them, in lower case."""
    return tuple(str(reason.name).lower() for reason in Reason if code & reason)
