"""The batched core: one visit of all patients in a few array operations, no loop over patients.

Patients are worked through in groups of whole blocks that fit the processor cache; inside a group all state
is float32 [k, P] with the patients last. A cohort inside one block keeps only its own columns and the noise
it has made. Both forms give the same bits, because every operation on the state is elementwise along the
patients and the noise is always made for whole blocks.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dosing.types import Float32Array
from simulator.engine.covariance import correlate, matrices
from simulator.engine.latent import LatentScenario
from simulator.engine.rng import BLOCK, NOISE, PATIENT, block_streams
from simulator.engine.scenario import normal_blocks, patients_last

GROUP = 128
"""Blocks worked through together: 32,768 patients, so that a call costs little beside its work. From 24 to
400 blocks the speed differs by a tenth."""


class Core:
    """The patients ``first`` to ``first + n - 1`` of one cohort, all at the same visit."""

    def __init__(
        self, scenario: LatentScenario, n: int, cohort: str, variation: float = 0.0, confounding: float = 0.0
    ) -> None:
        """Hold ``n`` patients; ``start`` must be called before ``step``.

        Args:
            scenario: The dynamics and reward.
            n: Number of patients.
            cohort: ``train`` or ``evaluation``.
            variation: Standard deviation of the log sensitivity between patients.
            confounding: Change of the log sensitivity per unit of the hidden covariate.
        """
        self.scenario, self.n, self.cohort = scenario, n, cohort
        self.variation, self.confounding = variation, confounding
        self._groups: list[Group] = []
        self._held: tuple[int, int] | None = None

    def start(self, seed: int, first: int) -> None:
        """Bring the patients to their first visit."""
        self.first, self._low = first, first % BLOCK
        one_block = self._low + self.n <= BLOCK
        if not (one_block and self._held == (seed, first // BLOCK)):
            self._draw(seed, one_block)
        self._held = (seed, first // BLOCK) if one_block else None
        for group in self._groups:
            group.start(slice(self._low, self._low + self.n) if one_block else None)

    def step(self, dose: Float32Array) -> Float32Array:
        """Deliver ``dose`` [n] and return the reward [n]."""
        reward = np.empty(self.n, dtype=np.float32)
        for group, mine, own in self._places():
            if own is None:
                reward[mine] = group.step(dose[mine])
            else:  # the first or last group of a cohort that does not begin or end with it
                given = np.zeros(group.state.shape[1], dtype=np.float32)
                given[own] = dose[mine]
                reward[mine] = group.step(given)[own]
        return reward

    def states(self) -> Float32Array:
        """Return the true state of every patient [n, k]."""
        return self._gather([group.state for group in self._groups])

    def means(self) -> Float32Array:
        """Return the latent mean of every patient [n, k]."""
        return self._gather([group.mean for group in self._groups])

    def covariates(self) -> Float32Array:
        """Return the hidden covariate of every patient [n], which acts only through ``confounding``."""
        return self._gather([group.covariate[None] for group in self._groups])[:, 0]

    def sensitivities(self) -> Float32Array:
        """Return each patient's factor on the dose inside the dynamics [n]."""
        every = [group.sensitivity for group in self._groups]
        if any(factor is None for factor in every):
            return np.ones(self.n, dtype=np.float32)
        return self._gather([factor[None] for factor in every if factor is not None])[:, 0]

    def factors(self) -> Float32Array:
        """Return the noise factor of each patient [n, k, entries], or the shared one [1, k, k]."""
        if self._groups[0].shared is not None:
            return self._groups[0].shared[None]
        return np.concatenate([matrices(group.rows) for group in self._groups])[self._low :][: self.n]

    def rows(self, blocks: NDArray[Any]) -> NDArray[Any]:
        """Turn draws for whole blocks [B, k, 256] into one row per patient of this cohort [n, k]."""
        return patients_last(blocks).T[self._low : self._low + self.n]

    def _gather(self, parts: list[Float32Array]) -> Float32Array:
        """Join the [k, P] arrays of all groups into one row per patient [n, k]."""
        out = np.empty((self.n, parts[0].shape[0]), dtype=np.float32)
        for (_, mine, own), part in zip(self._places(), parts, strict=True):
            out[mine] = part.T if own is None else part.T[own]
        return out

    def _places(self) -> list[tuple["Group", slice, slice | None]]:
        """Return each group with its place in [n], and which of its columns are ours if not all are."""
        places: list[tuple[Group, slice, slice | None]] = []
        at = 0
        for group in self._groups:
            held = group.state.shape[1]
            skip = 0 if self._held else max(self._low - at, 0)
            begin = 0 if self._held else max(at - self._low, 0)
            count = min(held - skip, self.n - begin)
            own = None if count == held else slice(skip, skip + count)
            places.append((group, slice(begin, begin + count), own))
            at += held
        return places

    def _draw(self, seed: int, one_block: bool) -> None:
        """Draw who the patients are and open their noise streams."""
        who = block_streams(seed, self.cohort, PATIENT, self.first, self.n)
        noise = block_streams(seed, self.cohort, NOISE, self.first, self.n)
        shared = self.scenario.shared_factor(seed)
        workspace = Workspace(self.scenario.n_state, min(len(who), GROUP))
        traits = (self.variation, self.confounding)
        self._groups = [
            Group(
                self.scenario, shared, who[b : b + GROUP], noise[b : b + GROUP], *traits, workspace, one_block
            )
            for b in range(0, len(who), GROUP)
        ]


class Workspace:
    """Memory that all groups of a cohort work in, one after the other, so that it stays in the cache."""

    def __init__(self, k: int, blocks: int) -> None:
        """Make room for ``blocks`` blocks of noise of up to ``k`` entries."""
        self.drawn = np.empty(k * blocks * BLOCK, dtype=np.float32)
        self.normals = np.empty(k * blocks * BLOCK, dtype=np.float32)


class Group:
    """Whole blocks of patients, or some columns of one block."""

    def __init__(
        self,
        scenario: LatentScenario,
        shared: Float32Array | None,
        who: list[Generator],
        noise: list[Generator],
        variation: float,
        confounding: float,
        workspace: Workspace,
        keep_noise: bool,
    ) -> None:
        """Draw the patients of all blocks; arguments as of :class:`Core`, streams one per block."""
        self.scenario, self.shared = scenario, shared
        self._draws = [stream.standard_normal for stream in noise]  # bound once: there are many
        draws = scenario.draw(who)
        self._first_mean, self.rows = draws.mean, draws.rows
        # The traits are drawn whatever the options, so that no option changes who a patient is.
        varied, self._covariate = normal_blocks(who, 2)
        log = np.float32(variation) * varied + np.float32(confounding) * self._covariate
        self._sensitivity = np.exp(log) if variation or confounding else None
        self._entries = max((len(row) for row in self.rows), default=scenario.n_state)
        self._workspace = workspace
        # The noise outlives the episode: the next patient of the same block finds it already made.
        self._tape: list[Float32Array] | None = [] if keep_noise else None

    def start(self, columns: slice | None) -> None:
        """Bring the patients, or only those in some columns, to their first visit."""
        kept = slice(None) if columns is None else columns
        self._kept, self._time = kept, 0
        self.mean = self._first_mean[:, kept].copy()
        self.covariate = self._covariate[kept]
        self.sensitivity = None if self._sensitivity is None else self._sensitivity[kept]
        self.state = self.mean + self._noise()

    def step(self, dose: Float32Array) -> Float32Array:
        """Deliver ``dose`` [P] and return the reward [P]."""
        self._time += 1
        felt = dose if self.sensitivity is None else dose * self.sensitivity
        self.scenario.advance(self.mean, self.state, felt, self._noise())
        return self.scenario.reward(self.state, dose)

    def _noise(self) -> Float32Array:
        """Return the correlated noise [k, P] of the present visit."""
        if self._tape is None:
            return self._make_noise()
        while len(self._tape) <= self._time:
            self._tape.append(self._make_noise().copy())
        return self._tape[self._time][:, self._kept]

    def _make_noise(self) -> Float32Array:
        b, k, z = len(self._draws), self.scenario.n_state, self._entries
        blocks = self._workspace.drawn[: b * z * BLOCK].reshape(b, z, BLOCK)
        for draw, block in zip(self._draws, blocks, strict=True):
            draw(None, np.float32, block)
        noise = self._workspace.drawn[: k * b * BLOCK]  # once the draws in it are used up
        if self.shared is not None:  # block by block: how a product is rounded depends on its size
            product = self._workspace.normals[: b * k * BLOCK].reshape(b, k, BLOCK)
            np.matmul(self.shared, blocks, out=product)
            noise.reshape(k, b, BLOCK)[...] = product.transpose(1, 0, 2)
            return noise.reshape(k, -1)
        normals = self._workspace.normals[: z * b * BLOCK].reshape(z, b, BLOCK)
        normals[...] = blocks.transpose(1, 0, 2)
        correlate(self.rows, normals.reshape(z, -1), noise.reshape(k, -1))
        return noise.reshape(k, -1)
