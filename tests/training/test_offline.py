"""An interrupted run ends bit-identical to an uninterrupted one; divergence stops, keeps and explains."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import agents
from dosing.agent import Agent
from dosing.cli.main import main
from dosing.data.dataset import Dataset
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.runs.files import read_json, read_table, read_tensors, write_checkpoint, write_json, write_tensors
from dosing.runs.folder import CHECKPOINT, CONFIG, DONE, METRICS, MILESTONES, WEIGHTS, RunFolder
from dosing.training import offline
from dosing.training.checkpoint import training_state
from dosing.training.compilation import updater
from dosing.training.offline import TrainingDivergedError, TrainingSettings, train
from dosing.training.sampler import Lookahead, Sampler
from tests.support.samples import cohort, dataset, long_for_most, run_config, stack

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = TrainingSettings(steps=35, batch_size=16, log_every=5, checkpoint_every=10)
SEEDS = (3, 7)
FIRST = next(iter(agents.AGENTS))

every_agent = pytest.mark.parametrize("name", list(agents.AGENTS))


def folder(path: Path) -> RunFolder:
    write_json(path / CONFIG, run_config().to_json())
    return RunFolder(path)


def result(run: RunFolder) -> tuple[bytes, dict[str, list[Any]]]:
    """What a run leaves behind, without its timing."""
    assert run.done
    run.verify()
    table = read_table(run.path / METRICS).to_pydict()
    seconds = table.pop("seconds")
    assert seconds == sorted(seconds)
    return (run.path / WEIGHTS).read_bytes(), table


# What a run writes


@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_a_run_leaves_weights_and_a_long_table(name: str, tmp_path: Path) -> None:
    run, agent = folder(tmp_path), stack(name, SEEDS)
    train(agent, dataset(), run, SETTINGS)
    _, table = result(run)
    saved, metadata = read_tensors(run.path / WEIGHTS)
    assert metadata == {"step": "35"}
    assert all(torch.equal(saved[k], v) for k, v in agent.state_dict().items())
    assert len(saved) == len(agent.state_dict())
    sampler = Sampler(dataset(), agent, 16)
    cells = list(zip(table["step"], table["seed"], table["name"], strict=True))
    expected = []
    for step in range(5, 36, 5):  # what the phase of the last update before it reports
        losses, metrics = agent.losses_and_metrics(sampler(step - 1))
        names = [*(f"loss/{k}" for k in losses), *metrics]
        expected += [(step, seed, name) for seed in SEEDS for name in names]
    assert sorted(cells) == sorted(expected)
    assert sorted(p.name for p in run.path.iterdir()) == sorted([CONFIG, DONE, METRICS, WEIGHTS])


def test_logged_values_are_those_of_the_update(tmp_path: Path) -> None:
    run, agent, data = folder(tmp_path), stack(FIRST, SEEDS), dataset()
    train(agent, data, run, SETTINGS)
    _, table = result(run)
    again = stack(FIRST, SEEDS)
    sampler, take = Sampler(data, again, 16), updater(again)
    for step in range(15):
        metrics = take(sampler(step))
    for k, seed in enumerate(SEEDS):
        logged = {
            n: v
            for s, i, n, v in zip(table["step"], table["seed"], table["name"], table["value"], strict=True)
            if s == 15 and i == seed
        }
        assert logged == {name: float(value[k]) for name, value in metrics.items()}


def test_the_last_update_is_always_logged(tmp_path: Path) -> None:
    run = folder(tmp_path)
    train(stack(FIRST), dataset(), run, TrainingSettings(steps=7, batch_size=8, log_every=5))
    assert sorted(set(result(run)[1]["step"])) == [5, 7]


@pytest.mark.parametrize("field", ["steps", "batch_size", "log_every", "checkpoint_every"])
@pytest.mark.parametrize("value", [0, -3])
def test_settings_that_cannot_work_are_refused(field: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{field.replace('_', '-')} must be at least 1, got {value}"):
        TrainingSettings(**{field: value}).check()  # type: ignore[arg-type]


def test_a_training_that_ends_before_the_policy_learns_is_refused(tmp_path: Path) -> None:
    agent = stack(FIRST)
    agent.warm_up = 7
    with pytest.raises(UserError, match="first 7 updates: steps must be more, got 7"):
        train(agent, dataset(), folder(tmp_path), TrainingSettings(steps=7, batch_size=8))
    train(agent, dataset(), folder(tmp_path), TrainingSettings(steps=8, batch_size=8))


# Interruptions


class Interruption(BaseException):
    """Stands for a signal: no ``Exception``, so nothing may swallow it."""


def interrupt_at(agent: Agent, number: int) -> Agent:
    """Make the update of this number raise."""
    update, schedule = agent.update, agent.schedule

    def scheduled(step: int) -> None:
        agent.__dict__["now"] = step
        schedule(step)

    def interrupted(batch: Any) -> Any:
        if agent.__dict__["now"] == number:
            raise Interruption
        return update(batch)

    agent.schedule, agent.update = scheduled, interrupted  # type: ignore[method-assign]
    return agent


@pytest.mark.long
@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_a_resumed_run_ends_bit_identical(name: str, tmp_path: Path) -> None:
    """Interrupted before the first checkpoint, right after one, between two, and at the last update."""
    straight, broken = folder(tmp_path / "straight"), folder(tmp_path / "broken")
    train(stack(name, SEEDS), dataset(), straight, SETTINGS)
    for step in (4, 10, 27, 34):
        with pytest.raises(Interruption):
            train(interrupt_at(stack(name, SEEDS), step), dataset(), broken, SETTINGS)
        assert not broken.done
        assert (broken.path / CHECKPOINT).is_file() == (step > 9)
    train(stack(name, SEEDS), dataset(), broken, SETTINGS)
    assert result(broken) == result(straight)
    assert not (broken.path / CHECKPOINT).exists()


@pytest.mark.long
@pytest.mark.parametrize("file", [METRICS, CHECKPOINT, WEIGHTS, DONE])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interruption_between_two_files_does_no_harm(
    file: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed just before and just after each file of a run gets its name, at its second writing if any."""
    straight, broken = folder(tmp_path / "straight"), folder(tmp_path / "broken")
    train(stack(FIRST, SEEDS), dataset(), straight, SETTINGS)
    replace, seen = os.replace, []

    def interrupted(source: Any, target: Any) -> None:
        hit = Path(target).name == file
        seen.append(hit)
        stop = hit and sum(seen) == (1 if file in (WEIGHTS, DONE) else 2)
        if stop and when == "before":
            raise Interruption
        replace(source, target)
        if stop:
            raise Interruption

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(Interruption):
        train(stack(FIRST, SEEDS), dataset(), broken, SETTINGS)
    monkeypatch.undo()
    assert broken.done == (file == DONE and when == "after")
    train(stack(FIRST, SEEDS), dataset(), broken, SETTINGS)
    assert result(broken) == result(straight)
    assert not list(broken.path.glob(".*partial"))


# Averaged weights, summed rewards

AVERAGED = dataclasses.replace(SETTINGS, averaging=4.0, n_step=3, trace=0.5)


@pytest.mark.long
def test_a_resumed_average_is_the_same(tmp_path: Path) -> None:
    straight, broken = folder(tmp_path / "straight"), folder(tmp_path / "broken")
    train(stack(FIRST, SEEDS), dataset(), straight, AVERAGED)
    for step in (4, 27):
        with pytest.raises(Interruption):
            train(interrupt_at(stack(FIRST, SEEDS), step), dataset(), broken, AVERAGED)
    train(stack(FIRST, SEEDS), dataset(), broken, AVERAGED)
    assert result(broken) == result(straight)


@pytest.mark.long
def test_the_weights_kept_are_the_polynomial_decay_average(tmp_path: Path) -> None:
    run, agent, data = folder(tmp_path), stack(FIRST, SEEDS), dataset()
    train(agent, data, run, AVERAGED, milestones=[20])
    again = stack(FIRST, SEEDS)
    sampler, take = Sampler(data, again, 16, lookahead=Lookahead(3, 0.5)), updater(again)
    weights: list[dict[str, torch.Tensor]] = []
    for step in range(AVERAGED.steps):
        take(sampler(step))
        weights.append({name: p.detach().double().clone() for name, p in again.named_parameters()})
        average = {name: torch.zeros_like(p) for name, p in weights[0].items()}
        for t, past in enumerate(weights, 1):  # its share: (eta + 1) / (t + eta), then kept by all later ones
            share = 5.0 / (t + 4.0)
            average = {name: (1.0 - share) * value + share * past[name] for name, value in average.items()}
        if step + 1 in (20, AVERAGED.steps):
            at = run.at(None if step + 1 == AVERAGED.steps else 20)
            kept, _ = read_tensors(at / WEIGHTS)
            assert kept.keys() == again.state_dict().keys()
            for name, value in average.items():
                torch.testing.assert_close(kept[name].double(), value, rtol=1e-4, atol=1e-6)
            assert any(not torch.equal(kept[name], p) for name, p in again.named_parameters())


def test_a_checkpoint_without_averages_is_refused(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.raises(Interruption):
        train(interrupt_at(stack(FIRST, SEEDS), 27), dataset(), run, SETTINGS)
    with pytest.raises(UserError, match="lacks averaged weights"):
        train(stack(FIRST, SEEDS), dataset(), run, AVERAGED)


@pytest.mark.parametrize(
    "wrong", [{"averaging": -1.0}, {"averaging": math.inf}, {"n_step": 0}, {"trace": 2.0}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
        dataclasses.replace(SETTINGS, **wrong).check()


# Milestones


@pytest.mark.long
def test_a_milestone_is_the_end_of_a_shorter_training(tmp_path: Path) -> None:
    """Beside the same final weights as without it; the last update needs no copy."""
    run, plain, short = folder(tmp_path / "run"), folder(tmp_path / "plain"), folder(tmp_path / "short")
    train(stack(FIRST, SEEDS), dataset(), run, SETTINGS, milestones=(35, 12, 20))
    train(stack(FIRST, SEEDS), dataset(), plain, SETTINGS)
    train(stack(FIRST, SEEDS), dataset(), short, replace(SETTINGS, steps=12))
    assert result(run) == result(plain)
    assert (run.at(12) / WEIGHTS).read_bytes() == (short.path / WEIGHTS).read_bytes()
    assert sorted(p.name for p in (run.path / MILESTONES).iterdir()) == ["12", "20"]
    assert set(read_json(run.path / DONE)) == {
        CONFIG,
        WEIGHTS,
        METRICS,
        f"{MILESTONES}/12/{WEIGHTS}",
        f"{MILESTONES}/20/{WEIGHTS}",
    }


@pytest.mark.long
@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_milestones_of_a_resumed_run_are_the_same(name: str, tmp_path: Path) -> None:
    """Interrupted before one, right after one, and between two; one stands on a checkpoint."""
    straight, broken, milestones = folder(tmp_path / "straight"), folder(tmp_path / "broken"), (5, 20, 33)
    train(stack(name, SEEDS), dataset(), straight, SETTINGS, milestones=milestones)
    for step in (4, 5, 20, 34):
        with pytest.raises(Interruption):
            train(interrupt_at(stack(name, SEEDS), step), dataset(), broken, SETTINGS, milestones=milestones)
    assert broken.lacking(milestones) == []
    train(stack(name, SEEDS), dataset(), broken, SETTINGS, milestones=milestones)
    assert result(broken) == result(straight)
    for update in milestones:
        assert (broken.at(update) / WEIGHTS).read_bytes() == (straight.at(update) / WEIGHTS).read_bytes()


@pytest.mark.long
def test_a_checkpoint_behind_a_milestone_that_was_not_kept_is_not_used(tmp_path: Path) -> None:
    straight, broken = folder(tmp_path / "straight"), folder(tmp_path / "broken")
    train(stack(FIRST, SEEDS), dataset(), straight, SETTINGS, milestones=(15, 25))
    with pytest.raises(Interruption):
        train(interrupt_at(stack(FIRST, SEEDS), 24), dataset(), broken, SETTINGS)
    assert (broken.path / CHECKPOINT).is_file()
    with pytest.raises(Interruption):  # it begins again: update 3 is reached
        train(interrupt_at(stack(FIRST, SEEDS), 3), dataset(), broken, SETTINGS, milestones=(15, 25))
    with pytest.raises(Interruption):  # a milestone ahead of the checkpoint needs no new beginning
        train(interrupt_at(stack(FIRST, SEEDS), 22), dataset(), broken, SETTINGS, milestones=(25,))
    train(stack(FIRST, SEEDS), dataset(), broken, SETTINGS, milestones=(15, 25))
    assert result(broken) == result(straight)
    assert (broken.at(15) / WEIGHTS).read_bytes() == (straight.at(15) / WEIGHTS).read_bytes()


@pytest.mark.parametrize("update", [0, -1, 36])
def test_a_milestone_outside_the_training_is_refused(update: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"of 35 updates cannot be looked at after {update}"):
        train(stack(FIRST), dataset(), folder(tmp_path), SETTINGS, milestones=(5, update))


def damaged_checkpoint(path: Path, damage: str) -> None:
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "with one bit flipped":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "of another size":
        write_checkpoint(path, training_state(stack(FIRST, (3,))), {"step": "10", "seconds": "1"})
    elif damage == "without its step":
        write_checkpoint(path, training_state(stack(FIRST, SEEDS)), {})
    elif damage == "without its hash":
        write_tensors(path, training_state(stack(FIRST, SEEDS)), {"step": "10", "seconds": "1"})
    else:
        write_checkpoint(path, {"something": torch.zeros(3)}, {"step": "10", "seconds": "1"})


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "empty",
        "with one bit flipped",
        "of another size",
        "without its step",
        "without its hash",
        "of another program",
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    """Nothing starts again from zero behind the user's back."""
    run = folder(tmp_path)
    with pytest.raises(Interruption):
        train(interrupt_at(stack(FIRST, SEEDS), 15), dataset(), run, SETTINGS)
    damaged_checkpoint(run.path / CHECKPOINT, damage)
    with pytest.raises(UserError, match="checkpoint") as error:
        train(stack(FIRST, SEEDS), dataset(), run, SETTINGS)
    assert "\n" not in str(error.value)
    assert not run.done


# Divergence


PATIENTS = 64


def poisoned(column: str, row: int, value: float) -> Dataset:
    """A cohort with one number spoilt, past the checks of reading."""
    data = dataset(PATIENTS)
    getattr(data, column)[row] = value
    return data


def column_read_by(name: str) -> str:
    """The reward, or the dose for a method whose losses know no reward, or sums of it, or none any more."""
    agent = stack(name)
    if agent.needs & {"return_to_go", "discounted_return"}:  # a spoilt reward spoils every visit before it
        return "act"
    sampler = Sampler(dataset(PATIENTS), agent, 2)
    told, data = stack(name), dataset(PATIENTS)
    Sampler(replace(data, reward=2.0 * data.reward), told, 2)
    if any(not torch.equal(x, told.state_dict()[key]) for key, x in agent.state_dict().items()):
        return "act"  # a spoilt reward spoils what the method takes from all of them beforehand
    for batch in map(sampler, range(16, 24)):
        usual, other = agent.losses(batch), agent.losses(replace(batch, reward=batch.reward + 1.0))
        if any(not torch.equal(other[key], loss) for key, loss in usual.items()):
            return "reward"
    return "act"


def late_row(agent: Agent, batch_size: int, updates: range) -> tuple[int, int, list[int]]:
    """A row that is first served in one of the updates, that update, and the seeds it is served to."""
    data = dataset(PATIENTS)
    data.obs[:] = torch.arange(len(data.obs))[:, None]
    sampler = Sampler(data, agent, batch_size)
    seen: set[int] = set()
    for step in range(updates.stop):
        rows = sampler(step).obs[..., 0].long()
        new = sorted(set(rows.flatten().tolist()) - seen)
        if new and step in updates:
            met = (rows == new[0]).any(1).tolist()
            return new[0], step, [seed for seed, here in zip(agent.seeds, met, strict=True) if here]
        seen |= set(new)
    raise AssertionError("every row is served early")


@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_keeps_the_last_good_state_and_the_batch(name: str, value: float, tmp_path: Path) -> None:
    run, column = folder(tmp_path), column_read_by(name)
    settings = TrainingSettings(steps=600, batch_size=2, log_every=8, checkpoint_every=16)
    # A bounded loss passes infinity on as a finite step, so that only the loss of a logged update shows it.
    updates = range(23, 600, 8) if value == float("inf") else range(19, 600)
    row, update, seeds = late_row(stack(name, SEEDS), 2, updates)
    data = poisoned(column, row, value)
    with pytest.raises(TrainingDivergedError, match=f"diverged at update {update} ") as error:
        train(stack(name, SEEDS), data, run, settings)
    assert "\n" not in str(error.value)
    assert not run.done

    told = read_json(run.path / "diverged.json")
    assert told["update"] == update
    assert told["seeds"] == seeds
    assert told["last_good_update"] == update // 8 * 8
    assert told["noticed_after_update"] == update // 8 * 8 + 8
    assert told["not_finite"]

    batch, metadata = read_tensors(run.path / "diverged_batch.safetensors")
    assert metadata == {"step": str(update)}
    for k, seed in enumerate(SEEDS):
        bad = ~batch[column][k].reshape(len(batch["obs"][k]), -1).isfinite().all(1)
        assert bool(bad.any()) == (seed in seeds)
        assert all(torch.equal(obs, data.obs[row]) for obs in batch["obs"][k][bad])
    assert {key for key in batch if key.startswith("noise.")} == {
        f"noise.{key}" for key in stack(name).noise(2)
    }

    # the last good state is that of a training that never met the row
    clean = stack(name, SEEDS)
    clean.prepare(data)  # a method that fits a model to all rows beforehand fits it to those it can use
    sampler, take = Sampler(dataset(PATIENTS), clean, 2), updater(clean)
    for step in range(told["last_good_update"]):
        take(sampler(step))
    state, metadata = read_tensors(run.path / "last_good.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    good = state if set(state) == set(training_state(clean)) else {f"agent.{k}": v for k, v in state.items()}
    for key, tensor in good.items():
        assert torch.equal(tensor, training_state(clean)[key])
    assert metadata["step"] == str(told["last_good_update"])

    # the metrics up to the end are kept, and the same command meets the same end
    steps = read_table(run.path / METRICS).to_pydict()["step"]
    assert max(steps) == told["noticed_after_update"]
    with pytest.raises(TrainingDivergedError, match=f"diverged at update {update} "):
        train(stack(name, SEEDS), data, run, settings)
    assert read_json(run.path / "diverged.json") == told


@pytest.mark.parametrize("what", ["weight", "moment"])
def test_damage_that_no_loss_shows_is_noticed_and_named(what: str, tmp_path: Path) -> None:
    """A weight or progress of one seed that is not finite while every reported number still is."""
    run, agent = folder(tmp_path), stack(FIRST, SEEDS)
    schedule, update_targets = agent.schedule, agent.update_targets
    now = 0

    def scheduled(step: int) -> None:
        nonlocal now
        now = step
        schedule(step)

    def damaging(step: int) -> None:
        update_targets(step)
        if now != 6:
            return
        optimizer = next(iter(agent.optimizers.values()))
        parameter = optimizer.param_groups[0]["params"][-1]
        target = parameter if what == "weight" else optimizer.state[parameter]["exp_avg_sq"]
        with torch.no_grad():
            target[1] = float("inf")

    agent.schedule, agent.update_targets = scheduled, damaging  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match=r"at update 6 \(seeds \[7\]\)"):
        train(agent, dataset(), run, TrainingSettings(steps=20, batch_size=8, log_every=7))
    told = read_json(run.path / "diverged.json")
    assert told["seeds"] == [7]
    assert told["not_finite"] == []


def test_a_number_reported_between_two_log_rows_is_noticed(tmp_path: Path) -> None:
    """One infinite loss of one seed, with a finite step, as bounded losses have it; every other is usual."""
    run, agent = folder(tmp_path), stack(FIRST, SEEDS)
    update = agent.update

    def reporting(batch: Any) -> dict[str, Any]:
        report = update(batch)
        bad = torch.tensor([0.0, float("inf") if batch.step == 9 else 0.0])
        return report | {"loss/bounded": bad}

    agent.update = reporting  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match=r"at update 9 \(seeds \[7\]\)"):
        train(agent, dataset(), run, TrainingSettings(steps=30, batch_size=8, log_every=7))
    told = read_json(run.path / "diverged.json")
    assert told["not_finite"] == ["loss/bounded"]
    assert (told["last_good_update"], told["noticed_after_update"]) == (7, 14)


def test_a_run_that_never_diverges_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay is not reached on good data."""

    def unreachable(*arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(offline, "_diverged", unreachable)
    train(stack(FIRST), dataset(), folder(tmp_path), SETTINGS)


# Signals and other processes, through the command line


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """The command line's handler of SIGTERM does not stay in this process."""
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def arguments(study: Path, data: Path, steps: int = 300) -> list[str]:
    """Of the command line: a training of two small seeds with a checkpoint every 20 updates."""
    options = f"--data {data} --out {study} --seeds 2 --steps {steps} --batch-size 32 --log-every 10"
    small = "--checkpoint-every 20 --device cpu --hidden 16 16"
    return ["train", FIRST, *options.split(), *small.split()]


def trained(study: Path, data: Path, capsys: pytest.CaptureFixture[str], steps: int = 300) -> RunFolder:
    """The run that the command ends with, in this process."""
    assert main(arguments(study, data, steps)) == 0
    return RunFolder(Path(capsys.readouterr().out.splitlines()[-1]))


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interruptible() -> None:
    """Whoever starts the tests in the background ignores Ctrl-C, and so would a process of theirs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.long
def test_killed_again_and_again_a_run_ends_as_if_it_never_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM (exit 143), Ctrl-C (exit 130) and kill -9, each after new progress, then to the end."""
    data, broken, stamp = tmp_path / "visits.parquet", tmp_path / "broken", 0
    steps = 1000  # seconds, so that the signal comes before the end on a busy machine too
    write_episodes(cohort(), data)
    straight = trained(tmp_path / "straight", data, capsys, steps)
    for sent, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        command = [sys.executable, "-m", "dosing", *arguments(broken, data, steps)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            preexec_fn=interruptible,
        ) as process:

            def progressed(since: int = stamp) -> bool:
                results = list(broken.glob(f"*/*/*/{CHECKPOINT}"))
                return bool(results) and results[0].stat().st_mtime_ns > since

            wait_for(progressed, process)
            process.send_signal(sent)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode == expected
        assert len(stderr.splitlines()) == (1 if sent == signal.SIGINT else 0), stderr
        (checkpoint,) = broken.glob(f"*/*/*/{CHECKPOINT}")
        stamp = checkpoint.stat().st_mtime_ns
        read_tensors(checkpoint)
    again = trained(broken, data, capsys, steps)
    assert result(again) == result(straight)
    assert again.path.relative_to(broken) == straight.path.relative_to(tmp_path / "straight")


@pytest.mark.long
def test_a_run_being_written_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "visits.parquet"
    write_episodes(cohort(), data)
    run = trained(tmp_path, data, capsys)
    (run.path / DONE).unlink()
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    with run.lock():
        assert main(arguments(tmp_path, data)) == 2
    assert "another process is writing the run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_divergence_ends_the_command_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "visits.parquet"
    write_episodes(cohort(), data)
    assert main([*arguments(tmp_path, data), "--learning-rate", "1e30"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "training diverged at update" in line
    assert list(tmp_path.glob("*/*/*/diverged.json"))
    assert not list(tmp_path.glob(f"*/*/*/{DONE}"))
