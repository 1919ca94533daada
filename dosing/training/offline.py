"""The training loop: any agent, any data set; logging, checkpoints, exact resume, and a stop on NaN."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dosing.agent import Agent
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.runs.files import (
    read_checkpoint,
    read_table,
    write_checkpoint,
    write_json,
    write_table,
    write_tensors,
)
from dosing.runs.folder import CHECKPOINT, DONE, METRICS, WEIGHTS, RunFolder
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.compilation import Mode, updater
from dosing.training.logged import Logged, OnLog
from dosing.training.sampler import Lookahead
from dosing.training.streaming import Batches, Stream, batches


class TrainingDivergedError(UserError):
    """Training met NaN or infinity and stopped; the last good state is kept in the run folder."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how to train."""

    steps: int = 2000
    """Gradient updates."""
    batch_size: int = 256
    """Transitions per update and seed."""
    log_every: int = 100
    """Updates between log rows; NaN is noticed here."""
    checkpoint_every: int = 1000
    """Updates between checkpoints on disk; at most this much is lost to a kill."""
    mode: Mode = "auto"
    """How an update is executed; see ``dosing.training.compilation``."""
    n_step: int = 1
    """Most visits whose rewards a target sums before it bootstraps
    (``dosing.training.sampler.Lookahead``)."""
    trace: float = 1.0
    """Probability of one more visit in that sum: below 1, the mean target is a lambda-return."""
    averaging: float = 0.0
    """eta > 0 keeps, in place of the last weights, their polynomial-decay average (Shamir, Zhang 2013, ICML,
    section 4): after t updates the last weights count (eta + 1) / (t + eta). 8 averages about the last fifth;
    0 does not average."""
    stream: bool | None = None
    """Read visits while they are learned from (``dosing.training.streaming``); None: where they are many. Not
    part of the run's settings: what it learned from is stated with its data."""

    def recorded(self) -> dict[str, Any]:
        """What decides the result of a run on given data."""
        return {name: value for name, value in asdict(self).items() if name != "stream"}

    def check(self) -> None:
        """Refuse settings that cannot work."""
        for name in ("steps", "batch_size", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 <= self.averaging < math.inf:
            raise UserError(f"averaging must be at least 0, got {self.averaging}.")
        self.lookahead()

    def lookahead(self) -> Lookahead:
        """Over how many visits targets sum rewards."""
        return Lookahead(self.n_step, self.trace)

    def check_length(self, agent: Agent) -> None:
        """Refuse a training that would end before the agent's policy learns."""
        if self.steps <= agent.warm_up:
            raise UserError(
                f"this agent's policy learns nothing in the first {agent.warm_up} updates: steps must be "
                f"more, got {self.steps}."
            )

    def before_end(self, milestones: Sequence[int]) -> tuple[int, ...]:
        """Milestones in order, without the last update, which needs no copy of its own.

        Raises:
            UserError: one lies outside the training.
        """
        for update in milestones:
            if not 1 <= update <= self.steps:
                raise UserError(f"a training of {self.steps} updates cannot be looked at after {update}.")
        return tuple(sorted(set(milestones) - {self.steps}))


class Log:
    """The long metrics table: step, seed, name, value, seconds."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {k: [] for k in ("step", "seed", "name", "value", "seconds")}

    @classmethod
    def resumed(cls, run: RunFolder, step: int) -> Log:
        """The rows of a run up to update ``step``."""
        log = cls()
        if step > 0:
            table = read_table(run.path / METRICS).to_pydict()
            keep = [i for i, s in enumerate(table["step"]) if s <= step]
            log.columns = {k: [table[k][i] for i in keep] for k in log.columns}
        return log

    def add(self, step: int, seeds: tuple[int, ...], values: dict[str, Tensor], seconds: float) -> Logged:
        """Append one row per seed and metric; returns them."""
        table = torch.stack([v.detach() for v in values.values()]).double().cpu().numpy()  # one transfer
        for name, row in zip(values, table, strict=True):
            for seed, value in zip(seeds, row, strict=True):
                self.columns["step"].append(step)
                self.columns["seed"].append(seed)
                self.columns["name"].append(name)
                self.columns["value"].append(float(value))
                self.columns["seconds"].append(seconds)
        by_seed = [dict(zip(seeds, row.tolist(), strict=True)) for row in table]
        return Logged(step, seconds, dict(zip(values, by_seed, strict=True)))


def not_finite(metrics: dict[str, Tensor]) -> Tensor:
    """Which seeds report a number that is not finite, ``[S]``."""
    return ~torch.stack(list(metrics.values())).isfinite().all(0)


def damaged(agent: Agent) -> Tensor:
    """Which seeds hold a weight or optimiser progress that is not finite, ``[S]``.

    Moments count: an infinite second progress stops a weight from moving and leaves it finite for ever.
    """
    stacked = [x for x in training_state(agent).values() if x.dim() > 0]
    return torch.stack([~x.isfinite().flatten(1).all(1) for x in stacked]).any(0)


class _Average:
    """The weights that are kept: a running average of those so far or, without averaging, the last."""

    def __init__(self, agent: Agent, averaging: float) -> None:
        self.agent, self.averaging = agent, averaging
        self.weights = [p.detach().clone() for p in agent.parameters()] if averaging > 0.0 else []

    @torch.no_grad()
    def add(self, count: int) -> None:
        """Take in the weights after update number ``count``, counted from 1."""
        if self.weights:
            share = (self.averaging + 1.0) / (count + self.averaging)
            torch._foreach_lerp_(self.weights, [p.detach() for p in self.agent.parameters()], share)

    def state(self) -> dict[str, Tensor]:
        """The agent's state with these weights in place of its own."""
        state = self.agent.state_dict()
        names = [name for name, _ in self.agent.named_parameters()]
        return state | dict(zip(names, self.weights, strict=False))

    def saved(self) -> dict[str, Tensor]:
        """What a checkpoint needs besides the agent's training state."""
        return {f"average.{k}": weight for k, weight in enumerate(self.weights)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`saved`.

        Raises:
            UserError: the checkpoint has none, or weights of another shape.
        """
        for k, weight in enumerate(self.weights):
            result = state.get(f"average.{k}")
            if result is None or result.shape != weight.shape:
                raise UserError("the checkpoint does not fit this training: it lacks averaged weights.")
            weight.copy_(result)


def _snapshot(agent: Agent) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in training_state(agent).items()}


def train(
    agent: Agent,
    dataset: Dataset | Stream,
    run: RunFolder,
    settings: TrainingSettings,
    *,
    milestones: Sequence[int] = (),
    progress: tqdm[Any] | None = None,
    on_log: OnLog | None = None,
) -> None:
    """Train to ``settings.steps`` updates, continuing from the run's checkpoint if it has one.

    The caller has written ``config.json`` and holds the run's lock. On the CPU, with the same number of
    threads, the finished weights and metrics are bit-identical whether or not the run was interrupted. A
    checkpoint behind a milestone that was not kept is not used: training starts from the beginning.

    Args:
        agent: a stack of S seeds with fresh weights, on the data set's device.
        dataset: transitions in agents' units, in memory or streamed.
        run: where everything is written.
        settings: length and batch size.
        milestones: numbers of updates after which the weights are kept beside the final ones.
        progress: a bar to advance, or None.
        on_log: told every row of the log as it is made, or None.

    Raises:
        TrainingDivergedError: a loss or a weight became NaN or infinite.
        UserError: the checkpoint does not fit, the folder cannot be written, a milestone lies outside the
            training, or the training would end before the policy learns.
    """
    settings.check()
    settings.check_length(agent)
    keep = settings.before_end(milestones)
    (run.path / DONE).unlink(missing_ok=True)
    sampler = batches(dataset, agent, settings.batch_size, in_place=True, lookahead=settings.lookahead())
    average = _Average(agent, settings.averaging)
    start, before = _resume(agent, average, run, keep)
    log = Log.resumed(run, start)
    if progress is not None:
        progress.update(start)
    began = time.perf_counter() - before
    good, good_step, saved = _snapshot(agent), start, start
    update = updater(agent, settings.mode)
    failed = torch.zeros(len(agent.seeds), dtype=torch.bool, device=next(agent.parameters()).device)
    for step in range(start, settings.steps):
        count = step + 1
        last = count == settings.steps
        logged = count % settings.log_every == 0 or last
        if logged or not agent.settled(step):
            metrics = update(sampler(step))
            failed |= not_finite(metrics)  # of every one: a bounded loss turns infinity into a finite step
        average.add(count)
        if count in keep:  # before a checkpoint that would stand behind it
            write_tensors(run.at(count) / WEIGHTS, average.state(), {"step": str(count)})
        if logged:
            seconds = time.perf_counter() - began
            row = log.add(count, agent.seeds, metrics, seconds)
            if on_log is not None:
                on_log(row)
            if bool((failed | damaged(agent)).any()):
                write_table(run.path / METRICS, log.columns)
                _diverged(agent, sampler, run, good, good_step, count)
            good, good_step = _snapshot(agent), count
            if progress is not None:
                progress.update(count - progress.n)
            if count - saved >= settings.checkpoint_every and not last:
                saved = count
                _save(agent, average, run, log, {"step": str(count), "seconds": f"{seconds:.3f}"})
    write_table(run.path / METRICS, log.columns)
    write_tensors(run.path / WEIGHTS, average.state(), {"step": str(settings.steps)})
    run.finish()
    (run.path / CHECKPOINT).unlink(missing_ok=True)


def _save(agent: Agent, average: _Average, run: RunFolder, log: Log, about: dict[str, str]) -> None:
    """Write the log so far, then a checkpoint."""
    write_table(run.path / METRICS, log.columns)
    write_checkpoint(run.path / CHECKPOINT, training_state(agent) | average.saved(), about)


def _resume(agent: Agent, average: _Average, run: RunFolder, keep: Sequence[int]) -> tuple[int, float]:
    """Load the run's checkpoint, if it has a usable one; returns the updates and seconds behind it."""
    if not (run.path / CHECKPOINT).is_file():
        return 0, 0.0
    state, metadata = read_checkpoint(run.path / CHECKPOINT)
    try:
        step, seconds = int(metadata["step"]), float(metadata["seconds"])
    except (KeyError, ValueError) as error:
        raise UserError(f"{run.path / CHECKPOINT} is not a checkpoint: {error} is amiss.") from error
    if any(update <= step for update in run.lacking(keep)):
        return 0, 0.0
    average.load(state)
    load_training_state(agent, state)
    return step, seconds


def _diverged(
    agent: Agent, sampler: Batches, run: RunFolder, good: dict[str, Tensor], good_step: int, noticed: int
) -> None:
    """Keep the last good state, find the first bad update by replay from it, save its batch, and stop."""
    load_training_state(agent, good)
    write_tensors(run.path / "last_good.safetensors", agent.state_dict(), {"step": str(good_step)})
    update = updater(agent, "eager")
    for step in range(good_step, noticed):
        batch = sampler(step)
        metrics = update(batch)
        bad = not_finite(metrics) | damaged(agent)
        if bool(bad.any()):
            break
    seeds = [seed for seed, wrong in zip(agent.seeds, bad.tolist(), strict=True) if wrong]
    write_tensors(run.path / "diverged_batch.safetensors", _batch_tensors(batch), {"step": str(step)})
    write_json(
        run.path / "diverged.json",
        {
            "update": step,
            "noticed_after_update": noticed,
            "last_good_update": good_step,
            "seeds": seeds,
            "not_finite": [name for name, value in metrics.items() if not bool(value.isfinite().all())],
        },
    )
    raise TrainingDivergedError(
        f"training diverged at update {step} (seeds {seeds or list(agent.seeds)}): a loss or weight is not "
        f"finite; the last good state and the offending batch are in {run.path}."
    )


def _batch_tensors(batch: Batch) -> dict[str, Tensor]:
    columns = {"obs": batch.obs, "act": batch.act, "reward": batch.reward, "next_obs": batch.next_obs}
    columns["terminated"] = batch.terminated
    columns |= {f"noise.{name}": value for name, value in batch.noise.items()}
    return columns | {f"extra.{name}": value for name, value in batch.extra.items()}
