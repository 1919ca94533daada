"""The table of scenarios: environment id to law."""

from simulator.envs.li import LiI, LiII
from simulator.envs.treatment import LiIV, Treatment

SCENARIOS: dict[str, type[Treatment] | type[LiI]] = {law.env_id: law for law in (Treatment, LiI, LiII, LiIV)}
"""Every registered environment id with its scenario."""
