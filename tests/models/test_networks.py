"""Every seed's slice is the network it would be alone: same weights, same arithmetic, same gradients."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from dosing.errors import UserError
from dosing.models.critics import Critic, Value, frozen
from dosing.models.networks import NARROW, Init, Initialiser, Linear, Mlp

SEEDS = (3, 7, 1)
SCHEMES: tuple[Init, ...] = ("default", "xavier", "orthogonal", "edac")


def build(seeds: tuple[int, ...] = SEEDS) -> Initialiser:
    return Initialiser(seeds, dtype=torch.float64)


def as_torch(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """The torch layer that holds one slice."""
    n_in, n_out = weight.shape
    layer = nn.Linear(n_in, n_out, dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight.detach().T.clone(), bias.detach()[0].clone()
    return layer


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_slice_is_a_torch_linear(scheme: Init) -> None:
    layer = Linear(build(), 5, 4, scheme=scheme)
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    y = layer(x)
    for s in range(3):
        torch.testing.assert_close(y[s], as_torch(layer.weight[s], layer.bias[s])(x[s]))


@pytest.mark.parametrize("shared_input", [True, False])
def test_each_member_of_an_ensemble_is_a_torch_linear(shared_input: bool) -> None:
    layer = Linear(build(), 5, 4, members=2)
    x = torch.randn(*((3, 6, 5) if shared_input else (3, 2, 6, 5)), dtype=torch.float64)
    y = layer(x)
    assert y.shape == (3, 2, 6, 4)
    for s in range(3):
        for e in range(2):
            own = x[s] if shared_input else x[s, e]
            torch.testing.assert_close(y[s, e], as_torch(layer.weight[s, e], layer.bias[s, e])(own))


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_seed_has_the_same_weights_in_any_stack(scheme: Init, members: int | None) -> None:
    together = Mlp(build(), [4, 8, 6, 2], members=members, scheme=scheme)
    for k, seed in enumerate(SEEDS):
        alone = Mlp(build((seed,)), [4, 8, 6, 2], members=members, scheme=scheme)
        for whole, part in zip(together.parameters(), alone.parameters(), strict=True):
            assert torch.equal(whole[k], part[0])


def test_seeds_members_and_layers_start_differently() -> None:
    net = Mlp(build(), [6, 6, 6], members=2)
    slices = [layer.weight[s, e].flatten() for layer in net.layers for s in range(3) for e in range(2)]  # type: ignore[index]
    assert len({tuple(x.tolist()) for x in slices}) == len(slices)


@pytest.mark.parametrize("members", [None, 2])
def test_default_weights_are_uniform_within_one_over_root_n_in(members: int | None) -> None:
    """The bound is that of ``torch.nn.Linear``; a value head shows it best: fan-in 256, fan-out 1."""
    for n_in, n_out in ((256, 1), (9, 200)):
        layer = Linear(build(tuple(range(20))), n_in, n_out, members=members)
        bound = 1.0 / math.sqrt(n_in)
        for values in (layer.weight.detach(), layer.bias.detach()):
            assert float(values.abs().max()) <= bound
            if values.numel() > 1000:
                assert float(values.abs().max()) > 0.99 * bound
                assert float(values.std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.05)
        reference = nn.Linear(n_in, n_out)
        assert float(reference.weight.detach().abs().max()) <= bound


def test_xavier_weights_are_uniform_within_the_glorot_bound() -> None:
    for n_in, n_out in ((256, 1), (8, 256)):
        layer = Linear(build(tuple(range(20))), n_in, n_out, scheme="xavier")
        bound = math.sqrt(6.0 / (n_in + n_out))
        weight = layer.weight.detach()
        assert 0.99 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.05)
        assert not layer.bias.any()


def test_edac_weights_are_those_of_torch_with_a_bias_of_a_tenth() -> None:
    layer = Linear(build(tuple(range(20))), 64, 200, scheme="edac")
    weight = layer.weight.detach()
    assert 0.99 / 8.0 < float(weight.abs().max()) <= 1.0 / 8.0
    assert float(weight.std()) == pytest.approx(1.0 / (8.0 * math.sqrt(3.0)), rel=0.02)
    assert bool((layer.bias == 0.1).all())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bound_on_the_last_layer_holds_there_alone(scheme: Init) -> None:
    bounded = Mlp(build(tuple(range(20))), [64, 200, 30], scheme=scheme, last_bound=3e-3)
    usual = Mlp(build(tuple(range(20))), [64, 200, 30], scheme=scheme)
    for values in (bounded.layers[1].weight.detach(), bounded.layers[1].bias.detach()):
        assert 0.98 * 3e-3 < float(values.abs().max()) <= 3e-3
        assert float(values.std()) == pytest.approx(3e-3 / math.sqrt(3.0), rel=0.08)
    assert torch.equal(bounded.layers[0].weight, usual.layers[0].weight)


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize(("n_in", "n_out"), [(5, 9), (9, 5), (6, 6), (7, 1)])
def test_orthogonal_slices_are_orthogonal(n_in: int, n_out: int, members: int | None) -> None:
    layer = Linear(build(), n_in, n_out, members=members, scheme="orthogonal")
    weight = layer.weight.detach()
    assert weight.shape == (3, *(() if members is None else (members,)), n_in, n_out)
    gram = weight.transpose(-1, -2) @ weight if n_in >= n_out else weight @ weight.transpose(-1, -2)
    torch.testing.assert_close(gram, 2.0 * torch.eye(min(n_in, n_out), dtype=torch.float64).expand_as(gram))
    assert not layer.bias.any()


def test_orthogonal_matrices_are_uniform() -> None:
    """Under the uniform distribution the trace of a 3x3 orthogonal matrix has mean 0 and variance 1."""
    layer = Linear(build(tuple(range(4000))), 3, 3, scheme="orthogonal", gain=1.0)
    trace = layer.weight.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(float(trace.mean())) < 4.5 / math.sqrt(4000)
    assert float(trace.var()) == pytest.approx(1.0, abs=0.1)


def reference_mlp(net: Mlp, s: int) -> nn.Sequential:
    """Seed s of a stacked network as a plain torch module."""
    layers: list[nn.Module] = []
    for layer in net.layers:
        layers += [as_torch(layer.weight[s], layer.bias[s]), nn.ReLU()]  # type: ignore[index]
    return nn.Sequential(*(layers if net.activate_last else layers[:-1]))


@pytest.mark.parametrize("activate_last", [False, True])
def test_a_stacked_network_equals_vmap_over_plain_modules(activate_last: bool) -> None:
    """Values and gradients against ``torch.func.stack_module_state``, the other way of stacking."""
    net = Mlp(build(), [4, 8, 6, 2], activate_last=activate_last)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    plain = [reference_mlp(net, s) for s in range(3)]
    parameters, buffers = stack_module_state(plain)
    base = copy.deepcopy(plain[0]).to("meta")
    expected = vmap(lambda p, b, row: functional_call(base, (p, b), (row,)))(parameters, buffers, x)
    result = net(x)
    torch.testing.assert_close(result, expected)
    expected.square().sum().backward()
    result.square().sum().backward()
    for i, layer in enumerate(net.layers):
        torch.testing.assert_close(layer.weight.grad, parameters[f"{2 * i}.weight"].grad.transpose(1, 2))
        torch.testing.assert_close(layer.bias.grad[:, 0], parameters[f"{2 * i}.bias"].grad)  # type: ignore[index]
        assert layer.weight.grad.abs().sum() > 0  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("n_out", [1, 3, NARROW, NARROW + 1])
def test_few_outputs_have_the_derivatives_of_the_map(n_out: int, members: int | None) -> None:
    """First and second derivatives by finite differences, for the products of few outputs and the usual."""
    layer = Linear(build(), 3, n_out, members=members)
    x = torch.randn(3, 4, 3, dtype=torch.float64, requires_grad=True)

    def mapped(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,)).square()

    inputs = (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(mapped, inputs)
    assert torch.autograd.gradgradcheck(mapped, inputs)


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("more", [{}, {"layer_norm": True}, {"activation": "gelu", "activate_last": True}])
def test_rows_a_part_at_a_time_are_the_rows_at_once(members: int | None, more: dict[str, Any]) -> None:
    """Values and every gradient, with a last part that is shorter."""
    net = Mlp(build(), [4, 8, 6, 2], members=members, **more)
    x = torch.randn(3, 11, 4, dtype=torch.float64, requires_grad=True)
    found = []
    for rows in (100, 4):
        net.rows = rows
        result = net(x)
        result.sin().sum().backward()
        found.append([result, *(tensor.grad for tensor in (x, *net.parameters()))])
        x.grad = None
        net.zero_grad()
    for at_once, in_parts in zip(*found, strict=True):
        torch.testing.assert_close(in_parts, at_once, rtol=1e-12, atol=1e-12)


def test_how_many_rows_go_at_once_follows_from_the_widths() -> None:
    """A wide stack takes fewer at a time, a narrow one more, and none less than is worth its calls."""
    assert Mlp(build(), [4, 256, 1]).rows == 2**18 // (3 * 256)
    assert Mlp(build((0,)), [4, 64, 256, 1], members=2).rows == 512
    assert Mlp(build(), [4, 1024, 1], members=2).rows == 256


def test_critic_and_value_keep_their_axes() -> None:
    obs, act = torch.randn(3, 5, 4, dtype=torch.float64), torch.randn(3, 5, 2, dtype=torch.float64)
    critic, value = Critic(build(), 4, 2, (8, 6)), Value(build(), 4, (8, 6))
    q, v = critic(obs, act), value(obs)
    assert q.shape == (3, 2, 5)
    assert v.shape == (3, 5)
    for e in range(2):  # each member is the plain network on (obs, act), in this order
        x = torch.cat((obs, act), -1)
        for i, layer in enumerate(critic.net.layers):
            x = torch.einsum("sbi,sio->sbo", x, layer.weight[:, e]) + layer.bias[:, e]  # type: ignore[index]
            x = x if i == 2 else x.relu()
        torch.testing.assert_close(q[:, e], x[..., 0])


def test_a_seed_of_one_network_does_not_reach_another() -> None:
    net = Mlp(build(), [4, 8, 2], members=2)
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    net(x)[1].sum().backward()
    for tensor in (x, *net.parameters()):
        assert tensor.grad is not None
        assert tensor.grad[1].any()
        assert not tensor.grad[[0, 2]].any()


def test_the_initialiser_refuses_repeated_seeds() -> None:
    with pytest.raises(UserError):
        Initialiser((1, 1))


def test_parameters_have_the_asked_type() -> None:
    for dtype in (torch.float32, torch.float64):
        init = Initialiser((0,), dtype=dtype)
        assert {p.dtype for p in Mlp(init, [2, 3, 1]).parameters()} == {dtype}
        assert init.constant(0.5, 1, 4).dtype == dtype
    assert np.allclose(Initialiser((0, 1)).constant(0.5, 1, 4).detach().numpy(), np.full((2, 1, 4), 0.5))


def test_normalisation_after_the_relu_is_that_of_torch() -> None:
    net = Critic(build(), 3, 1, (8, 6), layer_norm=True, norm_after=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    obs, act = torch.randn(3, 5, 3, dtype=torch.float64), torch.randn(3, 5, 1, dtype=torch.float64)
    values = net(obs, act)
    layers: list[Linear] = list(net.net.layers)  # type: ignore[arg-type]
    for s in range(3):
        for e in range(2):
            x = torch.cat((obs[s], act[s]), -1)
            for i, layer in enumerate(layers):
                x = as_torch(layer.weight[s, e], layer.bias[s, e])(x)
                if i < 2:
                    norm: nn.Module = net.net.norms[i]
                    x = nn.functional.layer_norm(
                        x.relu(), x.shape[-1:], norm.weight[s, e, 0], norm.bias[s, e, 0], eps=1e-6
                    )
            torch.testing.assert_close(values[s, e], x[:, 0])


@pytest.mark.parametrize("members", [None, 1])
def test_a_frozen_network_passes_gradients_to_its_inputs_alone(members: int | None) -> None:
    net = Critic(build(), 3, 1, (8, 6), layer_norm=True)
    obs = torch.randn(3, 5, 3, dtype=torch.float64)
    act = torch.randn(3, 5, 1, dtype=torch.float64, requires_grad=True)
    usual, held = net(obs, act)[:, :members], frozen(net, obs, act, members=members)
    assert torch.equal(usual, held)
    (wanted,) = torch.autograd.grad(usual.sum(), act)
    held.sum().backward()
    assert act.grad is not None
    torch.testing.assert_close(act.grad, wanted)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
