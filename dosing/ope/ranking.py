"""How good a ranking of policies by estimates is, once their true returns are known.

Spearman 1904 (rank correlation); regret@1 as in Fu et al. 2021, arXiv 2103.16596 (benchmarks for deep
off-policy evaluation), here in the unit of the return. Trailing axis: C policies; leading axes are
repetitions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from dosing.errors import UserError
from dosing.types import Array


def _pair(estimates: ArrayLike, truth: ArrayLike, least: int) -> tuple[Array, Array]:
    x, y = np.asarray(estimates, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim == 0 or x.shape != y.shape or x.shape[-1] < least:
        raise UserError(
            f"a ranking needs estimates and true returns of the same {least} or more policies, got shapes "
            f"{list(x.shape)} and {list(y.shape)}."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise UserError(
            "a ranking needs finite estimates and true returns; leave out policies without a number."
        )
    return x, y


def rank_correlation(estimates: ArrayLike, truth: ArrayLike) -> Array:
    """Spearman's rank correlation ``[...]`` of estimates and true returns ``[..., C]``.

    Ties share their mean rank.

    Raises:
        UserError: other shapes, fewer than two policies, numbers that are not finite, or all policies tied.
    """
    from scipy.stats import rankdata  # takes half a second

    x, y = (rankdata(v, axis=-1) for v in _pair(estimates, truth, 2))
    x, y = (v - v.mean(-1, keepdims=True) for v in (x, y))
    spread = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    if (spread == 0).any():
        raise UserError("a rank correlation needs policies that differ, in estimate and in truth.")
    return np.asarray((x * y).sum(-1) / spread)


def regret_at_1(estimates: ArrayLike, truth: ArrayLike) -> Array:
    """True return lost ``[...]`` by taking the policy with the highest estimate instead of the truly best.

    Raises:
        UserError: other shapes, or numbers that are not finite.
    """
    x, y = _pair(estimates, truth, 1)
    taken = np.take_along_axis(y, x.argmax(-1)[..., None], -1)[..., 0]
    return np.asarray(y.max(-1) - taken)


def coverage(low: ArrayLike, high: ArrayLike, truth: ArrayLike) -> float:
    """Share of intervals that hold the true value, ends included.

    Raises:
        UserError: other shapes, no interval, or numbers that are not finite.
    """
    lower, y = _pair(low, truth, 1)
    upper, _ = _pair(high, truth, 1)
    return float(((lower <= y) & (y <= upper)).mean())
