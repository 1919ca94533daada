"""Recorded numbers that no model of the other patients explains, which a fit passes over.

A number is an outlier where its standardised innovation, by the model fitted without the patient, is beyond
:data:`FAR_OFF` robust standard deviations of its marker: 1.4826 times the median of their sizes (Hampel 1974,
Journal of the American Statistical Association 69:383), of normal ones 0.006 %. A data set that has
them is fitted again without, and what the new models then find beyond :data:`NEARER` is passed over too:
among so many outliers some lie less far off than others. The regression of the rewards needs this most:
squares of observations stand among its features, so that a few numbers far off, to which no reward answers,
bend all of it (Hampel et al. 1986, "Robust statistics", section 6.2: leverage).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dosing.models.response_fit import FitSettings, Fitted, fit_response

FAR_OFF = 4.0
"""Robust standard deviations beyond which an innovation makes an outlier."""
NEARER = 3.0
"""The same in a data set that is known to have outliers; of normal innovations 0.27 % lie beyond."""
CHANCE = 0.005
"""Share of a data set's numbers up to which outliers are left alone: so many heavy tails give."""
VALUES = 20
"""Different values up to which a marker is a code, which has no outliers, and no measurement."""


def fit_without_outliers(obs: Tensor, act: Tensor, settings: FitSettings) -> tuple[Fitted, Tensor]:
    """Fit response models, and where data sets have outliers once more without them.

    Returns:
        The models as of :func:`dosing.models.response_fit.fit_response`, and ``obs`` with NaN for outliers.

    Raises:
        UserError: there are fewer patients than folds, or fewer than two visits.
    """
    fitted = fit_response(obs, act, settings)
    far = outliers(fitted, obs, act)
    if not bool(far.any()):
        return fitted, obs
    clean = torch.where(far, torch.nan, obs)
    fitted = fit_response(clean, act, settings)
    nearer = _beyond(fitted, clean, act, NEARER) & far.flatten(1).any(1)[:, None, None, None]
    return fitted, torch.where(nearer, torch.nan, clean)


@torch.no_grad()
def outliers(fitted: Fitted, obs: Tensor, act: Tensor) -> Tensor:
    """Which numbers of ``obs`` are outliers, ``[R, N, V, O]``; none in data sets that have few.

    Args:
        fitted: response models of R data sets.
        obs: ``[R, N, V, O]`` they were fitted to, NaN where a marker was not recorded.
        act: ``[R, N, V - 1, A]``.
    """
    far = _beyond(fitted, obs, act, FAR_OFF)
    share = far.sum((1, 2, 3)) / obs.isfinite().sum((1, 2, 3)).clamp(min=1)
    return far & (share > CHANCE)[:, None, None, None]


@torch.no_grad()
def _beyond(fitted: Fitted, obs: Tensor, act: Tensor, limit: float) -> Tensor:
    """Which innovations are beyond a limit, in robust standard deviations."""
    z = torch.full_like(obs, torch.nan)
    for fold in range(int(fitted.fold.max()) + 1):
        rows = fitted.fold == fold
        _, innovations = fitted.models(1 + fold).filter(obs[:, rows], act[:, rows])
        z[:, rows] = torch.stack([i.error / i.variance.sqrt() for i in innovations], 2)
    away = torch.where(obs.isfinite(), z, torch.nan).abs()
    scale = 1.4826 * away.flatten(1, 2).nanmedian(1).values[:, None, None]  # [R, 1, 1, O]
    return (away > limit * scale) & _measured(obs)


def _measured(obs: Tensor) -> Tensor:
    """Markers with more than a few values, ``[R, 1, 1, O]``."""
    columns = obs.flatten(1, 2).transpose(1, 2).flatten(0, 1)  # [R O, M]
    counts = [column[column.isfinite()].unique().numel() for column in columns]
    return (torch.tensor(counts, device=obs.device) > VALUES).view(len(obs), 1, 1, -1)
