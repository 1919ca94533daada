"""Environments I and II of Li, Zhou, Zhu 2023 (arXiv 2301.08940): two observed states, dose in [0, 1].

I:   k(a) = 2/(1 + exp(-a)) - 1
     s1' =  k(a) s1 + s1 s2/4 + N(0, 1/4);    s2' = -k(a) s2 + s1 s2/4 + N(0, 1/4)
     r = -3 exp(s1' - s2') a^2 + 3 (s1' + s2' + 1/2) a + 3 s1' + 3 s2'
II:  s1' = 0.75 (2a-1) s1 + s1 s2/4 + N(0, 1/4);  s2' = 0.75 (1-2a) s2 + s1 s2/4 + N(0, 1/4);
     both cut to [-2, 2]
     r = s1'^3/4 + 2 s1' + s2'^3/2 + s2' + (2a-1)/4
Both start at s_0 ~ N(0, I/4). The latent mean is the mean of the state before its noise.
"""

from typing import ClassVar

import numpy as np
from numpy.random import Generator

from dosing.safety import DoseLimits
from dosing.types import Float32Array
from simulator.engine.latent import Marker, PatientDraws
from simulator.engine.rng import BLOCK
from simulator.engine.synthetic import SyntheticScenario

HALF, QUARTER = np.float32(0.5), np.float32(0.25)


class LiI(SyntheticScenario):
    """Environment I: quadratic reward."""

    env_id = "dosing/LiI-v0"
    title = "Two-state treatment, quadratic reward (environment I of Li et al. 2023)"
    variants: ClassVar[tuple[str, ...]] = ("published",)
    n_state = 2
    state_names = ("s1", "s2")
    marker = Marker(weights=(0.5, 0.5), target=0.0, gain=0.5, start=0.25)
    version = "1.0"
    sources = ("Li, Zhou, Zhu 2023, ICLR, arXiv 2301.08940, environment I",)
    motion_text = "m1 = k s1 + s1 s2/4, m2 = -k s2 + s1 s2/4, k = 2/(1 + exp(-a)) - 1"
    reward_text = "-3 exp(s1' - s2') a^2 + 3 (s1' + s2' + 1/2) a + 3 s1' + 3 s2', s' the next true state"
    start_text = "s_0 ~ N(0, I/4)"
    noise_text = "s' ~ N(m, I/4)"
    # The motion is quadratic and has no exact bound; tests/simulator/test_sanity.py shows what is reached.
    state_bound = 50.0
    mean_bound = 50.0
    visits = 24

    def __init__(self, variant: str) -> None:
        """Build the scenario; raises UserError for an unknown variant."""
        self.variant = self.checked(variant)
        self.limits = DoseLimits(low=(0.0,), high=(1.0,))

    def draw(self, generators: list[Generator]) -> PatientDraws:
        """Every patient starts around zero; nothing else is drawn."""
        return PatientDraws(mean=np.zeros((2, len(generators) * BLOCK), dtype=np.float32), rows=())

    def shared_factor(self, seed: int) -> Float32Array | None:
        """Independent noise of standard deviation 1/2."""
        return HALF * np.eye(2, dtype=np.float32)

    def first_mean_density(self, mean: Float32Array) -> Float32Array | None:
        """Every patient starts around zero."""
        return None

    def advance(
        self, mean: Float32Array, state: Float32Array, dose: Float32Array, noise: Float32Array
    ) -> None:
        """Move both states; k(a) = 2/(1 + exp(-a)) - 1 = tanh(a/2)."""
        product = QUARTER * state[0] * state[1]
        pull = np.tanh(HALF * dose)
        mean[0] = pull * state[0] + product
        mean[1] = product - pull * state[1]
        np.add(mean, noise, out=state)

    def reward(self, state: Float32Array, dose: Float32Array) -> Float32Array:
        """Reward of environment I."""
        total = state[0] + state[1]
        toxic = np.exp(state[0] - state[1]) * dose
        out: Float32Array = np.float32(3) * (dose * (total + HALF - toxic) + total)
        return out


class LiII(LiI):
    """Environment II: cubic reward, states cut to [-2, 2]."""

    env_id = "dosing/LiII-v0"
    title = "Two-state treatment, cubic reward (environment II of Li et al. 2023)"
    marker = Marker(weights=(0.5, 0.5), target=0.5, gain=0.5, start=0.5)
    sources = ("Li, Zhou, Zhu 2023, ICLR, arXiv 2301.08940, environment II",)
    motion_text = "m1 = 0.75 (2a - 1) s1 + s1 s2/4, m2 = 0.75 (1 - 2a) s2 + s1 s2/4"
    reward_text = "s1'^3/4 + 2 s1' + s2'^3/2 + s2' + (2a - 1)/4, s' the next true state"
    noise_text = "s' ~ N(m, I/4), cut to [-2, 2]"
    # Only the first state is not cut: |s_0| <= 8.25/2. The mean is bounded for doses felt up to 60 times as
    # strongly as given, further than any patient of realism 5 can be (exp(0.5 * 8.25) = 62).
    state_bound = 4.2
    mean_bound = 400.0

    def advance(
        self, mean: Float32Array, state: Float32Array, dose: Float32Array, noise: Float32Array
    ) -> None:
        """Move both states and cut them to [-2, 2], as published."""
        product = QUARTER * state[0] * state[1]
        pull = np.float32(1.5) * dose - np.float32(0.75)
        mean[0] = pull * state[0] + product
        mean[1] = product - pull * state[1]
        np.add(mean, noise, out=state)
        np.clip(state, np.float32(-2), np.float32(2), out=state)

    def reward(self, state: Float32Array, dose: Float32Array) -> Float32Array:
        """Reward of environment II."""
        first, second = state[0], state[1]
        out: Float32Array = QUARTER * first * first * first + np.float32(2) * first
        out += HALF * second * second * second + second
        out += HALF * dose - QUARTER
        return out
