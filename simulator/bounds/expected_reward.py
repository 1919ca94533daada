"""Expected reward of environments III and IV in closed form, with its gradient in the doses.

The latent mean m moves deterministically under a dose sequence and the noise never feeds back, so the
expected return of a sequence is a smooth function of the doses. With s ~ N(m, C) and the normal moments
E[exp(x)] = exp(mean + variance/2) and E[x^3] = mean^3 + 3 mean variance::

    III:  E r = -exp((m_1 + m_5)/2 + (C_11 + C_55 + 2 C_15)/8) a^2
                + 2 (m_2 + m_3 + m_6 + m_7 + 1/2) a + m_4 + m_8
    IV:   E r = q(m_1) + q(m_2) + 2 q(m_5) + 2 q(m_6) + m_3 + m_4 + (m_7 + m_8)/2,
                q(m_i) = (m_i^3 + 3 m_i C_ii)/8

m is the mean after the dose; under the published evaluation lag it is the mean before it.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError
from simulator.engine.latent import LatentScenario
from simulator.environment import CohortEnv
from simulator.envs import SCENARIOS, scenario_class

Float = NDArray[np.float64]

PUSH: Float = np.array([1.0] * 4 + [-1.0] * 4)[:, None]
"""Direction in which a dose pushes each latent entry [8, 1]."""


@dataclass(frozen=True)
class Patients:
    """What an oracle knows of n patients; everything in float64 with the patients last."""

    mean: Float
    """Latent mean at the first visit [8, n]."""
    spread: Float
    """(C_11 + C_55 + 2 C_15)/8 of each patient [n]."""
    sensitivity: Float
    """Factor on the dose inside the dynamics [n]."""
    low: float
    """Lowest dose."""
    high: float
    """Highest dose."""
    visits: int
    """Number T of visits."""
    cubic: bool
    """Whether the reward is that of environment IV."""
    lag: bool
    """Whether the state is drawn around the mean before the dose."""

    @property
    def n(self) -> int:
        """Number of patients."""
        return len(self.spread)

    def repeat(self, times: int) -> "Patients":
        """Return every patient ``times`` times, all of one patient's copies side by side."""
        return replace(
            self,
            mean=np.repeat(self.mean, times, axis=1),
            spread=np.repeat(self.spread, times),
            sensitivity=np.repeat(self.sensitivity, times),
        )

    def take(self, index: NDArray[np.intp]) -> "Patients":
        """Return the patients at ``index``."""
        return replace(
            self,
            mean=self.mean[:, index],
            spread=self.spread[index],
            sensitivity=self.sensitivity[index],
        )


def known_patients(env_id: str, n: int, seed: int, **options: Any) -> Patients:
    """Return what an oracle knows of the first ``n`` patients of a scenario with a deterministic latent mean.

    Raises:
        UserError: If ``env_id`` is not one of environments III and IV, or for wrong options.
    """
    env = CohortEnv(env_id, num_envs=n, **options)
    scenario = env.visits.options.scenario
    if not isinstance(scenario, LatentScenario) or scenario.expected_reward_form is None:
        kinds = {name: scenario_class(name) for name in SCENARIOS}
        known = [n for n, k in kinds.items() if issubclass(k, LatentScenario) and k.expected_reward_form]
        raise UserError(
            f"{env_id} has no deterministic latent mean: ceilings are known for {' and '.join(known)}"
        )
    env.reset(seed=seed)
    core = env.visits.core
    factors = core.factors().astype(np.float64)
    toxic = factors[:, 0] + factors[:, 4]  # s_1 + s_5 = mean + toxic . z, so its variance is |toxic|^2
    return Patients(
        mean=core.means().T.astype(np.float64),
        spread=np.broadcast_to(np.square(toxic).sum(axis=1) / 8, (n,)).copy(),
        sensitivity=core.sensitivities().astype(np.float64),
        low=scenario.limits.low[0],
        high=scenario.limits.high[0],
        visits=env.visits.options.steps,
        cubic=scenario.expected_reward_form == "cubic",
        lag=scenario.lag,
    )


def move(patients: Patients, mean: Float, dose: Float) -> Float:
    """Return the latent mean [8, n] after ``dose`` [n]."""
    out: Float = np.tanh(mean + PUSH * (patients.sensitivity * dose))
    return out


def expected_reward(patients: Patients, mean: Float, dose: Float) -> Float:
    """Return E r [n] of ``dose`` [n] for states around ``mean`` [8, n]."""
    if patients.cubic:
        q = (mean * mean + 1.5) * mean / 8  # C_ii = 1/2
        out: Float = q[0] + q[1] + 2 * (q[4] + q[5]) + mean[2] + mean[3] + (mean[6] + mean[7]) / 2
        return out
    toxic = np.exp((mean[0] + mean[4]) / 2 + patients.spread)
    gain = 2 * (mean[1] + mean[2] + mean[5] + mean[6] + 0.5)
    quadratic: Float = (gain - toxic * dose) * dose + mean[3] + mean[7]
    return quadratic


def reward_gradient(patients: Patients, mean: Float, dose: Float) -> tuple[Float, Float]:
    """Return the derivatives of E r in the mean [8, n] and in the dose [n]."""
    by_mean = np.zeros_like(mean)
    if patients.cubic:
        slope = (3 * mean * mean + 1.5) / 8
        by_mean[:2], by_mean[4:6] = slope[:2], 2 * slope[4:6]
        by_mean[2:4], by_mean[6:] = 1.0, 0.5
        return by_mean, np.zeros_like(dose)
    toxic = np.exp((mean[0] + mean[4]) / 2 + patients.spread) * dose
    by_mean[[0, 4]] = -0.5 * toxic * dose
    by_mean[[1, 2, 5, 6]] = 2 * dose
    by_mean[[3, 7]] = 1.0
    return by_mean, 2 * (mean[1] + mean[2] + mean[5] + mean[6] + 0.5) - 2 * toxic


def expected_return(patients: Patients, doses: Float, gamma: float = 1.0) -> Float:
    """Return the expected (discounted) return [n] of dose sequences [T, n].

    For a policy that looks at noisy states, pass the doses it gave: each depends on noise of earlier visits
    only, so this is the return with the noise of its own visit averaged out, and its mean over patients is
    unbiased.
    """
    mean, total, weight = patients.mean, np.zeros(patients.n), 1.0
    for dose in doses:
        after = move(patients, mean, dose)
        total += weight * expected_reward(patients, mean if patients.lag else after, dose)
        mean, weight = after, weight * gamma
    return total


def value_and_gradient(patients: Patients, doses: Float, gamma: float = 1.0) -> tuple[Float, Float]:
    """Return the expected return [n] of doses [T, n] and its gradient [T, n], by the adjoint method."""
    means = [patients.mean]
    for dose in doses:
        means.append(move(patients, means[-1], dose))
    value = np.zeros(patients.n)
    gradient = np.empty_like(doses)
    adjoint = np.zeros_like(patients.mean)  # derivative of the rest of the return in the mean after visit t
    for t in range(len(doses) - 1, -1, -1):
        weight, seen = gamma**t, means[t] if patients.lag else means[t + 1]
        value += weight * expected_reward(patients, seen, doses[t])
        by_mean, by_dose = reward_gradient(patients, seen, doses[t])
        if not patients.lag:
            adjoint += weight * by_mean
        adjoint *= 1 - means[t + 1] * means[t + 1]  # back through the tanh
        gradient[t] = weight * by_dose + patients.sensitivity * (PUSH * adjoint).sum(axis=0)
        if patients.lag:
            adjoint += weight * by_mean
    return value, gradient
