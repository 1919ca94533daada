"""Faults of simulated patients: doses that are none, seeds, workers, interruptions; what it owes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import simulator  # noqa: F401  registers the environments
from dosing import NOT_FOR_PATIENTS
from dosing.data.store import read_episodes, write_episodes
from dosing.errors import UserError
from dosing.studies.scenarios import factory_for
from simulator.cli import main
from simulator.cohorts.generate import simulate
from simulator.envs import SCENARIOS, scenario_class

ENV = "dosing/Treatment-v0"


def test_fault_15_a_dose_outside_the_limits_is_delivered_at_the_limit_and_flagged_or_refused() -> None:
    env = gymnasium.make(ENV)
    env.reset(seed=0)
    *_, info = env.step(np.array([7.5], dtype=np.float32))
    assert (info["dose_requested"], info["dose_delivered"], info["limited_by"]) == (7.5, 1.0, "high limit")
    strict = gymnasium.make(ENV, out_of_range="raise")
    strict.reset(seed=0)
    with pytest.raises(UserError, match=r"dose \[7.5\] of patient 0 is outside the hard limits"):
        strict.step(np.array([7.5], dtype=np.float32))


@pytest.mark.parametrize("dose", [np.nan, np.inf, -np.inf])
def test_fault_16_a_dose_that_is_no_number_is_refused(dose: float) -> None:
    env = gymnasium.make(ENV)
    env.reset(seed=0)
    with pytest.raises(UserError, match="finite"):
        env.step(np.array([dose], dtype=np.float32))


def test_fault_30_resets_differ_and_the_same_seed_repeats() -> None:
    env = gymnasium.make(ENV)
    first, second = env.reset(seed=1)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    again = gymnasium.make(ENV)
    np.testing.assert_array_equal(again.reset(seed=1)[0], first)
    np.testing.assert_array_equal(again.reset()[0], second)
    assert simulate(ENV, patients=3, seed=5).metadata.seed == 5


def test_fault_31_neither_workers_nor_company_change_a_patient() -> None:
    alone = simulate(ENV, patients=40, seed=2)
    assert simulate(ENV, patients=40, seed=2, workers=3).content_hash() == alone.content_hash()
    among = simulate(ENV, patients=300, seed=2)
    np.testing.assert_array_equal(among.obs[: len(alone)], alone.obs)


@pytest.mark.long
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_fault_42_an_interruption_leaves_nothing_half_written(
    sent: signal.Signals, status: int, tmp_path: Path
) -> None:
    words = ["run", ENV, "--patients", "50000000", "--out", str(tmp_path / "x.hdf5")]
    process = subprocess.Popen(
        [sys.executable, "-m", "simulator", *words],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background
    )
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".x.hdf5.*.partial")) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(sent)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, told
    assert told.strip().splitlines()[-1].endswith("nothing was left half written")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["simulator", "list"],
        ["simulator", "card", ENV],
        ["simulator", "run", ENV, "--patients", "3"],
        ["dosing", "agents"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_gone_is_no_traceback(words: list[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as told:
        assert told.read() == ""
    assert process.wait(60) == 1


@pytest.mark.parametrize("env_id", SCENARIOS)
def test_the_spec_of_a_made_environment_states_its_length(env_id: str) -> None:
    for options in ({}, {"steps": 7}):
        env = gymnasium.make(env_id, **options)
        length = options.get("steps", scenario_class(env_id)(scenario_class(env_id).variants[0]).visits)
        assert env.spec is not None
        assert env.spec.max_episode_steps == length
        timed = gymnasium.wrappers.TimeAwareObservation(env)
        timed.reset(seed=0)
        nothing = np.zeros_like(timed.action_space.low)  # a dose at random may end an episode early
        done = [timed.step(nothing)[3] for _ in range(length)]
        assert done == [False] * (length - 1) + [True]


def test_behaviour_01_what_the_simulator_prints_and_writes_says_what_it_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["run", ENV, "--patients", "2"], ["card", ENV]):
        assert main(words) == 0
        assert NOT_FOR_PATIENTS in capsys.readouterr().out
    for name in ("x.parquet", "x.csv", "x.hdf5"):
        write_episodes(simulate(ENV, patients=2), tmp_path / name)
        assert read_episodes(tmp_path / name).metadata.notice == NOT_FOR_PATIENTS


def test_behaviour_18_a_moved_number_needs_a_new_version() -> None:
    from tests.simulator.test_versions import GOLDEN

    for (env_id, variant), (version, *_) in GOLDEN.items():
        assert scenario_class(env_id)(variant).version == version
    assert {env_id for env_id, _ in GOLDEN} == set(SCENARIOS)


def test_behaviour_19_recorded_visits_are_made_again_from_their_own_card() -> None:
    data = simulate(ENV, patients=7, seed=3, policy="titration:0.2", realism=3)
    card = data.metadata
    again = simulate(
        card.env_id,
        patients=card.patients,
        seed=card.seed,
        policy=card.policy,
        first_patient=card.first_patient,
        **card.env_options,
    )
    assert again.content_hash() == card.content_hash


def test_fault_32_visits_of_another_version_of_a_scenario_are_refused() -> None:
    data = simulate(ENV, patients=2)
    assert factory_for(data.metadata) is not None
    with pytest.raises(UserError, match="version"):
        factory_for(replace(data.metadata, scenario_version="0.9"))
