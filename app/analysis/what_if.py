"""Choices of doses and their roll-outs on patients matched to a state, kept while they can be asked again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from app.analysis.course import Range
from app.analysis.regimens import ALL, DOSE, RETURN, Strip
from app.readers.study import Run
from app.theme import number, with_unit
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.recommendation.records import Recommender
from dosing.recommendation.simulated import FollowRecommender
from dosing.recommendation.units import meant
from dosing.safety import DoseLimits
from dosing.studies import scenarios
from simulator.cohorts.posterior import (
    Candidates,
    PosteriorPatients,
    Trajectories,
    bands,
    latent_scenario,
)
from simulator.environment import EnvOptions
from simulator.scenarios import CohortFactory


@dataclass(frozen=True)
class World:
    """Where a run's patients come from.

    Attributes:
        env_id: of the scenario.
        options: of the environment, as JSON: a key for the caches.
        seed: of the replication.
        names: of the observed states.
        limits: hard limits of the dose.
        visits: of an episode.
    """

    env_id: str
    options: str
    seed: int
    names: tuple[str, ...]
    limits: DoseLimits
    visits: int

    @classmethod
    def of(cls, run: Run, seed: int) -> World:
        """The scenario that the run was trained on.

        Raises:
            UserError: its data came from no simulator here, from one without patients, or from one in which
                nobody can be matched to a state.
        """
        factory = scenarios.factory_of(run.folder)
        if not isinstance(factory, CohortFactory):
            raise UserError(f"{factory.env_id} has episodes, not patients: nobody can be matched to a state.")
        latent_scenario(EnvOptions.of(factory.env_id, factory.options))
        names = run.config.obs_names
        options = json.dumps(factory.options, sort_keys=True)
        return cls(factory.env_id, options, seed, names, factory.limits, factory.horizon)


def match(world: World, state: Sequence[Any], n: int) -> PosteriorPatients:
    """Up to n patients who could show the state; see ``simulator.cohorts.posterior``.

    Raises:
        UserError: no state, nobody could show it, or the scenario cannot be matched.
    """
    try:
        numbers = tuple(float(value) for value in state)
    except ValueError:
        raise UserError(
            f"a state is {len(world.names)} numbers, got {' '.join(map(str, state))!r}."
        ) from None
    return _match(world, numbers, n)


@st.cache_resource(show_spinner="Drawing simulated patients", max_entries=2)
def _candidates(world: World) -> Candidates:
    return Candidates(world.env_id, world.seed, **json.loads(world.options))


@st.cache_resource(show_spinner="Looking for patients who could show this state", max_entries=16)
def _match(world: World, state: tuple[float, ...], n: int) -> PosteriorPatients:
    return _candidates(world).match(state, n)


def give(world: World, matched: PosteriorPatients, doses: Sequence[float]) -> Trajectories:
    """Give doses visit by visit, the last one from then on."""
    wanted = np.asarray([*doses, *[doses[-1]] * world.visits], dtype=np.float64)
    if len(set(doses)) == 1:
        return matched.roll_out(constant(doses[0]))

    def act(obs: Any, visit: int) -> Any:
        return np.full((*obs.shape[:2], 1), wanted[visit])

    return matched.roll_out(act)


def follow(
    world: World, state: Sequence[Any], matched: PosteriorPatients, recommender: Recommender
) -> tuple[Trajectories, dict[str, Any]]:
    """Give what the recommender of a run says, at every visit.

    Returns:
        The roll-out, and the content of its record in the audit log, without its provenance.

    Raises:
        UserError: the recommender refuses a dose somewhere on the way.
    """
    numbers = tuple(map(float, state))
    return _follow(world, numbers, matched.n, str(recommender.provenance), recommender)


@st.cache_resource(show_spinner="Following the policy", max_entries=24)
def _follow(
    world: World, state: tuple[float, ...], n: int, key: str, _recommender: Recommender
) -> tuple[Trajectories, dict[str, Any]]:
    """The roll-out of one policy; ``key`` holds the hashes by which the cache knows it."""
    rule = FollowRecommender(_recommender)
    result = _match(world, state, n).roll_out(rule)
    return result, rule.about


def typed_doses(words: Sequence[str], limits: DoseLimits) -> list[float]:
    """Doses as typed, within the hard limits.

    Raises:
        UserError: one of them is no finite number or lies outside the limits.
    """
    doses = []
    for position, word in enumerate(words, 1):
        try:
            dose = float(word)
        except ValueError:
            raise UserError(f"dose {position} must be a number, got {word!r}.") from None
        if not bool(limits.contains([dose])):
            low, high = (with_unit(number(end[0]), limits.unit) for end in (limits.low, limits.high))
            unit = meant(dose, limits.unit, limits.low[0], limits.high[0])
            hint = f"; {unit}" if unit else ""
            raise UserError(
                f"dose {position} must lie within the hard limits {low} to {high}, got {word!r}{hint}."
            )
        doses.append(dose)
    return doses


def strips(episode: Trajectories, world: World, shown: str, target: Range | None = None) -> tuple[Strip, ...]:
    """What one regimen led to: return so far, one observed state or all of them, and the dose.

    Args:
        episode: the roll-out.
        world: its scenario.
        shown: name of a state, or :data:`ALL`.
        target: range in which the state of its name is to be kept.
    """
    after = np.arange(1.0, world.visits + 1)
    before = np.arange(0.0, world.visits + 1)
    states = world.names if shown == ALL else (shown,)
    limits = (world.limits.low[0], world.limits.high[0])
    return (
        Strip(RETURN, "1", after, bands(episode.so_far)),
        *(
            Strip(
                name,
                "1",
                before,
                bands(episode.seen[..., world.names.index(name)]),
                target=target.ends_of(name) if target else None,
            )
            for name in states
        ),
        Strip(DOSE, world.limits.unit, after, bands(episode.dose), limits=limits, steps=True),
    )
