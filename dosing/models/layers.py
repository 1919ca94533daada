"""The layers of a perceptron as one step of differentiation, with its derivative written out.

    h_0 = x,   z_i = h_(i-1) W_i + b_i,   h_i = max(z_i, 0), the last one z_n itself unless it is activated too

    d_i = dL/dz_i:   dL/dW_i = h_(i-1)' d_i,   dL/db_i = sum over rows of d_i,   d_(i-1) = (d_i W_i') 1{h_(i-1) > 0}

The numbers are those of the same layers one by one, to the bit; it is what happens between the products that
costs less: ReLU writes over the product, and the gradient of a hidden unit over that of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

_masked = torch.ops.aten.threshold_backward


def relu_layers(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activate_last: bool) -> Tensor:
    """Affine layers with ReLU between them.

    Args:
        x: ``[S, B, in]``; for an ensemble also ``[S, E, B, in]``.
        weights: of every layer, ``[S, in, out]`` or ``[S, E, in, out]``.
        biases: of every layer, ``[S, 1, out]`` or ``[S, E, 1, out]``.
        activate_last: ReLU after the last layer too.

    Returns:
        ``[S, B, out]`` or ``[S, E, B, out]``.
    """
    if not torch.is_grad_enabled():
        return _outputs(x, activate_last, (*weights, *biases))[-1]
    return cast(Tensor, _Layers.apply(x, activate_last, *weights, *biases)[0])  # type: ignore[no-untyped-call]


def _rows(x: Tensor, weight: Tensor) -> Tensor:
    """The input with seeds and members as one axis; every member sees an input that has none."""
    if weight.dim() == 3:
        return x
    if x.dim() == 3:
        x = x.unsqueeze(1).expand(-1, weight.shape[1], -1, -1)
    return _flat(x)


def _flat(x: Tensor) -> Tensor:
    """Seeds and members as one axis; what has no members stays as it is."""
    return x if x.dim() == 3 else x.flatten(0, 1)


def _outputs(x: Tensor, activate_last: bool, parameters: Sequence[Tensor]) -> list[Tensor]:
    """What every layer returns, seeds and members as one axis but in the last."""
    n = len(parameters) // 2
    lead = parameters[0].shape[:-2]
    x, flat = _rows(x, parameters[0]), [_flat(p) for p in parameters]
    outputs = []
    for i in range(n):
        x = torch.baddbmm(flat[n + i], x, flat[i])
        if i < n - 1 or activate_last:
            x.relu_()
        outputs.append(x)
    if len(lead) > 1:
        outputs[-1] = x.view(*lead, *x.shape[1:])
    return outputs


class _Layers(torch.autograd.Function):
    """All layers as one node; it returns the hidden units too, for its derivative alone."""

    @staticmethod
    def forward(x: Tensor, activate_last: bool, *parameters: Tensor) -> tuple[Tensor, ...]:
        *hidden, last = _outputs(x, activate_last, parameters)
        return last, *hidden

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, activate_last, *parameters = inputs
        last, *hidden = output
        ctx.mark_non_differentiable(*hidden)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *parameters, *hidden, *([last] if activate_last else []))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        needs = ctx.needs_input_grad
        n = (len(needs) - 2) // 2
        weights, outputs = [_flat(w) for w in saved[:n]], saved[2 * n :]
        found: list[Tensor | None] = [None] * len(needs)
        grad = _flat(grads[0])
        for i in reversed(range(n)):
            if i < len(outputs):
                own = i < n - 1 and not torch.is_grad_enabled()  # a product of ours, to be written over
                after = _flat(outputs[i])
                grad = _masked.grad_input(grad, after, 0.0, grad_input=grad) if own else _masked(grad, after, 0.0)
            before = outputs[i - 1] if i > 0 else _rows(x, saved[0])
            if needs[2 + i]:
                found[2 + i] = torch.bmm(before.transpose(1, 2), grad)
            if needs[2 + n + i]:
                found[2 + n + i] = grad.sum(1, keepdim=True)
            if i > 0 or needs[0]:
                grad = torch.bmm(grad, weights[i].transpose(1, 2))
        if needs[0]:
            found[0] = grad
        if (lead := saved[0].shape[:-2])[1:]:
            found = [None if g is None else g.view(*lead, *g.shape[1:]) for g in found]
            if found[0] is not None and x.dim() == 3:
                found[0] = found[0].sum(1)
        return tuple(found)
