"""Visits as one table of numbers, and batches cut from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dosing.data.dataset import Dataset
from dosing.models.batch import Batch


def packed(dataset: Dataset, extras: Sequence[Callable[[Dataset], Tensor]]) -> tuple[Tensor, list[int]]:
    """One row per transition ``[M, W]``, so that a batch is one gather instead of five; and their widths."""
    columns = [
        dataset.obs,
        dataset.act,
        dataset.next_obs,
        dataset.reward[:, None],
        dataset.terminated[:, None],
    ]
    columns += [column(dataset) for column in extras]
    return torch.cat(columns, dim=1), [column.shape[1] for column in columns]


def unpacked(
    rows: Tensor,
    widths: Sequence[int],
    extras: Sequence[str],
    noise: Mapping[str, Tensor],
    step: int,
    length: int = 1,
) -> Batch:
    """A batch of the rows ``[S, B, W]`` of :func:`packed`."""
    obs, act, next_obs, reward, terminated, *more = rows.split(list(widths), dim=-1)
    return Batch(
        obs=obs,
        act=act,
        reward=reward.squeeze(-1),
        next_obs=next_obs,
        terminated=terminated.squeeze(-1),
        noise=noise,
        extra=dict(zip(extras, more, strict=True)),
        step=step,
        length=length,
    )
