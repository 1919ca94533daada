"""Data of our own making: a TD3 agent learns online in a MuJoCo task, and what it does is kept.

Qualities, by the normalised score of the policy without noise on episodes that no result is reported on:

* ``medium``: the policy with its exploration noise, once the score reaches a third of the expert's;
* ``expert``: the same at nine tenths;
* ``mixed``: half of each, medium first;
* ``replay``: the first visits of training itself, random ones included, whatever score they lead to.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

import agents
from dosing import __version__
from dosing.data.dataset import Transform
from dosing.data.formats import MINARI, is_own, open_sink
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes, concatenate, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.evaluation.best_constant import SEARCH_SEED
from dosing.evaluation.rollout import rollout
from dosing.evaluation.rules import following
from dosing.studies.compared import Comparison
from dosing.studies.comparison import compare
from dosing.studies.data import external_of
from dosing.studies.settings import DataSource, Grid, Resources
from dosing.studies.visit_log import VisitLog
from dosing.training.offline import TrainingSettings
from dosing.training.online import OnlineSettings, OnlineStep, OnlineTraining
from dosing.types import Problem
from simulator.envs.mazes import package_of
from simulator.envs.mujoco import QUALITIES, REFERENCES
from simulator.envs.tasks import TaskFactory, episode_seed, make_task

TARGETS = {"medium": 1.0 / 3.0, "expert": 0.9}
"""Share of the way from random to expert at which training stops."""
DISCOUNT = 0.99
EVALUATION_EPISODES = 10


@dataclass(frozen=True)
class CollectionPlan:
    """What to collect."""

    env_id: str
    """MuJoCo task."""
    quality: str
    """See the module."""
    transitions: int
    """Visits to record."""
    seed: int = 0
    """Of the agent and of its episodes."""
    start: int = 1000
    """Random steps before learning: as TD3's authors for Hopper and Walker2d (10,000 for HalfCheetah)."""
    evaluate_every: int = 5000
    """Training steps between evaluations."""
    most_steps: int = 1_000_000
    """Training steps after which a quality counts as out of reach."""
    env_options: dict[str, Any] = field(default_factory=dict)
    """Of ``gymnasium.make``."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the agent's networks."""

    def __post_init__(self) -> None:
        """Refuse what cannot be collected.

        Raises:
            UserError: an unknown quality, a number out of range, or a quality that is measured by a score on
                a task whose expert is not known.
        """
        if self.quality not in QUALITIES:
            raise UserError(f"quality must be one of {', '.join(QUALITIES)}, got {self.quality!r}.")
        least = {"transitions": 2 if self.quality == "mixed" else 1, "start": 1, "evaluate_every": 1}
        for name, low in (least | {"most_steps": 1, "seed": 0}).items():
            if getattr(self, name) < low:
                raise UserError(
                    f"{name.replace('_', '-')} must be at least {low}, got {getattr(self, name)}."
                )
        if self.quality != "replay" and self.env_id not in REFERENCES:
            raise UserError(
                f"{self.quality} is a share of the expert's score, which is known for "
                f"{', '.join(REFERENCES)}; of {self.env_id} only replay can be collected."
            )


def check_free(out: str) -> None:
    """Refuse a place that cannot be written before hours are spent.

    Raises:
        UserError: the folder is missing or not writable, or the Minari data set exists.
    """
    if Path(out).is_dir():
        raise UserError(f"{out} is a folder; name a file in it.")
    if out.startswith(MINARI) or not Path(out).exists():
        open_sink(out, {}).discard()


def collect(plan: CollectionPlan) -> Episodes:
    """Train and record; the card says how, with what, and what came out.

    Raises:
        UserError: no such task, or the quality is not reached in ``most_steps`` steps.
    """
    behaviour = _Behaviour(plan)
    qualities = ("medium", "expert") if plan.quality == "mixed" else (plan.quality,)
    parts: list[Episodes] = []
    cards: list[dict[str, Any]] = []
    left = plan.transitions
    for number, quality in enumerate(qualities):
        count = left // (len(qualities) - number)
        left -= count
        if quality == "replay":
            log = behaviour.train_for(count)
        else:
            behaviour.train_until(TARGETS[quality], quality)
            log = behaviour.record(count)
        part = log.episodes(int(parts[-1].episode[-1]) + 1 if parts else 0, falls=behaviour.falls)
        parts.append(part)
        cards.append(behaviour.card(quality, part, log.returns()))
    return concatenate(parts, replace(behaviour.metadata(cards), patients=int(parts[-1].episode[-1]) + 1))


def describe(metadata: DatasetMetadata) -> list[str]:
    """Lines about each part of a collected data set."""
    lines = []
    for part in metadata.collected["parts"]:
        score = "" if part["score"] is None else f", normalised score {part['score']:.1f}"
        done = "none was completed"
        if part["complete_episodes"]:
            done = f"mean return {part['mean_return']:.1f} of {part['complete_episodes']} complete ones"
        lines.append(
            f"{part['quality']}: {part['transitions']:,} visits in {part['episodes']:,} episodes, {done}; "
            f"after {part['steps']:,} training steps the policy without noise returns "
            f"{part['evaluated']:.1f} ({part['evaluation_episodes']} episodes{score})"
        )
    return lines


DEMO = CollectionPlan("Hopper-v5", "replay", 20_000)
"""What the demonstration records where no file is given."""
DEMO_STEPS = 5_000


def demo(
    study: Path, *, seeds: Sequence[int], steps: int | None, device: str, source: str | None = None
) -> Comparison:
    """Record :data:`DEMO`, or take a file, and train and evaluate the demonstration's agents.

    Args:
        study: study folder.
        seeds: trained together.
        steps: gradient updates; None is :data:`DEMO_STEPS`.
        device: ``auto``, ``cpu`` or ``cuda``.
        source: D4RL file of the demonstration's task, file of our own, or ``minari:ID``.

    Raises:
        UserError: the file is not what it should be, or MuJoCo is not installed.
    """
    external = None
    if source is None:
        path = study / "data" / f"hopper-replay-{DEMO.transitions}.hdf5"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_episodes(collect(DEMO), path)
        source = str(path)
        print("\n".join(describe(read_episodes(path).metadata)), flush=True)
    elif not source.startswith(MINARI) and not is_own(source):
        external = external_of(DEMO.env_id, {})
    return compare(
        study,
        Grid(agents.DEMO, {"discount": [DISCOUNT]}),
        DataSource(source, external=external),
        seeds=seeds,
        training=TrainingSettings(steps=DEMO_STEPS if steps is None else steps),
        resources=Resources(device),
    )


class _Tasks:
    """One task per seed, each of which begins its next episode by itself."""

    def __init__(self, env_id: str, options: dict[str, Any], seeds: tuple[int, ...]) -> None:
        self.seeds = seeds
        self.tasks = [make_task(env_id, options) for _ in seeds]
        self._begun = [0] * len(seeds)
        shape = self.tasks[0].observation_space.shape
        assert shape is not None
        self.n_obs = shape[0]

    def _begin(self, k: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        seed = episode_seed(self.seeds[k], "train", self._begun[k])
        self._begun[k] += 1
        return np.asarray(self.tasks[k].reset(seed=seed)[0], dtype=np.float32)

    def reset(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Begin an episode in every task; ``[S, O]``."""
        self._obs = np.stack([self._begin(k) for k in range(len(self.tasks))])
        return self._obs

    def step(self, dose: np.ndarray[Any, np.dtype[np.float64]]) -> OnlineStep:
        """Give doses ``[S, A]``."""
        given = dose.astype(np.float32)
        results = [task.step(act) for task, act in zip(self.tasks, given, strict=True)]
        next_obs = np.stack([r[0] for r in results]).astype(np.float32)
        terminated = np.array([bool(r[2]) for r in results])
        truncated = np.array([bool(r[3]) for r in results]) & ~terminated
        obs, self._obs = self._obs, next_obs.copy()
        for k in np.flatnonzero(terminated | truncated).tolist():
            self._obs[k] = self._begin(k)
        reward = np.array([float(r[1]) for r in results])
        return OnlineStep(obs, given.astype(np.float64), reward, next_obs, terminated, truncated, self._obs)


class _Behaviour:
    """An agent of one seed that learns online, and its training."""

    def __init__(self, plan: CollectionPlan) -> None:
        self.plan = plan
        self.factory = TaskFactory(plan.env_id, plan.env_options, workers=1)
        self.reference = REFERENCES.get(plan.env_id)
        self.tasks = _Tasks(plan.env_id, plan.env_options, (plan.seed,))
        n_obs, limits = self.tasks.n_obs, self.factory.limits
        transform = Transform((0.0,) * n_obs, (1.0,) * n_obs, limits.low, limits.high)
        self.config = replace(
            agents.find(agents.COLLECTOR).config_class()(), discount=DISCOUNT, hidden=plan.hidden
        )
        agent = agents.build(
            agents.COLLECTOR, self.config, Problem(n_obs, limits.n_act, self.factory.horizon), (plan.seed,)
        )
        longest = plan.transitions if plan.quality == "replay" else plan.most_steps
        self.settings = OnlineSettings(start=plan.start, capacity=min(longest, OnlineSettings.capacity))
        self.training = OnlineTraining(agent, self.tasks, transform, self.settings)
        self.falls = package_of(plan.env_id) is None
        self.evaluated = float("nan")
        self._noise = longest  # noise of recording is numbered after that of every training step

    def train_for(self, count: int) -> VisitLog:
        """Train for so many steps and keep every visit."""
        log = VisitLog(count, self.tasks.n_obs, self.factory.limits.n_act)
        with self._bar(count, "visit") as bar:
            for made in self.training.steps(count):
                log.add(made)
                bar.update()
        self._evaluate()
        return log

    def train_until(self, share: float, quality: str) -> None:
        """Train until the score reaches ``share`` of the way from random to the expert."""
        assert self.reference is not None
        with self._bar(None, "step") as bar:
            while not self.reference.score(self.evaluated) >= 100.0 * share:  # not a number at first
                count = min(self.plan.evaluate_every, self.plan.most_steps - self.training.taken)
                if not count:
                    raise UserError(
                        f"after {self.training.taken:,} steps the score is "
                        f"{self.reference.score(self.evaluated):.1f} and {quality} begins at "
                        f"{100.0 * share:.1f}; nothing was written. Raise --most-steps."
                    )
                for _ in self.training.steps(count):
                    bar.update()
                self._evaluate()
                bar.set_postfix_str(f"return {self.evaluated:.0f}")

    def record(self, count: int) -> VisitLog:
        """Visits of the policy with its exploration noise, without learning."""
        log = VisitLog(count, self.tasks.n_obs, self.factory.limits.n_act)
        obs = self.tasks.reset()
        with self._bar(count, "visit") as bar:
            for number in range(self._noise, self._noise + count):
                made = self.tasks.step(self.training.explored(obs, number))
                obs = made.following
                log.add(made)
                bar.update()
        self._noise += count
        return log

    def _evaluate(self) -> None:
        """Mean return of the policy without noise, on other episodes than results are reported on."""
        act = following(self.training.policy)
        result = rollout(self.factory, act, (self.plan.seed,), EVALUATION_EPISODES, env_seed=SEARCH_SEED)
        self.evaluated = float(result.returns.mean())

    def card(self, quality: str, part: Episodes, returns: list[float]) -> dict[str, Any]:
        """How one part was made and what came out."""
        return {
            "quality": quality,
            "transitions": len(part),
            "episodes": len(np.unique(part.episode)),
            "complete_episodes": len(returns),
            "mean_return": float(np.mean(returns)) if returns else None,
            "steps": self.training.taken,
            "evaluated": self.evaluated,
            "evaluation_episodes": EVALUATION_EPISODES,
            "score": self.reference.score(self.evaluated) if self.reference else None,
        }

    def metadata(self, cards: list[dict[str, Any]]) -> DatasetMetadata:
        """The card of the data set."""
        import mujoco

        plan, limits = self.plan, self.factory.limits
        return DatasetMetadata(
            env_id=plan.env_id,
            env_options=dict(plan.env_options),
            seed=plan.seed,
            policy=f"{agents.COLLECTOR}, {plan.quality}",
            action_low=limits.low,
            action_high=limits.high,
            dose_name="action",
            dose_unit=limits.unit,
            gamma=DISCOUNT,
            collected={
                "agent": agents.COLLECTOR,
                "agent_config": asdict(self.config),
                "online": asdict(self.settings),
                "evaluate_every": plan.evaluate_every,
                "reference": asdict(self.reference) if self.reference else None,
                "parts": cards,
            },
            versions={
                "dosing": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "gymnasium": gymnasium.__version__,
                "mujoco": mujoco.__version__,
            },
        )

    def _bar(self, total: int | None, unit: str) -> tqdm[Any]:
        text = f"{agents.COLLECTOR} in {self.plan.env_id}"
        return tqdm(total=total, desc=text, unit=f" {unit}s", disable=None, file=sys.stderr)
