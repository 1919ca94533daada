"""What a training tells while it runs, and whom: any function, such as one that writes to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True)
class Logged:
    """The metrics of one update, as the run's table has them."""

    step: int
    """Number of updates so far."""
    seconds: float
    """Since the training began, without interruptions."""
    values: Mapping[str, Mapping[int, float]]
    """Name of the metric, such as ``loss/critic``, to seed, to value."""


OnLog: TypeAlias = Callable[[Logged], None]
"""Called at every log row, in the training's own thread. A run that is resumed from a checkpoint logs the
rows after it once more, with the same values."""


class ScalarWriter(Protocol):
    """The part of ``torch.utils.tensorboard.SummaryWriter`` that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Note one number."""


def to_tensorboard(writer: ScalarWriter) -> OnLog:
    """Write every metric of every seed as a scalar called ``METRIC/seed-K``, by update number.

    Args:
        writer: a ``SummaryWriter``, which the caller closes.
    """

    def on_log(logged: Logged) -> None:
        for name, seeds in logged.values.items():
            for seed, value in seeds.items():
                writer.add_scalar(f"{name}/seed-{seed}", value, logged.step)

    return on_log
