"""Random streams: one per (seed, purpose, block), addressed by counter so that nothing has to be remembered.

A stream is a pure function of its address, so seed 3 draws the same numbers alone or in a stack of thirty,
and a run that is resumed at update 12,345 draws what it would have drawn without the interruption. On the CPU
the bits come from NumPy's SFC64 keyed by a ``SeedSequence``; on a GPU from one Philox generator per seed,
keyed by the same address. The two devices therefore draw different, equally reproducible numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dosing.errors import UserError
from dosing.types import NoiseKind

_PURPOSES = {
    "weights": 0,
    "indices": 1,
    "noise": 2,
    "evaluation": 3,
    "split": 4,
    "exploration": 5,
    "order": 6,
}


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """NumPy generator of the stream at ``(seed, purpose, *address)``."""
    return np.random.Generator(np.random.SFC64(_sequence(seed, purpose, address)))


def _sequence(seed: int, purpose: str, address: tuple[int, ...]) -> np.random.SeedSequence:
    """The address as a spawn key: as plain entropy, (1,) and (1, 0) would be the same stream."""
    return np.random.SeedSequence(seed, spawn_key=(_PURPOSES[purpose], *address))


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the seeds as a tuple; refuse an empty, repeated or negative set."""
    seeds = tuple(int(s) for s in seeds)
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds must be one or more different integers >= 0, got {list(seeds)}.")
    return seeds


def _on_device(seed: int, purpose: str, address: tuple[int, ...], device: torch.device) -> torch.Generator:
    """Generator of a GPU for the stream at ``(seed, purpose, *address)``: Philox, keyed by 63 bits."""
    key = _sequence(seed, purpose, address).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(key[0] >> np.uint64(1)))


def draw(
    seeds: Sequence[int],
    distribution: NoiseKind,
    shape: tuple[int, ...],
    address: tuple[int, ...],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Standard normal or uniform [0, 1) noise for every seed.

    Returns:
        Tensor ``[shape[0], S, *shape[1:]]``: the first axis counts updates, the seed axis follows.
    """
    count, *rest = shape
    out = torch.empty((count, len(seeds), *rest), dtype=dtype, device=device)
    kind = np.float64 if dtype == torch.float64 else np.float32
    for k, seed in enumerate(seeds):  # the only loop over seeds: once per block of updates
        if device.type == "cuda":
            rng = _on_device(seed, "noise", address, device)
            block = torch.empty(shape, dtype=dtype, device=device)
            out[:, k] = (
                block.normal_(generator=rng) if distribution == "normal" else block.uniform_(generator=rng)
            )
        else:
            cpu = generator(seed, "noise", *address)
            values = cpu.standard_normal(shape, kind) if distribution == "normal" else cpu.random(shape, kind)
            out[:, k] = torch.from_numpy(values)
    return out


def draw_indices(
    seeds: Sequence[int], rows: int, shape: tuple[int, int], block: int, *, device: torch.device
) -> Tensor:
    """Uniform row numbers below ``rows`` for every seed: ``[shape[0], S, shape[1]]``."""
    parts = []
    for seed in seeds:
        if device.type == "cuda":
            rng = _on_device(seed, "indices", (block,), device)
            parts.append(torch.randint(rows, shape, generator=rng, device=device))
        else:
            parts.append(torch.from_numpy(generator(seed, "indices", block).integers(rows, size=shape)))
    return torch.stack(parts, 1)
