"""Adam with one kernel around its state takes torch's own steps, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dosing.models.networks import decays
from dosing.models.optimisers import adam, set_learning_rate


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [
        nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((2, 3, 4), (2, 1, 4), (2, 5))
    ]


def gradients(step: int, like: list[nn.Parameter]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator) for p in like]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_steps_and_state_are_those_of_torch(decay: float) -> None:
    ours, theirs = parameters(), parameters()
    decays(ours[0], decay)
    groups = [
        {"params": [p], "weight_decay": rate} for p, rate in zip(theirs, (decay, 0.0, 0.0), strict=True)
    ]
    kind = torch.optim.AdamW if decay else torch.optim.Adam
    optimizer, reference = adam(ours, 0.01), kind(groups, lr=0.01, fused=True)
    for step in range(6):
        for p, q, gradient in zip(ours, theirs, gradients(step, ours), strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        if step in (2, 4):  # a parameter that a loss did not reach
            ours[1].grad = theirs[1].grad = None
        if step == 3:
            set_learning_rate(optimizer, 0.003)
            set_learning_rate(reference, 0.003)
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
        assert optimizer.state[p].keys() == reference.state[q].keys()
        assert all(torch.equal(value, reference.state[q][name]) for name, value in optimizer.state[p].items())


def test_an_optimiser_whose_state_is_loaded_or_cleared_goes_on_as_torchs() -> None:
    ours, theirs = parameters(), parameters()
    optimizer, reference = adam(ours, 0.01), torch.optim.Adam(theirs, lr=0.01, fused=True)
    for step in range(6):
        for p, q, gradient in zip(ours, theirs, gradients(step, ours), strict=True):
            p.grad, q.grad = gradient.clone(), gradient.clone()
        if step == 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if step == 4:
            optimizer.state.clear()
            reference.state.clear()
        optimizer.step()
        reference.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_a_step_without_any_gradient_changes_nothing() -> None:
    ours = parameters()
    before = [p.detach().clone() for p in ours]
    optimizer = adam(ours, 0.01)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, before, strict=True))
