"""The batched core: one visit of all patients in a few array operations, no loop over patients.

State lives in block layout [B blocks, k entries, W patients], W = 256, and is worked through in groups of
blocks that fit the processor cache. A cohort inside one block keeps only its own columns and the noise it
has made; both forms give the same bits, because every operation on the state is elementwise along the
patients and the noise is always made for whole blocks.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.covariance import correlate
from simulator.scenario import Array, Scenario, normal_blocks
from simulator.streams import BLOCK, NOISE, PATIENT, block_streams

GROUP = 16
"""Blocks worked through together: 4,096 patients, whose arrays stay in a second-level cache."""


class Core:
    """The patients ``first`` to ``first + n - 1`` of one cohort, all at the same visit.

    Attributes:
        state: True state [B, k, W] at the present visit.
        mean: Latent mean [B, k, W].
        sensitivity: Factor [B, W] on the dose inside the law of motion, or None where all are 1.
        covariate: Hidden covariate [B, W], standard normal; None without between-patient variation.
    """

    def __init__(
        self, scenario: Scenario, n: int, cohort: str, variation: float = 0.0, confounding: float = 0.0
    ) -> None:
        """Hold ``n`` patients; ``start`` must be called before ``step``.

        Args:
            scenario: The law of motion and reward.
            n: Number of patients.
            cohort: ``train`` or ``evaluation``.
            variation: Standard deviation of the log sensitivity between patients.
            confounding: Change of the log sensitivity per unit of the hidden covariate.
        """
        self.scenario, self.n, self.cohort = scenario, n, cohort
        self.variation, self.confounding = variation, confounding
        self._block_key: tuple[int, int] | None = None

    def start(self, seed: int, first: int) -> None:
        """Bring the patients to their first visit."""
        self.first = first
        self._low = first % BLOCK
        self._one_block = self._low + self.n <= BLOCK
        if not (self._one_block and self._block_key == (seed, first // BLOCK)):
            self._draw(seed)
        self._time = 0
        if self._one_block:
            columns = slice(self._low, self._low + self.n)
            self.mean = self._first_mean[..., columns].copy()
            self.sensitivity = None if self._sensitivity is None else self._sensitivity[..., columns]
            self.covariate = self._covariate[..., columns]
        else:
            self.mean, self.sensitivity, self.covariate = self._first_mean, self._sensitivity, self._covariate
        self.state = np.empty_like(self.mean)
        self._dose = np.zeros((self.mean.shape[0], self.mean.shape[2]), dtype=np.float32)
        self._reward = np.empty_like(self._dose)
        for group in self._groups:
            np.add(self.mean[group], self._noise(group), out=self.state[group])
        self._time = 1

    def step(self, dose: Array) -> Array:
        """Deliver ``dose`` [n] and return the reward [n] (a view that the next step overwrites)."""
        if self._one_block:
            self._dose[0] = dose
        else:
            self._dose.reshape(-1)[self._low : self._low + self.n] = dose
        for group in self._groups:
            given = self._dose[group]
            felt = given if self.sensitivity is None else given * self.sensitivity[group]
            state = self.state[group]
            self.scenario.advance(self.mean[group], state, felt, self._noise(group))
            self._reward[group] = self.scenario.reward(state, given)
        self._time += 1
        return self.per_patient(self._reward[:, None])[:, 0]

    def per_patient(self, blocks: NDArray[np.float32]) -> Array:
        """Turn block layout [B, k, W] into one row per patient [n, k]."""
        rows = blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1])
        return rows if self._one_block else rows[self._low : self._low + self.n]

    def rows(self, blocks: NDArray[Any]) -> NDArray[Any]:
        """Turn draws for whole blocks [B, k, 256] into one row per patient of this cohort [n, k]."""
        every = blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1])
        return every[self._low : self._low + self.n]

    def factor(self) -> NDArray[np.float32]:
        """Return the noise factor: [k, k] when shared, else [n, k, k]."""
        if self._factor.ndim == 2:
            return self._factor
        k = self.scenario.n_state
        flat = self._factor.transpose(0, 3, 1, 2).reshape(-1, k, k)
        return flat[self._low : self._low + self.n]

    def _draw(self, seed: int) -> None:
        """Draw who the patients are and open their noise streams."""
        first, n = self.first, self.n
        who = block_streams(seed, self.cohort, PATIENT, first, n)
        draws = self.scenario.draw(who)
        traits = normal_blocks(who, 2)  # always drawn, so that options never change who a patient is
        self._first_mean = draws.mean
        shared = self.scenario.shared_factor(seed)
        factor = draws.factor if shared is None else shared
        if factor is None:
            raise AssertionError(f"{self.scenario.env_id} gives neither a shared nor a patient's own factor")
        self._factor = factor
        self._covariate = traits[:, 1]
        self._sensitivity: Array | None = None
        if self.variation or self.confounding:
            log = np.float32(self.variation) * traits[:, 0] + np.float32(self.confounding) * traits[:, 1]
            self._sensitivity = np.exp(log)
        self._streams = block_streams(seed, self.cohort, NOISE, first, n)
        blocks = len(self._streams)
        self._groups = [slice(i, min(i + GROUP, blocks)) for i in range(0, blocks, GROUP)]
        self._block_key = (seed, first // BLOCK) if self._one_block else None
        self._tape: list[Array] = []
        k = self.scenario.n_state
        self._normals = np.empty((min(blocks, GROUP), k, BLOCK), dtype=np.float32)
        self._correlated = np.empty_like(self._normals)

    def _noise(self, group: slice) -> Array:
        """Return the correlated noise [b, k, W] of the present visit for one group of blocks."""
        if not self._one_block:
            return self._make_noise(group)
        # The tape outlives the episode: the next patient of this block finds the noise already made.
        while len(self._tape) <= self._time:
            self._tape.append(self._make_noise(group).copy())
        return self._tape[self._time][..., self._low : self._low + self.n]

    def _make_noise(self, group: slice) -> Array:
        streams = self._streams[group]
        normals, correlated = self._normals[: len(streams)], self._correlated[: len(streams)]
        for stream, block in zip(streams, normals, strict=True):
            stream.standard_normal(dtype=np.float32, out=block)
        factor = self._factor if self._factor.ndim == 2 else self._factor[group]
        correlate(factor, normals, correlated)
        return correlated
