"""Patients who could have shown one given state at their first visit, and roll-outs of rules from there.

A clinician sees a state, not the patient behind it. *Matched* patients are exact draws of that patient given
the state: of the joint distribution of latent mean, covariance, sensitivity and measurement error,
conditional on the first observation being the one given. Nobody is picked for being merely near.

The first observation is o = m + d, where d = L z + e is what the noise and the measurement add to the latent
mean m. d does not depend on m, so by Bayes' rule

    p(m, L, d | o)  is proportional to  p(L) p(d | L) p(m = o - d).

Rejection sampling does this exactly (von Neumann 1951): draw L and d as for any patient, put m = o - d, and
keep the patient with probability p(m) / max p. It holds for a covariance of lower rank too. Where all
patients start from one mean, the noise of the first visit does not last: each is kept, at the given state.

Only the present state is used: at a later visit the episode before it would say more. What the rules give is
compared on the same matched patients with the same noise (common random numbers). Patient i is the same
however many are asked for.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate, mean_over_seeds, paired_difference
from dosing.types import Act, Float32Array, Listener
from simulator.engine.covariance import Rows, correlate
from simulator.engine.latent import EXTREME, LatentScenario
from simulator.engine.rng import BLOCK, MEASUREMENT, NOISE, PATIENT, POLICY, matched_stream
from simulator.engine.scenario import normal_blocks, uniform_blocks
from simulator.environment import EnvOptions, whole_number

CANDIDATES = 2**18
"""Patients drawn without regard to the state; those who could show it are kept. Of ``dosing/Treatment-v0``
about one in a hundred could show a typical state."""

FIRST_VISIT, LATER = range(2)
"""Stages of a stream: the draws that the state decides upon, and the noise of the visits after it."""

CHUNK = 64
"""Blocks drawn at once, so that memory stays near what is kept."""

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Bands of a roll-out: 10 to 90 %, 25 to 75 %, and the median."""

LEFT_OUT = ("history", "latent", "missing", "missing_visits")
"""Observation options whose first observation is more, or less, than one measured state."""


@dataclass(frozen=True)
class Trajectories:
    """What happened to n matched patients under one rule with S seeds, over T visits.

    Attributes:
        seen: observations ``[S, n, T + 1, k]``; the first is the given state.
        dose: doses delivered ``[S, n, T]``.
        reward: ``[S, n, T]``.
        cost: safety cost ``[S, n, T]``.
        limited: where a hard limit held the requested dose ``[S, n, T]``.
    """

    seen: Float32Array
    dose: Float32Array
    reward: Float32Array
    cost: Float32Array
    limited: NDArray[np.bool_]

    @property
    def so_far(self) -> NDArray[np.float64]:
        """Sum of the rewards up to each visit ``[S, n, T]``."""
        return np.cumsum(self.reward, axis=-1, dtype=np.float64)

    @property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each patient ``[S, n]``."""
        return np.asarray(self.reward.sum(axis=-1, dtype=np.float64))

    @property
    def mean_return(self) -> Estimate:
        """Mean return with its 95 % interval, for other patients of the same state and other seeds."""
        return mean_over_seeds(self.returns, shared_patients=len(self.returns) > 1)


def bands(values: NDArray[Any]) -> NDArray[np.float64]:
    """Quantiles ``[5, T]`` (see :data:`QUANTILES`) of values ``[S, n, T]`` over patients and seeds."""
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    return np.asarray(np.quantile(rows, QUANTILES, axis=0))


def difference(first: Trajectories, second: Trajectories) -> Estimate:
    """Mean return of the first rule minus the second, paired by patient, with its 95 % interval.

    Rules with different numbers of seeds are compared by each patient's mean over the seeds; the interval is
    then blind to the spread between seeds, as its ``method`` says.
    """
    x, y = first.returns, second.returns
    if len(x) != len(y) and 1 not in (len(x), len(y)):
        x, y = x.mean(axis=0, keepdims=True), y.mean(axis=0, keepdims=True)
    return paired_difference(x, y, shared_patients=len(x) > 1)


@dataclass(frozen=True)
class PosteriorPatients:
    """n patients who could have shown one state.

    Attributes:
        mean: latent means ``[k, n]``.
        state: true states ``[k, n]``; all the given one unless it was measured with error.
        shown: the given state ``[k]``.
        rows: noise factors, as in ``simulator.engine.covariance``; empty where all share ``shared``.
        shared: the shared noise factor ``[k, k]``, or None.
        sensitivity: factor on the dose inside the dynamics ``[n]``.
        accepted: how many of ``candidates`` patients could have shown the state; n is the smaller of this
            and what was asked for.
        candidates: how many patients were drawn.
    """

    options: EnvOptions
    seed: int
    mean: Float32Array
    state: Float32Array
    shown: Float32Array
    rows: Rows
    shared: Float32Array | None
    sensitivity: Float32Array
    accepted: int
    candidates: int

    @property
    def n(self) -> int:
        """Matched patients."""
        return int(self.mean.shape[1])

    def roll_out(self, act: Act, seeds: int = 1) -> Trajectories:
        """Follow a rule from the given state on; S copies of each patient, one per seed, with equal noise.

        Args:
            act: the rule; see ``dosing.types.Act``. Visits count from 0 at the given state.
            seeds: S, the first axis of what the rule is asked and answers.
        """
        scenario, steps, n = latent_scenario(self.options), self.options.steps, self.n
        limits, k = scenario.limits, scenario.n_state
        noise, error = self._noise()
        copies = (1, seeds)
        mean, state = np.tile(self.mean, copies), np.tile(self.state, copies)
        felt = np.tile(self.sensitivity, seeds)
        seen = np.empty((seeds, n, steps + 1, k), dtype=np.float32)
        seen[:, :, 0] = self.shown
        out = {name: np.empty((seeds, n, steps), dtype=np.float32) for name in ("dose", "reward", "cost")}
        limited = np.empty((seeds, n, steps), dtype=np.bool_)
        extreme = np.float32(EXTREME * np.maximum(np.abs(limits.low), np.abs(limits.high))[0])
        for visit in range(steps):
            exact, held = limits.deliver(np.asarray(act(seen[:, :, visit], visit), dtype=np.float64))
            given = exact.astype(np.float32)  # [S, n, 1]
            dose = given[..., 0].reshape(-1)
            scenario.advance(mean, state, dose * felt, np.tile(noise[visit], copies))
            reward = scenario.reward(state, dose).reshape(seeds, n)
            shown = state + np.tile(error[visit], copies) if error is not None else state
            seen[:, :, visit + 1] = shown.T.reshape(seeds, n, k)
            out["dose"][:, :, visit], out["reward"][:, :, visit] = given[..., 0], reward
            out["cost"][:, :, visit], limited[:, :, visit] = np.abs(given[..., 0]) > extreme, held != 0
            if isinstance(act, Listener):
                act.observe(given.astype(np.float64), reward.astype(np.float64))
        return Trajectories(seen, out["dose"], out["reward"], out["cost"], limited)

    def _noise(self) -> tuple[Float32Array, Float32Array | None]:
        """Process noise ``[T, k, n]`` and measurement error ``[T, k, n]``, None where there is none."""
        k, steps = latent_scenario(self.options).n_state, self.options.steps
        entries = max((len(row) for row in self.rows), default=k)
        blocks = range(-(-self.n // BLOCK))

        def draws(purpose: int, width: int) -> Float32Array:
            parts = [
                matched_stream(self.seed, LATER, purpose, block).standard_normal(
                    (steps, width, BLOCK), np.float32
                )
                for block in blocks
            ]
            return np.concatenate(parts, axis=2)[:, :, : self.n]

        normals = draws(NOISE, entries)
        if self.shared is not None:
            noise: Float32Array = np.einsum("kj,tjn->tkn", self.shared, normals)
        else:
            noise = np.empty((steps, k, self.n), dtype=np.float32)
            for visit in range(steps):
                correlate(self.rows, normals[visit], noise[visit])
        size = np.float32(self.options.observation.noise)
        return noise, size * draws(MEASUREMENT, k) if size else None


class Candidates:
    """Patients drawn without regard to any state, of whom each state keeps those who could show it."""

    def __init__(self, env_id: str, seed: int = 0, count: int = CANDIDATES, **options: Any) -> None:
        """Draw who they are; about a second for the default number.

        Args:
            env_id: a registered id.
            seed: of the replication, which fixes a covariance that all patients share.
            count: how many, rounded up to whole blocks of 256.
            **options: of the environment, such as ``variant``.

        Raises:
            UserError: unknown id or option; an option by which the first observation is not one measured
                state; a scenario that cannot be matched.
        """
        self.options, self.seed = EnvOptions.of(env_id, options), whole_number("seed", seed, 0)
        scenario, shown = latent_scenario(self.options), self.options.observation
        if more := [name for name in LEFT_OUT if getattr(shown, name)]:
            raise UserError(
                f"patients are matched to one measured state, which is not all that {more[0]}="
                f"{getattr(shown, more[0])!r} shows; leave that option out."
            )
        one_mean = scenario.first_mean_density(np.zeros((scenario.n_state, 1), dtype=np.float32)) is None
        if one_mean and shown.noise:
            raise UserError(
                f"{env_id} starts every patient from one mean; what a measurement with noise={shown.noise!r} "
                "says of the true state is not known there, so leave that option out."
            )
        self.shared = scenario.shared_factor(self.seed)
        blocks = -(-whole_number("count (candidates)", count, 1) // BLOCK)
        parts = [range(b, min(b + CHUNK, blocks)) for b in range(0, blocks, CHUNK)]
        drawn = [self._draw(part) for part in parts]
        self.rows: Rows = tuple(
            np.concatenate([p[0][i] for p in drawn], axis=1) for i in range(len(drawn[0][0]))
        )
        self.noise, self.error, self.mean = (np.concatenate([p[i] for p in drawn], axis=1) for i in (1, 2, 3))
        self.sensitivity, self.dice = (np.concatenate([p[i] for p in drawn]) for i in (4, 5))

    def match(self, state: ArrayLike, n: int) -> PosteriorPatients:
        """Keep the first n who could show ``state [k]``; fewer where fewer could.

        Raises:
            UserError: the state is not k finite numbers, or none of the candidates could show it.
        """
        scenario = latent_scenario(self.options)
        shown = _as_state(state, scenario.state_names)
        mean = shown[:, None] - self.noise - self.error
        density = scenario.first_mean_density(mean)
        if density is None:
            mean, kept = self.mean, np.arange(mean.shape[1])
        else:
            kept = np.flatnonzero(self.dice < density)
        if not len(kept):
            raise UserError(
                f"none of {len(self.dice):,} simulated patients could show this state at a first visit: it "
                "is next to impossible here, so nothing is rolled forward from it."
            )
        few = kept[: whole_number("n (matched patients)", n, 1)]
        return PosteriorPatients(
            options=self.options,
            seed=self.seed,
            mean=np.ascontiguousarray(mean[:, few]),
            state=shown[:, None] - self.error[:, few],
            shown=shown,
            rows=tuple(np.ascontiguousarray(row[:, few]) for row in self.rows),
            shared=self.shared,
            sensitivity=self.sensitivity[few],
            accepted=len(kept),
            candidates=len(self.dice),
        )

    def _draw(
        self, blocks: range
    ) -> tuple[Rows, Float32Array, Float32Array, Float32Array, Float32Array, Float32Array]:
        """Noise factors, first noise, first error, first mean, sensitivity and dice of some blocks."""
        scenario, shown = latent_scenario(self.options), self.options.observation
        k = scenario.n_state
        who, noise, error, dice = (
            [matched_stream(self.seed, FIRST_VISIT, purpose, block) for block in blocks]
            for purpose in (PATIENT, NOISE, MEASUREMENT, POLICY)
        )
        draws = scenario.draw(who)
        varied, covariate = normal_blocks(who, 2)
        log = np.float32(shown.variation) * varied + np.float32(shown.confounding) * covariate
        entries = max((len(row) for row in draws.rows), default=k)
        normals = normal_blocks(noise, entries)
        first = np.empty((k, normals.shape[1]), dtype=np.float32)
        if self.shared is not None:
            np.matmul(self.shared, normals, out=first)
        else:
            correlate(draws.rows, normals, first)
        wrong = np.float32(shown.noise) * normal_blocks(error, k)
        return draws.rows, first, wrong, draws.mean, np.exp(log), uniform_blocks(dice, 1)[0]


def latent_scenario(options: EnvOptions) -> LatentScenario:
    """The scenario of these options.

    Raises:
        UserError: it has no latent mean, so that nobody can be matched to a state.
    """
    if not isinstance(options.scenario, LatentScenario):
        raise UserError(
            f"{options.scenario.env_id} has no latent mean: which of its patients could show a given state "
            "is not known, so nobody is matched to one."
        )
    return options.scenario


def _as_state(state: ArrayLike, names: tuple[str, ...]) -> Float32Array:
    """The given state as float32 [k]."""
    try:
        shown = np.asarray(state, dtype=np.float32)
    except (TypeError, ValueError):
        shown = np.full(1, np.nan, dtype=np.float32)
    if shown.shape != (len(names),) or not np.isfinite(shown).all():
        raise UserError(f"a state is {len(names)} finite numbers ({', '.join(names)}), got {state!r}")
    return shown
