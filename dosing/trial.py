"""From recorded visits to live treatment: agents treat simulated patients and go on learning.

A *trial* begins where offline learning ended. S agents treat P patients each, side by side; every visit of a
patient is kept, and so many updates per visit follow from a mixture of recorded and new visits. What differs
between methods is their ``dosing.learner.Learner``: how the agent was made from the offline run, which visits
it replays, how it chooses doses while it learns, and which settings decay. The loop asks no method's name.

Safety during learning. Every requested dose passes ``dosing.safety.DoseLimits`` and the agent learns from the
dose that was delivered. Returns, costs and limited doses of every treated patient are recorded. With a harm
budget, a seed's trial stops once its patients' costs refuse the budget (``dosing.harm``); its agent is then
left as it was at that visit. Policies are evaluated, at stated numbers of visits, on patients of their own.

Every random number is addressed by seed, purpose and number, so a seed in a stack is the seed alone. A trial
that was killed continues from its checkpoint bit by bit on the CPU, in the middle of a course too: courses
are brought back by giving their patients the same doses once more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from dosing.acceleration import updater
from dosing.agent import Problem
from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.evaluation import Outcomes, write_outcomes
from dosing.harm import BOUND, exceeds, lower_bound
from dosing.learner import Learner, Moment, TrialSettings
from dosing.policy import DosePolicy, Observations
from dosing.runs import (
    CHECKPOINT,
    DONE,
    EPISODES,
    METRICS,
    WEIGHTS,
    RunFolder,
    read_tensors,
    write_json,
    write_table,
    write_tensors,
)
from dosing.training import Log, TrainingDivergedError, damaged, not_finite
from dosing.ward import Visit, Ward

Array = npt.NDArray[np.float64]

COURSES, CURVE, REPORT = "courses.parquet", "curve.parquet", "report.json"

COURSE_COLUMNS = ("seed", "visits_before", "returns", "cost", "limited", "visits")
"""Of :data:`COURSES`, one row per treated patient whose course has ended: ``visits_before``, the seed's
visits when it ended; return, cost, limited doses and visits of the course."""
CURVE_COLUMNS = (
    "seed",
    "visits",
    "recommended",
    "sampled",
    "evaluation_cost",
    "evaluation_worst",
    "patients",
    "treated",
    "cost",
    "worst",
    "worst_cost",
    "limited",
    "cost_per_patient",
    "cost_bound",
)
"""Of :data:`CURVE`, one row per evaluation and seed: mean return of the evaluation patients by recommended
and by sampled doses, their mean cost and lowest return by recommended ones; patients treated so far; of the
courses that ended since the row before: mean return, mean cost, lowest return, highest cost, share of doses
that a limit held; mean cost of all patients treated so far, and its lower confidence bound (``dosing.harm``).
NaN where no course ended."""

Judge = Callable[[DosePolicy], dict[str, Outcomes]]
"""Evaluates a policy on evaluation patients: outcomes of the rules ``recommended`` and ``sampled``."""


class Trial:
    """The loop: treat, remember, learn, evaluate, and stop where harm says so.

    Args:
        learner: see :class:`Learner`.
        ward: the patients; as many places as the settings say.
        transform: between the world's units and the agents'.
        settings: see :class:`TrialSettings`.
        judge: see :data:`Judge`; it must use an environment of its own.

    Raises:
        UserError: settings that cannot work, or patients to whom the agent's doses and settings do not apply.
    """

    def __init__(
        self, learner: Learner, ward: Ward, transform: Transform, settings: TrialSettings, judge: Judge
    ) -> None:
        settings.check()
        _check_ward(ward, transform, learner.agent.problem, settings)
        self.learner, self.ward, self.transform = learner, ward, transform
        self.settings, self.judge = settings, judge
        self.agent, self.seeds = learner.agent, learner.agent.seeds
        self.policy = DosePolicy(learner.agent, transform)
        self.middle = 0.5 * (np.asarray(ward.limits.low) + np.asarray(ward.limits.high))
        shape = (len(self.seeds), ward.places)
        self.number = self.updates = self.evaluated = 0
        self._length, self._course = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._running = np.zeros((3, *shape))  # return, cost, limited doses of the courses under way
        self.stopped: dict[int, int] = {}
        self.courses: list[list[float]] = []
        self.curve: list[list[float]] = []
        self.looks: list[list[float]] = [[] for _ in self.seeds]
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._found: list[dict[str, dict[str, Array]]] = [{} for _ in self.seeds]
        self._take = updater(self.agent, "eager")
        config = getattr(self.agent, "config", None)
        self._undecayed = {name: getattr(config, name) for name in learner.decay}
        self._failed = torch.zeros(len(self.seeds), dtype=torch.bool)
        self._metrics: dict[str, Tensor] = {}
        self._obs: Observations | None = None

    @property
    def visits(self) -> int:
        """Visits made by the patients of each seed."""
        return self.number * self.ward.places

    @property
    def over(self) -> bool:
        """Whether all visits are made, or every seed's trial was stopped."""
        return self.visits >= self.settings.visits or len(self.stopped) == len(self.seeds)

    @property
    def fraction(self) -> float:
        """Share of the trial that is over."""
        return min(self.visits / self.settings.visits, 1.0)

    def step(self) -> Visit:
        """One visit of every patient, and the updates that are due after it."""
        if self._obs is None:
            self._obs = self.ward.begin()
        visit = self._treat(self._obs)
        self._obs = visit.following
        self.number += 1
        self.learner.behaviour.seen(visit)
        self._remember(visit)
        self._account(visit)
        self._learn()
        return visit

    def _treat(self, obs: Observations) -> Visit:
        """Ask for doses, hold them at the limits, give them."""
        moment = Moment(self.number, self.fraction, self._length.copy(), self._course.copy())
        requested = np.array(self.learner.behaviour(obs, moment), dtype=np.float64)
        for k in self.stopped:  # nobody is treated by it any more; its place in the stack is filled
            requested[k] = self.middle
        dose, code = self.ward.limits.deliver(requested.astype(np.float32))
        found = self.ward.treat(dose.astype(np.float32, copy=False))
        return Visit(obs=obs, requested=requested, dose=dose, limited=code != 0, **vars(found))

    def _remember(self, visit: Visit) -> None:
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

    def _account(self, visit: Visit) -> None:
        """Add up what happened to every patient; courses that ended are held to the budget."""
        self._running += np.stack([visit.reward, visit.cost, visit.limited.astype(np.float64)])
        self._length += 1
        ended = visit.ended
        for k in np.flatnonzero(ended.any(1)).tolist():
            if k not in self.stopped:
                over = ended[k]
                returns, cost, limited = self._running[:, k, over]
                for row in zip(returns, cost, limited, self._length[k, over], strict=True):
                    self.courses.append([self.seeds[k], self.visits, *map(float, row)])
                self.looks[k].append(float(cost.mean()))
                self._hold_to_budget(k)
        self._running[:, ended] = 0.0
        self._course += ended
        self._length[ended] = 0

    def _hold_to_budget(self, k: int) -> None:
        budget = self.settings.harm_budget
        if budget is not None and exceeds(np.array(self.looks[k]), budget, self.settings.harm_level):
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
            self.agent.reconfigure(**{name: self._undecayed[name] * f for name, f in factors.items()})
        while self.updates < due:
            self._metrics = self._take(learner.replay(learner.updates + self.updates))
            self._failed = self._failed | not_finite(self._metrics).cpu()
            self.updates += 1

    def _evaluate(self, rows: Sequence[int]) -> dict[str, Outcomes]:
        """Evaluate the stack as it is; note the outcome of the seeds at ``rows``."""
        outcomes = self.judge(self.policy)
        for k in rows:
            self._found[k] = {
                rule: {name: getattr(found, name)[k] for name in _MEASURES}
                for rule, found in outcomes.items()
            }
            own = self._found[k]["recommended"]
            since = [row for row in self.courses if row[0] == self.seeds[k]]
            last = max((row[1] for row in self.curve if row[0] == self.seeds[k]), default=-1)
            new = np.array([row[2:] for row in since if row[1] > last]).reshape(-1, 4)
            treated = [math.nan] * 5
            if len(new):
                returns, cost, limited, visits = new.T
                share = limited.sum() / visits.sum()
                treated = [returns.mean(), cost.mean(), returns.min(), cost.max(), share]
            looks = np.array(self.looks[k])
            row = [
                self.seeds[k],
                self.visits,
                own["returns"].mean(),
                self._found[k]["sampled"]["returns"].mean(),
                own["cost"].mean(),
                own["returns"].min(),
                len(since),
                *treated,
                np.mean([row[3] for row in since]) if since else math.nan,
                lower_bound(looks, self.settings.harm_level) if since else math.nan,
            ]
            self.curve.append([float(x) for x in row])
        return outcomes

    def evaluate(self) -> None:
        """Evaluate the seeds that are still treating, as is due now.

        Raises:
            TrainingDivergedError: one of their losses or weights is not finite.
        """
        live = [k for k in range(len(self.seeds)) if k not in self.stopped]
        wrong = self._failed | damaged(self.agent).cpu()
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

    def weights(self) -> dict[str, Tensor]:
        """The agent's state; that of a stopped seed as it was when it stopped."""
        state = {name: value.detach().clone() for name, value in self.agent.state_dict().items()}
        for k, kept in self._kept.items():
            for name, value in kept.items():
                state[name][k] = value
        return state

    def outcomes(self) -> dict[str, Outcomes]:
        """What the last evaluation of every seed found, by rule."""
        rules = self._found[0]
        return {
            rule: Outcomes(
                self.seeds,
                **{name: np.stack([found[rule][name] for found in self._found]) for name in _MEASURES},
            )
            for rule in rules
        }

    def stops(self) -> list[dict[str, Any]]:
        """Which seeds stopped, when, and why."""
        found = []
        for k, visits in sorted(self.stopped.items()):
            costs = [row[3] for row in self.courses if row[0] == self.seeds[k]]
            bound = lower_bound(np.array(self.looks[k]), self.settings.harm_level)
            budget, level = self.settings.harm_budget, 100.0 * (1.0 - self.settings.harm_level)
            mean = float(np.mean(costs))
            found.append(
                {
                    "seed": self.seeds[k],
                    "visits": visits,
                    "patients": len(costs),
                    "cost_per_patient": mean,
                    "bound": bound,
                    "why": (
                        f"seed {self.seeds[k]} stopped after {visits:,} visits: {len(costs):,} patients cost "
                        f"{mean:.3g} each, with {level:g} % confidence more than the budget of {budget:g} "
                        f"(lower bound {bound:.3g}; {BOUND})"
                    ),
                }
            )
        return found

    # Checkpoints

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed trial needs, as named tensors."""
        own: dict[str, Any] = {
            "number": self.number,
            "updates": self.updates,
            "evaluated": self.evaluated,
            "length": self._length,
            "course": self._course,
            "running": self._running,
            "failed": self._failed,
            "courses": np.array(self.courses, dtype=np.float64).reshape(-1, len(COURSE_COLUMNS)),
            "curve": np.array(self.curve, dtype=np.float64).reshape(-1, len(CURVE_COLUMNS)),
        }
        own |= {f"looks.{k}": np.array(costs, dtype=np.float64) for k, costs in enumerate(self.looks)}
        own |= {f"stopped.{k}": visits for k, visits in self.stopped.items()}
        for k, kept in self._kept.items():
            own |= {f"kept.{k}.{name}": value for name, value in kept.items()}
        for k, found in enumerate(self._found):
            for rule, values in found.items():
                own |= {f"found.{k}.{rule}.{name}": value for name, value in values.items()}
        learner = self.learner
        state = {f"trial.{name}": torch.as_tensor(value) for name, value in own.items()}
        state |= {f"behaviour.{name}": value for name, value in learner.behaviour.state().items()}
        return state | learner.agent.training_state() | learner.replay.state() | self.ward.state()

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
            self._length, self._course = own["length"].numpy().copy(), own["course"].numpy().copy()
            self._running, self._failed = own["running"].numpy().copy(), own["failed"]
            self.courses, self.curve = own["courses"].tolist(), own["curve"].tolist()
            self.looks = [own[f"looks.{k}"].tolist() for k in range(len(self.seeds))]
            self.learner.agent.load_training_state(state)
            self.learner.replay.load(state)
            self._obs = self.ward.load(state)
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
            elif kind == "found":
                k, rule, measure = rest.split(".")
                self._found[int(k)].setdefault(rule, {})[measure] = value.numpy().copy()


_MEASURES = ("returns", "cost", "limited", "dose", "visits")


def _check_ward(ward: Ward, transform: Transform, problem: Problem, settings: TrialSettings) -> None:
    """Refuse patients that the agent or the settings do not fit."""
    limits, low, high = ward.limits, transform.act_low, transform.act_high
    if (limits.low, limits.high) != (low, high):
        raise UserError(
            f"these patients are given doses from {list(limits.low)} to {list(limits.high)}; the agent's are "
            f"from {list(low)} to {list(high)}."
        )
    if ward.n_obs != problem.n_obs:
        raise UserError(
            f"these patients show {ward.n_obs} numbers at a visit; the agent sees {problem.n_obs}."
        )
    if ward.places != settings.patients:
        raise UserError(f"there are places for {ward.places} patients of a seed, not {settings.patients}.")


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
        state, metadata = read_tensors(run.path / CHECKPOINT)
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
            if trial._metrics:
                log.add(trial.updates, trial.seeds, trial._metrics, time.perf_counter() - began)
        if over:
            break
        if trial.visits - saved >= trial.settings.checkpoint_every:
            saved = trial.visits
            _write_tables(trial, run, log)
            seconds = f"{time.perf_counter() - began:.3f}"
            write_tensors(run.path / CHECKPOINT, trial.state(), {"seconds": seconds})
        trial.step()
        if progress is not None:
            progress.update(trial.ward.places)
    _write_tables(trial, run, log)
    write_outcomes(run.path / EPISODES, trial.outcomes())
    write_tensors(run.path / WEIGHTS, trial.weights(), {"step": str(trial.learner.updates + trial.updates)})
    report = {"visits": trial.visits, "updates": trial.updates, "stopped": trial.stops()}
    write_json(run.path / REPORT, report | {"settings": asdict(trial.settings)})
    run.finish((COURSES, CURVE, EPISODES, REPORT))
    (run.path / CHECKPOINT).unlink(missing_ok=True)


def _write_tables(trial: Trial, run: RunFolder, log: Log) -> None:
    write_table(run.path / METRICS, log.columns)
    for name, rows, columns in (
        (COURSES, trial.courses, COURSE_COLUMNS),
        (CURVE, trial.curve, CURVE_COLUMNS),
    ):
        values = np.array(rows, dtype=np.float64).reshape(-1, len(columns)).T
        whole = ("seed", "visits_before", "visits", "patients")
        kinds = [np.int64 if column in whole else np.float64 for column in columns]
        write_table(run.path / name, {c: v.astype(k) for c, v, k in zip(columns, values, kinds, strict=True)})
