"""The same update, however it is executed."""

import copy
from dataclasses import replace

import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.rng import draw
from dosing.training import compilation
from dosing.training.compilation import EXACT, fastest_exact, float32_products, product_error, updater
from dosing.types import Problem
from tests.support.samples import small

SEEDS = (0, 3)
PROBLEM = Problem(n_obs=5, n_act=1)
ROWS, LENGTH = 32, 8


def stack(name: str, device: str = "cpu", **options: object) -> Agent:
    return agents.build(name, small(name), PROBLEM, SEEDS, device=device, **options)  # type: ignore[arg-type]


def batch(agent: Agent, step: int, device: str = "cpu") -> Batch:
    rng = torch.Generator().manual_seed(step)
    shape = (len(SEEDS), ROWS)
    noise = {
        name: draw(
            SEEDS, distribution, (1, *rest), (step, i), device=torch.device("cpu"), dtype=torch.float32
        )[0].to(device)
        for i, (name, (distribution, rest)) in enumerate(agent.noise(ROWS).items())
    }
    extra = {
        "next_act": 2 * torch.rand(*shape, PROBLEM.n_act, generator=rng) - 1,
        "has_next": (torch.rand(*shape, 1, generator=rng) < 0.9).float(),
        "discounted_return": torch.randn(*shape, 1, generator=rng),
        "return_to_go": torch.randn(*shape, 1, generator=rng),
        "time_step": torch.randint(20, (*shape, 1), generator=rng).float(),
        "episode": torch.arange(ROWS).float().view(1, -1, 1).expand(*shape, 1),
        "mask": (torch.rand(*shape, 1, generator=rng) < 0.9).float(),
    }
    return Batch(
        obs=torch.randn(*shape, 5, generator=rng).to(device),
        act=(2 * torch.rand(*shape, PROBLEM.n_act, generator=rng) - 1).to(device),
        reward=torch.randn(shape, generator=rng).to(device),
        next_obs=torch.randn(*shape, 5, generator=rng).to(device),
        terminated=(torch.rand(shape, generator=rng) < 0.2).float().to(device),
        noise=noise,
        extra={name: extra[name].to(device) for name in agent.needs},
        step=step,
        length=agent.context if agent.episodes is None else LENGTH,
    )


def refill(target: Batch, source: Batch) -> None:
    """Write one batch into another's memory, as the sampler does for a captured graph."""
    for field in ("obs", "act", "reward", "next_obs", "terminated"):
        getattr(target, field).copy_(getattr(source, field))
    for kept, new in ((target.noise, source.noise), (target.extra, source.extra)):
        for name, values in new.items():
            kept[name].copy_(values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", list(agents.AGENTS))
def test_compiled_losses_equal_eager(name: str) -> None:
    eager, compiled = stack(name), stack(name)
    take_eager, take_compiled = updater(eager, "eager"), updater(compiled, "compile")
    for step in range(6):  # every phase of the methods that have several
        a, b = take_eager(batch(eager, step)), take_compiled(batch(compiled, step))
        for key, value in a.items():
            torch.testing.assert_close(b[key], value, rtol=2e-4, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", list(agents.AGENTS))
def test_captured_graph_equals_eager(name: str) -> None:
    eager = stack(name, "cuda")
    captured = copy.deepcopy(eager)
    fresh = stack(name, "cuda")
    fresh.load_state_dict(captured.state_dict())
    take_eager, take_graph = updater(eager, "eager"), updater(fresh, "graph")
    static = batch(fresh, 0, "cuda")
    for step in range(16):
        source = batch(eager, step, "cuda")
        refill(static, source)
        a, b = take_eager(source), take_graph(replace(static, step=step))
        for key, value in a.items():
            torch.testing.assert_close(b[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_graph_without_a_gpu_is_refused() -> None:
    with pytest.raises(UserError, match="CUDA"):
        updater(stack("iql"), "graph")


def test_the_fast_products_are_float32_products() -> None:
    assert 0 < product_error(fastest_exact()) < EXACT
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    rough = float(((x.bfloat16() @ x.bfloat16()).double() - x.double() @ x.double()).norm() / (x @ x).norm())
    assert rough > EXACT  # what the bound is there to refuse


def test_a_kernel_that_rounds_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "product_error", lambda setting: 3e-3)
    assert fastest_exact.__wrapped__() == "highest"


def test_products_are_as_they_were_outside() -> None:
    before = torch.get_float32_matmul_precision()

    def inside(device: str) -> None:
        with float32_products(torch.device(device)):
            raise RuntimeError(torch.get_float32_matmul_precision())

    for device, setting in (("cpu", fastest_exact()), ("cuda", before)):
        with pytest.raises(RuntimeError, match=setting):
            inside(device)
        assert torch.get_float32_matmul_precision() == before
