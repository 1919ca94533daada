"""The gymnasium face of the simulator: one patient, or a cohort of any size, over the same core.

Contract of every environment here (both forms):

- ``reset(seed=s)`` starts at patient number ``first_patient`` (default 0) of that seed; every further
  ``reset()`` moves on to the next patients. ``reset(options={"patient_id": k})`` pins patient k (the vector
  form: k and the ones after it). A patient's first state, covariance and noise never depend on the doses.
- Episodes end by ``truncated`` after the scenario's number of visits; by ``terminated`` only in a scenario
  whose card says so.
- A finite dose outside the hard limits, or beyond a step limit, is delivered at the limit and ``info`` says
  so in ``dose_requested``, ``dose_delivered`` and ``limited_by``; with ``out_of_range="raise"`` one outside
  the hard limits is an error. NaN, inf and wrong shapes always are.
- ``info["cost"]`` and ``info["events"]`` carry the safety signal, which the reward never contains;
  ``info["truth"]`` carries what nobody observed, where a scenario has such a thing, and
  ``info["in_range"]`` whether what its clinicians keep in a range truly lies there.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.safety import LIMITED_BY, as_dose
from dosing.types import AnyArray, Float32Array
from simulator.engine.batch import Core
from simulator.engine.observation import Observation, ObservationOptions
from simulator.engine.rng import COHORTS
from simulator.engine.scenario import Flags, OwnDraws, OwnOptions, Scenario, TreatedPatients, VisitResult
from simulator.engine.synthetic import SyntheticPatients
from simulator.envs import scenario_class

MOST_VISITS = 10_000
"""Longest episode that can be asked for."""

Info = dict[str, Any]
Space = gymnasium.Space[NDArray[np.float32]]


@dataclass(frozen=True)
class EnvOptions:
    """All options of an environment id, checked."""

    scenario: Scenario
    cohort: str
    """``train`` or ``evaluation``: different patients of the same seed."""
    steps: int
    """Visits of one episode."""
    first_patient: int
    """Number of the patient at which ``reset(seed=...)`` starts."""
    out_of_range: str
    """``deliver`` a dose outside the limits at the limit, or ``raise``."""
    own: OwnOptions
    """Options of this scenario alone, checked."""

    @classmethod
    def of(cls, env_id: str, options: dict[str, Any]) -> "EnvOptions":
        """Check ``options`` of ``gymnasium.make(env_id, **options)``; raises UserError for what is wrong."""
        kind = scenario_class(env_id)
        known = ("variant", "cohort", "steps", "first_patient", "out_of_range", *kind.option_names)
        unknown = [name for name in options if name not in known]
        if unknown:
            raise UserError(f"{env_id} has no option {unknown[0]!r}, it has {', '.join(known)}")
        scenario = kind(options.get("variant", kind.variants[0]))
        cohort = options.get("cohort", "train")
        if cohort not in COHORTS:
            raise UserError(f"cohort must be one of {', '.join(COHORTS)}, got {cohort!r}")
        out_of_range = options.get("out_of_range", "deliver")
        if out_of_range not in ("deliver", "raise"):
            raise UserError(f'out_of_range must be "deliver" or "raise", got {out_of_range!r}')
        steps = options.get("steps")
        return cls(
            scenario=scenario,
            cohort=cohort,
            steps=scenario.visits if steps is None else whole_number("steps", steps, 1, MOST_VISITS),
            first_patient=whole_number("first_patient", options.get("first_patient", 0), 0),
            out_of_range=out_of_range,
            own=scenario.own_options({name: options[name] for name in kind.option_names if name in options}),
        )

    @property
    def observation(self) -> ObservationOptions:
        """How a scenario round a latent mean is observed.

        Raises:
            UserError: it is none, and has options of its own kind.
        """
        if not isinstance(self.own, ObservationOptions):
            raise UserError(f"{self.scenario.env_id} has no latent mean that could be observed.")
        return self.own

    def patients(self, n: int) -> TreatedPatients:
        """``n`` patients of this scenario under these options."""
        return self.scenario.patients(n, self.cohort, self.own, self.steps)


def whole_number(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int; raises UserError unless it is a whole number from ``low`` to ``high``."""
    top = "" if high is None else f" to {high}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise UserError(f"{name} must be a whole number from {low}{top or ' up'}, got {value!r}")
    if high is not None and value > high:
        raise UserError(f"{name} must be a whole number from {low}{top}, got {value!r}")
    return int(value)


def observed_range(patients: TreatedPatients) -> tuple[Float32Array, Float32Array]:
    """Lowest and highest possible observation [O]."""
    ends = np.array([(entry.low, entry.high) for entry in patients.entries], dtype=np.float32)
    return ends[:, 0].copy(), ends[:, 1].copy()


def _spaces(patients: TreatedPatients) -> tuple[Space, Space]:
    limits = patients.scenario.limits
    action = Box(np.array(limits.low, dtype=np.float32), np.array(limits.high, dtype=np.float32))
    return Box(*observed_range(patients)), action


class Visits:
    """``n`` patients stepped together: the part that the single and the vector environment share."""

    def __init__(self, env_id: str, n: int, options: dict[str, Any], copies: int = 1) -> None:
        """Check the options and lay everything out; no patient exists before ``start``.

        Raises:
            UserError: an option is wrong, or the n patients cannot be n / ``copies``, each so often.
        """
        self.n, self.copies = n, copies
        self.options = EnvOptions.of(env_id, options)
        self.treated = self.options.patients(n)
        if copies > 1:
            if not isinstance(self.treated, OwnDraws) or n % copies:
                raise UserError(f"{env_id} cannot hold {n} patients as {copies} copies of each.")
            self.treated.repeat(copies)
        self.limits = self.options.scenario.limits
        self.next_patient = self.options.first_patient
        self.time = -1

    def start(self, seed: int, patient: int) -> Float32Array:
        """Bring n patients from number ``patient`` on to their first visit; returns observations [n, O]."""
        self.next_patient = patient + self.n // self.copies
        self.patients = np.tile(np.arange(patient, self.next_patient), self.copies)
        self.time = 0
        self.ended: Flags = np.zeros(self.n, dtype=np.bool_)
        self._seen, self._truth = self.treated.start(seed, patient), dict[str, AnyArray]()
        return self._seen

    def step(self, requested: Any) -> tuple[Float32Array, Float32Array, Flags, Info]:
        """Deliver doses [n, A]; returns observations [n, O], rewards [n], who ended now [n], info of arrays.

        Whose episode has ended for good stays as they are, with reward and cost 0 and no event.
        """
        dose = as_dose(requested, self.limits.n_act)
        if dose.shape != (self.n, self.limits.n_act):
            raise UserError(f"doses must have shape {(self.n, self.limits.n_act)}, got {dose.shape}")
        exact, limited = self.treated.deliver(dose)
        if self.options.out_of_range == "raise" and not self.limits.contains(dose).all():
            row = int(np.flatnonzero(~self.limits.contains(dose))[0])
            raise UserError(
                f"dose {dose[row].tolist()} of patient {self.patients[row]} is outside the hard limits "
                f"{list(self.limits.low)} to {list(self.limits.high)} {self.limits.unit}"
            )
        delivered = exact.astype(np.float32, copy=False)
        result = self.treated.step(delivered)
        self.time += 1
        info: Info = {
            "patient": self.patients.copy(),
            "dose_requested": dose.copy(),  # the caller may use the array again
            "dose_delivered": delivered,
            "limited_by": limited,
            "cost": result.cost,
            "events": dict(result.events),
        }
        if result.truth:
            info["truth"] = dict(result.truth)
        if (target := self.treated.scenario.target) is not None:
            info["in_range"] = target.holds(result.truth)
        if result.over is None:
            return result.seen, result.reward, np.zeros(self.n, dtype=np.bool_), info
        return self._of_the_living(result, info)

    def _of_the_living(
        self, result: VisitResult, info: Info
    ) -> tuple[Float32Array, Float32Array, Flags, Info]:
        """A visit in a scenario that ends episodes: whose is over already stays as they were."""
        live, over = ~self.ended, np.asarray(result.over)
        self._seen = np.where(live[:, None], result.seen, self._seen)
        self._truth = {
            name: np.where(live, value, self._truth.get(name, value)) for name, value in result.truth.items()
        }
        info["truth"] = dict(self._truth)
        info["cost"] = result.cost * live
        info["events"] = {name: flag & live for name, flag in result.events.items()}
        if "in_range" in info:
            info["in_range"] = info["in_range"] & live
        self.ended = self.ended | over
        return self._seen, result.reward * live, over & live, info

    @property
    def core(self) -> Core:
        """The batched core of a scenario round a latent mean; see :attr:`EnvOptions.observation`."""
        return self._synthetic.core

    @property
    def observation(self) -> Observation:
        """What is shown of a scenario round a latent mean."""
        return self._synthetic.observation

    @property
    def _synthetic(self) -> SyntheticPatients:
        if not isinstance(self.treated, SyntheticPatients):
            raise UserError(f"{self.options.scenario.env_id} has no latent mean that could be looked at.")
        return self.treated

    @property
    def covariate(self) -> Float32Array:
        """Hidden covariate of each patient [n], for behaviour policies only."""
        return self.treated.covariate

    @property
    def over(self) -> bool:
        """Whether no patient has a visit left."""
        return self.time >= self.options.steps or bool(self.ended.all())


def _patient(options: dict[str, Any] | None, following: int) -> int:
    """Return the patient that a reset starts with."""
    unknown = [name for name in options or {} if name != "patient_id"]
    if unknown:
        raise UserError(f"reset has no option {unknown[0]!r}, it has patient_id")
    return whole_number("patient_id", options["patient_id"], 0) if options else following


def _entropy(seed: int | None) -> int:
    """Return the seed that gymnasium keeps, drawn from the system where none was given."""
    if seed is None or seed < 0:  # gymnasium marks a generator that was set from outside with -1
        raise UserError("this environment is seeded through reset(seed=...), not by setting np_random")
    return seed


def _seed(seed: Any) -> int | None:
    return None if seed is None else whole_number("seed", seed, 0)


def _refuse_rendering(env_id: str, render_mode: str | None) -> None:
    """Take ``render_mode=None``, as gymnasium's tools pass it; raises UserError for any other."""
    if render_mode is not None:
        raise UserError(f"{env_id} draws nothing: render_mode must be None, got {render_mode!r}")


class PatientEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One patient at a time."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own attribute)

    def __init__(self, env_id: str, render_mode: str | None = None, **options: Any) -> None:
        """Build the environment of a registered id; ``options`` as in :class:`EnvOptions`."""
        _refuse_rendering(env_id, render_mode)
        self.visits = Visits(env_id, 1, options)
        self.observation_space, self.action_space = _spaces(self.visits.treated)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start the next patient, the first one of a new ``seed``, or ``options={"patient_id": k}``."""
        seed = _seed(seed)
        super().reset(seed=seed)
        following = self.visits.next_patient if seed is None else self.visits.options.first_patient
        obs = self.visits.start(_entropy(self.np_random_seed), _patient(options, following))
        return obs[0], {"patient": int(self.visits.patients[0])}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, Info]:
        """Give one dose of shape (A,); returns observation, reward, terminated, truncated, info."""
        if self.visits.time < 0 or self.visits.over:
            raise UserError("the episode is over or has not begun: call reset() before step()")
        dose = as_dose(action, self.visits.limits.n_act)
        if dose.ndim != 1:
            raise UserError(f"a dose must have shape ({self.visits.limits.n_act},), got {dose.shape}")
        obs, reward, ended, info = self.visits.step(dose[None])
        single: Info = {
            "patient": int(info["patient"][0]),
            "dose_requested": info["dose_requested"][0],
            "dose_delivered": info["dose_delivered"][0],
            "limited_by": LIMITED_BY[info["limited_by"][0]],
            "cost": float(info["cost"][0]),
            "events": {name: bool(flag[0]) for name, flag in info["events"].items()},
        }
        if "in_range" in info:
            single["in_range"] = bool(info["in_range"][0])
        if "truth" in info:
            single["truth"] = {name: value[0].tolist() for name, value in info["truth"].items()}
        terminated = bool(ended[0])
        return obs[0], float(reward[0]), terminated, self.visits.over and not terminated, single


def patient_env(env_id: str, **options: Any) -> gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]:
    """The environment of a registered id, whose spec states its length as ``max_episode_steps``.

    Args:
        env_id: a registered id.
        options: as in :class:`EnvOptions`.
    """
    env = PatientEnv(env_id, **options)
    return TimeLimit(env, env.visits.options.steps)


class CohortEnv(gymnasium.vector.VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """N patients in step: all start together and end together, then the next N begin.

    Autoreset is gymnasium's next-step mode: the step after the last visit ignores its doses, rewards 0 and
    returns the first observations of the next N patients. In a scenario that can end an episode early there
    is no autoreset: whose episode is over stays as they are, with reward 0, until ``reset``, which is due
    when all are over. ``info["limited_by"]`` holds codes into ``dosing.safety.LIMITED_BY``.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(
        self, env_id: str, num_envs: int = 1, render_mode: str | None = None, copies: int = 1, **options: Any
    ) -> None:
        """Build the vector environment of a registered id.

        Args:
            env_id: a registered id.
            num_envs: patients, copies counted.
            render_mode: None.
            copies: how often each patient is held, all once and then all once more: the same patients under
                several doses at once, as if each had been alone. Not every scenario can.
            options: as in :class:`EnvOptions`.

        Raises:
            UserError: one of these is wrong.
        """
        _refuse_rendering(env_id, render_mode)
        self.num_envs = whole_number("num_envs (patients)", num_envs, 1)
        self.visits = Visits(env_id, self.num_envs, options, whole_number("copies", copies, 1))
        spaces = _spaces(self.visits.treated)
        if self.visits.options.scenario.terminates:
            self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space = batch_space(spaces[0], self.num_envs)
        self.action_space = batch_space(spaces[1], self.num_envs)
        self._never = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Info]:
        """Start the next N patients, the first ones of a new ``seed``, or those from ``patient_id`` on."""
        seed = _seed(seed)
        super().reset(seed=seed)
        following = self.visits.next_patient if seed is None else self.visits.options.first_patient
        obs = self.visits.start(_entropy(self.np_random_seed), _patient(options, following))
        return obs, {"patient": self.visits.patients.copy()}

    def step(
        self, actions: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Give doses [N, A]; returns observations [N, O], rewards [N], terminated, truncated and info."""
        if self.visits.time < 0:
            raise UserError("the episode has not begun: call reset() before step()")
        if self.visits.over:
            if self.visits.options.scenario.terminates:
                raise UserError("the episodes of all patients are over: call reset() before step()")
            obs, info = self.reset()
            return obs, np.zeros(self.num_envs, dtype=np.float32), self._never, self._never, info
        before = self.visits.ended
        obs, reward, terminated, info = self.visits.step(actions)
        last = self.visits.time >= self.visits.options.steps
        return obs, reward, terminated, ~before & ~terminated & last, info
