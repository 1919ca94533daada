"""The response model, its belief, its likelihood and roll-outs in plain loops, from the equations.

Parameters of one model are plain arrays by the names of ``dosing.models.response``. The Gaussian conditional
is dense: all levels and observations of a patient as one normal vector, for a response that is linear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Parameters = Mapping[str, Array]


def move(p: Parameters, level: Array, act: Array, *, held: bool = True) -> Array:
    """The next level of one patient, without process noise; not ``held``, without the ends of its range."""
    moved = np.zeros(len(level))
    hidden = []
    for h in range(p["hidden_out"].shape[0] if "hidden_out" in p else 0):
        inner = p["hidden_bias"][0, h]
        inner += sum(p["hidden_obs"][j, h] * level[j] for j in range(len(level)))
        inner += sum(p["hidden_act"][k, h] * act[k] for k in range(len(act)))
        hidden.append(math.tanh(inner))
    for i in range(len(level)):
        drive = 1.1 * level[i] / (1.0 + math.exp(-p["pull"][i])) + p["offset"][i]
        drive += sum(p["dose"][i, k] * act[k] for k in range(len(act)))
        drive += sum(p["hidden_out"][h, i] * hidden[h] for h in range(len(hidden)))
        ceiling = math.exp(p["log_level"][i])
        moved[i] = ceiling * math.tanh(drive / ceiling)
        if held:
            moved[i] = min(max(moved[i], p["low"][i]), p["high"][i])
    return moved


def jacobian(p: Parameters, level: Array, act: Array, step: float = 1e-6) -> Array:
    """Derivative by the level of :func:`move` without the ends of the range, by central differences."""
    columns = []
    for j in range(len(level)):
        nudge = np.zeros(len(level))
        nudge[j] = step
        up, down = (move(p, level + sign * nudge, act, held=False) for sign in (1.0, -1.0))
        columns.append((up - down) / (2.0 * step))
    return np.stack(columns, 1)


def curvature(p: Parameters, level: Array, act: Array, step: float = 1e-4) -> Array:
    """Second derivative of every marker's :func:`move` by its own level, without the ends of the range."""
    bends = []
    for i in range(len(level)):
        nudge = np.zeros(len(level))
        nudge[i] = step
        up, here, down = (move(p, level + sign * nudge, act, held=False)[i] for sign in (1.0, 0.0, -1.0))
        bends.append((up - 2.0 * here + down) / step**2)
    return np.array(bends)


def predict(p: Parameters, mean: Array, covariance: Array, act: Array, *, full: bool) -> tuple[Array, Array]:
    """The belief at the next visit before it; to second order where no marker acts on another."""
    process = np.diag(np.exp(p["log_process"]))
    slope = jacobian(p, mean, act)
    moved = move(p, mean, act, held=False)
    if not full:
        slope = np.diag(np.diag(slope))
    ahead = slope @ covariance @ slope.T + process
    if not full and "hidden_out" not in p:
        bent = curvature(p, mean, act) * np.diag(covariance)
        moved, ahead = moved + 0.5 * bent, ahead + 0.5 * np.diag(bent**2)
    return np.clip(moved, p["low"], p["high"]), ahead


def filter_patient(
    p: Parameters, obs: Array, act: Array, *, full: bool
) -> tuple[list[Array], list[Array], float]:
    """Means and covariances after each visit, and the log-likelihood; NaN is not recorded.

    With ``full`` all markers of a visit are taken in at once, by matrices.
    """
    noise = np.diag(np.exp(p["log_noise"]))
    mean, covariance = p["start"].copy(), np.diag(np.exp(p["log_start_variance"]))
    means, covariances, total = [], [], 0.0
    for visit in range(len(obs)):
        if visit > 0:
            mean, covariance = predict(p, mean, covariance, act[visit - 1], full=full)
        seen = np.flatnonzero(np.isfinite(obs[visit]))
        if len(seen):
            pick = np.eye(len(mean))[seen]
            variance = pick @ (covariance + noise) @ pick.T
            error = obs[visit, seen] - mean[seen]
            gain = covariance @ pick.T @ np.linalg.inv(variance)
            total -= 0.5 * float(error @ np.linalg.inv(variance) @ error)
            total -= 0.5 * float(np.linalg.slogdet(2.0 * math.pi * variance)[1])
            mean, covariance = mean + gain @ error, covariance - gain @ pick @ covariance
        means.append(mean)
        covariances.append(covariance)
    return means, covariances, total


def joint_normal(p: Parameters, act: Array, matrix: Array, offset: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and covariance of all observations, then all levels, of x' = matrix x + offset_t + noise.

    Returns:
        ``[2 V O]`` and ``[2 V O, 2 V O]``, built entry by entry from x_t = sum of what was added before.
    """
    n, visits = len(matrix), len(act) + 1
    start, process = np.diag(np.exp(p["log_start_variance"])), np.diag(np.exp(p["log_process"]))
    mean = np.zeros((visits, n))
    cross = np.zeros((visits, n, visits, n))
    mean[0], cross[0, :, 0] = p["start"], start
    for t in range(1, visits):
        mean[t] = matrix @ mean[t - 1] + offset[t - 1]
        for s in range(t):
            cross[t, :, s] = matrix @ cross[t - 1, :, s]
            cross[s, :, t] = cross[t, :, s].T
        cross[t, :, t] = matrix @ cross[t - 1, :, t - 1] @ matrix.T + process
    levels = cross.reshape(visits * n, visits * n)
    noise = np.diag(np.tile(np.exp(p["log_noise"]), visits))
    both = np.block([[levels + noise, levels], [levels, levels]])
    return np.concatenate((mean.ravel(), mean.ravel())), both


def riccati(a: float, b: float, state_cost: float, dose_cost: float, visits: int) -> list[float]:
    """Gains k_t of the optimal dose - k_t x for x' = a x + b u, cost sum state_cost x'^2 + dose_cost u^2."""
    gains, ahead = [], 0.0  # ahead x'^2: cost still to come behind the next level
    for _ in range(visits):
        weight = state_cost + ahead
        gain = a * b * weight / (dose_cost + b * b * weight)
        ahead = weight * (a - b * gain) ** 2 + dose_cost * gain * gain
        gains.append(gain)
    return gains[::-1]


def reward(theta: Array, next_obs: Array, act: Array) -> float:
    """phi(y') . theta . psi(a) of ``dosing.models.reward_model``, term by term."""
    n, a = len(next_obs), len(act)
    phi = [1.0, *next_obs, *(next_obs[i] * next_obs[j] for i in range(n) for j in range(n))]
    psi = [1.0, *act, *(act[i] * act[j] for i in range(a) for j in range(i, a))]
    return float(sum(phi[d] * theta[d, k] * psi[k] for d in range(len(phi)) for k in range(len(psi))))


def promised(p: Parameters, theta: Array, mean: Array, variance: Array, doses: Sequence[Array]) -> float:
    """Expected sum of rewards from a belief on, variances apart: by normal moments, term by term."""
    total, n = 0.0, len(mean)
    for dose in doses:
        mean, covariance = predict(p, mean, np.diag(variance), dose, full=False)
        variance = np.diag(covariance)
        seen = variance + np.exp(p["log_noise"])
        total += reward(theta, mean, dose)
        for i in range(n):  # E y_i y_i is the square of the mean, and the variance
            psi = [1.0, *dose, *(dose[j] * dose[k] for j in range(len(dose)) for k in range(j, len(dose)))]
            total += sum(theta[1 + n + i * n + i, k] * psi[k] for k in range(len(psi))) * seen[i]
    return total


def fit_loss(p: Parameters, obs: Array, act: Array, pooling: float, patients: int, *, full: bool) -> float:
    """Negative log-likelihood per entry of patients ``obs [n, V, O]``, and the prior of all ``patients``."""
    likelihood = sum(filter_patient(p, o, a, full=full)[2] for o, a in zip(obs, act, strict=True))
    entries = max(int(np.isfinite(obs).sum()), 1)
    most = int(np.argmax((p["dose"] ** 2).sum(0)))
    sign = np.sign(p["dose"][:, most])

    def apart(x: Array) -> float:
        return float(((x - x.mean(0)) ** 2).sum())

    plain = ("pull", "log_level", "log_noise", "log_start_variance", "log_process")
    prior = sum(apart(p[name]) for name in plain) + apart(p["start"] * sign)
    prior += 4.0 * apart(p["dose"] * sign[:, None]) + 4.0 * apart(p["offset"] * sign)
    size = 0.0
    if "hidden_out" in p:
        size = (p["hidden_out"] ** 2).sum() + 0.1 * (
            (p["hidden_obs"] ** 2).sum() + (p["hidden_act"] ** 2).sum()
        )
    return -likelihood / entries + (pooling * prior + size) / patients
