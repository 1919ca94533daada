"""Files damaged or edited at random: how many are read as if nothing had happened, with other content.

    python benchmarks/faults.py [--mutations N] [--seed N]

Every mutation flips bits, changes, removes or repeats bytes, or changes a digit, in a file of this program:
recorded visits as parquet, CSV and HDF5; the configuration, weights, scenario card, monitor, metrics and
record of hashes of a finished run; the checkpoint of a killed one. For limits of doses the hashes are made
anew after the edit, as a person might. A file may be refused in one sentence or read as it was; anything else
is a violation: other content that is read, or an error that is no sentence.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing.data.formats import SUFFIXES
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.runs.config import hash_of
from dosing.runs.files import read_checkpoint, read_json, sha256, write_checkpoint, write_json
from dosing.runs.folder import (
    CARD,
    CHECKPOINT,
    CONFIG,
    DONE,
    METRICS,
    NOVELTY,
    NOVELTY_VISITS,
    WEIGHTS,
    RunFolder,
)
from dosing.studies import AgentSetup, TrainingSettings, load, train
from dosing.training.checkpoint import training_state
from simulator.cohorts.generate import simulate

SHARES = {"data": 0.45, "run": 0.35, "checkpoint": 0.15, "limits": 0.05}
"""Of the mutations, by what is damaged."""

Read = Callable[[], Any]
"""Reads a damaged file and returns its content in a form that can be compared."""


@dataclass(frozen=True)
class Subject:
    """A file, how it is read, and what it reads as while it is whole."""

    name: str
    path: Path
    read: Read


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One mutation of a file; it differs from the file."""
    if not content:
        return b"\0"
    changed, at = bytearray(content), int(rng.integers(len(content)))
    kind = int(rng.integers(6))
    if kind <= 1:  # one bit, or a few
        for place in [at, *rng.integers(len(content), size=7 * kind).tolist()]:
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        changed[at] = int(rng.integers(256))
    elif kind == 3:  # bytes lost
        del changed[at : at + int(rng.integers(1, 64))]
    elif kind == 4:  # bytes repeated
        changed[at:at] = content[at : at + int(rng.integers(1, 64))]
    else:  # another digit, where there is one: what a hand would edit
        digits = np.flatnonzero((np.frombuffer(content, np.uint8) - 48) < 10)
        place = int(rng.choice(digits)) if len(digits) else at
        changed[place] = 48 + int(rng.integers(10))
    return mutate(content, rng) if bytes(changed) == content else bytes(changed)


def outcome(subject: Subject, whole: Any) -> str:
    """What happens when the file is read: ``refused``, ``unchanged``, ``changed`` or the error's name."""
    try:
        result = subject.read()
    except UserError as error:
        return "refused" if "\n" not in str(error) else "more than one line"
    except Exception as error:
        return type(error).__name__
    return "unchanged" if result == whole else "changed"


def count(subject: Subject, mutations: int, rng: np.random.Generator) -> Counter[str]:
    """Outcomes of so many mutations of one file, which is whole again at the end."""
    content, whole, counts = subject.path.read_bytes(), subject.read(), Counter[str]()
    for _ in range(mutations):
        subject.path.write_bytes(mutate(content, rng))
        counts[outcome(subject, whole)] += 1
    subject.path.write_bytes(content)
    assert subject.read() == whole
    return counts


# Recorded visits


def data_subjects(folder: Path, episodes: Episodes) -> list[Subject]:
    """The same visits in every format of files."""

    def reader(path: Path) -> Read:
        def read() -> tuple[DatasetMetadata, tuple[bytes, ...]]:
            result = read_episodes(path)
            return result.metadata, tuple(array.tobytes() for array in result.arrays().values())

        return read

    subjects = []
    for suffix in SUFFIXES:
        path = folder / f"visits{suffix}"
        write_episodes(episodes, path)
        subjects.append(Subject(suffix[1:], path, reader(path)))
    return subjects


# A finished run and the checkpoint of a killed one


def finished_run(folder: Path, data: Path) -> RunFolder:
    """A small run with everything a run can have."""
    setup = AgentSetup("bc", agents.find("bc").config_class()(hidden=(8, 8)))
    training = TrainingSettings(steps=4, batch_size=8)
    return train(folder / "study", setup, data, seeds=(0, 1), training=training, device="cpu")


def run_subjects(run: RunFolder) -> list[Subject]:
    """Every file of a finished run, read as a recommendation reads it."""

    def read() -> tuple[Any, ...]:
        recommender = load(run)
        weights = recommender.policy.agent.state_dict()
        monitor = recommender.monitor
        return (
            run.config(),
            recommender.rules,
            tuple((name, value.numpy().tobytes()) for name, value in weights.items()),
            None if monitor is None else (monitor.threshold, monitor.obs.tobytes(), monitor.act.tobytes()),
            tuple((name, sha256(run.path / name)) for name in (METRICS,)),
            recommender.provenance,
        )

    names = (CONFIG, WEIGHTS, CARD, NOVELTY, NOVELTY_VISITS, METRICS, DONE)
    return [Subject(name, run.path / name, read) for name in names]


def checkpoint_subject(folder: Path, run: RunFolder) -> Subject:
    """A training state, as a killed run leaves it."""
    path = folder / CHECKPOINT
    config = run.config()
    agent = agents.build(config.agent, config.agent_config, config.problem, config.seeds)
    write_checkpoint(path, training_state(agent), {"step": "3", "seconds": "1.5"})

    def read() -> tuple[Any, ...]:
        tensors, metadata = read_checkpoint(path)
        return metadata, {
            name: (str(value.dtype), value.reshape(-1).view(torch.uint8).numpy().tobytes())
            for name, value in tensors.items()
        }

    return Subject(CHECKPOINT, path, read)


# Limits that somebody edits, with every hash made anew


def edited_limits(run: RunFolder, rng: np.random.Generator) -> Iterator[None]:
    """Edit one or more of the places where a run keeps its dose limits; made good when resumed."""
    files = [run.path / name for name in (CONFIG, CARD, DONE)]
    before = [file.read_bytes() for file in files]
    content, card = read_json(run.path / CONFIG), read_json(run.path / CARD)
    end, factor = ("low", "high")[int(rng.integers(2))], float(rng.uniform(1.001, 10.0))
    places = int(rng.integers(1, 8))  # bits: limits, transform, card
    if places & 1:
        content["limits"][end] = [factor * x for x in content["limits"][end]]
    if places & 2:
        content["transform"][f"act_{end}"] = [factor * x for x in content["transform"][f"act_{end}"]]
    if places & 4:
        card["dose"][f"hard_{end}"] = [factor * x for x in card["dose"][f"hard_{end}"]]
    rest = {name: value for name, value in content.items() if name != "hash"}
    write_json(run.path / CONFIG, rest | {"hash": hash_of(rest)})
    write_json(run.path / CARD, card)
    run.finish()
    yield
    for file, old in zip(files, before, strict=True):
        file.write_bytes(old)


def count_limits(run: RunFolder, mutations: int, rng: np.random.Generator) -> Counter[str]:
    """Outcomes of asking a run whose dose limits were edited and hashed anew."""
    subject = Subject("limits", run.path / CONFIG, lambda: (load(run).rules.limits, run.config().transform))
    whole, counts = subject.read(), Counter[str]()
    for _ in range(mutations):
        edit = edited_limits(run, rng)
        next(edit)
        counts[outcome(subject, whole)] += 1
        next(edit, None)
    assert subject.read() == whole
    return counts


def damaged_files(folder: Path, mutations: int, seed: int) -> dict[str, Counter[str]]:
    """Outcomes by file of about so many mutations.

    Args:
        folder: an empty one.
        mutations: how many in all.
        seed: of the mutations.
    """
    rng = np.random.default_rng(seed)
    episodes = simulate("dosing/Treatment-v0", patients=4, seed=1)
    episodes = dataclasses.replace(episodes, metadata=dataclasses.replace(episodes.metadata, notice="µ → ok"))
    data = data_subjects(folder, episodes)
    run = finished_run(folder, data[0].path)
    groups = {"data": data, "run": run_subjects(run), "checkpoint": [checkpoint_subject(folder, run)]}
    result = {}
    for name, subjects in groups.items():
        each = max(1, round(SHARES[name] * mutations / len(subjects)))
        for subject in subjects:
            result[subject.name] = count(subject, each, rng)
    result["limits, hashed anew"] = count_limits(run, max(1, round(SHARES["limits"] * mutations)), rng)
    return result


def violations(counts: dict[str, Counter[str]]) -> int:
    """How many mutations were neither refused in one sentence nor without effect."""
    return sum(
        n for one in counts.values() for kind, n in one.items() if kind not in ("refused", "unchanged")
    )


def main() -> int:
    """Count and print; 1 if there was a violation."""
    parser = argparse.ArgumentParser(description="Damaged and edited files.")
    parser.add_argument("--mutations", type=int, default=10_000, help="[10000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = damaged_files(Path(folder), options.mutations, options.seed)
    kinds = list(
        dict.fromkeys(["refused", "unchanged", "changed", *(k for one in counts.values() for k in one)])
    )
    print(
        table(["file", *kinds], [[name, *(str(one[kind]) for kind in kinds)] for name, one in counts.items()])
    )
    total = sum(sum(one.values()) for one in counts.values())
    print(f"{violations(counts)} violations in {total:,} mutations, {time.perf_counter() - began:.0f} s")
    print(describe())
    return int(violations(counts) > 0)


if __name__ == "__main__":
    sys.exit(main())
