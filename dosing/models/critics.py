"""Critics of state and dose and values of states, with a leading seed axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dosing.models.networks import Activation, Init, Initialiser, Mlp

Aggregate = Literal["min", "mean"]


def frozen(network: nn.Module, *inputs: Tensor, members: int | None = None) -> Any:
    """Evaluate a network with its parameters held constant: gradients reach the inputs and nothing else.

    Args:
        network: the network.
        inputs: what it takes.
        members: evaluate only this many members of an ensemble; None for all, and for a single network.
    """
    constants = {name: p.detach()[:, :members] for name, p in network.named_parameters()}
    if members is not None:
        constants |= {name: values[:, :members] for name, values in network.named_buffers()}
    return torch.func.functional_call(network, constants, inputs)


class Critic(nn.Module):
    """Ensemble of E state-action values Q(s, a).

    Of the initialiser's regularisation it has ``critics``, ``dose_quadratic`` and ``pessimism``. Quadratic in
    the dose, its network sees the state alone and computes c, b and the upper triangle of A in
    Q = c + b a + a' A a; with no hidden width, c, b and A are linear in the state.

    Args:
        init: initialiser of the S seeds.
        n_obs: observation width.
        n_act: action width.
        hidden: hidden widths.
        members: E of the method, two for the usual twin critics.
        scheme: initialisation of every layer.
        activation: of the hidden units.
        layer_norm: normalise, see :class:`Mlp`.
        norm_after: normalise after every activation instead of before.
        last_bound: weights and bias of the last layer start uniform within it.
        last_gain: of the last layer's initialisation, see ``Linear``.
        aggregate: which one value of the ensemble :meth:`lower` is where ``pessimism`` does not say.
    """

    def __init__(
        self,
        init: Initialiser,
        n_obs: int,
        n_act: int,
        hidden: Sequence[int],
        *,
        members: int = 2,
        scheme: Init = "default",
        activation: Activation = "relu",
        layer_norm: bool = False,
        norm_after: bool = False,
        last_bound: float | None = None,
        last_gain: float | None = None,
        aggregate: Aggregate = "min",
    ) -> None:
        super().__init__()
        self.pessimism, self.aggregate = init.regularisation.pessimism, aggregate
        self.members = init.regularisation.critics or members
        self.pairs: tuple[list[int], list[int]] | None = None
        n_in, n_out = n_obs + n_act, 1
        if init.regularisation.dose_quadratic:
            upper = [(i, j) for i in range(n_act) for j in range(i, n_act)]
            self.pairs = [i for i, _ in upper], [j for _, j in upper]
            n_in, n_out = n_obs, 1 + n_act + len(upper)
        self.net = Mlp(
            init,
            [n_in, *hidden, n_out],
            members=self.members,
            scheme=scheme,
            activation=activation,
            layer_norm=layer_norm,
            norm_after=norm_after,
            last_bound=last_bound,
            last_gain=last_gain,
        )

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        """Values ``[S, E, B]`` of ``obs [S, B, O]`` and ``act [S, B, A]``; the member axis is kept."""
        if self.pairs is None:
            values: Tensor = self.net(torch.cat((obs, act), -1)).squeeze(-1)
            return values
        left, right = self.pairs
        powers = torch.cat((torch.ones_like(act[..., :1]), act, act[..., left] * act[..., right]), -1)
        quadratic: Tensor = (self.net(obs) * powers.unsqueeze(1)).sum(-1)
        return quadratic

    def pessimistic(self, obs: Tensor, act: Tensor) -> Tensor:
        """:meth:`lower` of the values at ``obs [S, B, O]`` and ``act [S, B, A]``."""
        return self.lower(self(obs, act))

    def lower(self, values: Tensor) -> Tensor:
        """One value ``[S, B]`` of an ensemble: the least, the mean or, by ``pessimism``, a bound."""
        if self.pessimism is None:
            return values.amin(1) if self.aggregate == "min" else values.mean(1)
        return values.mean(1) - self.pessimism * values.std(1, correction=0)


class Value(nn.Module):
    """State value V(s): ``[S, B, O] -> [S, B]``."""

    def __init__(
        self,
        init: Initialiser,
        n_obs: int,
        hidden: Sequence[int],
        *,
        scheme: Init = "default",
        activation: Activation = "relu",
        layer_norm: bool = False,
        norm_after: bool = False,
    ) -> None:
        super().__init__()
        self.net = Mlp(
            init,
            [n_obs, *hidden, 1],
            scheme=scheme,
            activation=activation,
            layer_norm=layer_norm,
            norm_after=norm_after,
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Values ``[S, B]`` of ``obs [S, B, O]``."""
        values: Tensor = self.net(obs).squeeze(-1)
        return values
