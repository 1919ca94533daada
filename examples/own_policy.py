"""A policy of your own in the environment: a rule that answers the last change of a patient.

    python examples/own_policy.py [--out FOLDER]

Every rule meets the same patients: patient 7 of a seed is the same patient whatever is given to the others.
"""

import argparse
from collections.abc import Callable

import gymnasium
import numpy as np
from numpy.typing import NDArray

import simulator  # registers the environments

Array = NDArray[np.floating]
PATIENTS = 500


def constant(state: Array, before: Array) -> Array:
    """The same dose for everyone."""
    return np.full((len(state), 1), 0.44)


def careful(state: Array, before: Array) -> Array:
    """Less than that for whoever has changed much since the last visit; states ``[patient, entry]``."""
    moved = np.abs(state - before).mean(axis=1, keepdims=True)
    return np.clip(0.44 - 0.1 * (moved - 1.0), 0.2, 0.6)


def returns_of(rule: Callable[[Array, Array], Array]) -> Array:
    """Return of every patient, ``[patient]``."""
    env = gymnasium.make_vec("dosing/Treatment-v0", num_envs=PATIENTS, cohort="evaluation")
    state, _ = env.reset(seed=0)
    before, total, over = state, np.zeros(PATIENTS), False
    while not over:
        dose = rule(state, before)
        before = state
        state, reward, terminated, truncated, info = env.step(dose)
        assert not info["limited_by"].any(), "a dose was outside the hard limits"
        total += reward
        over = bool((terminated | truncated).all())
    return total


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", help="not used: this example writes no file")
parser.parse_args()
print(f"environments: {', '.join(simulator.ENV_IDS)}")
first, second = returns_of(constant), returns_of(careful)
difference = second - first
half = 1.96 * difference.std(ddof=1) / PATIENTS**0.5
print(f"constant {first.mean():.2f}, careful {second.mean():.2f} (mean return of {PATIENTS} patients)")
print(f"careful minus constant, by patient: {difference.mean():.3f} +- {half:.3f} (95 % interval)")
