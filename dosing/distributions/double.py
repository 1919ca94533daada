"""Distributions in double precision on the CPU, for tails and edges."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.distributions import Distribution


def in_double(distribution: Distribution) -> Any:
    """The per-dimension distribution ``[S, B, A]`` on the CPU in double precision."""
    base: Any = distribution.base_dist  # type: ignore[attr-defined]  # every policy is Independent over doses
    double = copy.copy(base)
    for name in base.arg_constraints:
        setattr(double, name, getattr(base, name).detach().cpu().double())
    return double


def edges_of(distribution: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Exact edges of a bounded support, None for a distribution on the whole line."""
    support = distribution.support
    if not hasattr(support, "lower_bound"):
        return None
    return support.lower_bound, support.upper_bound
