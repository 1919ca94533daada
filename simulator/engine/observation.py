"""What the agent is shown: the scenario's state seen through options that compose.

Order of one observation vector of O entries::

    [visit now: state entries, then their mask when anything can be missing]
    [the visit before] ... [k visits in all]        with history=k
    [dose 1 visit ago] ... [dose k visits ago]      with history=k
    [latent mean]                                   with latent=True

Entries of visits and doses that lie before the first visit are 0. The reward always comes from the true
state.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.types import Float32Array
from simulator.engine.batch import Core
from simulator.engine.latent import LARGEST_NORMAL, LatentScenario
from simulator.engine.rng import BLOCK, MEASUREMENT, block_streams
from simulator.engine.scenario import OwnOptions

REALISM: dict[int, dict[str, float]] = {
    1: {},
    2: {"variation": 0.25},
    3: {"variation": 0.25, "noise": 0.3},
    4: {"variation": 0.25, "noise": 0.3, "missing_visits": 0.2},
    5: {"variation": 0.25, "noise": 0.3, "missing_visits": 0.2, "confounding": 0.25},
}
"""Graded realism; each level adds one difficulty: none (ideal), patients who differ in how strongly a dose
acts on them, measurement noise, unmeasured visits, and a hidden covariate of that sensitivity which the
behaviour policy sees and the learner does not. Our choice of sizes, without a published source."""


@dataclass(frozen=True)
class ObservationOptions(OwnOptions):
    """Options on what is observed and on how patients differ; every one composes with every other."""

    history: int = 0
    """Number k of past observations and doses that are shown; 0 shows the present visit alone, without
    doses."""
    latent: bool = False
    """Show the privileged latent mean too. For oracles only."""
    noise: float = 0.0
    """Standard deviation of independent Gaussian measurement noise on each state entry."""
    missing: float = 0.0
    """Probability that an entry is not measured; it then reads 0 and its mask reads 0."""
    missing_visits: float = 0.0
    """Probability that a whole visit is not measured."""
    variation: float = 0.0
    """Standard deviation between patients of the log factor on the dose inside the dynamics."""
    confounding: float = 0.0
    """Change of that log factor per unit of a standard normal hidden covariate, shown to behaviour policies
    only."""

    def __post_init__(self) -> None:
        """Refuse values outside their ranges."""
        if (
            isinstance(self.history, bool)
            or not isinstance(self.history, int)
            or not 0 <= self.history <= 1000
        ):
            raise UserError(f"history must be a whole number from 0 to 1000, got {self.history!r}")
        if not isinstance(self.latent, bool):
            raise UserError(f"latent must be True or False, got {self.latent!r}")
        for name, top in (
            ("noise", 100.0),
            ("missing", 1.0),
            ("missing_visits", 1.0),
            ("variation", 2.0),
            ("confounding", 2.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= top:
                raise UserError(f"{name} must be a number from 0 to {top:g}, got {value!r}")

    @classmethod
    def of(cls, realism: int | None, **given: Any) -> "ObservationOptions":
        """Return the options of a realism level, with those given by name on top."""
        if realism is not None and (isinstance(realism, bool) or realism not in REALISM):
            raise UserError(f"realism must be one of 1, 2, 3, 4, 5, got {realism!r}")
        return cls(**{**REALISM.get(realism or 1, {}), **given})


OPTION_NAMES = tuple(f.name for f in fields(ObservationOptions))


def _ago(back: int) -> str:
    return f"{back} visit{'s' if back > 1 else ''} ago"


class Observation:
    """Turns the core's state into observations [n, O] and remembers what the options need."""

    def __init__(self, options: ObservationOptions, scenario: LatentScenario, n: int) -> None:
        """Lay out the observation vector of ``n`` patients."""
        self.options, self.n = options, n
        k, a = scenario.n_state, scenario.limits.n_act
        self._masked = options.missing > 0 or options.missing_visits > 0
        self._measured = options.noise > 0 or self._masked
        self._visit = k * (2 if self._masked else 1)
        self._depth = max(options.history, 1)
        self._doses = options.history * a
        reach = scenario.state_bound + options.noise * LARGEST_NORMAL
        visit = [(name, -reach, reach) for name in scenario.state_names]
        if self._masked:
            visit += [(f"{name} measured", 0.0, 1.0) for name in scenario.state_names]
        entries = list(visit)
        for back in range(1, self._depth):
            entries += [(f"{name} ({_ago(back)})", low, high) for name, low, high in visit]
        for back in range(1, options.history + 1):
            for dose, (low, high) in enumerate(zip(scenario.limits.low, scenario.limits.high, strict=True)):
                name = "dose" if a == 1 else f"dose {dose + 1}"
                entries.append((f"{name} ({_ago(back)})", min(low, 0.0), max(high, 0.0)))
        if options.latent:
            bound = float(scenario.mean_bound)
            entries += [(f"mean of {name}", -bound, bound) for name in scenario.state_names]
        self.names: tuple[str, ...] = tuple(name for name, _, _ in entries)
        """Name of each of the O entries."""
        self.low: Float32Array = np.array([low for _, low, _ in entries], dtype=np.float32)
        """Lower bound of each entry [O]."""
        self.high: Float32Array = np.array([high for _, _, high in entries], dtype=np.float32)
        """Upper bound of each entry [O]."""

    def start(self, core: Core, seed: int) -> Float32Array:
        """Return the first observation [n, O]."""
        if self._measured:
            self._streams = block_streams(seed, core.cohort, MEASUREMENT, core.first, self.n)
            blocks, k = len(self._streams), core.scenario.n_state
            self._normals = np.empty((blocks, k, BLOCK), dtype=np.float32)
            self._uniforms = np.empty((blocks, k + 1, BLOCK), dtype=np.float32)
        self._visits: Float32Array = np.zeros((self.n, self._depth * self._visit), dtype=np.float32)
        self._given: Float32Array = np.zeros((self.n, self._doses), dtype=np.float32)
        return self._show(core)

    def next(self, core: Core, dose: Float32Array) -> Float32Array:
        """Return the observation [n, O] after ``dose`` [n, A] was delivered."""
        a = dose.shape[1]
        if self._doses:
            self._given[:, a:] = self._given[:, :-a].copy()
            self._given[:, :a] = dose
        return self._show(core)

    def marker(self, obs: Float32Array, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the weighted sum [n] of the state measured in ``obs`` [n, O], NaN where entries lack."""
        k = len(weights)
        value: NDArray[np.float64] = obs[:, :k] @ weights
        if self._masked:
            value[(obs[:, k : 2 * k] == 0).any(axis=1)] = np.nan
        return value

    def _show(self, core: Core) -> Float32Array:
        now = self._measure(core)
        if self.options.history <= 1 and not self._doses and not self.options.latent:
            return now
        v = self._visit
        if self._depth > 1:
            self._visits[:, v:] = self._visits[:, :-v].copy()
        self._visits[:, :v] = now
        parts = [self._visits, self._given]
        if self.options.latent:
            parts.append(core.means())
        return np.concatenate(parts, axis=1)

    def _measure(self, core: Core) -> Float32Array:
        """Return the state as measured at this visit, with its mask when there is one."""
        if not self._measured:
            return core.states()
        # Both draws are always made, so that one option never changes the dice of another.
        for stream, normals, uniforms in zip(self._streams, self._normals, self._uniforms, strict=True):
            stream.standard_normal(dtype=np.float32, out=normals)
            stream.random(dtype=np.float32, out=uniforms)
        value = core.states() + np.float32(self.options.noise) * core.rows(self._normals)
        if not self._masked:
            return np.ascontiguousarray(value)
        dice = core.rows(self._uniforms)
        seen = (dice[:, 1:] >= self.options.missing) & (dice[:, :1] >= self.options.missing_visits)
        return np.concatenate([np.where(seen, value, np.float32(0)), seen.astype(np.float32)], axis=1)
