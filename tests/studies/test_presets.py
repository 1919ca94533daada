"""Presets name agents and settings that exist, and set what they say."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest

import agents
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.studies import Grid, presets
from dosing.studies.grid import configurations
from dosing.studies.presets import PRESETS, Preset
from dosing.training.offline import TrainingSettings
from tests.support.samples import cohort


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_names_what_exists(name: str) -> None:
    preset = PRESETS[name]
    assert preset.about
    assert set(preset.agents) <= set(agents.AGENTS)
    TrainingSettings(**preset.training).check()
    Transform.fit(cohort(), **preset.data)
    known = {
        agent: {f.name for f in dataclasses.fields(e.config_class())} for agent, e in agents.AGENTS.items()
    }
    assert set(preset.shared) <= set().union(*known.values())
    for agent, own in preset.agents.items():
        assert set(own) <= known[agent]
    everyone = dataclasses.replace(preset, contrast=None)
    assert len(configurations(Grid(("all",)), everyone)) == len(agents.AGENTS)


def test_what_a_single_agent_has_wins_over_what_all_share_and_a_user_over_both() -> None:
    preset = Preset("", shared={"discount": 0.5, "temperature": 0.7}, agents={"fttpo": {"discount": 0.6}})
    (_, own), (_, iql) = configurations(
        Grid(
            (
                "fttpo",
                "iql",
            )
        ),
        preset,
    )
    assert (own.discount, own.temperature, iql.discount) == (0.6, 0.7, 0.5)
    (_, own), (_, iql) = configurations(
        Grid(
            (
                "fttpo",
                "iql",
            ),
            {"discount": [0.8]},
        ),
        preset,
    )
    assert (own.discount, own.temperature, iql.discount) == (0.8, 0.7, 0.8)
    (_, own), (_, iql) = configurations(
        Grid(
            (
                "fttpo",
                "iql",
            ),
            {"iql.discount": [0.8]},
        ),
        preset,
    )
    assert (own.discount, iql.discount) == (0.6, 0.8)


def test_the_published_settings_of_the_treatment_experiment() -> None:
    """Numbers typed from the published tables, not read from the preset."""
    result = {name: c for name, c in configurations(Grid(("all",)), PRESETS["published"])}
    rates = {name: result[name].learning_rate for name in ("fttpo", "iql", "sql", "xql", "spot", "tawac")}
    assert rates == {"fttpo": 3e-4, "iql": 3e-5, "sql": 3e-3, "xql": 1e-4, "spot": 1e-3, "tawac": 3e-5}
    assert (result["fttpo"].temperature, result["fttpo"].q_proposal) == (0.01, 2.0)
    assert (result["iql"].expectile, result["iql"].inverse_temperature) == (0.9, pytest.approx(3.0))
    assert (result["sql"].alpha, result["xql"].beta, result["spot"].penalty) == (5.0, 5.0, 0.05)
    assert {result[name].policy_family for name in ("iql", "sql", "xql", "tawac")} == {"squashed_gaussian"}
    assert [name for name in agents.AGENTS if PRESETS["published"].knows(name)] == [
        name for name in agents.AGENTS if name in {*rates, "fttpo_released"}
    ]
    assert (result["fttpo_released"].temperature, result["fttpo_released"].learning_rate) == (0.01, 3e-4)
    raw = Transform.fit(cohort(), **PRESETS["published"].data)
    assert (set(raw.obs_mean), set(raw.obs_scale), raw.reward_scale) == ({0.0}, {1.0}, 1.0)


def test_the_common_settings_are_common() -> None:
    result = dict(configurations(Grid(("all",)), PRESETS["common"]))
    for name, config in result.items():
        if name != "quasi_optimal":  # no networks, gradient descent
            assert getattr(config, "hidden", (256, 256)) == (256, 256)
            assert config.learning_rate == 3e-4
        assert getattr(config, "discount", 0.9) == 0.9
        assert getattr(config, "target_rate", 0.005) == 0.005
    assert result["quasi_optimal"].learning_rate == 1e-2
    scaled = Transform.fit(cohort(), **PRESETS["common"].data)
    assert scaled.reward_scale == pytest.approx(cohort().reward.std())
    assert all(PRESETS["common"].knows(name) for name in agents.AGENTS)


def test_sparse_against_gaussian_is_the_distribution_alone() -> None:
    """The common settings of every agent, and those again with its setting's other distributions."""
    preset, common = PRESETS["sparse-vs-gaussian"], PRESETS["common"]
    result = configurations(Grid(("all",)), preset)
    assert list(dict.fromkeys(name for name, _ in result)) == list(agents.AGENTS)
    own = dict(configurations(Grid(("all",)), common))
    families = {"iql", "awac", "tawac", "inac", "sql", "eql", "xql", "bc", "pct_bc"}
    for name, config in own.items():
        expected = [config]
        if name in families:
            assert config.policy_family == "clipped_gaussian"
            expected.append(dataclasses.replace(config, policy_family="truncated_normal"))
        if name in ("fttpo", "response_model"):
            expected.append(dataclasses.replace(config, actor="gaussian"))
        assert [c for n, c in result if n == name] == expected
    assert (preset.training, preset.data) == (common.training, common.data)
    assert preset.contrast is not None
    assert preset.contrast.thin == 0.0


def test_what_a_user_sets_wins_over_the_distributions_of_a_contrast() -> None:
    preset = PRESETS["sparse-vs-gaussian"]
    result = configurations(Grid(("iql", "fttpo"), families=("beta",)), preset)
    assert [(n, getattr(c, "policy_family", c.__dict__.get("actor"))) for n, c in result] == [
        ("iql", "beta"),
        ("fttpo", "sparse"),
        ("fttpo", "gaussian"),
    ]
    result = configurations(Grid(("iql",), {"policy_family": ["beta", "student_t"]}), preset)
    assert [c.policy_family for _, c in result] == ["beta", "student_t"]


def test_a_contrast_takes_any_agent_that_carries_its_distributions() -> None:
    @dataclasses.dataclass
    class Several:
        policy_family: Literal["beta", "clipped_gaussian", "truncated_normal"] = "beta"

    @dataclasses.dataclass
    class One:
        policy_family: Literal["beta", "clipped_gaussian"] = "beta"

    contrast = PRESETS["sparse-vs-gaussian"].contrast
    assert contrast is not None
    choice = contrast.of(Several)
    assert choice is not None
    assert contrast.of(One) is None
    assert choice.values(Several) == ["beta", "clipped_gaussian", "truncated_normal"]
    assert [choice.word(c) for c in (Several(), *choice.others(Several()))] == [
        "beta",
        "clipped Gaussian",
        "truncated Gaussian",
    ]
    assert choice.others(Several("clipped_gaussian")) == []


def test_an_unknown_preset_is_told_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="there is no preset 'other'; there are: published, common"):
        presets.find("other")
    assert configurations(Grid(("bc",)), presets.find(None)) == configurations(Grid(("bc",)))


@pytest.mark.long
def test_the_published_settings_of_mujoco() -> None:
    """Numbers typed from the papers' tables; a variant adds to what the preset sets for every task."""
    general = dict(configurations(Grid(("all",)), presets.find("d4rl-mujoco")))
    own = dict(configurations(Grid(("all",)), presets.find("d4rl-mujoco/hopper-medium-expert")))
    for result in (general, own):
        assert {getattr(c, "discount", 0.99) for c in result.values()} == {0.99}
        assert (result["iql"].expectile, result["iql"].inverse_temperature) == (0.7, 3.0)
        assert (result["rebrac"].hidden, result["rebrac"].learning_rate) == ((256, 256, 256), 1e-3)
        assert result["spot"].vae_steps == 100_000
        assert result["fan"].hidden == (512, 512, 512, 512)
    assert (own["fttpo"].temperature, own["fttpo"].learning_rate) == (1.0, 1e-3)
    assert (own["rebrac"].actor_penalty, own["rebrac"].critic_penalty) == (0.1, 0.01)
    assert (own["spot"].penalty, own["xql"].beta, own["inac"].temperature) == (0.2, 2.0, 0.01)
    replay = dict(configurations(Grid(("all",)), presets.find("d4rl-mujoco/walker2d-medium-replay")))
    assert (replay["rebrac"].actor_penalty, replay["rebrac"].critic_penalty) == (0.05, 0.01)
    assert (replay["bear"].kernel_width, replay["codac"].penalty, replay["tawac"].temperature) == (20, 1, 0.5)


def test_data_are_transformed_as_each_paper_has_it() -> None:
    preset = presets.find("d4rl-mujoco/hopper-medium")
    episodes = cohort()
    returns = np.array([episodes.reward[episodes.episode == k].sum() for k in np.unique(episodes.episode)])
    plain, standard, ranged = (
        Transform.fit(episodes, **preset.data_of(agent)) for agent in ("fttpo", "spot", "iql")
    )
    assert (set(plain.obs_mean), plain.reward_scale) == ({0.0}, 1.0)
    assert set(standard.obs_mean) != {0.0}
    assert standard.reward_scale == 1.0
    assert (set(ranged.obs_mean), ranged.reward_scale) == (
        {0.0},
        pytest.approx(np.ptp(returns) / 1000, rel=1e-5),
    )
    same = dataclasses.replace(episodes, reward=np.ones_like(episodes.reward))
    with pytest.raises(UserError, match="the same return"):
        Transform.fit(same, scale_reward="return_range")


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="hopper-medium"):
        presets.find("d4rl-mujoco/ant-medium")
    with pytest.raises(UserError, match="it has: none"):
        presets.find("common/hopper-medium")
