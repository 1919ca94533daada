"""Simulated patients as gymnasium environments. Importing this package registers their ids and nothing else.

It needs NumPy and gymnasium; the entry points are named by text, so that nothing is loaded before ``make``.
"""

import sys

from simulator.envs import SCENARIOS, add_packaged, add_scenario

for _env_id, _target in list(SCENARIOS.items()):
    add_scenario(_env_id, _target)
if sys.argv[:1] != ["-m"]:  # else the working folder may still stand before installed packages
    add_packaged()

ENV_IDS = tuple(SCENARIOS)
"""Registered environment ids."""
