"""From recorded visits to live treatment: agents treat simulated patients and go on learning.

A *trial* begins where offline learning ended. S agents treat P patients each, side by side; every visit of a
patient is kept, and so many updates per visit follow from a mixture of recorded and new visits. What differs
between methods is their ``dosing.finetuning.method.Learner``: how the agent was made from the offline run,
which visits it replays, how it chooses doses while it learns, and which settings decay. The loop asks no
method's name.

Safety during learning. Every requested dose passes ``dosing.safety.DoseLimits`` and the agent learns from the
dose that was delivered. Returns, costs and limited doses of every treated patient are recorded. With a harm
budget, a seed's trial stops once its patients' costs refuse the budget (``dosing.finetuning.stopping``); its
agent is then left as it was at that visit. Policies are evaluated, at stated numbers of visits, on patients
of their own.

Every random number is addressed by seed, purpose and number, so a seed in a stack is the seed alone. A trial
that was killed continues from its checkpoint bit by bit on the CPU, in the middle of an episode too: episodes
are brought back by giving their patients the same doses once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation.outcomes import Outcomes, write_outcomes
from dosing.finetuning.method import Learner, TrialProgress, TrialSettings
from dosing.finetuning.patients import PatientsUnderTreatment, TreatedVisit
from dosing.finetuning.trial_log import TrialLog
from dosing.models.settings import reconfigure
from dosing.policy import DosePolicy, Observations
from dosing.runs.files import read_checkpoint, write_checkpoint, write_json, write_table, write_tensors
from dosing.runs.folder import CHECKPOINT, DONE, EPISODES, METRICS, WEIGHTS, RunFolder
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.compilation import updater
from dosing.training.offline import Log, TrainingDivergedError, damaged, not_finite
from dosing.types import Problem

TREATED, CURVE, REPORT = "treated.parquet", "curve.parquet", "report.json"

Judge = Callable[[DosePolicy], dict[str, Outcomes]]
"""Evaluates a policy on evaluation patients: outcomes of the rules ``recommended`` and ``sampled``."""


class Trial:
    """The loop: treat, remember, learn, evaluate, and stop where harm says so.

    Args:
        learner: see :class:`Learner`.
        treated: the patients; as many side by side as the settings say.
        transform: between the world's units and the agents'.
        settings: see :class:`TrialSettings`.
        judge: see :data:`Judge`; it must use an environment of its own.

    Raises:
        UserError: settings that cannot work, or patients to whom the agent's doses and settings do not apply.
    """

    def __init__(
        self,
        learner: Learner,
        treated: PatientsUnderTreatment,
        transform: Transform,
        settings: TrialSettings,
        judge: Judge,
    ) -> None:
        settings.check()
        _check_treated(treated, transform, learner.agent.problem, settings)
        self.learner, self.treated, self.transform = learner, treated, transform
        self.settings, self.judge = settings, judge
        self.agent, self.seeds = learner.agent, learner.agent.seeds
        self.policy = DosePolicy(learner.agent, transform)
        self.middle = 0.5 * (np.asarray(treated.limits.low) + np.asarray(treated.limits.high))
        self.trial_log = TrialLog(
            self.seeds, treated.num_envs, treated.limits, settings.harm_budget, settings.harm_level
        )
        self.number = self.updates = self.evaluated = 0
        self.stopped: dict[int, int] = {}
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._take = updater(self.agent, "eager")
        config = getattr(self.agent, "config", None)
        self._undecayed = {name: getattr(config, name) for name in learner.decay}
        self._failed = torch.zeros_like(damaged(self.agent))
        self.metrics: dict[str, Tensor] = {}
        self._obs: Observations | None = None

    @property
    def visits(self) -> int:
        """Visits made by the patients of each seed."""
        return self.number * self.treated.num_envs

    @property
    def over(self) -> bool:
        """Whether all visits are made, or every seed's trial was stopped."""
        return self.visits >= self.settings.visits or not self.live

    @property
    def live(self) -> list[int]:
        """Places in the stack of the seeds that still treat."""
        return [k for k in range(len(self.seeds)) if k not in self.stopped]

    @property
    def fraction(self) -> float:
        """Share of the trial that is over."""
        return min(self.visits / self.settings.visits, 1.0)

    def step(self) -> TreatedVisit:
        """One visit of every patient, and the updates that are due after it."""
        if self._obs is None:
            self._obs = self.treated.begin()
        visit = self._treat(self._obs)
        self._obs = visit.following
        self.number += 1
        self.learner.behaviour.seen(visit)
        self._remember(visit)
        self._account(visit)
        self._learn()
        return visit

    def _treat(self, obs: Observations) -> TreatedVisit:
        """Ask for doses, hold them at the limits, give them."""
        books = self.trial_log
        trial_progress = TrialProgress(self.number, self.fraction, books.length.copy(), books.episode.copy())
        requested = np.array(self.learner.behaviour(obs, trial_progress), dtype=np.float64)
        for k in self.stopped:  # nobody is treated by it any more; its place in the stack is filled
            requested[k] = self.middle
        dose, code = self.treated.limits.deliver(requested.astype(np.float32))
        given = dose.astype(np.float32, copy=False)
        result = self.treated.treat(given)
        delivered = given if result.dose is None else result.dose
        limited = (code != 0) | (delivered != given).any(axis=-1)
        return TreatedVisit(
            obs=obs, requested=requested, limited=limited, **vars(result) | {"dose": delivered}
        )

    def _remember(self, visit: TreatedVisit) -> None:
        both = (visit.obs, visit.next_obs)
        obs, next_obs = (self.transform.obs(torch.from_numpy(x.astype(np.float64))) for x in both)
        act = np.clip(self.transform.to_unit(visit.dose.astype(np.float64)), -1.0, 1.0)  # float32 rounding
        self.learner.replay.remember(
            obs,
            torch.from_numpy(act),
            torch.from_numpy(self.transform.scaled(visit.reward)),
            next_obs,
            torch.from_numpy(visit.terminated.astype(np.float64)),
            torch.from_numpy(visit.ended),
        )

    def _account(self, visit: TreatedVisit) -> None:
        """Enter the visit in the books; a seed whose costs refuse the budget stops."""
        for k in self.trial_log.add(visit, self.visits, self.live):
            self.stopped[k] = self.visits
            self._kept[k] = {name: value[k].clone() for name, value in self._stacked().items()}
            self._evaluate([k])

    def _stacked(self) -> dict[str, Tensor]:
        """The agent's tensors that have a seed axis."""
        state = self.agent.state_dict()
        return {name: x for name, x in state.items() if x.dim() > 0 and x.shape[0] == len(self.seeds)}

    def _learn(self) -> None:
        """Take the updates that are due."""
        learner, settings = self.learner, self.settings
        due = math.floor(settings.updates_per_visit * max(self.visits - settings.start, 0))
        if due <= self.updates or not learner.replay.ready:
            return
        if learner.decay:
            factors = {name: decay(self.fraction) for name, decay in learner.decay.items()}
            reconfigure(self.agent, **{name: self._undecayed[name] * f for name, f in factors.items()})
        while self.updates < due:
            self.metrics = self._take(learner.replay(learner.updates + self.updates))
            self._failed = self._failed | not_finite(self.metrics)
            self.updates += 1
        with torch.no_grad():
            for k, kept in self._kept.items():  # a stopped seed stays as it was
                for name, value in self._stacked().items():
                    value[k].copy_(kept[name])

    def _evaluate(self, rows: Sequence[int]) -> dict[str, Outcomes]:
        """Evaluate the stack as it is; keep the outcomes of the seeds at ``rows``."""
        outcomes = self.judge(self.policy)
        self.trial_log.judge(outcomes, self.visits, rows)
        return outcomes

    def evaluate(self) -> None:
        """Evaluate the seeds that are still treating, as is due now.

        Raises:
            TrainingDivergedError: one of their losses or weights is not finite.
        """
        live = self.live
        wrong = (self._failed | damaged(self.agent)).cpu()
        if bad := [self.seeds[k] for k in live if bool(wrong[k])]:
            raise TrainingDivergedError(
                f"the trial diverged before visit {self.visits} (seeds {bad}): a loss or weight is not "
                "finite."
            )
        if live:
            self.learner.behaviour.judged(self._evaluate(live))

    def due(self) -> bool:
        """Whether an evaluation is due that was not made yet."""
        if self.visits >= self.evaluated or self.over:
            self.evaluated = (self.visits // self.settings.evaluate_every + 1) * self.settings.evaluate_every
            return True
        return False

    # Checkpoints

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors."""
        own: dict[str, Any] = {"number": self.number, "updates": self.updates, "evaluated": self.evaluated}
        own |= {"failed": self._failed} | {f"stopped.{k}": visits for k, visits in self.stopped.items()}
        for k, kept in self._kept.items():
            own |= {f"kept.{k}.{name}": value for name, value in kept.items()}
        learner = self.learner
        state = {f"trial.{name}": torch.as_tensor(value) for name, value in own.items()}
        state |= {f"behaviour.{name}": value for name, value in learner.behaviour.state().items()}
        state |= self.trial_log.state() | learner.replay.state() | self.treated.state()
        return state | training_state(learner.agent)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state` exactly.

        Raises:
            UserError: it is of another trial.
        """
        own = {name[6:]: value for name, value in state.items() if name.startswith("trial.")}
        try:
            self.number, self.updates, self.evaluated = (
                int(own[name]) for name in ("number", "updates", "evaluated")
            )
            self._failed = own["failed"].to(self._failed)
            self.trial_log.load(state)
            load_training_state(self.learner.agent, state)
            self.learner.replay.load(state)
            self._obs = self.treated.load(state)
        except KeyError as error:
            raise UserError(f"the checkpoint does not fit this trial: {error} is missing.") from error
        behaviour = {name[10:]: x for name, x in state.items() if name.startswith("behaviour.")}
        self.learner.behaviour.load(behaviour)
        for name, value in own.items():
            kind, _, rest = name.partition(".")
            if kind == "stopped":
                self.stopped[int(rest)] = int(value)
            elif kind == "kept":
                k, _, tensor = rest.partition(".")
                self._kept.setdefault(int(k), {})[tensor] = value


def _check_treated(
    treated: PatientsUnderTreatment, transform: Transform, problem: Problem, settings: TrialSettings
) -> None:
    """Refuse patients that the agent or the settings do not fit."""
    limits, low, high = treated.limits, transform.act_low, transform.act_high
    if (limits.low, limits.high) != (low, high):
        raise UserError(
            f"these patients are given doses from {list(limits.low)} to {list(limits.high)}; the agent's are "
            f"from {list(low)} to {list(high)}."
        )
    if treated.n_obs != problem.n_obs:
        raise UserError(
            f"these patients show {treated.n_obs} numbers at a visit; the agent sees {problem.n_obs}."
        )
    if treated.num_envs != settings.patients:
        raise UserError(f"there is room for {treated.num_envs} patients of a seed, not {settings.patients}.")


def conduct(trial: Trial, run: RunFolder, *, progress: tqdm[Any] | None = None) -> None:
    """Run a trial to its end, continuing from the run's checkpoint if it has one.

    The caller has written ``config.json`` and holds the run's lock.

    Args:
        trial: not yet begun.
        run: where everything is written.
        progress: a bar to advance by visits, or None.

    Raises:
        TrainingDivergedError: a loss or a weight became NaN or infinite.
        UserError: the checkpoint does not fit, a requested dose is not finite, or the folder cannot be
            written.
    """
    (run.path / DONE).unlink(missing_ok=True)
    log, before = Log(), 0.0
    if (run.path / CHECKPOINT).is_file():
        state, metadata = read_checkpoint(run.path / CHECKPOINT)
        trial.load(state)
        before = float(metadata["seconds"])
        log = Log.resumed(run, trial.updates)
    began, saved = time.perf_counter() - before, trial.visits
    if progress is not None:
        progress.update(trial.visits)
    while True:
        over = trial.over
        if trial.due():
            trial.evaluate()
            if trial.metrics:
                log.add(trial.updates, trial.seeds, trial.metrics, time.perf_counter() - began)
        if over:
            break
        if trial.visits - saved >= trial.settings.checkpoint_every:
            saved = trial.visits
            _write_tables(trial, run, log)
            seconds = f"{time.perf_counter() - began:.3f}"
            write_checkpoint(run.path / CHECKPOINT, trial.state(), {"seconds": seconds})
        trial.step()
        if progress is not None:
            progress.update(trial.treated.num_envs)
    _write_tables(trial, run, log)
    write_outcomes(run.path / EPISODES, trial.trial_log.outcomes())
    step = {"step": str(trial.learner.updates + trial.updates)}
    write_tensors(run.path / WEIGHTS, trial.agent.state_dict(), step)
    stops = [trial.trial_log.why(k, visits) for k, visits in sorted(trial.stopped.items())]
    report = {"visits": trial.visits, "updates": trial.updates, "stopped": stops}
    write_json(run.path / REPORT, report | {"settings": asdict(trial.settings)})
    run.finish((TREATED, CURVE, EPISODES, REPORT))
    (run.path / CHECKPOINT).unlink(missing_ok=True)


def _write_tables(trial: Trial, run: RunFolder, log: Log) -> None:
    write_table(run.path / METRICS, log.columns)
    for name, columns in trial.trial_log.tables().items():
        write_table(run.path / f"{name}.parquet", columns)
