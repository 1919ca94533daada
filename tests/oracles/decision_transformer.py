"""Loss of Decision Transformer (Chen et al. 2021, arXiv 2106.01345), token by token.

Three tokens per visit, R_t, s_t, a_t, each an affine map plus the vector of its time step, normalised. Every
layer adds attention and then a feed-forward network, both of the normalised tokens:

    o_i = sum_{j <= i} w_ij v_j,    w_ij = exp(q_i . k_j / sqrt(d)) / sum_{j' <= i} exp(q_i . k_j' / sqrt(d))

per head of d units. L = mean over visits and doses of (tanh(head(LN(x_{s_t}))) - a_t)^2. Padding is left out
before anything is computed. Dropout factors are 0 or 1 / (1 - p), one per window, unit and place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import mlp as nets

Tokens = list[list[float]]

STATE = 1
"""Place of the state among the tokens of a visit."""


def attention(q: Tokens, k: Tokens, v: Tokens, heads: int) -> Tokens:
    """Causal attention of every token over itself and those before it, head by head."""
    width = len(q[0])
    size = width // heads
    mixed = [[0.0] * width for _ in q]
    for head in range(heads):
        units = range(head * size, (head + 1) * size)
        for i in range(len(q)):
            scores = [sum(q[i][u] * k[j][u] for u in units) / math.sqrt(size) for j in range(i + 1)]
            total = sum(math.exp(score) for score in scores)
            for u in units:
                mixed[i][u] = sum(math.exp(score) * v[j][u] for j, score in enumerate(scores)) / total
    return mixed


def norm(params: nets.Arrays, name: str, row: list[float]) -> list[float]:
    """Layer normalisation of one token."""
    return nets.normalised(params[f"{name}.weight"], params[f"{name}.bias"], row)


def scaled_by(row: list[float], factors: list[float]) -> list[float]:
    """Units times their dropout factors."""
    return [x * f for x, f in zip(row, factors, strict=True)]


def plus(a: list[float], b: list[float]) -> list[float]:
    """Sum of two rows."""
    return [x + y for x, y in zip(a, b, strict=True)]


def predictions(
    params: nets.Arrays,
    visits: list[dict[str, np.ndarray]],
    config: dict[str, Any],
    factors: list[list[float]] | None = None,
) -> Tokens:
    """Actions at every visit of one window without padding.

    Args:
        params: The seed's parameters.
        visits: return_to_go [1] (scaled), obs [O], act [A] and time_step of each visit, in order.
        config: width, layers, heads.
        factors: The dropout factors of every place: the embedding, then two of each layer; None for ones.
    """
    width, heads = config["width"], config["heads"]
    factors = factors or [[1.0] * width] * (1 + 2 * config["layers"])
    x: Tokens = []
    for visit in visits:
        time = params["actor.embed_time"][int(visit["time_step"])].tolist()
        for name, part in (("return", "return_to_go"), ("obs", "obs"), ("act", "act")):
            embedded = nets.head(params, f"actor.embed_{name}", [float(value) for value in visit[part]])
            x.append(norm(params, "actor.embed_norm", plus(embedded, time)))
    x = [scaled_by(row, factors[0]) for row in x]
    for layer in range(config["layers"]):
        name = f"actor.layers.{layer}"
        qkv = [nets.head(params, f"{name}.qkv", norm(params, f"{name}.attention_norm", row)) for row in x]
        q, k, v = ([row[part * width : (part + 1) * width] for row in qkv] for part in range(3))
        branch = [nets.head(params, f"{name}.out", row) for row in attention(q, k, v, heads)]
        x = [plus(row, scaled_by(b, factors[2 * layer + 1])) for row, b in zip(x, branch, strict=True)]
        branch = [nets.mlp(params, f"{name}.mlp", norm(params, f"{name}.mlp_norm", row)) for row in x]
        x = [plus(row, scaled_by(b, factors[2 * layer + 2])) for row, b in zip(x, branch, strict=True)]
    states = x[STATE::3]
    return [
        [math.tanh(y) for y in nets.head(params, "actor.head", norm(params, "actor.last_norm", row))]
        for row in states
    ]


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The loss of one seed.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], return_to_go [B, 1], time_step [B, 1], mask [B, 1], length, and
            uniform noise u_dropout [B / length, places * width] where there is dropout.
        config: width, layers, heads, residual_dropout.
        frozen: Not read: gradients flow everywhere.
    """
    del frozen
    length, width, rate = int(batch["length"]), config["width"], config["residual_dropout"]
    squares: list[float] = []
    for window in range(len(batch["act"]) // length):
        rows = [r for r in range(window * length, (window + 1) * length) if batch["mask"][r, 0] == 1.0]
        visits = [
            {
                "return_to_go": batch["return_to_go"][r] / params["spread"][0],
                "obs": batch["obs"][r],
                "act": batch["act"][r],
                "time_step": batch["time_step"][r, 0],
            }
            for r in rows
        ]
        factors = None
        if rate > 0.0:
            kept = [1.0 / (1.0 - rate) if u >= rate else 0.0 for u in batch["u_dropout"][window]]
            factors = [kept[start : start + width] for start in range(0, len(kept), width)]
        for r, predicted in zip(rows, predictions(params, visits, config, factors), strict=True):
            squares += [(p - float(a)) ** 2 for p, a in zip(predicted, batch["act"][r], strict=True)]
    return {"actor": sum(squares) / len(squares)}
