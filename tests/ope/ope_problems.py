"""Problems whose values are known, as recorded episodes, and target policies with a distribution written
down."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import beta

from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes

Array = np.ndarray[Any, Any]
LOG_HALF = math.log(0.5)
"""Log density of a dose that is uniform on [-1, 1]."""


def episodes(
    obs: Array,
    act: Array,
    reward: Array,
    next_obs: Array,
    *,
    terminated: Array | None = None,
    lengths: Array | None = None,
    log_density: float | Array = LOG_HALF,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Episodes:
    """Arrays ``[N, T, ...]`` as recorded visits; doses in dose units."""
    n, t = reward.shape
    keep = np.arange(t) < (np.full(n, t) if lengths is None else lengths)[:, None]
    ended = np.zeros((n, t), dtype=bool) if terminated is None else terminated.astype(bool)

    def rows(x: Array, kind: str) -> Array:
        return np.ascontiguousarray(x[keep].astype(kind))

    return Episodes(
        obs=rows(obs, "<f4"),
        act=rows(act, "<f4"),
        act_requested=rows(act, "<f4"),
        limited_by=rows(np.zeros((n, t)), "|i1"),
        reward=rows(reward, "<f4"),
        next_obs=rows(next_obs, "<f4"),
        terminated=rows(ended, "|b1"),
        truncated=rows(np.zeros((n, t)), "|b1"),
        cost=rows(np.zeros((n, t)), "<f4"),
        behaviour_log_prob=rows(np.broadcast_to(log_density, (n, t)), "<f4"),
        episode=rows(np.broadcast_to(np.arange(n)[:, None], (n, t)), "<i8"),
        step=rows(np.broadcast_to(np.arange(t), (n, t)), "<i4"),
        metadata=DatasetMetadata(
            action_low=(limits[0],) * act.shape[-1], action_high=(limits[1],) * act.shape[-1]
        ),
    )


# A linear system without noise: s' = 0.6 s + 0.4 a, r = 1 + s + a - a^2 + s a / 2


def linear_step(s: Array, a: Array) -> tuple[Array, Array]:
    return 1.0 + s + a - a**2 + 0.5 * s * a, 0.6 * s + 0.4 * a


def linear_system(patients: int, visits: int, seed: int = 0) -> Episodes:
    """Uniform doses in the linear system."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=patients)
    columns: dict[str, list[Array]] = {k: [] for k in ("obs", "act", "reward", "next_obs")}
    for _ in range(visits):
        a = rng.uniform(-1.0, 1.0, size=patients).astype(np.float32)
        reward, after = linear_step(s, a)
        for name, value in (("obs", s), ("act", a), ("reward", reward), ("next_obs", after)):
            columns[name].append(value)
        s = after
    stacked = {name: np.stack(values, axis=1) for name, values in columns.items()}
    return episodes(*(stacked[k][..., None] if k != "reward" else stacked[k] for k in columns))


def linear_return(start: float, gain: float, offset: float, visits: int, discount: float) -> float:
    """Return of the dose ``gain * s + offset`` from one state of the linear system."""
    s, total = start, 0.0
    for t in range(visits):
        reward, after = linear_step(np.float64(s), np.float64(gain * s + offset))
        total, s = total + discount**t * float(reward), float(after)
    return total


# Two states, -1 or 1, a coin at first: P(s' = 1) = 1/2 + 0.3 a + 0.1 s, r = s + a s / 2 - a^2 / 2 + noise


class TwoStates:
    """Values under a distribution of the dose with first two moments ``moments[s] = (m1, m2)`` in either
    state."""

    def __init__(self, moments: dict[int, tuple[float, float]]) -> None:
        self.moments = moments

    def value(self, visits: int, discount: float) -> float:
        """Exact return by backward induction over the two states."""
        after = {-1: 0.0, 1: 0.0}
        for _ in range(visits):
            now = {}
            for s, (first, second) in self.moments.items():
                up = 0.5 + 0.3 * first + 0.1 * s
                reward = s + 0.5 * first * s - 0.5 * second
                now[s] = reward + discount * (up * after[1] + (1.0 - up) * after[-1])
            after = now
        return 0.5 * (after[-1] + after[1])


def two_states(patients: int, visits: int, seed: int = 0, noise: float = 0.3) -> Episodes:
    """Uniform doses in the two-state problem."""
    rng = np.random.default_rng(seed)
    s = rng.choice([-1.0, 1.0], size=patients)
    obs, act, reward, next_obs = (np.empty((patients, visits)) for _ in range(4))
    for t in range(visits):
        a = rng.uniform(-1.0, 1.0, size=patients)
        after = np.where(rng.random(patients) < 0.5 + 0.3 * a + 0.1 * s, 1.0, -1.0)
        r = s + 0.5 * a * s - 0.5 * a**2 + noise * rng.normal(size=patients)
        obs[:, t], act[:, t], reward[:, t], next_obs[:, t] = s, a, r, after
        s = after
    return episodes(obs[..., None], act[..., None], reward, next_obs[..., None])


class BetaLaw:
    """A target of one seed: a = 2 Beta(p, q) - 1 with (p, q) by the sign of the state."""

    description = "Beta distribution"
    shapes = {-1: (2.0, 3.0), 1: (4.0, 2.0)}  # noqa: RUF012

    def _distribution(self, obs: Array) -> Any:
        p, q = np.array([self.shapes[int(np.sign(s))] for s in obs[:, 0]]).T
        return beta(p, q, loc=-1.0, scale=2.0)

    def nodes(self, obs: Array) -> tuple[Array, Array]:
        x, w = np.polynomial.legendre.leggauss(40)
        table = self._distribution(np.array([[-1.0], [1.0]])).ppf(0.5 * (x[:, None] + 1.0))  # [K, 2]
        return table[:, (obs[:, 0] > 0).astype(int)][:, None, :, None], 0.5 * w

    def density(self, obs: Array, act: Array) -> Array:
        return self._distribution(obs).pdf(act[:, 0])[None]

    def off_support(self, obs: Array) -> Array:
        return np.zeros((1, len(obs)))

    @classmethod
    def moments(cls) -> dict[int, tuple[float, float]]:
        """First and second progress of the dose in either state."""
        result = {}
        for s, (p, q) in cls.shapes.items():
            distribution = beta(p, q, loc=-1.0, scale=2.0)
            result[s] = (float(distribution.mean()), float(distribution.var() + distribution.mean() ** 2))
        return result
