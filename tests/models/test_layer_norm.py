"""Stacked layer normalisation against ``torch.nn.LayerNorm``, seed by seed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dosing.models.critics import Value
from dosing.models.networks import Initialiser, Mlp, StackedLayerNorm

SEEDS = (2, 5, 9)


def init(dtype: torch.dtype = torch.float64) -> Initialiser:
    return Initialiser(SEEDS, dtype=dtype)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def shifted(module: nn.Module) -> nn.Module:
    """The module with every parameter moved by its own amount: nothing is 0 or 1 by chance."""
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.add_(0.5 * noise(*parameter.shape, seed=k).to(parameter.dtype))
    return module


def single(weight: Tensor, bias: Tensor) -> nn.LayerNorm:
    """Torch's layer with the given parameters ``[1, n]``."""
    norm = nn.LayerNorm(weight.shape[-1], eps=1e-6, dtype=weight.dtype)
    with torch.no_grad():
        norm.weight.copy_(weight[0])
        norm.bias.copy_(bias[0])
    return norm


def test_a_fresh_layer_normalises() -> None:
    x = 3.0 + 7.0 * noise(3, 50, 16)
    y = StackedLayerNorm(init(), 16)(x)
    torch.testing.assert_close(y.mean(-1), torch.zeros(3, 50, dtype=torch.float64), atol=1e-12, rtol=0.0)
    torch.testing.assert_close(
        y.var(-1, correction=0), torch.ones(3, 50, dtype=torch.float64), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("members", [None, 2])
def test_values_and_gradients_are_those_of_torch(members: int | None) -> None:
    layer = StackedLayerNorm(init(), 6, members=members)
    shifted(layer)
    x = noise(*([3, 7, 6] if members is None else [3, 2, 7, 6])).requires_grad_()
    own = layer(x)
    weight, bias = layer.weight.reshape(-1, 1, 6), layer.bias.reshape(-1, 1, 6)
    norms = [single(w, b) for w, b in zip(weight, bias, strict=True)]
    rows = x.reshape(-1, 7, 6)
    reference = torch.stack([norm(row) for norm, row in zip(norms, rows, strict=True)]).reshape(x.shape)
    torch.testing.assert_close(own, reference, rtol=1e-12, atol=1e-12)

    pull = noise(*x.shape, seed=9)
    by_x, by_weight, by_bias = torch.autograd.grad((own * pull).sum(), [x, layer.weight, layer.bias])
    parameters = [p for norm in norms for p in (norm.weight, norm.bias)]
    want_x, *want = torch.autograd.grad((reference * pull).sum(), [x, *parameters])
    torch.testing.assert_close(by_x, want_x, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(by_weight.reshape(-1, 6), torch.stack(want[::2]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(by_bias.reshape(-1, 6), torch.stack(want[1::2]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activate_last", [False, True])
@pytest.mark.parametrize("members", [None, 2])
def test_a_network_normalises_before_every_relu(members: int | None, activate_last: bool) -> None:
    net = Mlp(init(), [4, 8, 6, 3], members=members, activate_last=activate_last, layer_norm=True)
    shifted(net)
    assert len(net.norms) == (3 if activate_last else 2)
    x = noise(3, 11, 4)
    own = net(x)
    for k in range(len(SEEDS)):
        for member in range(members or 1):
            y = x[k]
            for i, layer in enumerate(net.layers):
                pick = (k,) if members is None else (k, member)
                weight, bias = layer.weight[pick], layer.bias[pick]  # type: ignore[index]
                y = y @ weight + bias
                if i < len(net.norms):
                    norm = net.norms[i]
                    y = torch.relu(single(norm.weight[pick], norm.bias[pick])(y))  # type: ignore[index]
            torch.testing.assert_close(own[pick], y, rtol=1e-12, atol=1e-12)


def test_without_the_option_nothing_changes() -> None:
    plain, normed = Value(init(), 4, (8, 8)), Value(init(), 4, (8, 8), layer_norm=True)
    assert not any("norms" in name for name in plain.state_dict())
    assert {name for name in normed.state_dict() if "norms" in name} == {
        f"net.norms.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    }
    for name, value in plain.state_dict().items():  # and the layers are drawn from the same stream
        assert torch.equal(value, normed.state_dict()[name])


def test_the_seeds_of_a_stack_are_normalised_apart() -> None:
    net = Value(init(), 4, (8, 8), layer_norm=True)
    x = noise(3, 5, 4)
    before = net(x)
    changed = copy.deepcopy(net)
    with torch.no_grad():
        changed.net.norms[0].weight[1] = torch.nan
    after = changed(x)
    assert bool(after[1].isnan().all())
    assert torch.equal(after[[0, 2]], before[[0, 2]])


def test_a_row_does_not_depend_on_its_batch() -> None:
    net = Value(init(), 4, (8, 8), layer_norm=True)
    x = noise(3, 5, 4)
    torch.testing.assert_close(net(x)[:, 2:3], net(x[:, 2:3]), rtol=1e-12, atol=1e-12)
