"""Jump-start and behaviour transfer: who doses when, and when that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import zeta

from agents import finetuning
from agents.finetuning.jsrl import horizon_of
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.evaluation.rules import following
from dosing.finetuning.method import TrialProgress
from dosing.models.prior import Centred
from dosing.models.regularisation import Regularisation
from dosing.policy import DosePolicy
from dosing.training.regularised import UNITS, noise_plan
from tests.finetuning.expansions import begun, learner, same_alone, trial
from tests.finetuning.test_trial import killed_and_resumed


def trial_progress(number: int, visit: Any) -> TrialProgress:
    visit = np.asarray(visit)
    return TrialProgress(number, 0.0, visit, np.zeros_like(visit))


def states(result: Any, count: int = 2) -> Any:
    """Observations ``[2, count, O]`` in the world's units."""
    transform = result.behaviour.policy.transform
    obs = result.behaviour.policy.agent.problem.n_obs
    raw = np.random.default_rng(0).standard_normal((2, count, obs))
    return (raw * np.array(transform.obs_scale) + np.array(transform.obs_mean)).astype(np.float32)


def outcomes(*returns: float) -> dict[str, Outcomes]:
    values = np.array(returns)[:, None] + np.array([-1.0, 0.0, 1.0])
    return {"recommended": Outcomes((0, 3), *[values] * 5), "sampled": Outcomes((0, 3), *[values - 9.0] * 5)}


# Jump-start


def test_the_guide_doses_at_the_first_h_visits_and_at_no_more() -> None:
    result = learner("jsrl", begun("rebrac"))
    behaviour: Any = result.behaviour
    obs, h = states(result), np.array([[3, 1], [0, 24]])
    guide, seen = DosePolicy(behaviour.agent.guide, behaviour.policy.transform).recommended(obs), []
    behaviour.until = h.copy()
    for visit in range(1, 25):  # no episode begins, so that h stays
        dose = behaviour(obs, trial_progress(visit, np.full((2, 2), visit)))
        own = behaviour.explorer.sampled(obs, visit, "exploration")
        guided = (dose == guide)[..., 0]
        assert ((dose == own)[..., 0] != guided).all()
        seen.append(guided)
    by_visit = np.stack(seen, -1)  # visits 1, ..., 24
    np.testing.assert_array_equal(by_visit.sum(-1), np.maximum(h - 1, 0))
    np.testing.assert_array_equal(by_visit[0, 0, :4], [True, True, False, False])  # visits 1, 2 of 0, 1, 2


def test_it_is_evaluated_with_the_same_switch() -> None:
    result = learner("jsrl", begun("rebrac"))
    agent: Any = result.agent
    agent.until.copy_(torch.tensor([[3.0], [0.0]]))
    obs, policy = states(result), DosePolicy(agent, result.behaviour.policy.transform)
    guide = DosePolicy(agent.guide, policy.transform).recommended(obs)
    explorer = DosePolicy(agent.explorer, policy.transform).recommended(obs)
    assert policy.looks_back
    rules: list[Any] = [following(policy), following(policy, sampled=True)]
    for visit in range(5):
        want = np.stack((guide[0] if visit < 3 else explorer[0], explorer[1]))
        recommended, sampled = (rule(obs, visit) for rule in rules)
        np.testing.assert_array_equal(recommended, want)
        assert (sampled[0] == guide[0]).all() == (visit < 3)
        for rule in rules:
            rule.observe(recommended, np.zeros((2, 2)))
    agent.until.zero_()
    assert not policy.looks_back
    np.testing.assert_array_equal(policy.recommended(obs), explorer)


def test_stages_of_the_curriculum() -> None:
    result = horizon_of(np.arange(11), 10, 24)
    np.testing.assert_array_equal(result, [24, 22, 20, 17, 15, 12, 10, 8, 5, 3, 0])
    np.testing.assert_array_equal(horizon_of(np.arange(3), 2, 24), [24, 12, 0])


def test_the_curriculum_goes_on_where_returns_are_good_enough() -> None:
    result = learner("jsrl,stages=4,tolerance=0.1", begun())
    behaviour: Any = result.behaviour
    agent: Any = result.agent
    first = [10.0, 9.1, 8.9, 9.5, 12.0, 11.0]  # 8.9 is less than 9, 11 no less than 10.8
    second = [-10.0, -10.9, -11.1, -9.0, -9.8, -30.0]  # likewise below 0: -11, and -9.9 after -9
    want = [(18, 18), (12, 12), (12, 12), (6, 6), (0, 0), (0, 0)]
    for a, b, h in zip(first, second, want, strict=True):
        behaviour.judged(outcomes(a, b))
        assert tuple(agent.until[:, 0].tolist()) == h
    behaviour(states(result), trial_progress(0, np.zeros((2, 2), int)))
    np.testing.assert_array_equal(behaviour.until, 0)


def test_a_moving_average_of_evaluations_decides() -> None:
    behaviour: Any = learner("jsrl,stages=10,window=2,tolerance=0", begun()).behaviour
    stages = []
    for a, b in ((4.0, 4.0), (2.0, 6.0), (5.0, 3.0), (3.0, 9.0)):  # means 4, 3, 3.5, 4 and 4, 5, 4.5, 6
        behaviour.judged(outcomes(a, b))
        stages.append(tuple(behaviour.stage.tolist()))
    assert stages == [(1, 1), (1, 2), (1, 2), (2, 3)]


def test_episodes_under_way_keep_their_h() -> None:
    behaviour: Any = learner("jsrl,stages=4", begun()).behaviour
    obs = np.zeros((2, 2, 8), np.float32)
    behaviour(obs, trial_progress(0, np.zeros((2, 2), int)))
    behaviour.judged(outcomes(1.0, 1.0))
    behaviour(obs, trial_progress(1, [[1, 0], [1, 1]]))
    np.testing.assert_array_equal(behaviour.until, [[24, 18], [24, 24]])


def test_the_last_evaluation_is_of_the_explorer_alone() -> None:
    result = trial("jsrl,stages=50", begun(), {"visits": 48})
    agent: Any = result.agent
    observed = []
    while not result.over:
        observed.append(float(agent.until[0, 0]))
        if result.due():
            result.evaluate()
        result.step()
    assert observed[-1] > 0.0
    assert agent.until.abs().max() == 0.0
    result.evaluate()
    assert agent.until.abs().max() == 0.0


def test_a_random_h_is_uniform_and_of_every_episode_its_own() -> None:
    behaviour: Any = learner("jsrl,variant=random", begun(), patients=400).behaviour
    obs, drawn = np.zeros((2, 400, 8), np.float32), []
    for number in range(12):
        behaviour(obs, trial_progress(number, np.zeros((2, 400), int)))
        drawn.append(behaviour.until)
    counts = np.bincount(np.concatenate(drawn, axis=None), minlength=25)
    n = counts.sum()
    assert counts[24:].sum() == 0
    assert (np.abs(counts[:24] - n / 24) < 4.0 * np.sqrt(n / 24)).all()
    assert not np.array_equal(drawn[0][0], drawn[0][1])
    assert not np.array_equal(drawn[0], drawn[1])
    behaviour.judged(outcomes(1.0, 1.0))
    assert behaviour.agent.until.abs().max() == 0.0


def test_the_explorer_learns_and_the_guide_does_not() -> None:
    for spec, moved in (("jsrl", False), ("jsrl,critic=offline", True)):
        start = begun()
        result = trial(spec, start, {"visits": 60})
        agent: Any = result.agent
        same = torch.equal(
            agent.explorer.critic.net.layers[0].weight, start.weights["critic.net.layers.0.weight"]
        )
        assert same is moved
        before = {n: x.clone() for n, x in agent.state_dict().items() if n != "until"}
        while not result.over:
            result.step()
        assert result.updates == 10
        for name, x in before.items():
            assert torch.equal(agent.state_dict()[name], x) is name.startswith("guide."), name


# Behaviour transfer


def test_lengths_of_flights_are_of_the_zeta_distribution() -> None:
    for exponent in (2.0, 3.0):
        flights: Any = learner(
            f"bt,flight_probability=1,exponent={exponent}", begun(), patients=500
        ).behaviour
        lengths = []
        for number in range(10):
            assert flights.flying(trial_progress(number, np.zeros((2, 500), int))).all()
            lengths.append(flights.left + 1)
        counts = np.bincount(np.minimum(np.concatenate(lengths, axis=None), 9))[1:9]
        share = np.arange(1.0, 9.0) ** -exponent / zeta(exponent)
        n = 10_000
        assert (np.abs(counts - n * share) < 4.0 * np.sqrt(n * share * (1.0 - share))).all()


def test_flights_begin_with_their_probability_last_and_end_with_their_episode() -> None:
    flights: Any = learner("bt,flight_probability=0.2", begun(), patients=1000, capacity=1000).behaviour
    share = flights.flying(trial_progress(0, np.zeros((2, 1000), int))).mean()
    assert abs(share - 0.2) < 4.0 * np.sqrt(0.16 / 2000)
    flights.left = np.tile([0, 1, 3, 1], (2, 250))
    flights.config = learner("bt,flight_probability=0", begun()).behaviour.config  # type: ignore[attr-defined]
    visit = np.tile([5, 5, 5, 0], (2, 250))
    expected = [
        [False, True, True, False],
        [False, False, True, False],
        [False, False, True, False],
        [False] * 4,
    ]
    for number, want in enumerate(expected):
        result = flights.flying(trial_progress(number, np.where(visit > 0, visit + number, number)))
        np.testing.assert_array_equal(result, np.tile(want, (2, 250)))


def test_a_checkpoint_of_flights_stays_as_it_was_written() -> None:
    flights: Any = learner("bt", begun()).behaviour
    flights.left[:] = 5
    written = flights.state()["left"]
    flights.flying(trial_progress(3, np.zeros((2, 2), int)))
    assert bool((written == 5).all())


def test_in_a_flight_the_pretrained_policy_doses_and_else_the_higher_value() -> None:
    result = learner("bt,flight_probability=0", begun(), patients=50)
    flights: Any = result.behaviour
    agent: Any = result.agent
    obs = states(result, 50)
    flights.left[0] = 2
    dose = flights(obs, trial_progress(7, np.ones((2, 50), int)))
    transform = flights.policy.transform
    offline = DosePolicy(agent.frozen[0], transform).recommended(obs)
    np.testing.assert_array_equal(dose[0], offline[0])
    state = transform.obs(torch.from_numpy(obs.astype(np.float64))).float()
    act = torch.from_numpy(transform.to_unit(np.stack((dose, offline)))).float()
    with torch.no_grad():
        q = torch.stack([agent.online.critic(state, x.clamp(-1, 1)).amin(1) for x in act])[:, 1]
    follows = (dose[1] == offline[1])[..., 0]
    assert 0 < follows.sum() < 50
    assert (q[0] > q[1])[~follows].all()  # the learner's draw is taken where it is worth more
    distribution = agent.policy(state).base_dist
    assert set(np.unique((distribution.weights * 8).numpy().round(4))) <= set(range(9))


@pytest.mark.parametrize("name", ["td3_bc", "quasi_optimal", "bcq"])
def test_it_learns_from_new_visits_alone(name: str) -> None:
    result = trial("bt", begun(name), {"visits": 40})
    while not result.over:
        result.step()
    assert result.updates == 5
    assert result.learner.replay._recorded is None  # type: ignore[attr-defined]


# All of them


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("pex", "iql"),
        ("pex,members=3,others=online", "iql"),
        ("off2on,members=2", "cql"),
        ("jsrl", "iql"),
        ("bt", "iql"),
        ("scratch", "iql"),
        ("buffer", "rebrac"),
    ],
)
def test_what_the_offline_agent_had_beyond_its_method_is_kept(spec: str, name: str) -> None:
    options = Regularisation(
        critics=4, pessimism=1.0, layer_norm=True, dropout=0.2, prior="constant_dose", scale_advantage=True
    )
    start = begun(name, further=2, regularisation=options)
    result = trial(spec, start, {"visits": 60})
    agent: Any = result.agent
    centres = [module.offset for module in agent.modules() if isinstance(module, Centred)]
    assert centres
    assert all(bool((offset != 0.0).all()) for offset in centres)
    before = {n: x.clone() for n, x in agent.state_dict().items()}
    assert UNITS in noise_plan(agent, 8)
    while not result.over:
        result.step()
    assert result.updates == 10
    critics = {n: x for n, x in agent.state_dict().items() if "critic.net.layers.0.weight" in n}
    assert all(x.shape[1] == 4 for x in critics.values())
    assert any(not torch.equal(x, before[n]) for n, x in critics.items())
    assert all(bool(x.isfinite().all()) for x in agent.state_dict().values())


@pytest.mark.parametrize("name", ["pex", "bt", "jsrl"])
def test_a_distribution_of_no_draws_is_refused_before_a_trial_begins(name: str) -> None:
    said = finetuning.find(f"{name},draws=0").method().refusal(begun())
    assert said == "draws must be at least 1, got 0."


@pytest.mark.parametrize("spec", ["scratch", "buffer", "bt", "jsrl"])
def test_a_newcomer_has_the_discount_and_the_widths_of_the_run(spec: str) -> None:
    agent: Any = learner(spec, begun("td3_bc", discount=0.77, hidden=(12, 9))).agent
    made = getattr(agent, "online", getattr(agent, "explorer", agent))
    assert (made.config.discount, made.config.hidden, made.config.learning_rate) == (0.77, (12, 9), 3e-4)
    assert made.critic.net.hidden == [12, 9]


@pytest.mark.parametrize(
    ("spec", "name"), [("pex", "iql"), ("off2on,members=2", "cql"), ("jsrl", "iql"), ("bt", "iql")]
)
def test_there_is_no_more_room_than_there_can_be_visits(spec: str, name: str) -> None:
    result: Any = learner(spec, begun(name, further=2), visits=144, patients=2, capacity=500)
    assert result.replay.buffer.visits == (144 + 2) // 2


# Resuming and stacking


@pytest.mark.long
@pytest.mark.parametrize("spec", ["jsrl", "jsrl,variant=random", "bt,flight_probability=0.3"])
def test_a_killed_trial_resumes_bit_by_bit(spec: str, tmp_path: Path) -> None:
    start = begun()
    killed_and_resumed(lambda: trial(spec, start, {"checkpoint_every": 62, "visits": 120}), tmp_path)


@pytest.mark.parametrize("spec", ["jsrl", "jsrl,variant=random", "bt,flight_probability=0.3"])
def test_a_stacked_seed_is_the_seed_alone(spec: str) -> None:
    same_alone(spec, "iql")


@pytest.mark.parametrize(
    ("spec", "name", "message"),
    [
        ("jsrl,stages=0", "iql", "stages must be at least 1"),
        ("jsrl,tolerance=1.5", "iql", "tolerance must be at least 0"),
        ("jsrl,critic=offline", "spot", "run of iql, this is one of spot"),
        ("jsrl", "decision_transformer", "DecisionTransformer"),
        ("bt", "decision_transformer", "DecisionTransformer"),
        ("bt,exponent=1", "iql", "exponent must be above 1"),
        ("bt,flight_probability=2", "iql", "flight_probability must be between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused(spec: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        learner(spec, begun(name))
