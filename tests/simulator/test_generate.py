import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dosing.data.store import Episodes, read_episodes
from dosing.errors import UserError
from dosing.safety import LIMITED_BY
from simulator.behaviour_policies import EpsilonGreedy
from simulator.cohorts import generate
from simulator.cohorts.generate import simulate, simulate_to

ENV_ID = "dosing/Treatment-v0"


def same(a: Episodes, b: Episodes) -> None:
    for (name, left), right in zip(a.arrays().items(), b.arrays().values(), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


def test_rows_are_episodes_in_order_of_time() -> None:
    data = simulate(ENV_ID, patients=7, steps=5, first_patient=100)
    assert len(data) == 35
    assert data.episode.tolist() == sorted([*range(100, 107)] * 5)
    assert data.step.tolist() == [*range(5)] * 7
    np.testing.assert_array_equal(data.truncated, data.step == 4)
    assert not data.terminated.any()
    inner = np.flatnonzero(data.step < 4)
    np.testing.assert_array_equal(data.next_obs[inner], data.obs[inner + 1])


def test_rewards_belong_to_the_next_state_and_the_delivered_dose() -> None:
    data = simulate(ENV_ID, patients=40, policy="constant:1.5")
    s, a = data.next_obs.astype(np.float64), data.act[:, 0].astype(np.float64)
    reward = -np.exp((s[:, 0] + s[:, 4]) / 2) * a**2 + s[:, 3] + s[:, 7]
    reward += 2 * (s[:, 1] + s[:, 2] + s[:, 5] + s[:, 6] + 0.5) * a
    np.testing.assert_allclose(data.reward, reward, atol=1e-4)
    assert set(data.act[:, 0]) == {1.0}
    assert set(data.act_requested[:, 0]) == {1.5}
    assert {LIMITED_BY[code] for code in data.limited_by} == {"high limit"}
    assert set(data.cost) == {1.0}


def test_every_logged_dose_carries_its_density() -> None:
    uniform = simulate("dosing/LiIV-v0", patients=3, variant="li-evaluation", steps=4)
    np.testing.assert_allclose(uniform.behaviour_log_prob, np.log(1 / 4))
    titration = simulate(ENV_ID, patients=20, policy="titration")
    assert np.isfinite(titration.behaviour_log_prob).all()
    assert titration.act.std() > 0.1
    greedy = simulate(ENV_ID, patients=20, policy=EpsilonGreedy(lambda obs: np.tanh(obs[:, :1]), 0.2))
    assert np.isfinite(greedy.behaviour_log_prob).all()
    assert greedy.metadata.policy.startswith("epsilon-greedy:0.2")


@pytest.mark.parametrize("policy", ["uniform", "titration:0.2"])
def test_patients_do_not_depend_on_chunks_workers_or_cohort_size(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"policy": policy, "steps": 3, "realism": 5, "history": 2}
    whole = simulate(ENV_ID, patients=1500, **options)
    monkeypatch.setattr(generate, "CHUNK_VISITS", 900)  # chunks of one block
    same(whole, simulate(ENV_ID, patients=1500, **options))
    same(whole, simulate(ENV_ID, patients=1500, workers=2, **options))
    monkeypatch.setattr(generate, "CHUNK_VISITS", 50)  # chunks of 16 patients
    few = simulate(ENV_ID, patients=40, first_patient=250, **options)
    rows = slice(250 * 3, 290 * 3)
    for name, array in few.arrays().items():
        np.testing.assert_array_equal(array, getattr(whole, name)[rows], err_msg=name)


def test_patients_are_the_same_whatever_the_policy() -> None:
    a, b = (simulate(ENV_ID, patients=9, policy=p) for p in ("uniform", "constant:0"))
    np.testing.assert_array_equal(a.obs[a.step == 0], b.obs[b.step == 0])


def test_confounded_data_titrate_by_what_the_learner_cannot_see() -> None:
    data = simulate(ENV_ID, patients=4000, realism=5, policy="titration", steps=12)
    blind = simulate(ENV_ID, patients=4000, realism=4, policy="titration", steps=12)
    env = generate.CohortEnv(ENV_ID, num_envs=4000, realism=5)
    env.reset(seed=0)
    hidden = env.visits.covariate

    def tie(episodes: Episodes) -> float:
        return float(np.corrcoef(hidden, episodes.act.reshape(4000, 12).mean(axis=1))[0, 1])

    assert tie(data) < -0.4
    assert abs(tie(blind)) < 0.08


def test_metadata_say_how_to_make_the_data_again() -> None:
    data = simulate(
        ENV_ID, patients=4, variant="simenv3", seed=3, cohort="evaluation", policy="titration", noise=0.1
    )
    meta = data.metadata
    assert (meta.env_id, meta.seed, meta.patients, meta.policy) == (ENV_ID, 3, 4, "titration:0.1")
    assert meta.env_options == {"variant": "simenv3", "cohort": "evaluation", "noise": 0.1, "steps": 24}
    assert meta.scenario_version == meta.card["version"]
    assert meta.content_hash == data.content_hash()
    assert len(meta.obs_names) == len(meta.obs_units) == data.obs.shape[1]
    assert (meta.action_low, meta.action_high, meta.dose_unit) == ((-1.0,), (1.0,), "1")
    again = simulate(
        meta.env_id,
        patients=meta.patients,
        seed=meta.seed,
        policy=meta.policy,
        **meta.env_options,
    )
    assert again.content_hash() == data.content_hash()


def test_streaming_to_a_file_gives_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = simulate(ENV_ID, patients=700)
    monkeypatch.setattr(generate, "CHUNK_VISITS", 24 * 256)
    stored = simulate_to(tmp_path / "cohort.parquet", ENV_ID, patients=700, workers=2, progress=True)
    same(memory, read_episodes(tmp_path / "cohort.parquet"))
    assert stored.content_hash == memory.metadata.content_hash


def test_a_failing_policy_leaves_no_file_and_no_thread(tmp_path: Path) -> None:
    def agent(obs: np.ndarray) -> np.ndarray:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        simulate_to(tmp_path / "x.parquet", ENV_ID, patients=20_000, policy=EpsilonGreedy(agent), workers=2)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == 1 or all(t.daemon for t in threading.enumerate()[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 0}, "patients must be"),
        ({"patients": -1}, "patients must be"),
        ({"seed": -1}, "seed must be"),
        ({"steps": 0}, "steps must be"),
        ({"workers": 0}, "workers must be"),
        ({"cohort": "third"}, "cohort must be"),
        ({"policy": "clever"}, "unknown policy"),
        ({"env_id": "dosing/Nothing-v0"}, "unknown environment"),
        ({"shape": 3}, "no option 'shape'"),
        ({"first_patient": -2}, "first_patient must be"),
    ],
)
def test_wrong_requests_are_refused(change: dict[str, Any], message: str) -> None:
    request: dict[str, Any] = {"env_id": ENV_ID, "patients": 2, **change}
    with pytest.raises(UserError, match=message):
        simulate(**request)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from Linux' /proc")
def test_ten_million_visits_stream_in_constant_memory(tmp_path: Path) -> None:
    program = """
import re, sys
from simulator.cohorts.generate import simulate_to
peaks = []
for patients in (20_000, 416_667):
    stored = simulate_to(sys.argv[1], "dosing/Treatment-v0", patients=patients)
    peaks.append(int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
print(stored.rows, *peaks)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "big.parquet")],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, small, large = (float(word) for word in done.stdout.split())
    assert rows == 416_667 * 24
    assert large < small + 150  # MB; the rows themselves take a gigabyte
