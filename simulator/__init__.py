"""Simulated patients as gymnasium environments. Importing this package registers their ids and nothing else.

It needs NumPy and gymnasium; the entry points are named by text, so that nothing is loaded before ``make``.
"""

from gymnasium.envs.registration import register

from simulator.envs import SCENARIOS

ENV_IDS = tuple(SCENARIOS)
"""Registered environment ids."""

for _env_id in ENV_IDS:
    register(
        id=_env_id,
        entry_point="simulator.environment:patient_env",
        vector_entry_point="simulator.environment:CohortEnv",
        kwargs={"env_id": _env_id},
    )
