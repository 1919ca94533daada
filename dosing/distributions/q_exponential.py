"""The q-exponential and the q-logarithm, smooth through q = 1.

    exp_q(x) = [1 + (1 - q) x]_+ ^ (1 / (1 - q)),        exp_1 = exp
    log_q(x) = (x ^ (1 - q) - 1) / (1 - q),              log_1 = log

Source: Tsallis 1988, J. Stat. Phys. 52:479; Naudts 2002, Physica A 316:323. The ``log1p`` and ``expm1`` forms
below lose no digits as q approaches 1, so the ordinary functions are reached without a switch-over region.
"""

import math

import torch
from torch import Tensor

from dosing.errors import UserError


def exp_q(x: Tensor, q: float) -> Tensor:
    """Return the q-exponential of x, elementwise.

    For q < 1 the value is exactly 0 for x <= -1/(1-q); for q > 1 it is infinite for x >= 1/(q-1), its pole.
    The gradient exp_q(x)^q is exact where the value is positive and finite, and 0 elsewhere.

    Args:
        x: any shape.
        q: the index, finite.

    Raises:
        UserError: q is not a finite number.
    """
    q = finite_index(q)
    if q == 1.0:
        return x.exp()
    y = (1.0 - q) * x
    outside = y <= -1.0  # this way round, so that NaN stays NaN
    value = torch.log1p(torch.where(outside, 0.0, y)).div(1.0 - q).exp()
    return torch.where(outside, 0.0 if q < 1.0 else math.inf, value)


def log_q(x: Tensor, q: float) -> Tensor:
    """Return the q-logarithm of x, elementwise, the inverse of :func:`exp_q`.

    log_q(0) is -1/(1-q) for q < 1 and -inf otherwise; negative x gives NaN. The gradient x^-q is exact for x
    > 0 and 0 at x = 0.

    Args:
        x: any shape, x >= 0.
        q: the index, finite.

    Raises:
        UserError: q is not a finite number.
    """
    q = finite_index(q)
    positive = x > 0.0
    log_x = torch.where(positive, x, 1.0).log()
    value = log_x if q == 1.0 else torch.expm1((1.0 - q) * log_x) / (1.0 - q)
    at_zero = -1.0 / (1.0 - q) if q < 1.0 else -math.inf
    return torch.where(positive, value, torch.where(x == 0.0, at_zero, math.nan).to(value))


def finite_index(q: float) -> float:
    """Return q as a float.

    Raises:
        UserError: q is not a finite number.
    """
    if isinstance(q, bool) or not isinstance(q, (int, float)) or not math.isfinite(q):
        raise UserError(f"The index q must be a finite number, got {q!r}.")
    return float(q)
