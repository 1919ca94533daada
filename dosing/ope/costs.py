"""Cost estimated by the estimators of the return: recorded visits with costs in place of the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dosing.data.store import Episodes
from dosing.ope.folds import CrossValidation, Fold, evaluate_folds
from dosing.ope.selection import REFITTED, Settings


def costs_as_rewards(episodes: Episodes) -> Episodes | None:
    """The visits with the cost of each where its reward was; None where a visit has no cost."""
    return replace(episodes, reward=episodes.cost) if np.isfinite(episodes.cost).all() else None


def costs_of_folds(folds: Sequence[Fold], settings: Settings, candidates: int) -> CrossValidation | None:
    """Value the cost of every candidate on patients its policies have not seen.

    As :func:`dosing.ope.folds.evaluate_folds`, beside the same constant doses: a difference above 0 is a
    higher cost. By those of the estimators that fit no models anew, whose models are of the reward.

    Args:
        folds: as there.
        settings: as there.
        candidates: as there.

    Returns:
        The costs; None where a visit has no cost, or no estimator is left.

    Raises:
        UserError: see there.
    """
    estimators = tuple(e for e in settings.estimators if e not in REFITTED)
    held_out = [costs_as_rewards(fold.held_out) for fold in folds]
    known = [part for part in held_out if part is not None]
    if not estimators or len(known) < len(folds):
        return None
    charged = [replace(fold, held_out=part) for fold, part in zip(folds, known, strict=True)]
    return evaluate_folds(charged, replace(settings, estimators=estimators), candidates)
