"""A stream of visits: the recorded rows, a function of the step alone, shuffled as its buffer allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dosing.agent import Agent
from dosing.data.dataset import Dataset, Transform
from dosing.data.row_groups import RowGroups
from dosing.data.store import read_episodes
from dosing.data.survey import Running, survey
from dosing.errors import UserError
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following, uniform
from dosing.evaluation.statistics import mean_over_seeds, paired_difference
from dosing.models.batch import Batch
from dosing.runs.files import read_tensors
from dosing.runs.folder import CONFIG, WEIGHTS, RunFolder
from dosing.studies import partition
from dosing.studies.launch import LocalProcesses
from dosing.studies.partition import Request, simulate_parts
from dosing.training.offline import TrainingSettings, train
from dosing.training.sampler import BLOCK, Sampler
from dosing.training.streaming import Stream, StreamSampler, batches
from dosing.types import Noise
from tests.support.samples import ENV, PROBLEM, small, stack

PATIENTS, VISITS = 96, 24
ROWS = 4 * VISITS
"""Visits of a row group: four patients."""
GROUPS, HELD = PATIENTS // 4, 6
BATCH = 3
"""192 draws in a block of updates: two groups enter, and each stays for three blocks."""


class Probe(Agent):
    """An agent that only says what it needs."""

    needs = frozenset({"time_step", "return_to_go", "next_act", "has_next", "cost"})

    def noise(self, batch_size: int) -> dict[str, Noise]:
        return {"act": Noise("uniform", (batch_size, 1))}

    def losses_and_metrics(self, batch: Batch) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts") / "cohort"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "GROUP_VISITS", ROWS)
        simulate_parts(out, Request(ENV, PATIENTS, seed=1), 3, LocalProcesses("cpu", 1))
    return out


def in_memory(folder: Path) -> Dataset:
    return Dataset.from_episodes(read_episodes(folder))


def stream(folder: Path, held: int = HELD) -> Stream:
    groups = RowGroups(folder)
    _, sample = survey(groups, sample_visits=240)
    transform = Transform.fit(read_episodes(folder))
    return Stream(groups, Dataset.from_episodes(sample, transform), held * ROWS)


def sampler(folder: Path, *seeds: int, batch_size: int = BATCH, **options: Any) -> StreamSampler:
    return StreamSampler(stream(folder), Probe(PROBLEM, seeds), batch_size, **options)


def copied(batch: Batch) -> dict[str, torch.Tensor]:
    columns = {k: getattr(batch, k).clone() for k in ("obs", "act", "reward", "next_obs", "terminated")}
    return columns | {k: v.clone() for k, v in batch.noise.items()} | dict(batch.extra)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows_of(data: Dataset, obs: torch.Tensor) -> np.ndarray[Any, Any]:
    """Rows of the data set whose states these are ``[..., O]``; every state occurs once."""
    table = {row.tobytes(): k for k, row in enumerate(data.obs.numpy())}
    assert len(table) == len(data)
    flat = obs.reshape(-1, obs.shape[-1]).numpy()
    return np.array([table[row.tobytes()] for row in flat]).reshape(obs.shape[:-1])


# One pass over the data


@pytest.mark.parametrize("scale_reward", [True, False, "return_range"])
def test_moments_of_a_pass_are_those_in_memory(folder: Path, scale_reward: Any) -> None:
    groups = RowGroups(folder)
    found, _ = survey(groups)
    whole = read_episodes(folder)
    wanted = Transform.fit(whole, scale_reward=scale_reward)
    result = Transform.of_moments(found.moments, whole.metadata.limits, scale_reward=scale_reward)
    for name in ("obs_mean", "obs_scale", "act_low", "act_high", "reward_scale"):
        np.testing.assert_allclose(getattr(result, name), getattr(wanted, name), rtol=1e-13, atol=1e-15)
    assert (found.visits, found.patients) == (len(whole), PATIENTS)
    best = int(whole.reward.argmax())
    assert (found.best.reward, found.best.visit) == (float(whole.reward[best]), best + 1)
    assert found.best.dose == tuple(whole.act[best].tolist())
    assert found.worst.reward == float(whole.reward.min())


def test_running_moments_survive_a_far_mean() -> None:
    """Sums of squares would cancel: the spread is a 10^-7 of the mean."""
    values = 1e6 + 0.1 * np.random.default_rng(0).standard_normal((5000, 3))
    running = Running()
    for piece in np.split(values, [1, 7, 700, 701, 4000]):
        running.add(piece)
    np.testing.assert_allclose(running.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(running.std, values.std(0), rtol=1e-8)


def test_the_sample_is_whole_patients_evenly_spaced(folder: Path) -> None:
    found, sample = survey(RowGroups(folder), sample_visits=8 * VISITS + 5)
    assert np.unique(sample.episode).tolist() == list(range(6, 96, 12))
    whole = read_episodes(folder)
    rows = np.isin(whole.episode, sample.episode)
    for name, array in sample.arrays().items():
        np.testing.assert_array_equal(array, getattr(whole, name)[rows], err_msg=name)
    assert (found.sample_visits, found.sample_patients) == (192, 8)
    assert found.sample == sample.content_hash()
    everything = survey(RowGroups(folder), sample_visits=10**6)[1]
    assert len(everything) == len(whole)


# Batches


def test_batches_hold_recorded_visits(folder: Path) -> None:
    data = in_memory(folder)
    agent = Probe(PROBLEM, (3, 7))
    streamed = StreamSampler(stream(folder), agent, 16)
    memory = Sampler(data, agent, 16)
    for step in (0, 70, 700):
        batch = streamed(step)
        rows = rows_of(data, batch.obs)
        for name in ("obs", "act", "reward", "next_obs", "terminated"):
            assert torch.equal(getattr(batch, name), getattr(data, name)[rows]), name
        widths = dict(zip(memory._extras, memory._rows[rows].split(memory._widths, -1)[5:], strict=True))
        assert batch.extra.keys() == widths.keys() == Probe.needs
        for name, wanted in widths.items():
            assert torch.equal(batch.extra[name], wanted), name
        assert batch.step == step


STEPS = (0, 1, BLOCK - 1, BLOCK, 9 * BLOCK + 5, 40 * BLOCK)


@pytest.mark.long
def test_a_batch_is_addressed_by_its_step(folder: Path) -> None:
    forward, fresh = sampler(folder, 3, 7), sampler(folder, 3, 7)
    seen = {step: copied(forward(step)) for step in range(max(STEPS) + 1)}
    for step in reversed(STEPS):  # in another order, by another object
        assert same(copied(fresh(step)), seen[step])
    assert not torch.equal(seen[0]["obs"], seen[1]["obs"])


def test_a_seed_sees_the_same_batches_in_any_stack(folder: Path) -> None:
    stacked, alone = sampler(folder, 7, 3, 1), sampler(folder, 3)
    for step in STEPS:
        both = copied(stacked(step)), copied(alone(step))
        assert all(torch.equal(both[0][name][1:2], both[1][name]) for name in both[1])
        assert not torch.equal(both[0]["obs"][0], both[0]["obs"][1])


def test_batches_written_in_place_are_the_same_batches(folder: Path) -> None:
    usual, in_place = sampler(folder, 3, 7), sampler(folder, 3, 7, in_place=True)
    addresses = set()
    for step in STEPS:
        batch = in_place(step)
        assert same(copied(batch), copied(usual(step)))
        addresses.add((batch.obs.data_ptr(), batch.noise["act"].data_ptr()))
    assert len(addresses) == 1


# How well it shuffles


def test_every_pass_has_every_group_in_a_new_order(folder: Path) -> None:
    one = sampler(folder, 0)
    orders = [list(one.order(k)) for k in range(3)]
    assert all(sorted(order) == list(range(GROUPS)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert [one.held(b) for b in (0, 1, 5)] == [range(k, k + HELD) for k in (0, 2, 10)]


@pytest.mark.long
def test_draws_cover_a_pass_as_uniform_draws_do(folder: Path) -> None:
    """While a group is held, 3 blocks of 192 draws fall on 6 groups: its rows are drawn once on average, and
    one is missed with probability (1 - 1/576)^576, that of uniform draws with replacement."""
    data, one, passes = in_memory(folder), sampler(folder, 0), 30
    counts = np.zeros(len(data))
    met: dict[int, set[int]] = {}
    blocks = passes * GROUPS // 2
    for block in range(3, 3 + blocks):
        obs = torch.cat([one(block * BLOCK + k).obs.clone() for k in range(BLOCK)], 1)
        drawn = rows_of(data, obs).ravel()
        counts += np.bincount(drawn, minlength=len(data))
        for place in one.held(block):
            own = drawn[drawn // ROWS == one.group(place)]
            met.setdefault(place, set()).update(own.tolist())
    whole = [place for place in met if HELD + 4 <= place < 2 * blocks]  # held within these blocks throughout
    once = [p for p in whole if one.group(p) not in {one.group(q) for q in range(p - 5, p + 6) if q != p}]
    missed = np.array([1 - len(met[place]) / ROWS for place in once])
    expected, n = (1 - 1 / 576) ** 576, ROWS * len(once)
    assert abs(missed.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / n)
    mean = blocks * 192 / len(data)
    spread = ((counts - mean) ** 2).sum() / mean / (len(data) - 1)  # chi-squared / degrees of freedom
    low, high = stats.chi2.ppf([1e-5, 1 - 1e-5], len(data) - 1) / (len(data) - 1)
    assert low < spread < high + 1 / 3 / passes * 8  # the window cuts off part of a stay at each of its ends


@pytest.mark.long
def test_neighbours_in_a_batch_are_as_alike_as_the_buffer_makes_them(folder: Path) -> None:
    """Of the place in the data, the worst case: the correlation of two draws is that of the buffer's mean.

    Between groups lies (1 - 1/N^2) of the variance of the place in the data; the mean of G of N groups has
    1/G (N - G) / (N - 1) of that. Without shuffled groups it would be 1 - (G/N)^2 = 0.94.
    """
    data, one = in_memory(folder), sampler(folder, 0)
    place: list[np.ndarray[Any, Any]] = []
    for block in range(0, 40 * GROUPS // 2, 3):  # buffers without a common group
        obs = torch.cat([one(block * BLOCK + k).obs.clone() for k in range(BLOCK)], 0)
        place.append(rows_of(data, obs))
    pairs = np.concatenate(place)[:, :2]
    centred = (pairs - (len(data) - 1) / 2) / np.sqrt((len(data) ** 2 - 1) / 12)
    each = centred.prod(1).reshape(len(place), -1).mean(1)
    derived = (GROUPS - HELD) / (GROUPS - 1) / HELD
    assert abs(each.mean() - derived) < 4 * each.std(ddof=1) / np.sqrt(len(each))
    assert 4 * each.std(ddof=1) / np.sqrt(len(each)) < 0.1
    together = (pairs[:, 0] // ROWS == pairs[:, 1] // ROWS).mean()
    assert abs(together - 1 / HELD) < 5 * np.sqrt(1 / HELD / len(pairs))


@pytest.mark.long
def test_a_buffer_that_holds_everything_stays_as_it_is(folder: Path) -> None:
    one = StreamSampler(stream(folder, GROUPS), Probe(PROBLEM, (0,)), 64)
    assert one.held(0) == one.held(1000) == range(GROUPS)
    rows = [rows_of(in_memory(folder), one(step).obs) for step in range(0, 40 * BLOCK, BLOCK)]
    groups = np.bincount(np.concatenate(rows).ravel() // ROWS, minlength=GROUPS)
    assert stats.chisquare(groups).pvalue > 1e-5


# Training


class Interruption(BaseException):
    """Stands for a signal."""


def trained(folder: Path, path: Path, stop: int | None = None, name: str = "fttpo") -> Path:
    agent, run = stack(name, (0, 1)), RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / CONFIG).write_text("{}")
    schedule = agent.schedule

    def scheduled(step: int) -> None:
        if step == stop:
            raise Interruption
        schedule(step)

    agent.schedule = scheduled  # type: ignore[method-assign]
    settings = TrainingSettings(steps=150, batch_size=16, log_every=5, checkpoint_every=40)
    train(agent, stream(folder), run, settings)
    return path


@pytest.mark.long
@pytest.mark.parametrize("name", ["fttpo", "iql"])
def test_a_resumed_run_ends_bit_identical(name: str, folder: Path, tmp_path: Path) -> None:
    wanted, _ = read_tensors(trained(folder, tmp_path / "whole", name=name) / WEIGHTS)
    for stop in (97, 130):  # after the checkpoints at 80 and 120, in the second and third block
        with pytest.raises(Interruption):
            trained(folder, tmp_path / "cut", stop, name)
    result, _ = read_tensors(trained(folder, tmp_path / "cut", name=name) / WEIGHTS)
    assert all(torch.equal(result[key], value) for key, value in wanted.items())


def test_an_agent_of_whole_episodes_learns_from_the_sample(folder: Path) -> None:
    data = stream(folder)
    agent = stack("decision_transformer", (0,))
    result = batches(data, agent, 8)
    assert isinstance(result, Sampler)
    assert len(result.dataset) == len(data.sample) == 240
    assert isinstance(batches(data, stack("iql", (0,)), 8), StreamSampler)
    with pytest.raises(UserError, match="batch size must be at least 1"):
        batches(data, stack("iql", (0,)), 0)


@pytest.mark.long
def test_learning_from_a_stream_is_as_good_as_from_memory(folder: Path, tmp_path: Path) -> None:
    """16 seeds each way on new patients: the difference is within its interval, and small beside what the
    policy gains over uniform doses."""
    from dosing.policy import DosePolicy
    from simulator.scenarios import evaluation_factory

    factory, seeds, data = evaluation_factory(ENV, {}), tuple(range(16)), in_memory(folder)
    returns = []
    for source in (data, stream(folder)):
        import agents

        agent = agents.build("iql", small("iql", hidden=(32, 32)), PROBLEM, seeds)
        run = RunFolder(tmp_path / type(source).__name__)
        run.path.mkdir()
        (run.path / CONFIG).write_text("{}")
        train(agent, source, run, TrainingSettings(steps=600, batch_size=64, log_every=300))
        policy = DosePolicy(agent, data.transform)
        returns.append(rollout(factory, following(policy), seeds, 100).returns)
    chance = rollout(factory, uniform(factory.limits, seeds), seeds, 100).returns
    gain = mean_over_seeds(returns[0] - chance)
    difference = paired_difference(returns[1], returns[0], confidence=0.99)
    assert gain.low > 0
    assert difference.low < 0 < difference.high
    assert difference.high - difference.low < gain.value
