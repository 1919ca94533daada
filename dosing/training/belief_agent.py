"""Agents that act on a belief about the patient: what they share, and any agent of the suite on a belief.

``OnBelief`` trains an agent of the suite on what a fitted model of the patients says. With b the belief after
a recorded visit (of a model fitted without that patient), a_1 .. a_(H-1) the doses planned there after the
first one (``dosing.models.planning``) and a* the constant dose,

    A(b, a) = E sum of rewards under a, a_1, .. a_(H-1)  -  the same under a*, a*, .. a*

takes the place of the reward, and every row is an episode of one visit, so that no target bootstraps: every
value learned is an advantage in the model. The recorded dose and N further ones, drawn from those recorded,
stand at every recorded visit (imagined data, as in Dyna: Sutton 1990, ICML). The agent's state is the belief
of the model of all patients, the visit and the dose before (:meth:`PatientModel.features`); it stays without
memory itself.

Where the models are refused, A(b, a) = - (a - a*)^2: the agent learns the constant dose, as well as it can.
What imitates recorded doses imitates their distribution over all visits, once N is large.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent, EpisodeBelief, HeldOutForecasts, History
from dosing.data.dataset import Dataset
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.patient_model import CLOCK, NUMBERS, PatientModel, PatientSettings, recorded_visits
from dosing.models.planning import PlanSettings, promised
from dosing.models.response import Belief
from dosing.rng import generator
from dosing.types import Noise, Problem

FIT = PatientSettings()
"""How the models are fitted."""
PLAN = PlanSettings()
"""How the doses after the first one are planned."""


class BeliefAgent(Agent):
    """An agent with a model of the patients, fitted before its first update.

    Attributes:
        patients: the model.
    """

    patients: PatientModel

    @property
    def looks_back(self) -> bool:
        """Always: the belief is made of all visits so far."""
        return True

    def prepare(self, dataset: Dataset) -> None:
        """Fit the model of the patients.

        Raises:
            UserError: see :meth:`PatientModel.fit`.
        """
        self.patients.fit(dataset)

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of one dose at a first visit."""
        return self.policy_after(History.at_first_visit(obs, self.problem.n_act))

    def policy_after(self, history: History) -> Distribution:
        """The distribution of one dose after a history: the filter runs over all of it."""
        raise NotImplementedError

    @property
    def refusals(self) -> tuple[str, ...]:
        """For every seed why its model is not used and the constant dose is given; empty where it is used."""
        return self.patients.refusals

    @property
    def constant_dose(self) -> Tensor:
        """The constant dose ``[S, A]``, which is given where the model is refused."""
        return self.patients.constant[:, 0]

    @property
    def held_out(self) -> HeldOutForecasts:
        """Forecasts of held-out patients, means over the horizons."""
        number = dict(zip(NUMBERS, self.patients.numbers.unbind(1), strict=True))
        last_value, mean = 1.0 - number["skill_last_value"], 1.0 - number["skill_mean"]
        return HeldOutForecasts(last_value, mean, number["coverage"], self.patients.outlying[:, 0])

    @torch.no_grad()
    def belief_after(self, history: History, coming: Tensor) -> EpisodeBelief:
        """The belief of the model of all patients, and its forecasts under ``coming [S, B, K, A]``."""
        model = self.patients.responses(slice(0, 1))
        seen, flags = self.patients.recorded(history.obs), self.patients.flags.are
        beliefs, _ = model.filter(seen, history.act)
        mean, variance = model.forecast(beliefs[-1], coming)
        level = torch.stack([belief.diagonal for belief in beliefs], 2)
        means = torch.stack([belief.mean for belief in beliefs], 2)
        shown = [x.masked_fill(flags[:, None, None], torch.nan) for x in (means, level, mean, variance)]
        return EpisodeBelief(shown[0], shown[1].sqrt(), shown[2], shown[3].sqrt(), seen.isfinite())


def belief_problem(problem: Problem) -> Problem:
    """Sizes of a task whose state is a belief: see :meth:`PatientModel.features`."""
    return replace(problem, n_obs=problem.n_obs + CLOCK + problem.n_act)


class OnBelief(BeliefAgent):
    """An agent of the suite whose state is the belief and whose rewards are advantages in the model.

    Args:
        inner: built for :func:`belief_problem`.
        problem: sizes of the task itself.
        imagined: N further doses at every recorded visit.

    Raises:
        UserError: the agent learns from episodes or windows, or is of the kind that has a belief.
    """

    def __init__(self, inner: Agent, problem: Problem, imagined: int) -> None:
        super().__init__(problem, inner.seeds)
        if inner.looks_back or inner.episodes is not None:
            raise UserError(
                "advantages of a response model are learned by agents of the state alone; this one learns "
                "from whole episodes or looks back on them."
            )
        self.inner, self.imagined = inner, imagined
        self.regularisation = inner.regularisation
        self.needs, self.warm_up = inner.needs, inner.warm_up  # type: ignore[misc]
        self.optimizers = inner.optimizers
        self.patients = PatientModel(
            len(inner.seeds), problem, FIT, next(inner.parameters()).detach()
        ).requires_grad_(False)

    @property
    def discount(self) -> float:
        """That of the agent; it has no say, as no target bootstraps."""
        return self.inner.discount

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """That of the agent."""
        return self.inner.noise(batch_size)

    def rows(self, dataset: Dataset) -> Tensor | None:
        """Those of the agent."""
        return self.inner.rows(dataset)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those of the agent."""
        return self.inner.losses_and_metrics(batch)

    def schedule(self, step: int) -> None:
        """That of the agent."""
        self.inner.schedule(step)

    def phase(self, step: int) -> int:
        """That of the agent."""
        return self.inner.phase(step)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """That of the agent."""
        return self.inner.update(batch)

    def policy_after(self, history: History) -> Distribution:
        """The agent's distribution at the belief after a history."""
        before = torch.zeros_like(history.obs[:, :, 0, : self.problem.n_act])
        if history.obs.shape[2] > 1:
            before = history.act[:, :, -1]
        model = self.patients.responses(slice(0, 1))
        belief = model.filter(history.obs, history.act)[0][-1]
        return self.inner.policy(self.patients.features(belief.mean, history.obs.shape[2] - 1, before))

    @torch.no_grad()
    def view(self, dataset: Dataset) -> Dataset:
        """The data set that the agent learns from; the agent's own ``prepare`` sees it.

        Raises:
            UserError: these are not the patients that the model was fitted to.
        """
        recorded = recorded_visits(dataset)
        seen, act = recorded.obs, recorded.act
        if len(seen) not in (1, len(self.seeds)):
            raise UserError(f"{len(seen)} replicates need an agent of as many seeds, not {len(self.seeds)}.")
        fitted = int(self.patients.count[0]), int(self.patients.horizon[0])
        if (act.shape[1], act.shape[2]) != fitted:
            raise UserError(
                f"the model was fitted to {fitted[0]} patients of {fitted[1]} visits, and is shown "
                f"{act.shape[1]} of {act.shape[2]}: which of them it was fitted without is not known."
            )
        model = _first(self.patients, len(seen))
        states = _states(model, seen, act)  # [R, N, T + 1, F]
        drawn = _drawn(act, recorded.doses, self.imagined)
        doses = torch.cat((act.unsqueeze(0), drawn))  # [1 + n, R, N, T, A]
        advantage = _advantages(model, seen, act, doses)  # [1 + n, R, N, T]
        copies, sets = advantage.shape[:2]
        filled = recorded.filled.unsqueeze(1).expand(-1, copies, -1, -1)  # [R, 1 + n, N, T]

        def rows(x: Tensor) -> Tensor:
            """``[1 + n, R, N, T, ...]`` as ``[M, ...]``, the copies of a data set next to each other."""
            return x.transpose(0, 1)[filled]

        reward = rows(advantage).unflatten(0, (sets, -1))
        scaled = (reward / reward.std(1, keepdim=True).clamp(min=1e-6)).flatten()
        built = replace(
            dataset,
            obs=rows(states[:, :, :-1].expand(copies, *states[:, :, :-1].shape)),
            next_obs=rows(states[:, :, 1:].expand(copies, *states[:, :, 1:].shape)),
            act=rows(doses),
            reward=scaled,
            cost=None,
            terminated=torch.ones_like(scaled),
            starts=torch.arange(len(scaled) + 1, device=dataset.starts.device),
        )
        self.inner.prepare(built)
        return built


def _first(model: PatientModel, count: int) -> PatientModel:
    """The model of the first ``count`` of its data sets: all seeds of one data set have the same."""
    if count == len(model.response):
        return model
    shorter = PatientModel(count, Problem(*model.sizes[:2]), model.settings, model.constant)
    shorter.load_state_dict({name: value[:count] for name, value in model.state_dict().items()})
    return shorter


def _states(model: PatientModel, seen: Tensor, act: Tensor) -> Tensor:
    """Beliefs of recorded visits as states, ``[R, N, T + 1, F]``."""
    beliefs, _ = model.responses(slice(0, 1)).filter(model.recorded(seen), act)
    before = torch.cat((torch.zeros_like(act[:, :, :1]), act), 2)
    return torch.stack(
        [model.features(b.mean, visit, before[:, :, visit]) for visit, b in enumerate(beliefs)], 2
    )


def _drawn(act: Tensor, recorded: Tensor, count: int) -> Tensor:
    """``count`` further doses ``[count, R, N, T, A]`` at every visit, drawn from ``recorded [R, M, A]``."""
    if count == 0:
        return act.new_zeros(0, *act.shape)
    shape = (count, act.shape[1] * act.shape[2])
    index = torch.as_tensor(generator(0, "indices", count).integers(recorded.shape[1], size=shape))
    flat = torch.stack([recorded[:, rows.to(act.device)] for rows in index])
    drawn: Tensor = flat.unflatten(2, act.shape[1:3])
    return drawn


def _advantages(model: PatientModel, seen: Tensor, act: Tensor, doses: Tensor) -> Tensor:
    """Advantage ``[C, R, N, T]`` of doses ``[C, R, N, T, A]`` at recorded visits, by models without them."""
    copies, _, patients, visits, _ = doses.shape
    result = doses.new_zeros(doses.shape[:-1])
    fold = torch.arange(patients, device=act.device) % model.settings.folds
    for k in range(model.settings.folds):
        own, rows = slice(1 + k, 2 + k), (fold == k).nonzero()[:, 0]
        beliefs, _ = model.responses(own).filter(model.recorded(seen[:, rows]), act[:, rows])
        for start, stop in _stretches(visits, PLAN.visits):
            here = Belief(
                *(torch.cat(parts, 1) for parts in zip(*beliefs[start:stop], strict=True))
            )  # [R, V n, O], the visits of the stretch one after the other
            plan = model.planned(here, start, PLAN, own)  # [H, R, V n, A]
            tried = doses[:, :, rows, start:stop].movedim(3, 2).flatten(2, 3)  # [C, R, V n, A]
            many = Belief(*(x.repeat(1, copies, *[1] * (x.dim() - 2)) for x in here))
            after = plan[1:].repeat(1, 1, copies, 1)
            first = tried.transpose(0, 1).flatten(1, 2)
            constant = model.constant.expand_as(first).expand(len(plan), *first.shape)
            better = promised(
                model.responses(own), model.rewards(own), many, torch.cat((first.unsqueeze(0), after))
            )
            base = promised(model.responses(own), model.rewards(own), many, constant)
            gained = (better - base).unflatten(1, (copies, stop - start, len(rows)))  # [R, C, V, n]
            result[:, :, rows, start:stop] = gained.transpose(0, 1).transpose(2, 3)
    away = -(doses - model.constant.unsqueeze(1)).square().sum(-1)
    return torch.where(model.trusted, result, away)


def _stretches(visits: int, horizon: int) -> list[tuple[int, int]]:
    """Runs of visits from which equally many visits are looked ahead."""
    whole = max(visits - horizon + 1, 0)
    return [*([(0, whole)] if whole else []), *((t, t + 1) for t in range(whole, visits))]
