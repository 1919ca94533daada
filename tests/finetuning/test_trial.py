"""Trials: what is replayed, transferred, accounted for and stopped, against loops by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import agents
import simulator  # noqa: F401  registers the environments
from agents import finetuning
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.finetuning.method import Behaviour, Learner, Start, TrialProgress, TrialSettings
from dosing.finetuning.patients import SPAN, VisitOutcome, Waves
from dosing.finetuning.trial import CURVE, REPORT, TREATED, Trial, conduct
from dosing.finetuning.trial_log import PARTS
from dosing.models.batch import Batch
from dosing.models.regularisation import PLAIN
from dosing.models.settings import reconfigure
from dosing.policy import DosePolicy
from dosing.rng import generator
from dosing.runs.files import read_json, read_table, read_tensors, write_json
from dosing.runs.folder import CHECKPOINT, CONFIG, EPISODES, WEIGHTS, RunFolder
from dosing.safety import DoseLimits
from dosing.training.offline import TrainingDivergedError
from tests.support.samples import ENV, PROBLEM, dataset, long_for_most, run_config, small

SEEDS = (0, 3)
SETTINGS = TrialSettings(
    visits=144, patients=2, start=20, batch_size=8, updates_per_visit=0.25, evaluate_every=48, capacity=500
)
LIMITS = DoseLimits(dataset().transform.act_low, dataset().transform.act_high)
METHODS = {
    "direct": "iql",
    "awac": "awac",
    "spot": "spot",
    "cal_ql": "cal_ql",
    "rebrac": "rebrac",
    "fan": "fan",
}
"""Methods that go on with an agent, and an agent they go on with."""


def start(name: str = "iql", seeds: tuple[int, ...] = SEEDS, **settings: Any) -> Start:
    """As after an offline run of 7 updates."""
    config = small(name, **settings)
    made = agents.build(name, config, PROBLEM, seeds)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01)
    return Start(name, config, PROBLEM, seeds, PLAIN, made.state_dict(), 7, dataset(), agents.build)


def waves(seeds: tuple[int, ...] = SEEDS, patients: int = 2, cohort: str = "train") -> Waves:
    def make(count: int) -> Any:
        return gymnasium.make_vec(ENV, num_envs=count, vectorization_mode="vector_entry_point", cohort=cohort)

    return Waves(make, seeds, patients, LIMITS)


def judge(policy: Any) -> dict[str, Outcomes]:
    """Three evaluation patients whose returns tell the seed's weights."""
    total = torch.stack([p.detach().double().flatten(1).sum(1) for p in policy.agent.parameters()]).sum(0)
    values = total[:, None].numpy() + np.arange(3.0)
    result = Outcomes(policy.seeds, values, 0.1 * np.abs(values), values, values, values)
    return {"recommended": result, "sampled": replace(result, returns=values + 1.0)}


def trial(
    method: str = "direct",
    name: str = "iql",
    seeds: tuple[int, ...] = SEEDS,
    treated: Any = None,
    changes: Mapping[str, Any] | None = None,
) -> Trial:
    settings = replace(SETTINGS, **(changes or {}))
    begun = start(name, seeds)
    learner = finetuning.find(method).method().learner(begun, settings)
    return Trial(learner, treated or waves(seeds, settings.patients), begun.transform, settings, judge)


def folder(path: Path) -> RunFolder:
    path.mkdir(exist_ok=True)
    write_json(path / CONFIG, run_config().to_json())
    return RunFolder(path)


def files(run: RunFolder) -> tuple[Any, ...]:
    """What a trial leaves, without the times in its log."""
    run.verify()
    tables = [read_table(run.path / name).to_pydict() for name in (TREATED, CURVE, EPISODES)]
    return (*map(str, tables), (run.path / WEIGHTS).read_bytes(), read_json(run.path / REPORT))


# What is transferred


@pytest.mark.parametrize(("method", "name"), METHODS.items())
def test_an_agent_goes_on_with_its_weights_bit_by_bit(method: str, name: str) -> None:
    begun = start(name)
    learner = finetuning.find(method).method().learner(begun, SETTINGS)
    have = learner.agent.state_dict()
    assert list(have) == list(begun.weights)
    assert all(torch.equal(have[k], v) for k, v in begun.weights.items())
    assert learner.updates == 7
    assert all(not o.state for o in learner.agent.optimizers.values())


@pytest.mark.parametrize("method", ["scratch", "buffer"])
def test_a_newcomer_has_new_weights(method: str) -> None:
    begun = start("rebrac")
    learner = finetuning.find(method).method().learner(begun, SETTINGS)
    assert type(learner.agent) is agents.find("iql").agent_class()
    assert learner.updates == 0
    config: Any = learner.agent.config
    assert config.learning_rate == 3e-4
    assert config.hidden == (16, 16)
    run = start("iql", expectile=0.6, actor_decay_steps=9)
    own: Any = finetuning.find(method).method().learner(run, SETTINGS).agent.config
    assert (own.expectile, own.actor_decay_steps) == (0.6, None)
    went_on: Any = finetuning.find("direct").method().learner(run, SETTINGS).agent.config
    assert went_on.actor_decay_steps is None


@pytest.mark.parametrize("name", ["decision_transformer", "quasi_optimal", "pct_bc", "response_model"])
def test_direct_refuses_an_agent_by_name_that_cannot_replay_single_visits(name: str) -> None:
    result = finetuning.find("direct").method()
    entry = agents.find(name)
    assert entry.name in (result.refusal(start(name)) or "")
    with pytest.raises(UserError, match=entry.name):
        result.learner(start(name), SETTINGS)


def test_a_method_goes_on_from_its_own_agent_only() -> None:
    with pytest.raises(UserError, match=r"run of spot, this is one of iql"):
        finetuning.find("spot").method().learner(start("iql"), SETTINGS)


WHOLE = ("decision_transformer", "quasi_optimal", "pct_bc", "response_model")
TAKES = [n for n in agents.AGENTS if n not in WHOLE]


@pytest.mark.parametrize("name", long_for_most(TAKES))
def test_direct_takes_every_other_agent_of_the_suite(name: str) -> None:
    result = trial("direct", name, (1,), changes={"visits": 56, "evaluate_every": 48})
    while not result.over:
        result.step()
    assert result.updates == 9
    assert all(bool(x.isfinite().all()) for x in result.agent.state_dict().values())


@pytest.mark.parametrize(
    ("method", "name", "share", "noise"),
    [
        ("scratch", "iql", 0.0, 0.1),
        ("buffer", "iql", 0.5, 0.1),
        ("direct", "td3_bc", 0.5, 0.1),
        ("awac", "awac", None, 0.1),
        ("spot", "spot", None, 0.1),
        ("cal_ql", "cal_ql", 0.5, 0.1),
        ("rebrac", "rebrac", 0.5, 0.0),
        ("fan", "fan", None, 0.1),
    ],
)
def test_what_is_replayed_and_explored_is_as_published(
    method: str, name: str, share: float | None, noise: float
) -> None:
    learner: Any = finetuning.find(method).method().learner(start(name), SETTINGS)
    assert (learner.replay.share, learner.behaviour.noise) == (share, noise)
    assert learner.replay.batch_size == 8
    assert learner.replay.buffer.visits == (144 + 2) // 2  # no more room than there can be visits


TRIAL_PROGRESS = TrialProgress(5, 0.0, np.zeros((2, 3), np.int64), np.zeros((2, 3), np.int64))


def test_a_deterministic_policy_doses_near_its_mode() -> None:
    """Normal noise on the [-1, 1] axis, here of doses from 0 to 10, by seed and number; none is clipped."""
    agent = start("td3_bc").transferred()
    policy = DosePolicy(agent, Transform((0.0,) * 8, (1.0,) * 8, (0.0,), (10.0,)))
    obs = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    draws = np.stack([generator(seed, "exploration", 5).standard_normal((3, 1)) for seed in SEEDS])
    want = policy.recommended(obs) + 5.0 * 3.0 * draws
    np.testing.assert_allclose(Behaviour(policy, 3.0)(obs, TRIAL_PROGRESS), want)
    assert (want < 0.0).any() or (want > 10.0).any()


def test_any_other_policy_doses_by_its_own_distribution() -> None:
    begun = start("fttpo")
    policy = DosePolicy(begun.transferred(), begun.transform)
    obs = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    result = Behaviour(policy)(obs, TRIAL_PROGRESS)
    np.testing.assert_array_equal(result, policy.sampled(obs, 5, "exploration"))
    assert not np.array_equal(result, policy.sampled(obs, 5))  # not the noise of evaluations
    assert not np.array_equal(result, Behaviour(policy)(obs, replace(TRIAL_PROGRESS, number=6)))


# What decays


def test_settings_decay_as_published() -> None:
    spot, rebrac = trial("spot", "spot"), trial("rebrac", "rebrac")
    before: Any = rebrac.agent.config
    for result in (spot, rebrac):
        while not result.over:
            result.step()
        assert result.fraction == 1.0
    after: Any = rebrac.agent.config
    assert after.actor_penalty == 0.5 * before.actor_penalty
    assert after.critic_penalty == 0.5 * before.critic_penalty
    config: Any = spot.agent.config
    assert config.penalty == pytest.approx(0.2 * small("spot").penalty)
    assert config.dropout == 0.0
    from agents.finetuning.transfer import to_a_fifth, to_a_half

    assert [to_a_fifth(t) for t in (0.0, 0.5, 0.9)] == [1.0, 0.5, 0.2]
    assert [to_a_half(t) for t in (0.0, 0.5, 1.0)] == [1.0, 0.75, 0.5]


def test_fan_is_anchored_less() -> None:
    begun = start("fan", actor_penalty=10.0, critic_penalty=3.0)
    config: Any = finetuning.find("fan").method().learner(begun, SETTINGS).agent.config
    assert (config.actor_penalty, config.critic_penalty) == (3.0, 0.0)


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="no setting 'lambda'"):
        reconfigure(start().transferred(), **{"lambda": 1.0})
    with pytest.raises(UserError, match="discount must be between"):
        reconfigure(start().transferred(), discount=2.0)


# Patients


def test_waves_are_new_patients_whom_no_data_set_has() -> None:
    treated = waves((0, 5), 3)
    seen: list[int] = []
    obs = treated.begin()
    for _ in range(2 * 24):
        seen += (
            [treated.first_patient(seed) + p for seed in (0, 5) for p in range(3)]
            if not treated._given
            else []
        )
        obs = treated.treat(np.zeros((2, 3, 1), np.float32)).following
    assert sorted(seen) == sorted(
        (seed + 1) * SPAN + wave * 3 + p for seed in (0, 5) for wave in range(2) for p in range(3)
    )
    env = gymnasium.make_vec(ENV, num_envs=3, vectorization_mode="vector_entry_point", cohort="train")
    for k, seed in enumerate((0, 5)):  # those of the third wave, from the environment itself
        alone, _ = env.reset(seed=0, options={"patient_id": (seed + 1) * SPAN + 6})
        np.testing.assert_array_equal(alone, obs[k])
    assert not np.array_equal(obs[0], obs[1])


@pytest.mark.parametrize("visits", [0, 5, 24, 29])
def test_episodes_are_brought_back_in_the_middle(visits: int) -> None:
    treated, doses = waves(), np.random.default_rng(0).uniform(-3, 3, (60, 2, 2, 1)).astype(np.float32)
    obs = treated.begin()
    for dose in doses[:visits]:
        obs = treated.treat(dose).following
    other = waves()
    np.testing.assert_array_equal(other.load(treated.state()), obs)
    for dose in doses[visits : visits + 30]:
        a, b = treated.treat(dose), other.treat(dose)
        np.testing.assert_array_equal(a.following, b.following)
        np.testing.assert_array_equal(a.reward, b.reward)


# Safety


class Sick:
    """One-visit observations; cost and length of episodes are given, doses are kept."""

    limits, n_obs = LIMITS, 8

    def __init__(self, seeds: int, num_envs: int, length: int, costs: Any) -> None:
        self.shape, self.num_envs, self.length, self.costs = (seeds, num_envs), num_envs, length, costs
        self.visit, self.doses = 0, []

    def begin(self) -> Any:
        return np.zeros((*self.shape, 8), np.float32)

    def treat(self, dose: Any) -> VisitOutcome:
        self.doses.append(dose)
        obs, cost = self.begin(), np.asarray(self.costs(self.visit), dtype=np.float64)
        self.visit += 1
        ended = np.full(self.shape, self.visit % self.length == 0)
        reward = np.arange(np.prod(self.shape), dtype=np.float64).reshape(self.shape) - self.visit
        return VisitOutcome(reward, np.broadcast_to(cost, self.shape), obs, ended & False, ended, obs)

    def state(self) -> dict[str, Tensor]:
        return {"treated.visit": torch.tensor(self.visit)}

    def load(self, state: Mapping[str, Tensor]) -> Any:
        self.visit = int(state["treated.visit"])
        return self.begin()


def asking(result: Trial, dose: Any) -> Trial:
    """The trial with another behaviour: ``dose(progress)`` for everyone."""

    class Ask:
        def __call__(self, obs: Any, trial_progress: TrialProgress) -> Any:
            return np.broadcast_to(np.asarray(dose(trial_progress), dtype=np.float64), (*obs.shape[:2], 1))

        def seen(self, visit: Any) -> None: ...

        def judged(self, outcomes: Any) -> None: ...

        def state(self) -> dict[str, Tensor]:
            return {}

        def load(self, state: Any) -> None: ...

    behaviour: Any = Ask()
    result.learner = Learner(result.learner.agent, result.learner.replay, behaviour)
    return result


def test_doses_returns_and_costs_are_those_of_a_loop_by_hand() -> None:
    rng = np.random.default_rng(1)
    asked = rng.uniform(-1.4, 1.4, (12, 2, 3, 1))
    costs = rng.integers(0, 5, (12, 2, 3))
    treated = Sick(2, 3, 4, lambda visit: costs[visit])
    changes = {"visits": 36, "patients": 3, "updates_per_visit": 0.0, "evaluate_every": 36}
    result = asking(
        trial("scratch", treated=treated, changes=changes),
        lambda trial_progress: asked[trial_progress.number],
    )
    made = [result.step() for _ in range(12)]
    assert result.over
    delivered = np.stack([m.dose for m in made])
    np.testing.assert_array_equal(delivered, np.clip(asked.astype(np.float32), -1.0, 1.0))
    np.testing.assert_array_equal(np.stack(treated.doses), delivered)
    rows = []
    for wave in range(3):
        part = slice(4 * wave, 4 * wave + 4)
        for k in range(2):
            for p in range(3):
                reward = sum(3 * k + p - (4 * wave + i + 1) for i in range(4))
                held = int((np.abs(asked[part, k, p, 0]) > 1.0).sum())
                rows.append([SEEDS[k], 12.0 * (wave + 1), reward, costs[part, k, p].sum(), held, 4.0])
    assert result.trial_log.episodes == pytest.approx(np.array(rows, dtype=np.float64))
    buffer: Any = result.learner.replay
    act = buffer.buffer.rows[..., 8].reshape(2, -1, 3)[:, :12]  # what was delivered is what is learned from
    np.testing.assert_allclose(act.numpy(), delivered[..., 0].transpose(1, 0, 2), rtol=1e-6)
    reward = np.stack([m.reward for m in made]).transpose(1, 0, 2)
    kept = buffer.buffer.rows[..., 17].reshape(2, -1, 3)[:, :12].numpy()
    np.testing.assert_allclose(kept, reward / result.transform.reward_scale, rtol=1e-6)
    mean, scale = np.array(result.transform.obs_mean), np.array(result.transform.obs_scale)
    np.testing.assert_allclose(buffer.buffer.rows[0, 0, :8].numpy(), -mean / scale, rtol=1e-5)
    result.evaluate()
    row = result.trial_log.curve[0]._asdict()
    own = np.array([r[2:] for r in rows if r[0] == 0])
    assert row["treated"] == pytest.approx(own[:, 0].mean())
    assert row["worst"] == own[:, 0].min()
    assert row["cost"] == row["cost_per_patient"] == pytest.approx(own[:, 1].mean())
    assert row["worst_cost"] == own[:, 1].max()
    assert row["limited"] == pytest.approx(own[:, 2].sum() / own[:, 3].sum())
    count, _ = np.histogram(delivered[:, 0].astype(np.float64), np.linspace(-1.0, 1.0, PARTS + 1))
    share = count[count > 0] / count.sum()
    assert row["coverage"] == pytest.approx(np.exp(-(share * np.log(share)).sum()) / PARTS)
    assert row["patients"] == 9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_dose_that_is_no_number_is_given_to_nobody(value: float) -> None:
    treated = Sick(2, 2, 4, lambda visit: 0.0)
    result = asking(trial(treated=treated), lambda trial_progress: value)
    with pytest.raises(UserError, match="finite"):
        result.step()
    assert not treated.doses


@pytest.mark.long
def test_a_trial_stops_at_the_visit_at_which_its_costs_refuse_the_budget(tmp_path: Path) -> None:
    """Episodes of 4 visits cost seed 0 nothing and seed 3, from the third wave on, 2 each; the budget is
    1."""

    def cost(visit: int) -> Any:
        return np.array([[0.0, 0.0], [0.5, 0.5]]) * (visit >= 8)

    changes = {"visits": 400, "harm_budget": 1.0, "updates_per_visit": 0.25, "evaluate_every": 80}
    result = asking(trial(treated=Sick(2, 2, 4, cost), changes=changes), lambda trial_progress: 0.0)
    fractions = np.array([0.05, 0.1, 0.2, 0.4, 0.8])
    wave, wealth = 0, np.ones(5)
    while wealth.mean() < 20.0:
        wave += 1
        wealth = wealth * (1.0 + fractions * ((2.0 if wave > 2 else 0.0) / 1.0 - 1.0))
    assert wave > 5
    weights = None
    run = folder(tmp_path)
    while weights is None:
        result.step()
        if result.stopped:
            weights = {k: v.clone() for k, v in result.agent.state_dict().items()}
    assert result.stopped == {1: wave * 8}
    assert result.visits == wave * 8
    conduct(result, run)
    report = read_json(run.path / REPORT)
    (stop,) = report["stopped"]
    assert (stop["seed"], stop["visits"], stop["patients"]) == (3, wave * 8, 2 * wave)
    assert stop["cost_per_patient"] == pytest.approx(2.0 * (wave - 2) / wave)
    assert stop["bound"] >= 1.0
    assert "budget of 1" in stop["why"]
    final, _ = read_tensors(run.path / WEIGHTS)
    assert all(torch.equal(final[k][1], v[1]) for k, v in weights.items())  # left as it was
    assert any(not torch.equal(final[k][0], v[0]) for k, v in weights.items())  # the other goes on
    table = read_table(run.path / CURVE).to_pandas()
    assert table[table.seed == 3].visits.max() == wave * 8
    assert table[table.seed == 0].visits.max() == 400
    episodes = read_table(run.path / TREATED).to_pandas()
    assert episodes[episodes.seed == 3].ended_at.max() == wave * 8


@pytest.mark.long
def test_a_stopped_seed_cannot_spoil_the_others() -> None:
    """Whatever its further updates would do to it."""
    changes = {"harm_budget": 1.0, "updates_per_visit": 1.0}
    result = asking(
        trial(treated=Sick(2, 2, 4, lambda v: [[0.0, 0.0], [9.0, 9.0]]), changes=changes),
        lambda trial_progress: 0.0,
    )
    while not result.stopped:
        result.step()
    before = [value[1].clone() for value in result.agent.state_dict().values()]
    for state in result.agent.optimizers["critic"].state.values():
        state["exp_avg"][1] = torch.nan
    while not result.over:
        result.step()
        if result.due():
            result.evaluate()
    after = [value[1] for value in result.agent.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_all_seeds_stopped_ends_the_trial() -> None:
    changes = {"harm_budget": 0.0, "updates_per_visit": 0.0}
    result = asking(trial(treated=Sick(2, 2, 4, lambda v: 1.0), changes=changes), lambda trial_progress: 0.0)
    while not result.over:
        result.step()
    assert result.stopped == {0: 8, 1: 8}


# The loop


def test_updates_follow_visits_at_the_stated_ratio() -> None:
    result, taken = trial(changes={"updates_per_visit": 0.3, "start": 30}), []
    while not result.over:
        result.step()
        taken.append((result.visits, result.updates))
    assert all(updates == int(0.3 * max(visits - 30, 0) + 1e-9) for visits, updates in taken)
    assert taken[-1] == (144, 34)


def test_phases_go_on_where_they_were() -> None:
    """The first update in a trial has the number that follows the last offline one."""
    numbers: list[int] = []
    result = trial("spot", "spot", changes={"visits": 40})
    replay = result.learner.replay

    class Listening:
        ready = True
        remember = staticmethod(replay.remember)

        def __call__(self, step: int) -> Batch:
            numbers.append(step)
            return replay(step)

    listening: Any = Listening()
    result.learner = replace(result.learner, replay=listening)
    while not result.over:
        result.step()
    assert numbers == [7, 8, 9, 10, 11]


@pytest.mark.long
@pytest.mark.parametrize(("method", "name"), [*METHODS.items(), ("scratch", "iql"), ("buffer", "iql")])
def test_a_killed_trial_resumes_in_the_middle_of_a_episode_bit_by_bit(
    method: str, name: str, tmp_path: Path
) -> None:
    killed_and_resumed(lambda: trial(method, name, changes={"checkpoint_every": 62, "visits": 120}), tmp_path)


@pytest.mark.long
def test_a_killed_trial_resumes_with_its_stopped_seeds(tmp_path: Path) -> None:
    def cost(visit: int) -> Any:
        return np.array([[0.0, 0.0], [9.0, 5.0]])

    changes = {"checkpoint_every": 62, "visits": 120, "harm_budget": 1.0}
    result = killed_and_resumed(lambda: trial(treated=Sick(2, 2, 4, cost), changes=changes), tmp_path)
    assert list(result.stopped) == [1]
    assert result.stopped[1] < 62


def killed_and_resumed(make: Any, path: Path) -> Trial:
    """The trial, after what it leaves was found to be the same with and without a kill at visit 100."""
    run, cut = folder(path / "whole"), folder(path / "cut")
    conduct(make(), run)
    dying = make()
    step = dying.step

    def killed() -> Any:
        if dying.visits == 100:
            raise KeyboardInterrupt
        return step()

    dying.step = killed
    with pytest.raises(KeyboardInterrupt):
        conduct(dying, cut)
    assert (cut.path / CHECKPOINT).is_file()
    resumed: Trial = make()
    conduct(resumed, cut)
    assert files(cut) == files(run)
    assert not (cut.path / CHECKPOINT).exists()
    return resumed


@pytest.mark.parametrize(
    ("method", "name"), [("direct", "fttpo"), ("cal_ql", "cal_ql"), ("rebrac", "rebrac")]
)
def test_a_stacked_seed_is_the_seed_alone(method: str, name: str) -> None:
    changes = {"harm_budget": 0.7, "visits": 96}
    both, alone = trial(method, name, changes=changes), trial(method, name, (3,), changes=changes)
    for result in (both, alone):
        while result.visits < 96:
            result.step()
            if result.due():
                result.evaluate()
    theirs = [row for row in both.trial_log.episodes if row[0] == 3]
    np.testing.assert_allclose(theirs, alone.trial_log.episodes, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        [row for row in both.trial_log.curve if row[0] == 3],
        alone.trial_log.curve,
        rtol=1e-3,
        atol=1e-3,
        equal_nan=True,
    )
    assert len({row[0] for row in both.trial_log.episodes}) == 2


def test_a_trial_that_diverges_says_so(tmp_path: Path) -> None:
    result = trial(changes={"visits": 96})
    with torch.no_grad():
        next(iter(result.agent.critic.parameters()))[1].fill_(torch.inf)  # type: ignore[union-attr,index]
    with pytest.raises(TrainingDivergedError, match=r"seeds \[3\]"):
        conduct(result, folder(tmp_path))


def test_it_is_evaluated_at_the_stated_numbers_of_visits(tmp_path: Path) -> None:
    run = folder(tmp_path)
    conduct(trial(changes={"evaluate_every": 50}), run)
    table = read_table(run.path / CURVE).to_pandas()
    assert sorted(set(table.visits)) == [0, 50, 100, 144]
    np.testing.assert_allclose(table.sampled, table.recommended + 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("visits", 0),
        ("patients", 0),
        ("start", -1),
        ("updates_per_visit", -0.1),
        ("harm_budget", -1.0),
        ("evaluate_every", 0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UserError, match=name.replace("_", "[- ]")):
        replace(SETTINGS, **{name: value}).check()  # type: ignore[arg-type]
