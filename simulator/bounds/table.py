"""The table of ceilings of a scenario: every oracle and every reachable bound on the same patients."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dosing.errors import UserError
from simulator.bounds.expected_reward import Float, expected_return, known_patients
from simulator.bounds.optimal import (
    RESTARTS,
    Clairvoyant,
    best_constant_dose,
    clairvoyant,
    myopic_doses,
    myopic_on_observation,
)
from simulator.environment import CohortEnv, whole_number


@dataclass(frozen=True)
class Ceiling:
    """One row of the table of ceilings."""

    policy: str
    """What kind of policy."""
    knows: str
    """What it may look at."""
    value: float
    """Mean expected return."""
    standard_error: float
    """Standard error of that mean over patients."""
    shortfall: float
    """Mean shortfall behind the clairvoyant sequence on the same patients."""
    note: str
    """Certificate or setting."""


def ceilings(
    env_id: str,
    *,
    patients: int = 300,
    seed: int = 0,
    gamma: float = 1.0,
    trained: bool = False,
    iterations: int = 1500,
    progress: bool = False,
    **options: Any,
) -> list[Ceiling]:
    """Compute every ceiling on the same ``patients`` patients.

    Args:
        env_id: Environment III or IV.
        patients: Number of patients, from ``first_patient`` on; a few hundred take some ten seconds.
        seed: Seed of the replication.
        gamma: Discount; 1 adds rewards up.
        trained: Train the memoryless and the recurrent policy too (minutes; needs torch).
        iterations: Batches of 1,024 patients for each trained policy.
        progress: Show progress bars while training.
        **options: Environment options; nothing that changes what is observed.

    Raises:
        UserError: For another scenario, or options under which the states are not observed as they are.
    """
    whole_number("patients", patients, 2)
    observed = CohortEnv(env_id, **options).visits.options.observation
    if any((observed.history, observed.latent, observed.noise, observed.missing, observed.missing_visits)):
        raise UserError(
            "ceilings are computed for plainly observed states: no history, latent, noise or missing"
        )
    known = known_patients(env_id, patients, seed, **options)
    best = clairvoyant(known, gamma=gamma)
    dose, constant = best_constant_dose(known, gamma)
    rows = [
        ("clairvoyant", "mean, covariance", best.value, _certificate(best)),
        ("myopic, true mean", "mean, covariance", expected_return(known, myopic_doses(known), gamma), ""),
        ("best constant dose", "nothing", constant, f"dose {dose:.3f}"),
    ]
    if not known.lag:
        seen = myopic_on_observation(env_id, known, seed, **options)
        rows.append(("myopic, observed state", "state", expected_return(known, seen, gamma), ""))
    if trained:
        from simulator.bounds.differentiable import doses_of, train

        for recurrent, name in ((True, "recurrent"), (False, "memoryless")):
            settings: dict[str, Any] = {"iterations": iterations, "gamma": gamma, "progress": progress}
            policy = train(env_id, recurrent=recurrent, seed=seed, **settings, **options)
            value = expected_return(known, doses_of(policy, env_id, patients, seed, **options), gamma)
            knows = "states and doses so far" if recurrent else "state"
            rows.append((name, knows, value, f"{iterations} batches"))
    return _table(rows, best)


def _table(rows: list[tuple[str, str, Float, str]], best: Clairvoyant) -> list[Ceiling]:
    """Rows of name, knowledge, return of each patient ``[n]`` and note, the best first."""
    table = [
        Ceiling(
            name,
            knows,
            float(value.mean()),
            float(value.std(ddof=1) / np.sqrt(len(value))),
            float((best.value - value).mean()),
            note,
        )
        for name, knows, value, note in rows
    ]
    return sorted(table, key=lambda row: -row.value)


def _certificate(best: Clairvoyant) -> str:
    return (
        f"largest projected gradient {best.projected_gradient.max():.0e}; best of {RESTARTS} starts found by "
        f"{100 * best.agreement.mean():.0f} % of them on average, by one alone for "
        f"{int((best.agreement < 1.5 / RESTARTS).sum())} patients"
    )


def print_ceilings(table: list[Ceiling]) -> None:
    """Print the table with errors over patients."""
    print(f"{'policy':24s}{'knows':26s}{'expected return':>18s}{'behind clairvoyant':>20s}  note")
    for row in table:
        value = f"{row.value:.2f} +- {1.96 * row.standard_error:.2f}"
        print(f"{row.policy:24s}{row.knows:26s}{value:>18s}{row.shortfall:20.2f}  {row.note}")
    print("intervals: 95 % over patients; rows share their patients, so their differences are sharper")
