"""Cost estimated by the estimators of the return: recorded visits with costs in place of the rewards.

As :func:`dosing.ope.folds.evaluate_folds`, beside the same constant doses: a difference above 0 is a higher
cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dosing.data.store import Episodes
from dosing.ope.folds import Fold
from dosing.ope.selection import REFITTED, Settings


def costs_as_rewards(episodes: Episodes) -> Episodes | None:
    """The visits with the cost of each where its reward was; None where a visit has no cost."""
    return replace(episodes, reward=episodes.cost) if np.isfinite(episodes.cost).all() else None


def charged(folds: Sequence[Fold], settings: Settings) -> tuple[list[Fold], Settings] | None:
    """Folds whose patients are valued by their costs, and how.

    By those of the estimators that fit no models anew, whose models are of the reward. None where a visit has
    no cost, or no estimator is left.
    """
    estimators = tuple(e for e in settings.estimators if e not in REFITTED)
    held_out = [costs_as_rewards(fold.held_out) for fold in folds]
    known = [part for part in held_out if part is not None]
    if not estimators or len(known) < len(folds):
        return None
    priced = [replace(fold, held_out=part) for fold, part in zip(folds, known, strict=True)]
    return priced, replace(settings, estimators=estimators)
