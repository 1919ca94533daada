import numpy as np
import pytest

from simulator.engine.observation import REALISM
from simulator.environment import CohortEnv

ENV_ID = "dosing/Treatment-v0"
N = 4000


def episode(
    steps: int = 3, **options: object
) -> tuple[CohortEnv, list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Return environment, observations, doses and rewards of a short fixed episode."""
    env = CohortEnv(ENV_ID, num_envs=N, **options)
    doses = [np.full((N, 1), dose, dtype=np.float32) for dose in (0.5, -0.25, 0.125)[:steps]]
    obs, rewards = [env.reset(seed=0)[0]], []
    for dose in doses:
        seen, reward, *_ = env.step(dose)
        obs.append(seen)
        rewards.append(reward)
    return env, obs, doses, rewards


def test_history_holds_the_last_observations_and_doses_newest_first() -> None:
    _, plain, doses, _ = episode()
    env, obs, _, _ = episode(history=2)
    assert obs[0].shape == (N, 2 * 8 + 2)
    np.testing.assert_array_equal(obs[0], np.hstack([plain[0], np.zeros((N, 10))]))
    np.testing.assert_array_equal(obs[1], np.hstack([plain[1], plain[0], doses[0], np.zeros((N, 1))]))
    np.testing.assert_array_equal(obs[3], np.hstack([plain[3], plain[2], doses[2], doses[1]]))
    assert env.visits.observation.names[8:10] == ("s1 (1 visit ago)", "s2 (1 visit ago)")
    assert env.visits.observation.names[16:] == ("dose (1 visit ago)", "dose (2 visits ago)")


def test_history_one_adds_the_last_dose_only() -> None:
    _, plain, doses, _ = episode()
    _, obs, _, _ = episode(history=1)
    np.testing.assert_array_equal(obs[2], np.hstack([plain[2], doses[1]]))


def test_history_forgets_the_patients_before() -> None:
    env = CohortEnv(ENV_ID, num_envs=2, history=2)
    env.reset(seed=0)
    env.step(np.ones((2, 1)))
    obs, _ = env.reset()
    assert not obs[:, 8:].any()


def test_the_dose_in_the_history_is_the_delivered_one() -> None:
    env = CohortEnv(ENV_ID, num_envs=1, history=1)
    env.reset(seed=0)
    assert env.step(np.array([[7.0]]))[0][0, 8] == 1.0


def test_noise_is_added_to_what_is_seen_but_not_to_the_patient() -> None:
    _, plain, _, reward = episode()
    _, obs, _, noisy_reward = episode(noise=0.3)
    error = np.stack(obs) - np.stack(plain)
    assert error.std() == pytest.approx(0.3, rel=0.02)
    assert np.abs(error.mean()) < 4 * 0.3 / np.sqrt(error.size)
    assert np.abs(np.corrcoef(error[0].ravel(), error[1].ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(reward, noisy_reward)


def test_missing_entries_read_zero_with_a_zero_mask() -> None:
    _, plain, _, reward = episode()
    _, obs, _, other = episode(missing=0.3)
    for seen, true in zip(obs, plain, strict=True):
        value, mask = seen[:, :8], seen[:, 8:]
        assert set(np.unique(mask)) == {0.0, 1.0}
        np.testing.assert_array_equal(value, np.where(mask == 1, true, 0))
        assert mask.mean() == pytest.approx(0.7, abs=0.01)
        assert mask.all(axis=1).mean() == pytest.approx(0.7**8, abs=0.02)  # entries are missing independently
    np.testing.assert_array_equal(reward, other)


def test_missing_visits_lose_all_entries_at_once() -> None:
    _, obs, _, _ = episode(missing_visits=0.2)
    mask = np.stack(obs)[:, :, 8:]
    whole, none = mask.all(axis=2), ~mask.any(axis=2)
    assert np.all(whole | none)
    assert none.mean() == pytest.approx(0.2, abs=0.015)


def test_everything_missing_shows_nothing() -> None:
    _, obs, _, _ = episode(missing=1.0)
    assert not np.stack(obs).any()


def test_latent_shows_the_mean_at_the_end() -> None:
    _, plain, doses, _ = episode()
    _, obs, _, _ = episode(latent=True)
    np.testing.assert_array_equal(obs[1][:, :8], plain[1])
    push = np.array([1] * 4 + [-1] * 4)
    np.testing.assert_allclose(obs[1][:, 8:], np.tanh(obs[0][:, 8:] + push * doses[0]), atol=1e-6)


def test_options_compose() -> None:
    _, obs, doses, _ = episode(history=2, latent=True, noise=0.3, missing=0.3)
    _, alone, _, _ = episode(noise=0.3, missing=0.3)
    _, latent, _, _ = episode(latent=True)
    expected = np.hstack([alone[2], alone[1], doses[1], doses[0], latent[2][:, 8:]])
    np.testing.assert_array_equal(obs[2], expected)


def test_measurement_dice_do_not_depend_on_the_other_option() -> None:
    _, noisy, _, _ = episode(noise=0.3)
    _, both, _, _ = episode(noise=0.3, missing=0.3)
    mask = both[1][:, 8:] == 1
    np.testing.assert_array_equal(both[1][:, :8][mask], noisy[1][mask])


def test_variation_multiplies_the_dose_in_the_motion_only() -> None:
    env, obs, _, _ = episode(variation=0.25, latent=True)
    sensitivity = env.visits.core.sensitivities()
    assert np.log(sensitivity).std() == pytest.approx(0.25, rel=0.05)
    felt = np.arctanh(obs[1][:, 8].astype(np.float64)) - obs[0][:, 8]
    np.testing.assert_allclose(felt, 0.5 * sensitivity, rtol=2e-3)
    reward = env.step(np.full((N, 1), 0.5, dtype=np.float32))[1]
    s = env.visits.core.states().astype(np.float64)
    expected = -np.exp((s[:, 0] + s[:, 4]) / 2) * 0.25 + s[:, 3] + s[:, 7]
    expected += s[:, 1] + s[:, 2] + s[:, 5] + s[:, 6] + 0.5
    np.testing.assert_allclose(reward, expected, atol=1e-4)


def test_confounding_ties_the_sensitivity_to_the_hidden_covariate() -> None:
    env, _, _, _ = episode(confounding=0.4)
    np.testing.assert_allclose(np.log(env.visits.core.sensitivities()), 0.4 * env.visits.covariate, atol=1e-6)
    assert env.visits.covariate.std() == pytest.approx(1.0, rel=0.05)


def test_no_option_changes_who_the_patients_are() -> None:
    _, plain, _, _ = episode()
    for options in (
        {"variation": 0.3},
        {"confounding": 0.3},
        {"history": 4},
        {"realism": 2},
        {"latent": True},
    ):
        _, obs, _, _ = episode(**options)
        np.testing.assert_array_equal(obs[0][:, :8], plain[0])


def test_realism_adds_one_difficulty_per_level() -> None:
    for level in range(2, 6):
        below, here = REALISM[level - 1], REALISM[level]
        assert below.items() < here.items()
        assert len(here) == len(below) + 1
    env, obs, _, _ = episode(realism=5)
    shown = env.visits.options.observation
    assert (shown.variation, shown.noise, shown.missing_visits, shown.confounding) == (0.25, 0.3, 0.2, 0.25)
    assert obs[0].shape == (N, 16)
    assert CohortEnv(ENV_ID, realism=5, noise=0.0).visits.options.observation.noise == 0.0
    _, ideal, _, _ = episode(realism=1)
    np.testing.assert_array_equal(ideal[2], episode()[1][2])
