"""The benchmark counts what can be counted by hand; the memory of a long training does not grow."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

import agents
from benchmarks import machine, report
from benchmarks.speed import counting, protocol, training
from benchmarks.speed.processes import AbsentError, Process, ours
from dosing.runs.files import write_json
from dosing.runs.folder import CONFIG, RunFolder
from dosing.training.compilation import EXACT
from dosing.training.offline import TrainingSettings, train
from tests.support import samples

# Counting


def test_flops_of_products_counted_by_hand() -> None:
    x, w = torch.randn(4, 3), torch.randn(3, 5, requires_grad=True)
    stacked, bias = torch.randn(2, 4, 3), torch.randn(2, 1, 7)

    def update() -> None:
        (x @ w).square().sum().backward()  # forward 2*4*3*5, into w 2*3*4*5; x needs none
        torch.baddbmm(bias, stacked, torch.ones(2, 3, 7))  # 2 products of 2*4*3*7

    assert counting.flops(update) == 120 + 120 + 336


def test_flops_of_a_chain_counted_by_hand() -> None:
    first, second = 2 * 10 * 3 * 8, 2 * 10 * 8 * 1
    assert counting.Chain((3, 8, 1)).flops(10) == first + second
    assert counting.Chain((3, 8, 1), forward=2).flops(10) == 2 * (first + second)
    trained = counting.Chain((3, 8, 1), trained=1)  # both weights, and the hidden layer's input
    assert trained.flops(10) == (first + second) + (first + second) + second
    into_input = counting.Chain((3, 8, 1), trained=1, input_gradient=True, members=2)
    assert into_input.flops(10) == 2 * 3 * (first + second)


@pytest.mark.parametrize("name", sorted(counting.METHODS))
def test_an_update_executes_what_its_equations_need_and_hardly_more(name: str) -> None:
    hidden, batch, n_obs, n_act = (64, 48), 32, 5, 2
    needed = counting.useful_flops(name, batch, n_obs, n_act, hidden)
    agent = agents.build(name, {"hidden": hidden}, agents_problem(n_obs, n_act), (0,))
    data = synthetic_batch(agent, batch, n_obs, n_act)
    executed = counting.flops(lambda: agent.update(data))
    assert needed is not None
    assert needed - spared(batch, hidden[-1]) <= executed <= 1.02 * needed


def spared(batch: int, width: int) -> int:
    """FLOPs of the twin critics' last layer into its input: with one output that is no product here."""
    return 2 * 2 * batch * width


def agents_problem(n_obs: int, n_act: int) -> Any:
    from dosing.types import Problem

    return Problem(n_obs, n_act)


def synthetic_batch(agent: Any, batch: int, n_obs: int, n_act: int) -> Any:
    """A batch of random numbers for one seed."""
    from dosing.models.batch import Batch

    noise = {key: torch.rand(1, *plan.shape) for key, plan in agent.noise(batch).items()}
    row = torch.zeros(1, batch)
    obs = torch.randn(1, batch, n_obs)
    return Batch(obs, torch.rand(1, batch, n_act), row + 1.0, obs + 1.0, row, noise)


def test_an_agent_without_written_products_is_rated_by_what_it_executes() -> None:
    assert counting.useful_flops("no_such_agent", 1, 1, 1, (1,)) is None
    executed = counting.useful_flops("iql", 256, 17, 6, (256, 256))
    assert executed == 536_477_696


def test_calls_and_times_of_an_update_counted_by_hand() -> None:
    x = torch.randn(64, 64)

    def update() -> None:
        x.neg()
        x.neg()
        x.tanh()

    result = counting.split(update)
    assert result["calls"] == 3
    assert result["matmul"] == result["optimiser"] == 0
    result = counting.split(lambda: (x.neg(), torch.mm(x, x)))
    parts = [result[name] for name in ("matmul", "optimiser", "elementwise", "rest")]
    assert sum(parts) == pytest.approx(result["total"])
    assert result["matmul"] > result["elementwise"] > 0


@pytest.mark.parametrize(
    ("kernel", "purpose"),
    [
        ("aten::addmm", "matmul"),
        ("aten::baddbmm", "matmul"),
        ("aten::_fused_adam_", "optimiser"),
        ("aten::_foreach_lerp_", "optimiser"),
        ("aten::clamp_min", "elementwise"),
        ("aten::linear", "elementwise"),  # its own time is bookkeeping: the product is a call of its own
    ],
)
def test_purpose_of_a_kernel(kernel: str, purpose: str) -> None:
    assert counting.purpose(kernel) == purpose


# Machine


def test_float32_products_are_told_from_bfloat16_by_their_error() -> None:
    exact, rough = (
        machine.measure(kind, 1, 64, 1, rounds=1, seconds=0.001) for kind in ("highest", "bfloat16")
    )
    assert 0 < exact.error < EXACT < rough.error
    assert machine.best_float32([exact, rough]) == exact.rate
    assert torch.get_float32_matmul_precision() == "highest"


# Rows and processes


def test_every_reference_has_an_adapter_for_its_method() -> None:
    for task in training.TASKS:
        for reference in task.references:
            adapter = importlib.import_module(f"benchmarks.references.{reference.module}")
            assert reference.method in adapter.METHODS, (task.name, reference)


def test_every_agent_of_the_suite_has_a_line_that_it_accepts() -> None:
    tasks = training.chosen([])
    assert {task.agent for task in tasks} >= set(agents.AGENTS)
    assert len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        if task.agent in agents.AGENTS:
            agents.find(task.agent).config_class()(**task.config)


@pytest.mark.long
def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    reference = training.corl("iql")
    with pytest.raises(AbsentError, match="no folder of references was named"):
        reference.start(None)
    with pytest.raises(AbsentError, match="no checkout CORL"):
        reference.start(tmp_path)
    (tmp_path / "CORL").mkdir()
    with pytest.raises(AbsentError, match="Python environment is not there"):
        reference.start(tmp_path)
    with pytest.raises(AbsentError, match=r"its process ended: .*No module named"):
        Process(Path(sys.executable), ["benchmarks.no_such_module"])
    with pytest.raises(AbsentError, match="there is no agent 'nobody'"):
        ours("nobody")


@pytest.mark.long
def test_a_process_answers_in_turns() -> None:
    process = ours("iql", "--config", '{"hidden": [8]}')
    try:
        assert process.about["settings"] == "1x8"
        took = process.ask("time", updates=4, threads=1, sampling=True)
        assert took["cpu"] > 0
        memory = process.ask("memory")
        assert 0 < memory["import"] < memory["peak"]
        process.send("count")
        cost = process.receive()
        batch, n_obs, n_act = protocol.BATCH, protocol.N_OBS, protocol.N_ACT
        needed = counting.useful_flops("iql", batch, n_obs, n_act, (8,))
        assert needed is not None
        assert cost["flops"] == needed - spared(batch, 8)
    finally:
        process.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "config", "settings"),
    [
        ("pex", {"hidden": [8]}, "1x8"),
        ("decision_transformer", {"width": 8, "layers": 1}, "64 windows of 20, width 8, layers 1"),
    ],
)
def test_a_trial_and_windows_of_visits_are_timed_too(name: str, config: Any, settings: str) -> None:
    process = ours(name, "--config", json.dumps(config))
    try:
        assert process.about["settings"] == settings
        for sampling in (False, True):
            assert process.ask("time", updates=2, threads=1, sampling=sampling)["updates"] == 2
    finally:
        process.close()


# Report


def measured(title: str, rates: list[float], **fields: Any) -> dict[str, Any]:
    """A row of the table with the same rates for every measurement."""
    row = training.Row("iql", "iql", title, **fields).to_json()
    if rates:
        names = training.MEASUREMENTS
        row |= {"rates": dict.fromkeys(names, rates), "wall_rates": dict.fromkeys(names, rates)}
        row["about"] = {"settings": "2x256"}
    return row


def test_ratios_are_taken_within_rounds() -> None:
    mine, theirs = measured("", [100.0, 60.0, 90.0]), measured("CORL", [50.0, 60.0, 30.0])
    text = report.comparison([mine, theirs, measured("d3rlpy", [], absent="no folder was named")])
    assert "2.00 (1.00 to 3.00)" in text  # not the ratio of the medians, 1.80
    assert "iql: d3rlpy | absent: no folder was named" in text


@pytest.mark.parametrize("kept", sorted(training.RESULTS.glob("training*.json")), ids=lambda file: file.stem)
def test_a_kept_page_is_made_of_the_kept_numbers(kept: Path) -> None:
    result = json.loads(kept.read_text(encoding="utf-8"))
    assert report.render(result) == kept.with_suffix(".md").read_text(encoding="utf-8")


# Memory


class Watch(tqdm):  # type: ignore[misc]  # it comes without types
    """A silent progress bar that notes the resident memory whenever training reports."""

    def __init__(self) -> None:
        super().__init__(disable=True)
        self.resident: list[float] = []

    def update(self, n: float | None = 1) -> bool | None:
        """Note the resident set in MiB."""
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        result = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert result is not None
        self.resident.append(int(result[1]) / 1024)
        return None


LONG = ("fttpo", "iql")
"""Agents trained for 100,000 updates; the others for 20,000, enough to see 200 bytes lost per update."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the resident memory from /proc")
@pytest.mark.parametrize("name", sorted(agents.AGENTS))
def test_memory_does_not_grow_in_a_long_training(name: str, tmp_path: Path) -> None:
    agent = samples.stack(name, (0,))
    run = RunFolder(tmp_path)
    write_json(run.path / CONFIG, {})
    watch = Watch()
    steps = 100_000 if name in LONG else 20_000
    settings = TrainingSettings(steps, batch_size=8, log_every=steps // 200, checkpoint_every=steps // 20)
    train(agent, samples.dataset(), run, settings, progress=watch)
    settled = watch.resident[40:]  # the first fifth fills allocators and imports what checkpoints need
    assert len(settled) >= 160
    growth = sum(settled[-20:]) / 20 - sum(settled[:20]) / 20
    assert growth < 4.0, f"{growth:.1f} MiB over {0.7 * steps:,.0f} updates"
