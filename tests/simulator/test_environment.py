"""The gymnasium contract, and that one patient alone is the same patient in any cohort."""

import itertools
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import simulator
from dosing.errors import UserError
from dosing.safety import LIMITED_BY
from simulator.engine import batch
from simulator.environment import CohortEnv, PatientEnv
from simulator.envs import SCENARIOS, scenario_class

LATENT: list[dict[str, Any]] = [
    {},
    {"history": 3},
    {"latent": True},
    {"noise": 0.2},
    {"missing": 0.3},
    *({"realism": level} for level in range(1, 6)),
    {"realism": 5, "history": 2, "latent": True, "missing": 0.1, "cohort": "evaluation", "steps": 7},
]
OWN: dict[str, list[dict[str, Any]]] = {
    "dosing/Warfarin-v0": [
        {},
        {"monitoring": "daily"},
        {"variability": "none", "steps": 7},
        {"hide_genotype": True, "cohort": "evaluation"},
    ],
    "dosing/Insulin-v0": [
        {},
        {"meals": "unannounced", "steps": 7},
        {"meals": "fixed", "sensor": "perfect", "cohort": "evaluation"},
    ],
}
"""Options of scenarios that have their own instead of those of a latent mean."""
CASES = [
    (env_id, variant, options)
    for env_id in SCENARIOS
    for variant in scenario_class(env_id).variants
    for options in OWN.get(env_id, LATENT)
]
TREATMENT = "dosing/Treatment-v0"


def test_every_scenario_is_registered() -> None:
    assert tuple(SCENARIOS) == simulator.ENV_IDS
    for env_id in SCENARIOS:
        assert gymnasium.spec(env_id).kwargs == {"env_id": env_id}


@pytest.mark.parametrize(("env_id", "variant", "options"), CASES)
def test_check_env_passes_without_a_warning(env_id: str, variant: str, options: dict[str, Any]) -> None:
    env = gymnasium.make(env_id, variant=variant, **options)
    with warnings.catch_warnings():
        reach = env.unwrapped.action_space
        if (reach.low != -1).any() or (reach.high != 1).any():  # gymnasium advises against other limits
            warnings.filterwarnings("ignore", message=".*symmetric and normalized space.*")
        check_env(env.unwrapped, skip_render_check=True)
    assert np.isfinite(env.observation_space.low).all()
    assert np.isfinite(env.observation_space.high).all()


@pytest.mark.parametrize(("env_id", "variant", "options"), CASES)
def test_every_observation_lies_in_the_space_under_the_extreme_doses(
    env_id: str, variant: str, options: dict[str, Any]
) -> None:
    env = CohortEnv(env_id, num_envs=500, variant=variant, **options)
    low, high = env.action_space.low, env.action_space.high
    assert env.observation_space.contains(env.reset(seed=0)[0])
    for t in range(env.visits.options.steps):
        if env.visits.over:
            break
        dose = high if t % 3 else low
        obs, reward, *_ = env.step(dose)
        assert env.observation_space.contains(obs)
        assert np.isfinite(reward).all()


@pytest.mark.parametrize(("env_id", "variant", "options"), CASES)
def test_the_vector_environment_is_the_single_one_bit_for_bit(
    env_id: str, variant: str, options: dict[str, Any]
) -> None:
    first, n, steps = 250, 12, 5  # across the border of two blocks
    chosen = {**options, "variant": variant, "steps": steps}
    many = CohortEnv(env_id, num_envs=n, first_patient=first, **chosen)
    limits = many.visits.limits
    reach = 1.3 * (limits.high[0] - limits.low[0])  # some doses beyond the limits
    doses = (
        np.random.default_rng(2).uniform(limits.low[0] - 0.2, reach, size=(steps, n, 1)).astype(np.float32)
    )
    obs, info = many.reset(seed=9)
    trace = [many.step(dose) for dose in doses]
    for i in (0, 5, 6, 11):  # patients 250, 255 | 256, 261
        one = PatientEnv(env_id, **chosen)
        alone, single = one.reset(seed=9, options={"patient_id": first + i})
        assert single["patient"] == info["patient"][i] == first + i
        np.testing.assert_array_equal(alone, obs[i])
        for t, (observed, reward, terminated, truncated, told) in enumerate(trace):
            alone, gain, over, cut, said = one.step(doses[t, i])
            np.testing.assert_array_equal(alone, observed[i])
            assert gain == reward[i]
            assert (over, cut) == (terminated[i], truncated[i]) == (False, t == steps - 1)
            np.testing.assert_array_equal(said["dose_requested"], told["dose_requested"][i])
            np.testing.assert_array_equal(said["dose_delivered"], told["dose_delivered"][i])
            assert said["limited_by"] == LIMITED_BY[told["limited_by"][i]]
            assert said["cost"] == told["cost"][i]
            assert said["events"] == {name: flags[i] for name, flags in told["events"].items()}
            truth = {name: values[i] for name, values in told.get("truth", {}).items()}
            assert said.get("truth", {}) == truth


def episode(n: int, first: int, pick: slice, **options: Any) -> list[np.ndarray]:
    env = CohortEnv(TREATMENT, num_envs=n, first_patient=first, steps=4, **options)
    out = [env.reset(seed=1)[0][pick]]
    for t in range(4):
        obs, reward, *_ = env.step(np.full((n, 1), 0.2 * t, dtype=np.float32))
        out += [obs[pick], reward[pick]]
    return out


@pytest.mark.parametrize("variant", scenario_class(TREATMENT).variants)
@pytest.mark.parametrize("options", [{}, {"realism": 5, "history": 2}], ids=str)
@pytest.mark.parametrize("patient", [300, 8191, 19_997])
def test_a_patient_is_the_same_in_every_cohort_and_chunk(
    variant: str, options: dict[str, Any], patient: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(batch, "GROUP", 32)  # three groups of blocks, the last one smaller
        whole = episode(20_000, 0, slice(patient, patient + 3), variant=variant, **options)
    for n, before in ((3, 0), (50, 10), (9000, 40), (patient + 3, patient)):
        part = episode(n, patient - before, slice(before, before + 3), variant=variant, **options)
        for a, b in itertools.zip_longest(whole, part):
            np.testing.assert_array_equal(a, b)


def test_the_next_reset_brings_the_next_patients() -> None:
    env = PatientEnv(TREATMENT, steps=1)
    first, info = env.reset(seed=4)
    second, told = env.reset()
    assert (info["patient"], told["patient"]) == (0, 1)
    assert not np.array_equal(first, second)
    again, said = env.reset(options={"patient_id": 0})
    assert said["patient"] == 0
    np.testing.assert_array_equal(first, again)
    many = CohortEnv(TREATMENT, num_envs=2, steps=1)
    obs, _ = many.reset(seed=4)
    np.testing.assert_array_equal(obs, [first, second])
    _, told = many.reset()
    assert told["patient"].tolist() == [2, 3]


def test_autoreset_is_declared_and_brings_the_next_patients() -> None:
    env = gymnasium.make_vec(TREATMENT, num_envs=3, vectorization_mode="vector_entry_point", steps=2)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    dose = np.zeros((3, 1), dtype=np.float32)
    assert not env.step(dose)[3].any()
    assert env.step(dose)[3].all()
    obs, reward, terminated, truncated, info = env.step(dose)
    assert not reward.any()
    assert not terminated.any()
    assert not truncated.any()
    assert info["patient"].tolist() == [3, 4, 5]
    np.testing.assert_array_equal(obs, CohortEnv(TREATMENT, num_envs=6, steps=2).reset(seed=0)[0][3:])


def test_native_vector_form_is_the_default_and_the_sync_form_works_too() -> None:
    native = gymnasium.make_vec(TREATMENT, num_envs=2)
    assert isinstance(native.unwrapped, CohortEnv)
    sync = gymnasium.make_vec(TREATMENT, num_envs=2, vectorization_mode="sync")
    sync.reset(seed=0)
    dose = np.zeros((2, 1), dtype=np.float32)
    assert sync.step(dose)[0].shape == native.observation_space.shape


def test_info_lists_convert_to_one_dictionary_per_patient() -> None:
    env = gymnasium.wrappers.vector.DictInfoToList(gymnasium.make_vec(TREATMENT, num_envs=2))
    env.reset(seed=0)
    infos = env.step(np.array([[0.95], [0.1]], dtype=np.float32))[4]
    assert [info["events"]["extreme_dose"] for info in infos] == [True, False]
    assert [info["cost"] for info in infos] == [1.0, 0.0]


def test_cohorts_have_different_patients_of_the_same_seed() -> None:
    train, evaluation = (
        CohortEnv(TREATMENT, num_envs=300, cohort=cohort).reset(seed=0)[0]
        for cohort in ("train", "evaluation")
    )
    assert not np.isin(train, evaluation).any()


def test_seeds_differ_and_repeat() -> None:
    env = CohortEnv(TREATMENT, num_envs=5)
    a, b, c = env.reset(seed=0)[0], env.reset(seed=1)[0], env.reset(seed=0)[0]
    assert not np.isin(a, b).any()
    np.testing.assert_array_equal(a, c)
    unseeded = [PatientEnv(TREATMENT).reset()[0] for _ in range(2)]
    assert not np.array_equal(*unseeded)


@pytest.mark.parametrize("options", [{}, {"realism": 5, "history": 2}], ids=str)
def test_an_episode_through_gymnasiums_own_checks_gives_no_warning(options: dict[str, Any]) -> None:
    env = gymnasium.make(TREATMENT, **options)
    env.reset(seed=0)
    dose = np.array([1.4], dtype=np.float32)  # the same array every time, beyond the limit
    for t in range(24):
        assert env.step(dose)[3] == (t == 23)


def test_info_keeps_what_was_requested_when_the_caller_changes_the_array() -> None:
    dose = np.zeros((2, 1), dtype=np.float32)
    env = CohortEnv(TREATMENT, num_envs=2)
    env.reset(seed=0)
    info = env.step(dose)[4]
    dose[:] = 0.7
    assert not info["dose_requested"].any()


def test_what_is_returned_is_not_overwritten_by_the_next_step() -> None:
    env = CohortEnv(TREATMENT, num_envs=4)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second, reward, _, _, info = env.step(np.full((4, 1), 0.5, dtype=np.float32))
    told = second.copy(), reward.copy(), info["dose_delivered"].copy()
    env.step(np.full((4, 1), -0.5, dtype=np.float32))
    np.testing.assert_array_equal(first, kept)
    for now, then in zip((second, reward, info["dose_delivered"]), told, strict=True):
        np.testing.assert_array_equal(now, then)


# Doses outside the limits.


@pytest.mark.parametrize(("dose", "delivered", "rule"), [(1.7, 1.0, "high limit"), (-9.0, -1.0, "low limit")])
def test_a_dose_outside_is_delivered_at_the_limit_and_says_so(
    dose: float, delivered: float, rule: str
) -> None:
    env, same = (gymnasium.make(TREATMENT) for _ in range(2))
    env.reset(seed=0)
    same.reset(seed=0)
    obs, reward, _, _, info = env.step(np.array([dose]))
    assert info["dose_requested"] == dose
    assert info["dose_delivered"] == delivered
    assert info["limited_by"] == rule
    assert info["events"] == {"extreme_dose": True}
    at_limit = same.step(np.array([delivered], dtype=np.float32))
    np.testing.assert_array_equal(obs, at_limit[0])
    assert reward == at_limit[1]
    assert at_limit[4]["limited_by"] == ""


def test_a_dose_outside_is_an_error_when_asked_for() -> None:
    env = CohortEnv(TREATMENT, num_envs=3, out_of_range="raise", first_patient=40)
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"dose \[1\.5\] of patient 41 is outside the hard limits"):
        env.step(np.array([[0.0], [1.5], [0.0]]))
    env.step(np.array([[0.0], [1.0], [-1.0]]))


def test_extreme_dose_counts_nine_tenths_of_the_limit() -> None:
    env = CohortEnv(TREATMENT, num_envs=4, variant="li-evaluation")
    env.reset(seed=0)
    info = env.step(np.array([[2.71], [2.69], [-2.71], [5.0]]))[4]
    assert info["events"]["extreme_dose"].tolist() == [True, False, True, True]
    assert info["cost"].tolist() == [1.0, 0.0, 1.0, 1.0]


# Wrong input: one clear sentence each.


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [0.1, 0.2], 0.3, [[0.3]], "half", None])
def test_bad_doses_are_refused_by_the_single_environment(bad: object) -> None:
    env = gymnasium.make(TREATMENT)
    env.reset(seed=0)
    with pytest.raises(UserError, match="dose"):
        env.step(bad)


@pytest.mark.parametrize("bad", [np.zeros((3, 1)), np.zeros(2), np.array([[0.0], [np.nan]]), [["x"], ["y"]]])
def test_bad_doses_are_refused_by_the_vector_environment(bad: object) -> None:
    env = CohortEnv(TREATMENT, num_envs=2)
    env.reset(seed=0)
    with pytest.raises(UserError, match="dose"):
        env.step(bad)


def test_a_refused_dose_leaves_the_episode_where_it_was() -> None:
    env, other = CohortEnv(TREATMENT, num_envs=2), CohortEnv(TREATMENT, num_envs=2)
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(UserError):
        env.step(np.full((2, 1), np.nan))
    dose = np.full((2, 1), 0.1)
    np.testing.assert_array_equal(env.step(dose)[0], other.step(dose)[0])


def test_steps_before_the_start_and_after_the_end_are_refused() -> None:
    env = PatientEnv(TREATMENT, steps=1)
    with pytest.raises(UserError, match="reset"):
        env.step(np.zeros(1))
    env.reset(seed=0)
    assert env.step(np.zeros(1))[3]
    with pytest.raises(UserError, match="reset"):
        env.step(np.zeros(1))
    with pytest.raises(UserError, match="reset"):
        CohortEnv(TREATMENT, num_envs=1).step(np.zeros((1, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, "no option 'colour'"),
        ({"variant": "simenv4"}, "no variant 'simenv4'"),
        ({"cohort": "test"}, "cohort must be"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 10_001}, "steps must be"),
        ({"steps": 2.5}, "steps must be"),
        ({"first_patient": -1}, "first_patient must be"),
        ({"out_of_range": "clip"}, "out_of_range must be"),
        ({"realism": 6}, "realism must be"),
        ({"history": -1}, "history must be"),
        ({"missing": 1.2}, "missing must be"),
        ({"missing_visits": -0.1}, "missing_visits must be"),
        ({"noise": float("nan")}, "noise must be"),
        ({"latent": 1}, "latent must be"),
        ({"variation": -0.1}, "variation must be"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gymnasium.make(TREATMENT, **options)
    with pytest.raises(UserError, match=message):
        gymnasium.make_vec(TREATMENT, num_envs=2, **options)


@pytest.mark.parametrize("patients", [0, -3, 2.0, True])
def test_wrong_numbers_of_patients_are_refused(patients: object) -> None:
    with pytest.raises(UserError, match="patients"):
        gymnasium.make_vec(TREATMENT, num_envs=patients)


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_wrong_seeds_are_refused(seed: object) -> None:
    for env in (gymnasium.make(TREATMENT), gymnasium.make_vec(TREATMENT, num_envs=2)):
        with pytest.raises(UserError, match="seed must be"):
            env.reset(seed=seed)


@pytest.mark.parametrize("options", [{"patient": 3}, {"patient_id": -1}, {"patient_id": "seven"}])
def test_wrong_reset_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="patient_id"):
        gymnasium.make(TREATMENT).reset(seed=0, options=options)
