"""The table of scenarios: environment id to scenario."""

from simulator.envs.li import LiI, LiII
from simulator.envs.treatment import LiIV, Treatment

SCENARIOS: dict[str, type[Treatment] | type[LiI]] = {
    scenario.env_id: scenario for scenario in (Treatment, LiI, LiII, LiIV)
}
"""Every registered environment id with its scenario."""
