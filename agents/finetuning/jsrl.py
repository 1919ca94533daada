"""JSRL, jump-start: a guide doses at the first h visits of an episode, an explorer at those that follow.

Uchendu, Xiao, Lu, Zhu, Yan, Simon, Bennice, Fu, Ma, Jiao, Levine, Hausman 2023, arXiv 2204.02372 (ICML 2023).
The guide is the offline policy, frozen, by its recommended dose; the explorer is an implicit-Q-learner with
new weights that learns from all visits, the guide's among them, and from as many recorded ones. Of H visits

* curriculum: h goes over H, H (1 - 1/n), ..., 0 in n stages. After every evaluation of guide and explorer
  together, at the present h, a seed goes on to the next stage if the mean of its last evaluations' returns is
  no less than the best such mean so far less ``tolerance`` times its size;
* random: every episode has an h of its own, uniform on 0, ..., H - 1.

Meanwhile evaluations are of guide and explorer together; the last one, as everything after the trial, is of
the explorer alone (h = 0); a seed that was stopped keeps its h. With a random h every evaluation is of the
explorer. The guide acts at the visits 0, ..., h - 1: not taken over is a guide that acts once more, an h that
all episodes share, and a first evaluation that can never advance the curriculum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from agents.finetuning.expansion import fixed_draws, held, newcomer, not_thin, refused, take_over
from agents.iql import IQL
from dosing.agent import Agent, History, value_of
from dosing.data.dataset import Transform
from dosing.distributions.draws import Draws
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes
from dosing.finetuning.method import Behaviour, Learner, Start, TrialProgress, TrialSettings
from dosing.finetuning.patients import TreatedVisit
from dosing.models.batch import Batch
from dosing.policy import DosePolicy, Observations
from dosing.rng import generator
from dosing.training.replay import ReplaySampler
from dosing.types import Array, Noise


@dataclass(frozen=True)
class JSRLConfig:
    """Settings of JSRL: ten stages; window and tolerance within the ranges that are in use."""

    variant: Literal["curriculum", "random"] = "curriculum"
    """How h is chosen."""
    stages: int = 10
    """n, steps of the curriculum from H to 0."""
    window: int = 1
    """Evaluations in the moving average."""
    tolerance: float = 0.05
    """How much less than the best average so far still advances, as a share of its size."""
    critic: Literal["random", "offline"] = "random"
    """Where the explorer's Q, V and targets start; offline ones are those of a run of IQL."""
    draws: int = 16
    """Draws of the explorer that stand for its distribution in that of both together."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: one of the settings is out of range.
        """
        for name in ("stages", "window", "draws"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0.0 <= self.tolerance < 1.0:
            raise UserError(f"tolerance must be at least 0 and below 1, got {self.tolerance}.")


class JSRLAgent(Agent):
    """S stacked seeds of an explorer that learns, jump-started by a guide that does not.

    Args:
        explorer: what learns.
        guide: a constant agent of the same seeds and sizes.
        config: settings.
        until: h at first.
    """

    until: Tensor

    def __init__(self, explorer: IQL, guide: Agent, config: JSRLConfig, until: int) -> None:
        super().__init__(explorer.problem, explorer.seeds)
        self.config, self.regularisation = config, explorer.regularisation
        self.explorer, self.guide = explorer, guide
        like = next(explorer.parameters())
        full = torch.full((len(self.seeds), 1), float(until), dtype=like.dtype, device=like.device)
        self.register_buffer("until", full)
        self.optimizers = dict(explorer.optimizers)

    @property
    def looks_back(self) -> bool:
        """Who doses depends on how many visits were made."""
        return bool((self.until > 0.0).any())

    @property
    def discount(self) -> float:
        """That of the explorer."""
        return self.explorer.discount

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """That of the explorer."""
        return self.explorer.noise(batch_size)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those of the explorer; h besides."""
        losses, metrics = self.explorer.losses_and_metrics(batch)
        return losses, metrics | {"guided": self.until.squeeze(-1)}

    def schedule(self, step: int) -> None:
        """That of the explorer."""
        self.explorer.schedule(step)

    def update_targets(self, step: int) -> None:
        """Target critics of the explorer."""
        self.explorer.update_targets(step)

    def policy(self, obs: Tensor) -> Distribution:
        """The explorer's distribution."""
        return self.explorer.policy(obs)

    def policy_after(self, history: History) -> Distribution:
        """Guide or explorer, whoever's turn it is; as draws of the explorer, all at the guide's one dose."""
        obs, visit = history.obs[:, :, -1], history.obs.shape[2] - 1
        distribution = self.explorer.policy(obs)
        guided = (visit < self.until).unsqueeze(-1)  # [S, 1, 1]
        dose = self.guide.policy(obs).mode
        values = torch.where(
            guided.unsqueeze(-1), dose.unsqueeze(2), fixed_draws(distribution, self.config.draws)
        )
        loc = torch.where(guided, dose, distribution.mode)
        return Independent(
            Draws(values.transpose(-1, -2), loc=loc, validate_args=False), 1, validate_args=False
        )

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The explorer's distribution."""
        return {"explorer": self.explorer.policy(obs)}

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """By the explorer's critics."""
        return value_of(self.explorer, obs, act)


class Guided(Behaviour):
    """The guide doses at the first h visits of an episode, the explorer's draws follow; and h goes down.

    Args:
        agent: whose h the curriculum moves.
        transform: between the world's units and the agent's.
        visits: visits that every place makes in the trial.
        num_envs: P, patients of a seed side by side.
        horizon: H, visits of an episode.

    Attributes:
        until: h of the episode at every place ``[S, P]``.
        stage: of the curriculum, by seed ``[S]``.
        best: the best moving average of evaluation returns so far ``[S]``.
        recent: the last evaluations' mean returns ``[N, S]``, N at most the window.
    """

    def __init__(
        self, agent: JSRLAgent, transform: Transform, visits: int, num_envs: int, horizon: int
    ) -> None:
        super().__init__(DosePolicy(agent, transform))
        self.agent, self.config, self.horizon = agent, agent.config, horizon
        self.guide, self.explorer = DosePolicy(agent.guide, transform), DosePolicy(agent.explorer, transform)
        seeds = len(agent.seeds)
        self.until = np.full((seeds, num_envs), horizon, dtype=np.int64)
        self.stage, self.best = np.zeros(seeds, dtype=np.int64), np.full(seeds, -np.inf)
        self.recent = np.empty((0, seeds))
        self.to_come = visits

    def __call__(self, obs: Observations, trial_progress: TrialProgress) -> Array:
        """Requested doses ``[S, P, A]`` at ``obs [S, P, O]``."""
        begins = trial_progress.visit == 0
        if begins.any():
            self.until = np.where(begins, self._drawn(trial_progress), self.until)
        guided = (trial_progress.visit < self.until)[..., None]
        own = self.explorer.sampled(obs, trial_progress.number, "exploration")
        return np.where(guided, self.guide.recommended(obs), own)

    def _drawn(self, trial_progress: TrialProgress) -> npt.NDArray[np.int64]:
        """Visits that the guide has in episodes that begin now ``[S, P]``."""
        if self.config.variant == "curriculum":
            return np.broadcast_to(
                horizon_of(self.stage, self.config.stages, self.horizon)[:, None], self.until.shape
            )
        streams = [generator(s, "exploration", trial_progress.number, 0) for s in self.agent.seeds]
        return np.stack([stream.integers(self.horizon, size=self.until.shape[1]) for stream in streams])

    def seen(self, visit: TreatedVisit) -> None:
        """Count the visits; after the last one the explorer is alone."""
        del visit
        self.to_come -= 1
        if self.to_come == 0:
            self.agent.until.zero_()

    def judged(self, outcomes: Mapping[str, Outcomes]) -> None:
        """Go on to the next stage where the returns are good enough; episodes under way keep their h."""
        if self.config.variant == "random" or self.to_come == 0:
            return
        returns = outcomes["recommended"].returns.mean(1)
        self.recent = np.concatenate((self.recent, returns[None]))[-self.config.window :]
        mean = self.recent.mean(0)
        self.best = np.maximum(self.best, mean)
        advances = mean >= self.best - self.config.tolerance * np.abs(self.best)
        self.stage = np.minimum(self.stage + advances, self.config.stages)
        until = horizon_of(self.stage, self.config.stages, self.horizon)
        self.agent.until.copy_(torch.from_numpy(until)[:, None])

    def state(self) -> dict[str, Tensor]:
        """Where the curriculum is, and the episodes under way."""
        names = ("until", "stage", "best", "recent")
        kept: dict[str, Any] = {name: torch.from_numpy(getattr(self, name)).clone() for name in names}
        return kept | {"to_come": torch.tensor(self.to_come)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state`."""
        for name in ("until", "stage", "best", "recent"):
            setattr(self, name, state[name].numpy().copy())
        self.to_come = int(state["to_come"])


def horizon_of(stage: npt.NDArray[np.int64], stages: int, horizon: int) -> npt.NDArray[np.int64]:
    """Visits of the guide at a stage: H (1 - stage / stages), to the next whole visit; 0 at the last."""
    left: npt.NDArray[np.int64] = -(-horizon * (stages - stage) // stages)
    return left


@dataclass(frozen=True)
class JumpStart:
    """The method.

    Attributes:
        config: settings.
    """

    config: JSRLConfig = field(default_factory=JSRLConfig)

    def refusal(self, start: Start) -> str | None:
        """Why a trial cannot start from this run, in a sentence; None if it can."""
        if start.problem.horizon is None:
            return "it needs episodes of a known number of visits."
        if self.config.critic == "offline" and start.name != "iql":
            return f"with critic=offline it goes on from a run of iql, this is one of {start.name}."
        return refused(self.config.check, lambda: not_thin(start), lambda: held(start.transferred()))

    def learner(self, start: Start, settings: TrialSettings) -> Learner:
        """Make what the loop needs.

        Raises:
            UserError: as :meth:`refusal`.
        """
        horizon = start.problem.horizon
        if (sentence := self.refusal(start)) or horizon is None:
            raise UserError(sentence or "")
        explorer, guide = newcomer(start), held(start.transferred())
        if self.config.critic == "offline":
            take_over(explorer, guide)
        first = horizon if self.config.variant == "curriculum" else 0
        agent = JSRLAgent(explorer, guide, self.config, first)
        replay = ReplaySampler(
            explorer,
            start.dataset,
            settings.batch_size,
            0.5,
            capacity=settings.remembered,
            num_envs=settings.patients,
        )
        visits = -(-settings.visits // settings.patients)
        behaviour = Guided(agent, start.transform, visits, settings.patients, horizon)
        return Learner(agent, replay, behaviour)


JSRL = JumpStart()
