"""Multi-layer perceptrons evaluated one row at a time, from the named arrays of one seed's parameters.

Layer ``i`` of a network ``net`` is ``net.layers.i.weight [in, out]`` and ``net.layers.i.bias [1, out]``; an
ensemble has a leading member axis on both. Where there is a ``net.norms.i.weight [1, out]``, the layer's
output is normalised over its units before the ReLU, then scaled by it and shifted by ``net.norms.i.bias``.
"""

from __future__ import annotations

import math

import numpy as np

Arrays = dict[str, np.ndarray]


def affine(weight: np.ndarray, bias: np.ndarray, row: list[float]) -> list[float]:
    """``b_j + sum_i x_i W_ij`` for every output unit j."""
    n_in, n_out = weight.shape
    assert len(row) == n_in, f"a row of {len(row)} numbers meets a layer with {n_in} inputs"
    assert bias.shape == (1, n_out)
    return [float(bias[0, j]) + sum(row[i] * float(weight[i, j]) for i in range(n_in)) for j in range(n_out)]


def head(params: Arrays, name: str, row: list[float]) -> list[float]:
    """A single linear layer."""
    return affine(params[f"{name}.weight"], params[f"{name}.bias"], row)


def normalised(weight: np.ndarray, bias: np.ndarray, row: list[float]) -> list[float]:
    """``w (x - mean) / sqrt(variance + 1e-6) + b`` over the units of one row (Ba, Kiros, Hinton 2016)."""
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    assert weight.shape == bias.shape == (1, len(row))
    return [
        float(weight[0, j]) * (x - mean) / math.sqrt(variance + 1e-6) + float(bias[0, j])
        for j, x in enumerate(row)
    ]


def relu(row: list[float]) -> list[float]:
    """``max(x, 0)`` per unit."""
    return [max(x, 0.0) for x in row]


def mlp(
    params: Arrays, name: str, row: list[float], member: int | None = None, trunk: bool = False
) -> list[float]:
    """The network's output for one row: ReLU between layers, and after the last one too if it is a trunk.

    Args:
        params: The parameters of one seed.
        name: The network's name, for example ``value.net``.
        row: The inputs.
        member: Which member of an ensemble; None where the network is no ensemble.
        trunk: Whether ReLU follows the last layer.
    """
    depth = 0
    while f"{name}.layers.{depth}.weight" in params:
        depth += 1
    assert depth > 0, f"no network is called {name}"
    for layer in range(depth):
        weight, bias = params[f"{name}.layers.{layer}.weight"], params[f"{name}.layers.{layer}.bias"]
        if member is not None:
            weight, bias = weight[member], bias[member]
        row = affine(weight, bias, row)
        if trunk or layer < depth - 1:
            if f"{name}.norms.{layer}.weight" in params:
                assert member is None, "no ensemble has layer normalisation"
                row = normalised(
                    params[f"{name}.norms.{layer}.weight"], params[f"{name}.norms.{layer}.bias"], row
                )
            row = relu(row)
    return row


def state_value(params: Arrays, obs: np.ndarray) -> float:
    """``V(s)`` of the network ``value.net``."""
    (value,) = mlp(params, "value.net", [float(x) for x in obs])
    return value


def action_values(params: Arrays, name: str, obs: np.ndarray, act: list[float]) -> list[float]:
    """``[Q_1(s, a), Q_2(s, a)]`` of the twin critics ``name``."""
    row = [float(x) for x in obs] + [float(x) for x in act]
    values = []
    for member in range(2):
        (q,) = mlp(params, name, row, member=member)
        values.append(q)
    return values


def pessimistic(values: list[float]) -> float:
    """The smaller of the twin critics' values."""
    return min(values)
