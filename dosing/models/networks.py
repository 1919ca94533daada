"""Networks whose parameters are born with a leading seed axis S (and, for ensembles, a member axis E).

``x @ W`` with ``W [S, in, out]`` trains S independent seeds in one call. Each slice is initialised
from its own seed's stream, so slice k is the network that seed k alone would have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dosing.models.regularisation import PLAIN, Regularisation
from dosing.rng import check_seeds, generator

Init = Literal["default", "xavier", "orthogonal", "edac", "gpt2"]
Activation = Literal["relu", "gelu"]


class Initialiser:
    """Initial weights for S seeds: seed k draws from its own stream, in the order the layers are built.

    Args:
        seeds: S different integers.
        device: where the parameters live.
        dtype: their type.
        regularisation: what networks have beyond the method.
        fresh: draw weights; else all are 0, for an agent whose weights are loaded or that is only looked at.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        regularisation: Regularisation = PLAIN,
        fresh: bool = True,
    ) -> None:
        self.seeds, self.fresh = check_seeds(seeds), fresh
        self.regularisation = regularisation
        self.device = torch.device(device)
        self.dtype = dtype
        self._streams = [generator(seed, "weights") for seed in self.seeds]

    def stack(
        self, draw: Callable[[np.random.Generator], np.ndarray], shape: tuple[int, ...]
    ) -> nn.Parameter:
        """Stack one array of this shape per seed into a parameter ``[S, *shape]``."""
        if not self.fresh:  # memory that nobody touches costs nothing
            return nn.Parameter(torch.zeros(len(self.seeds), *shape, dtype=self.dtype, device=self.device))
        # contiguous: Adam's fused step walks through weights and moments by memory, whatever their strides
        values = np.ascontiguousarray(np.stack([draw(stream) for stream in self._streams]))
        return nn.Parameter(torch.as_tensor(values, dtype=self.dtype, device=self.device))

    def constant(self, value: float, *shape: int) -> nn.Parameter:
        """Parameter ``[S, *shape]`` filled with one value."""
        full = torch.full((len(self.seeds), *shape), value, dtype=self.dtype, device=self.device)
        return nn.Parameter(full)


def _orthogonal(rng: np.random.Generator, shape: tuple[int, ...], gain: float) -> np.ndarray:
    rows, cols = shape[-2:]
    square = rng.standard_normal((*shape[:-2], max(rows, cols), min(rows, cols)))
    q, r = np.linalg.qr(square)
    q = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]  # uniform over orthogonal matrices
    scaled: np.ndarray = gain * (q if rows >= cols else np.swapaxes(q, -1, -2))
    return scaled


def decays(parameter: nn.Parameter, rate: float) -> None:
    """Mark a parameter for decoupled decay; ``optimisers.adam`` reads the mark by :func:`decay_of`."""
    parameter.decay = rate  # type: ignore[attr-defined]


def decay_of(parameter: nn.Parameter) -> float:
    """Rate of decay a parameter was marked with, 0 by default."""
    return float(getattr(parameter, "decay", 0.0))


NARROW = 8
"""So few outputs, and fewer: a product with so few columns is slow in MKL, one with so few rows is not."""


class _Narrow(torch.autograd.Function):
    """``x W + b`` for ``x [N, B, in]``, ``W [N, in, out]``, ``b [N, 1, out]`` with few outputs.

    The product and the weight's gradient are taken transposed, so that the few outputs are rows; with one
    output the input's gradient is no product at all.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.baddbmm(bias.mT, weight.mT, x.mT).mT.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = grad * weight.mT if weight.shape[-1] == 1 else torch.bmm(grad, weight.mT)
        if ctx.needs_input_grad[1]:
            of_weight = torch.bmm(grad.mT, x).mT
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum(1, keepdim=True)
        return of_input, of_weight, of_bias


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W + b`` by whichever products are faster; see :class:`_Narrow` for shapes."""
    outputs = weight.shape[-1]
    if outputs <= NARROW and (outputs > 1 or len(weight) > 1):
        return cast(Tensor, _Narrow.apply(x, weight, bias))  # type: ignore[no-untyped-call]  # torch's
    return torch.baddbmm(bias, x, weight)


class Linear(nn.Module):
    """Affine map per seed (and member): ``[S, B, in] -> [S, B, out]`` or ``[S, E, B, in] -> [S, E, B, out]``.

    Args:
        init: initialiser of the S seeds.
        n_in: input width.
        n_out: output width.
        members: E for an ensemble, None for a single network. An ensemble also takes ``[S, B, in]``.
        scheme: ``default`` (weights and bias uniform within 1/sqrt(n_in), as ``torch.nn.Linear``), ``xavier``
            (Glorot uniform, zero bias), ``orthogonal`` (gain sqrt 2, zero bias), ``edac`` (weights uniform
            within 1/sqrt(n_in), bias 0.1; An et al. 2021, arXiv 2110.01548) or ``gpt2`` (weights normal with
            standard deviation 0.02, zero bias).
        gain: of the schemes ``orthogonal`` and ``xavier``; None is sqrt 2 and 1.
        bound: weights and bias uniform within it, whatever the scheme; for a last layer that starts near 0.
    """

    def __init__(
        self,
        init: Initialiser,
        n_in: int,
        n_out: int,
        *,
        members: int | None = None,
        scheme: Init = "default",
        gain: float | None = None,
        bound: float | None = None,
    ) -> None:
        super().__init__()
        lead = () if members is None else (members,)
        shape = (*lead, n_in, n_out)
        bias_shape = (*lead, 1, n_out)
        self.members = members
        if scheme == "orthogonal" and bound is None:
            self.weight = init.stack(
                lambda rng: _orthogonal(rng, shape, 2.0**0.5 if gain is None else gain), shape
            )
            self.bias = init.constant(0.0, *bias_shape)
        elif scheme == "gpt2" and bound is None:
            self.weight = init.stack(lambda rng: 0.02 * rng.standard_normal(shape), shape)
            self.bias = init.constant(0.0, *bias_shape)
        else:
            glorot = (1.0 if gain is None else gain) * (6.0 / (n_in + n_out)) ** 0.5
            reach = bound or (glorot if scheme == "xavier" else n_in**-0.5)
            self.weight = init.stack(lambda rng: rng.uniform(-reach, reach, shape), shape)
            if bound is not None or scheme == "default":
                self.bias = init.stack(lambda rng: rng.uniform(-reach, reach, bias_shape), bias_shape)
            else:
                self.bias = init.constant(0.1 if scheme == "edac" else 0.0, *bias_shape)
        decays(self.weight, init.regularisation.weight_decay)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map; see the class for shapes."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.members is None:
            return _affine(x, weight, bias)
        seeds, members, n_in, n_out = weight.shape
        if x.dim() == 3:
            x = x.unsqueeze(1).expand(-1, members, -1, -1)
        flat = _affine(
            x.reshape(seeds * members, -1, n_in),
            weight.view(seeds * members, n_in, n_out),
            bias.view(seeds * members, 1, n_out),
        )
        return flat.view(seeds, members, -1, n_out)


PART = 2**18
"""Numbers of a hidden layer that a processor computes at once: 1 MiB, about what a core's own cache holds."""
LEAST_ROWS = 256
"""Products of fewer rows are not worth their calls."""

NORM_EPSILON = 1e-6
"""Added to the variance by layer normalisation: that of flax, in which the methods with it were published."""


class StackedLayerNorm(nn.Module):
    """Layer normalisation per seed (Ba, Kiros, Hinton 2016, arXiv 1607.06450).

    Every row of ``[S, B, n]`` (``[S, E, B, n]`` for an ensemble) is brought to mean 0 and variance 1 over its
    n units, then scaled and shifted by the seed's own ``weight`` and ``bias``, which start at 1 and 0.
    """

    def __init__(self, init: Initialiser, width: int, *, members: int | None = None) -> None:
        super().__init__()
        lead = () if members is None else (members,)
        self.weight = init.constant(1.0, *lead, 1, width)
        self.bias = init.constant(0.0, *lead, 1, width)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; the variance is the biased one, plus ``NORM_EPSILON``."""
        standard = functional.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)
        return torch.addcmul(self.bias, standard, self.weight)


class Mlp(nn.Module):
    """Multi-layer perceptron with ReLU or GELU between layers and, by default, nothing after the last.

    Args:
        init: initialiser of the S seeds.
        widths: ``[n_in, hidden..., n_out]``.
        members: E for an ensemble.
        scheme: initialisation of every layer.
        activate_last: also activate the last layer (a trunk of features).
        activation: of the hidden units; GELU in its tanh form (Hendrycks, Gimpel 2016, arXiv 1606.08415).
        layer_norm: normalise before every activation, see :class:`StackedLayerNorm`.
        norm_after: normalise after every activation instead of before.
        last_bound: weights and bias of the last layer start uniform within it.
        last_gain: of the last layer's initialisation, see :class:`Linear`.

    With one width it has no layer and returns its input: the trunk of a linear policy. Of the initialiser's
    regularisation it has ``layer_norm``, also where its method has none, and ``dropout``: ``masks`` ``[S, 1,
    sum of hidden widths]`` (``[S, E, 1, ...]``) multiplies the hidden units and is 1 outside of an update.
    """

    masks: Tensor

    def __init__(
        self,
        init: Initialiser,
        widths: Sequence[int],
        *,
        members: int | None = None,
        scheme: Init = "default",
        activate_last: bool = False,
        activation: Activation = "relu",
        layer_norm: bool = False,
        norm_after: bool = False,
        last_bound: float | None = None,
        last_gain: float | None = None,
    ) -> None:
        super().__init__()
        last = len(widths) - 2
        own: dict[str, float | None] = {"bound": last_bound, "gain": last_gain}
        self.layers = nn.ModuleList(
            Linear(init, n_in, n_out, members=members, scheme=scheme, **(own if i == last else {}))
            for i, (n_in, n_out) in enumerate(pairwise(widths))
        )
        self.hidden = list(widths[1:] if activate_last else widths[1:-1])
        self.norms = nn.ModuleList(
            StackedLayerNorm(init, width, members=members)
            for width in self.hidden
            if layer_norm or init.regularisation.layer_norm
        )
        self.dropout = init.regularisation.dropout if self.hidden else 0.0
        if self.dropout > 0.0:
            lead = (len(init.seeds),) if members is None else (len(init.seeds), members)
            ones = torch.ones(*lead, 1, sum(self.hidden), dtype=init.dtype, device=init.device)
            self.register_buffer("masks", ones, persistent=False)
        self.activate_last, self.norm_after, self.gelu = activate_last, norm_after, activation == "gelu"
        self.rows = max(LEAST_ROWS, PART // (len(init.seeds) * (members or 1) * max(widths)))

    def forward(self, x: Tensor, keep: Sequence[Tensor] = ()) -> Tensor:
        """Map ``[S, B, n_in]`` to ``[S, B, n_out]`` (``[S, E, B, n_out]`` for an ensemble).

        ``keep``, if given, multiplies the units of every hidden layer: a method's own dropout. On a processor
        many rows go through all layers a part at a time, so that what one layer leaves is in the cache for
        the next; forward and backward.
        """
        if keep or x.device.type != "cpu" or x.shape[-2] < 2 * self.rows:
            return self._mapped(x, keep)
        return torch.cat([self._mapped(part) for part in x.split(self.rows, -2)], -2)

    def _mapped(self, x: Tensor, keep: Sequence[Tensor] = ()) -> Tensor:
        last = len(self.layers) - 1
        masks = self.masks.split(self.hidden, -1) if self.dropout > 0.0 else ()
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < last or self.activate_last:
                if self.norms and not self.norm_after:
                    x = self.norms[i](x)
                x = functional.gelu(x, approximate="tanh") if self.gelu else torch.relu(x)
                if self.norms and self.norm_after:
                    x = self.norms[i](x)
                if masks:
                    x = x * masks[i]
                if keep:
                    x = x * keep[i]
        return x

    def drop(self, uniform: Tensor) -> None:
        """Leave out the units whose number in ``uniform`` (the shape of ``masks``) is below ``dropout``.

        The others are scaled up, so that every unit keeps its mean.
        """
        self.masks.copy_((uniform >= self.dropout).to(uniform.dtype) / (1.0 - self.dropout))
