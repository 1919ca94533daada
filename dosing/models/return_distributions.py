"""Distributions of returns: quantile functions, how they are fitted, and doses chosen by them.

Implicit quantile networks are Dabney, Ostrovski, Silver, Munos 2018, arXiv 1806.06923; the quantile Huber
loss is Dabney, Rowland, Bellemare, Munos 2018, arXiv 1710.10044, equation 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.networks import Activation, Init, Initialiser, Linear, Mlp, StackedLayerNorm

LEVELS = 100
"""Equally likely returns by which a distribution is known outside of training; of 100, five are the lowest 5
%."""
COSINES = 64
"""Cosine features of a fraction: cos(pi k tau), k = 1 ... 64."""
CHUNK = 1 << 16
"""Most rows of a critic that are evaluated at once where no gradient is wanted."""


def midpoints(count: int, like: Tensor) -> Tensor:
    """Middles of ``count`` equal parts of [0, 1], ``[count]``, in the type and place of ``like``."""
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count


class QuantileCritic(nn.Module):
    """Ensemble of E quantile functions F^-1(tau | s, a) of the return.

    Features of state and dose, times features of the fraction tau (:data:`COSINES` through one layer), go
    through the rest of the network. Plain: the features are linear, shared by all members, and as wide as the
    first hidden layer, as in the value-flows code. Gated: every member has its own; those of state and dose
    are all hidden layers but the last, those of the fraction pass through a sigmoid, as in DSAC and CODAC.

    Of the initialiser's regularisation it has ``critics``, ``dose_quadratic`` and ``pessimism``. Quadratic in
    the dose, its network sees the state alone and computes c, b and the upper triangle of A in
    F^-1 = c + b a + a' A a, at every tau.

    Args:
        init: initialiser of the S seeds.
        n_obs: observation width.
        n_act: action width.
        hidden: hidden widths.
        gated: which of the two forms.
        members: E of the method.
        scheme: initialisation of every layer.
        activation: of the hidden units.
        norm_after: normalise the hidden units after every activation instead of before.
    """

    def __init__(
        self,
        init: Initialiser,
        n_obs: int,
        n_act: int,
        hidden: Sequence[int],
        *,
        gated: bool = False,
        members: int = 2,
        scheme: Init = "default",
        activation: Activation = "relu",
        norm_after: bool = False,
    ) -> None:
        super().__init__()
        members = init.regularisation.critics or members
        self.members, self.gated = members, gated
        self.pessimism = init.regularisation.pessimism
        self.pairs: tuple[list[int], list[int]] | None = None
        n_in, n_out = n_obs + n_act, 1
        if init.regularisation.dose_quadratic:
            upper = [(i, j) for i in range(n_act) for j in range(i, n_act)]
            self.pairs = [i for i, _ in upper], [j for _, j in upper]
            n_in, n_out = n_obs, 1 + n_act + len(upper)
        mlp = partial(
            Mlp, init, members=members, scheme=scheme, activation=activation, layer_norm=True,
            norm_after=norm_after,
        )  # fmt: skip
        if gated:
            width = (n_in, *hidden[:-1])[-1]
            self.features: nn.Module = mlp([n_in, *hidden[:-1]], activate_last=True)
            self.fraction = Linear(init, COSINES, width, members=members, scheme=scheme)
            self.gate = StackedLayerNorm(init, width, members=members)
            self.head = mlp([width, *hidden[-1:], n_out])
        else:
            width = hidden[0] if hidden else COSINES
            self.features = Linear(init, n_in, width, scheme=scheme)
            self.fraction = Linear(init, COSINES, width, scheme=scheme)
            self.head = mlp([width, *hidden, n_out])

    def forward(self, obs: Tensor, act: Tensor, tau: Tensor) -> Tensor:
        """Quantiles ``[S, E, B, K]`` at ``obs [S, B, O]``, ``act [S, B, A]``, fractions ``tau [S, B, K]``.

        A ``tau [S, 1, K]`` is that of every row, and embedded once.
        """
        features = self.features(obs if self.pairs is not None else torch.cat((obs, act), -1))
        order = torch.arange(1, COSINES + 1, dtype=tau.dtype, device=tau.device)
        fraction = self.fraction(torch.cos(math.pi * tau.flatten(1).unsqueeze(-1) * order))
        fraction = torch.sigmoid(self.gate(fraction)) if self.gated else fraction.unsqueeze(1)
        if features.dim() == 3:  # shared by the members
            features = features.unsqueeze(1)
        product = features.unsqueeze(-2) * fraction.unflatten(2, tau.shape[1:])  # [S, E or 1, B, K, width]
        flat = product.flatten(2, 3).expand(-1, self.members, -1, -1)
        out = self.head(flat).unflatten(2, product.shape[2:4])
        if self.pairs is None:
            quantiles: Tensor = out.squeeze(-1)
            return quantiles
        left, right = self.pairs
        powers = torch.cat((torch.ones_like(act[..., :1]), act, act[..., left] * act[..., right]), -1)
        quadratic: Tensor = (out * powers[:, None, :, None]).sum(-1)
        return quadratic


def pooled(values: Tensor, pessimism: float | None) -> Tensor:
    """Mean over the members of ``[S, E, ...]``, less ``pessimism`` (None is 0) standard deviations."""
    mean = values.mean(1)
    return mean if not pessimism else mean - pessimism * values.std(1, correction=0)


def quantile_huber(
    quantiles: Tensor, tau: Tensor, target: Tensor, threshold: float, weight: Tensor | None = None
) -> Tensor:
    """Quantile Huber loss |tau - 1{u < 0}| L_k(u) / k with u = target - quantile, averaged over targets.

    Args:
        quantiles: ``[S, E, B, K]``.
        tau: their fractions, ``[S, B, K]``.
        target: equally likely or weighted values of the target, ``[S, B, L]``.
        threshold: k > 0; L_k(u) is u^2 / 2 up to |u| = k, from there on linear.
        weight: probabilities of the targets, ``[S, B, L]``; equal if None.

    Returns:
        ``[S, E, B, K]``.
    """
    error = target[:, None, :, None, :] - quantiles.unsqueeze(-1)  # [S, E, B, K, L]
    size = error.abs()
    huber = torch.where(size <= threshold, 0.5 * error.square() / threshold, size - 0.5 * threshold)
    loss = (tau[:, None, :, :, None] - (error < 0.0).to(error.dtype)).abs() * huber
    return loss.mean(-1) if weight is None else (loss * weight[:, None, :, None, :]).sum(-1)


def equally_likely(atoms: Tensor, probability: Tensor, count: int) -> Tensor:
    """Quantiles ``[..., count]`` at midpoints of a distribution on ascending ``atoms [..., K]``.

    Args:
        atoms: its values.
        probability: its probabilities, ``[..., K]``.
        count: how many values of probability 1/count stand for it.
    """
    reached = probability.cumsum(-1).contiguous()
    levels = midpoints(count, probability).expand(*probability.shape[:-1], count).contiguous()
    rank = torch.searchsorted(reached, levels).clamp(max=atoms.shape[-1] - 1)
    return atoms.expand(probability.shape).gather(-1, rank)


class ReturnRange(nn.Module):
    """Smallest and largest discounted return that the recorded rewards allow, of each seed.

    ``low`` and ``high``, ``[S, 1]``: the range of r / (1 - gamma), and of r itself, which is the return where
    an episode ends. Until data are seen they are those of rewards in [-1, 1].

    Args:
        init: initialiser of the S seeds.
        discount: gamma, below 1.

    Raises:
        UserError: the discount is 1: returns have no bound then.
    """

    low: Tensor
    high: Tensor
    known: Tensor

    def __init__(self, init: Initialiser, discount: float) -> None:
        super().__init__()
        if not discount < 1.0:
            raise UserError(f"discount must be below 1 where returns are bounded by rewards, got {discount}.")
        self.discount = discount
        shape = (len(init.seeds), 1)
        ones = torch.ones(shape, dtype=init.dtype, device=init.device)
        self.register_buffer("low", -ones / (1.0 - discount))
        self.register_buffer("high", ones / (1.0 - discount))
        self.register_buffer("known", torch.zeros(shape, dtype=torch.bool, device=init.device))

    def take(self, dataset: Dataset) -> None:
        """Take the range from the data; the first one stays.

        Raises:
            UserError: every recorded reward of a seed is the same.
        """
        if bool(self.known.all()):
            return
        reward = dataset.reward.unflatten(0, (dataset.replicates, -1))  # [1 or S, M]
        least, most = reward.amin(-1, keepdim=True), reward.amax(-1, keepdim=True)
        if not bool((least < most).all()):
            raise UserError(
                "every recorded reward is the same: there is no distribution of returns to learn."
            )
        self.low.copy_(torch.minimum(least, least / (1.0 - self.discount)))
        self.high.copy_(torch.maximum(most, most / (1.0 - self.discount)))
        self.known.fill_(True)

    def clip(self, value: Tensor) -> Tensor:
        """Returns ``[S, ...]``, moved into the range."""
        shape = (-1, *[1] * (value.dim() - 1))
        return torch.minimum(torch.maximum(value, self.low.view(shape)), self.high.view(shape))


def preferences(value: Callable[[Tensor, Tensor], Tensor], obs: Tensor, act: Tensor, rows: int = 1) -> Tensor:
    """Value ``[S, B, M]`` of each of M doses, without gradient.

    Args:
        value: ``value(obs [S, N, O], act [S, N, A])`` gives ``[S, N]``, row by row.
        obs: ``[S, B, O]``.
        act: ``[S, B, M, A]``.
        rows: what one dose counts for against :data:`CHUNK`, such as members times fractions.
    """
    seeds, _, count, width = act.shape
    states = obs.unsqueeze(2).expand(-1, -1, count, -1)
    size = max(1, CHUNK // (seeds * count * rows))
    with torch.no_grad():
        parts = [
            value(s.reshape(seeds, -1, s.shape[-1]), a.reshape(seeds, -1, width)).view(seeds, -1, count)
            for s, a in zip(states.split(size, 1), act.split(size, 1), strict=True)
        ]
    return torch.cat(parts, 1)


def best(act: Tensor, preference: Tensor) -> Tensor:
    """The most preferred ``[S, B, A]`` of the doses ``[S, B, M, A]``; of equal ones the first."""
    chosen = preference.argmax(-1)[..., None, None].expand(*act.shape[:2], 1, act.shape[-1])
    return act.gather(2, chosen).squeeze(2)
