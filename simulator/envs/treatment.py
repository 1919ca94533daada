"""Environments III and IV: eight states around a latent mean that the dose pushes.

Sources: Li, Zhou, Zhu 2023, "Quasi-optimal reinforcement learning with continuous actions", ICLR 2023,
arXiv 2301.08940 (environments III and IV); Zhu, Wang, Nagai 2025, "Fat-to-thin policy optimization", ICLR
2025, arXiv 2501.14373 (SimEnv3, the eight-state treatment task).

    m'_i = tanh(m_i + a), i = 1..4;    m'_i = tanh(m_i - a), i = 5..8;    s' ~ N(m', C)
    III:  r = -exp(s'_1/2 + s'_5/2) a^2 + 2 (s'_2 + s'_3 + s'_6 + s'_7 + 1/2) a + s'_4 + s'_8
    IV:   r = (s'_1/2)^3 + (s'_2/2)^3 + 2 [(s'_5/2)^3 + (s'_6/2)^3] + s'_3 + s'_4 + (s'_7 + s'_8)/2
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.random import Generator

from dosing.safety import DoseLimits
from dosing.types import Float32Array
from simulator.engine.covariance import lkj_rows, published_rows, shared_lkj_factor
from simulator.engine.latent import LARGEST_NORMAL, Marker, PatientDraws
from simulator.engine.rng import replication_stream
from simulator.engine.scenario import normal_blocks, uniform_blocks
from simulator.engine.synthetic import SyntheticScenario

HALF = np.float32(0.5)


class Treatment(SyntheticScenario):
    """Environment III, in four variants.

    - ``corrected``: a full-rank LKJ(1) correlation over two and m_0 ~ U(-1,1)^8 for each patient; 24 visits.
    - ``simenv3``: as fat2thin publishes it, the sample correlation of eight uniform vectors over two for each
      patient (rank 7) and m_0 ~ U(-1,1)^8; 24 visits.
    - ``li-data``: one LKJ(1) correlation over two per replication (seed), m_0 ~ N(0, 1/4); 24 visits.
    - ``li-evaluation``: the same covariance, m_0 = 0, doses to [-3, 3], 100 visits, and the published lag:
      s' is drawn around m instead of m', so that states and rewards see a dose one visit late.
    """

    env_id = "dosing/Treatment-v0"
    title = "Eight-state treatment (environment III of Li et al. 2023; SimEnv3 of fat2thin)"
    expected_reward_form: ClassVar[Literal["quadratic", "cubic"] | None] = "quadratic"
    variants: ClassVar[tuple[str, ...]] = ("corrected", "simenv3", "li-data", "li-evaluation")
    n_state = 8
    state_names = tuple(f"s{i}" for i in range(1, 9))
    # Under a constant dose a the mean of this marker tends to the root of m = tanh(m + a): 0.86 at a = 0.44.
    marker = Marker(weights=(0.125,) * 4 + (-0.125,) * 4, target=0.85, gain=0.5, start=0.0)
    version = "1.0"
    sources: ClassVar[tuple[str, ...]] = (
        "Li, Zhou, Zhu 2023, ICLR, arXiv 2301.08940, environment III",
        "Zhu, Wang, Nagai 2025, ICLR, arXiv 2501.14373, SimEnv3",
        "Lewandowski, Kurowicka, Joe 2009, J Multivar Anal 100:1989, LKJ correlation matrices",
    )
    motion_text = "m'_i = tanh(m_i + a) for i = 1..4, tanh(m_i - a) for i = 5..8"
    reward_text = (
        "-exp(s1'/2 + s5'/2) a^2 + 2 (s2' + s3' + s6' + s7' + 1/2) a + s4' + s8', s' the next true state"
    )
    start_texts: ClassVar[dict[str, str]] = {
        "corrected": "m_0 ~ U(-1, 1)^8 per patient",
        "simenv3": "m_0 ~ U(-1, 1)^8 per patient",
        "li-data": "m_0 ~ N(0, 1/4)^8 per patient",
        "li-evaluation": "m_0 = 0",
    }
    noise_texts: ClassVar[dict[str, str]] = {
        "corrected": "s' ~ N(m', C), C = LKJ(1) correlation / 2, full rank, one per patient",
        "simenv3": "s' ~ N(m', C), C = sample correlation of 8 uniform vectors / 2, rank 7, one per patient",
        "li-data": "s' ~ N(m', C), C = LKJ(1) correlation / 2, one per seed, shared by both cohorts",
        "li-evaluation": "s' ~ N(m, C): the mean before the dose; C as in li-data",
    }
    evaluation_limit: ClassVar[float] = 3.0

    def __init__(self, variant: str) -> None:
        """Build one variant; raises UserError for an unknown one."""
        self.variant = self.checked(variant)
        self.lag = variant == "li-evaluation"
        reach = self.evaluation_limit if self.lag else 1.0
        self.limits = DoseLimits(low=(-reach,), high=(reach,))
        self.visits = 100 if self.lag else 24
        self.start_text, self.noise_text = self.start_texts[variant], self.noise_texts[variant]
        self.mean_bound = 0.5 * LARGEST_NORMAL if variant == "li-data" else 1.0
        # A row of the factor has length sqrt(1/2), so |L z| <= sqrt(1/2) |z| and |z| <= sqrt(8) * 8.25.
        self.state_bound = float(np.ceil(self.mean_bound + 2.0 * LARGEST_NORMAL))

    def draw(self, generators: list[Generator]) -> PatientDraws:
        """Draw each patient's noise factor and first mean."""
        rows: tuple[Float32Array, ...] = ()
        if self.variant == "corrected":
            rows = lkj_rows(normal_blocks(generators, 8, 9))
        elif self.variant == "simenv3":
            rows = published_rows(uniform_blocks(generators, 8, 8))
        if self.variant == "li-data":
            mean = HALF * normal_blocks(generators, 8)
        else:
            mean = 2 * uniform_blocks(generators, 8) - 1
        if self.variant == "li-evaluation":
            mean[:] = 0.0
        return PatientDraws(mean=mean, rows=rows)

    def shared_factor(self, seed: int) -> Float32Array | None:
        """Return the replication's covariance factor for the two published distributions of Li et al."""
        return shared_lkj_factor(replication_stream(seed), 8) if self.variant.startswith("li-") else None

    def first_mean_density(self, mean: Float32Array) -> Float32Array | None:
        """Density of U(-1, 1)^8 or of N(0, 1/4)^8 over its largest; None for the one mean of 0."""
        if self.variant == "li-evaluation":
            return None
        if self.variant == "li-data":
            density: Float32Array = np.exp(np.float32(-2) * np.square(mean).sum(axis=0))
        else:
            density = np.asarray((np.abs(mean) <= 1).all(axis=0), dtype=np.float32)
        return density

    def advance(
        self, mean: Float32Array, state: Float32Array, dose: Float32Array, noise: Float32Array
    ) -> None:
        """Push and squash the mean; put the state around it, or around the old mean under lag."""
        if self.lag:
            np.add(mean, noise, out=state)
        up, down = mean[:4], mean[4:]
        np.add(up, dose, out=up)
        np.subtract(down, dose, out=down)
        np.tanh(mean, out=mean)
        if not self.lag:
            np.add(mean, noise, out=state)

    def reward(self, state: Float32Array, dose: Float32Array) -> Float32Array:
        """Reward of environment III."""
        toxic = state[0] + state[4]
        toxic *= HALF
        np.exp(toxic, out=toxic)
        toxic *= dose
        gain: Float32Array = state[1] + state[2]
        gain += state[5]
        gain += state[6]
        gain += HALF
        gain += gain
        gain -= toxic
        gain *= dose
        gain += state[3]
        gain += state[7]
        return gain


class LiIV(Treatment):
    """Environment IV: the motion of environment III with a cubic reward that has no dose term."""

    env_id = "dosing/LiIV-v0"
    title = "Eight-state treatment, cubic reward (environment IV of Li et al. 2023)"
    expected_reward_form = "cubic"
    variants = ("li-data", "li-evaluation")
    sources = ("Li, Zhou, Zhu 2023, ICLR, arXiv 2301.08940, environment IV",)
    reward_text = (
        "(s1'/2)^3 + (s2'/2)^3 + 2 [(s5'/2)^3 + (s6'/2)^3] + s3' + s4' + (s7' + s8')/2, "
        "s' the next true state"
    )
    evaluation_limit = 2.0

    def reward(self, state: Float32Array, dose: Float32Array) -> Float32Array:
        """Reward of environment IV; the dose acts only through the state."""
        half = state * HALF
        cube = half * half
        cube *= half
        reward: Float32Array = cube[0] + cube[1]
        late = cube[4] + cube[5]
        reward += late
        reward += late
        reward += state[2]
        reward += state[3]
        reward += half[6]
        reward += half[7]
        return reward
