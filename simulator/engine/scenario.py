"""What every scenario says about itself, and what its patients do for an environment.

A scenario is a subclass of :class:`Scenario`, named in ``simulator.envs.SCENARIOS``; its ``patients`` builds
:class:`TreatedPatients`: n simulated patients in step. Environments, cards, recorded cohorts and evaluation
ask these two and know no scenario by name. Scenarios round a latent mean share one implementation
(``simulator.engine.synthetic``); a physiological model writes its own ``TreatedPatients``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from dosing.errors import UserError
from dosing.safety import STEP_LIMIT, BaselineLimit, DoseLimits, StepLimit
from dosing.types import AnyArray, Array, Float32Array
from simulator.behaviour_policies import BehaviourPolicy, Clinic, View
from simulator.engine.rng import BLOCK, block_streams

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ObservedEntry:
    """One entry of an observation: its name, its unit ("1" for none) and the range it never leaves."""

    name: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class Target:
    """The range in which a scenario's clinicians keep one quantity."""

    name: str
    """Name of the quantity, as in the observations."""
    truth: str
    """Name of the true quantity behind it, as in ``VisitResult.truth``."""
    unit: str
    low: float
    high: float
    basis: str
    """Where the range comes from."""

    def holds(self, truth: Mapping[str, AnyArray]) -> Flags:
        """Whether the true quantity lies in the range, ends included ``[n]``; not where it is not known."""
        value = truth[self.truth]
        return np.asarray((value >= self.low) & (value <= self.high))


@dataclass(frozen=True)
class Choice:
    """An option that has a few values."""

    title: str
    """What it is about, in a few words."""
    values: tuple[Any, ...]
    """The values that there are, the usual one first."""

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is none of these; raises UserError."""
        if (type(value), value) not in [(type(known), known) for known in self.values]:
            *others, last = map(str, self.values)
            raise UserError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


@dataclass(frozen=True)
class VisitResult:
    """What one visit brought n patients; arrays hold the patients first."""

    seen: Float32Array
    """Next observation [n, O]."""
    reward: Float32Array
    """Reward [n]."""
    cost: Float32Array
    """Safety cost [n], which the reward never contains."""
    events: Mapping[str, Flags]
    """Each event that the scenario's card defines, [n]."""
    over: Flags | None = None
    """Whose episode ended at this visit for good [n]; None in a scenario that never ends one early."""
    truth: Mapping[str, AnyArray] = field(default_factory=dict)
    """True quantities behind the observation, for scoring and for no agent, [n] each."""


@dataclass(frozen=True)
class NamedPolicy:
    """A behaviour policy of one scenario: what it does, and how it is made from the text behind its name."""

    text: str
    """What it does, for the card; written ``NAME`` or ``NAME:VALUE``."""
    make: Callable[[str], BehaviourPolicy]
    """Takes the text after the colon, empty where there is none; raises UserError for a bad one."""


class OwnOptions:
    """Options that a scenario has beside those of every environment: a frozen dataclass derives from this."""

    def described(self) -> dict[str, Any]:
        """The options by name, for the card."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]


class TreatedPatients(ABC):
    """``n`` patients of one cohort, all at the same visit."""

    def __init__(self, scenario: Scenario, n: int, cohort: str) -> None:
        """Hold ``n`` patients of ``scenario``; ``start`` comes before all else."""
        self.scenario, self.n, self.cohort, self.first = scenario, n, cohort, 0

    @property
    @abstractmethod
    def entries(self) -> tuple[ObservedEntry, ...]:
        """The O entries of an observation."""

    @abstractmethod
    def start(self, seed: int, first: int) -> Float32Array:
        """Bring patients ``first`` to ``first + n - 1`` to their first visit; observations [n, O].

        Nothing about a patient may depend on the others, on n or on the doses.
        """

    @abstractmethod
    def step(self, dose: Float32Array) -> VisitResult:
        """Give doses [n, A], which :meth:`deliver` let through, and go on to the next visit."""

    @property
    @abstractmethod
    def covariate(self) -> Float32Array:
        """Hidden covariate of each patient [n], for behaviour policies only; 0 where there is none."""

    @abstractmethod
    def clinic(self) -> Clinic:
        """What a behaviour policy may know before the first visit."""

    @abstractmethod
    def marker(self, seen: Float32Array) -> Array:
        """What a titrating clinician looks at in observations [n, O]: [n], NaN where it was not measured."""

    def known(self) -> Mapping[str, AnyArray]:
        """What a clinician knows of each patient, whether or not it is observed: [n] each."""
        return {}

    def traits(self) -> Mapping[str, AnyArray]:
        """How the patients differ, seen or hidden, for subgroups: [n] each, with the unit in the name."""
        return {}

    def current_dose(self) -> Array | None:
        """The dose [n, A] that the step limit is measured from; None where no limit is in force."""
        return None

    def baseline_and_load(self) -> Array | None:
        """Baseline and load [n, 2], as observed, of the baseline limit; None where no limit is in force."""
        return None

    def deliver(self, requested: AnyArray) -> tuple[AnyArray, NDArray[np.int8]]:
        """Turn requested doses [n, A] into delivered ones, with the code of ``LIMITED_BY`` that held each.

        The hard limits come first, then the step limit and the baseline limit; the code names the one that
        bound last.
        """
        dose, code = self.scenario.limits.deliver(requested)
        step, current = self.scenario.step_limit, self.current_dose()
        if step is not None and current is not None:
            dose, changed = step.deliver(dose, current)
            code = np.where(changed, np.int8(STEP_LIMIT), code)
        rule, observed = self.scenario.baseline_limit, self.baseline_and_load()
        if rule is not None and observed is not None:
            dose, held = rule.deliver(dose, observed)
            code = np.where(held > 0, held, code)
        return dose, code

    def allowed(self) -> tuple[Array, Array]:
        """Lowest and highest dose that may be delivered now, [A] or [n, A]."""
        low, high = np.asarray(self.scenario.limits.low), np.asarray(self.scenario.limits.high)
        step, current = self.scenario.step_limit, self.current_dose()
        if step is not None and current is not None:
            least, most = step.around(current)
            low, high = np.maximum(low, least), np.minimum(high, most)
        rule, observed = self.scenario.baseline_limit, self.baseline_and_load()
        if rule is not None and observed is not None:
            high = np.minimum(high, np.minimum(*rule.highest(observed)))
        return low, high

    def view(self, seen: Float32Array, last: Float32Array | None, dice: Array) -> View:
        """What a behaviour policy sees of observations [n, O], doses given last and its dice [n, A + 1]."""
        low, high = self.allowed()
        return View(seen, self.marker(seen), self.covariate, last, dice, low, high, self.known())

    def rows(self, blocks: AnyArray) -> AnyArray:
        """Turn draws for whole blocks [B, k, 256] into one row per patient of this cohort [n, k]."""
        low = self.first % BLOCK
        return patients_last(blocks).T[low : low + self.n]


class OwnDraws(TreatedPatients):
    """Patients whose draws are columns of those of whole blocks; each may be held several times.

    Attributes:
        copies: how often each patient is held, all patients once, then all once more. Copies of a patient
            have equal draws, whatever doses they are given.
    """

    copies = 1

    def repeat(self, copies: int) -> None:
        """Hold n / ``copies`` patients from the next ``start`` on, each so often; n is a multiple of it."""
        self.copies = copies

    def streams(self, seed: int, purpose: int) -> list[Generator]:
        """Fresh generators of the blocks that hold these patients."""
        return block_streams(seed, self.cohort, purpose, self.first, self.n // self.copies)

    def columns(self, drawn: AnyArray) -> Array:
        """The columns [..., n] of these patients among draws for whole blocks."""
        low = self.first % BLOCK
        mine = drawn[..., low : low + self.n // self.copies]
        return np.ascontiguousarray(np.concatenate([mine] * self.copies, -1), dtype=np.float64)


@runtime_checkable
class TellsCourseWithin(Protocol):
    """Patients who tell how the quantity of :class:`Target` went within a visit."""

    @property
    def course_within(self) -> Array:
        """True values within the last visit [M, n] at M times of equal distance, the last at its end."""


class Scenario(ABC):
    """One kind of patient and treatment: what the card states, and how patients are made."""

    env_id: ClassVar[str]
    title: ClassVar[str]
    variants: ClassVar[tuple[str, ...]]
    version: ClassVar[str]
    """Raised whenever a number that the scenario produces changes."""
    sources: ClassVar[tuple[str, ...]]
    option_names: ClassVar[tuple[str, ...]] = ()
    """Options that ``gymnasium.make`` takes beside those of every environment."""
    choices: ClassVar[Mapping[str, Choice]] = {}
    """Those among them that have a few values, by name."""
    decision_interval: ClassVar[str]
    """Time between two visits, in words with its unit."""
    terminates: ClassVar[bool] = False
    """Whether an episode can end before its last visit."""
    motion_text: ClassVar[str]
    reward_text: ClassVar[str]
    cost_text: ClassVar[str]
    events: ClassVar[Mapping[str, str]]
    """Definition of each event by name, threshold and source in it."""
    target: ClassVar[Target | None] = None
    budget: ClassVar[float | None] = None
    """Cost per episode that is thought acceptable; None where nobody says."""
    policies: ClassVar[Mapping[str, NamedPolicy]] = {}
    """Behaviour policies of this scenario alone."""
    recorded_by: ClassVar[str] = "uniform"
    """The policy by which visits are recorded unless another one is asked for."""
    searched: ClassVar[int] = 10_000
    """Most patients on whom each of some forty constant doses is tried to find the best one."""
    clinic_rules: ClassVar[tuple[str, ...]] = ()
    """Policies among these, without noise, that stand beside trained ones in an evaluation."""
    dose_name: ClassVar[str] = "dose"
    safe_default: ClassVar[str]
    """What to do where no dose is recommended."""
    model_limits_text: ClassVar[str]

    variant: str
    limits: DoseLimits
    step_limit: StepLimit | None = None
    baseline_limit: BaselineLimit | None = None
    visits: int
    """Number of visits of one episode."""
    start_text: str
    noise_text: str

    @abstractmethod
    def __init__(self, variant: str) -> None:
        """Take the numbers of one variant; raises UserError where there is no such variant."""

    @abstractmethod
    def own_options(self, given: Mapping[str, Any]) -> OwnOptions:
        """Check the options among ``option_names`` that were given; raises UserError for a bad value."""

    @abstractmethod
    def patients(self, n: int, cohort: str, own: Any, steps: int) -> TreatedPatients:
        """``n`` patients of a cohort, under options that :meth:`own_options` checked.

        Args:
            n: number of patients.
            cohort: ``train`` or ``evaluation``.
            own: what :meth:`own_options` returned.
            steps: visits of an episode.
        """

    def policy_texts(self) -> dict[str, str]:
        """Behaviour policies as they are written, with what they do."""
        return {
            "uniform": "uniform over the hard limits",
            "constant:DOSE": "one dose for everyone",
            **{name: policy.text for name, policy in self.policies.items()},
        }

    @classmethod
    def checked(cls, variant: str) -> str:
        """Return ``variant``; raises UserError where there is no such variant."""
        if variant not in cls.variants:
            raise UserError(f"{cls.env_id} has no variant {variant!r}, it has {', '.join(cls.variants)}")
        return variant


def normal_blocks(generators: list[Generator], *shape: int) -> Float32Array:
    """Draw standard normals [*shape, P], the 256 columns of each block from its own generator."""
    out = np.empty((len(generators), *shape, BLOCK), dtype=np.float32)
    for generator, block in zip(generators, out, strict=True):
        generator.standard_normal(dtype=np.float32, out=block)
    return patients_last(out)


def uniform_blocks(generators: list[Generator], *shape: int) -> Float32Array:
    """Draw uniforms on [0, 1) as [*shape, P], the 256 columns of each block from its own generator."""
    out = np.empty((len(generators), *shape, BLOCK), dtype=np.float32)
    for generator, block in zip(generators, out, strict=True):
        generator.random(dtype=np.float32, out=block)
    return patients_last(out)


def patients_last(blocks: NDArray[Any]) -> NDArray[Any]:
    """Turn draws [B, ..., 256] into [..., B * 256]."""
    return np.moveaxis(blocks, 0, -2).reshape(*blocks.shape[1:-1], -1)
