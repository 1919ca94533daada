"""Ours are torch's optimisers, to the bit."""

import pytest
import torch
from torch import nn

from dosing.models.optimisers import Adam, AdamW, Sgd

KINDS = {
    "adam": (Adam, torch.optim.Adam, {"lr": 0.03, "fused": True}),
    "decay": (AdamW, torch.optim.AdamW, {"lr": 0.03, "fused": True, "weight_decay": 0.1}),
    "sgd": (Sgd, torch.optim.SGD, {"lr": 0.03, "fused": True}),
    "other betas": (Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.98)}),
}


def parameters() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(2, 5, n, generator=rng)) for n in (4, 1)]


def step(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter]) -> None:
    optimizer.zero_grad()
    assert all(w.grad is None for w in weights)
    sum(((w - 1.0) ** 4).sum() for w in weights).backward()  # type: ignore[union-attr]
    optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_state_are_torchs_to_the_bit(kind: str) -> None:
    own, theirs, options = KINDS[kind]
    mine, other = parameters(), parameters()
    a, b = own(mine, **options), theirs(other, **options)  # type: ignore[arg-type]
    for _ in range(4):
        step(a, mine)
        step(b, other)
    for x, y in zip(mine, other, strict=True):
        assert torch.equal(x, y)
        assert x.requires_grad
        assert x.grad_fn is None
    state, expected = a.state_dict(), b.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    for k, values in expected["state"].items():
        assert all(torch.equal(state["state"][k][name], v) for name, v in values.items() if v is not None)


def test_a_loaded_state_goes_on_as_if_nothing_had_been() -> None:
    once, twice = parameters(), parameters()
    a, b = Adam(once, lr=0.03, fused=True), Adam(twice, lr=0.03, fused=True)
    step(a, once)
    step(b, twice)
    again = Adam(twice, lr=0.03, fused=True)
    again.load_state_dict(b.state_dict())
    step(a, once)
    step(again, twice)
    assert all(torch.equal(x, y) for x, y in zip(once, twice, strict=True))
