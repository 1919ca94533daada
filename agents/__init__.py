"""The suite: one file per method, and the registry that names them. Importing this imports no agent."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dosing.errors import UserError

if TYPE_CHECKING:
    import torch

    from dosing.agent import Agent
    from dosing.models.regularisation import Regularisation
    from dosing.types import Problem


@dataclass(frozen=True)
class AgentSpec:
    """One agent of the suite.

    Attributes:
        module: the file that holds it.
        name: its class; the configuration is ``<name>Config`` in the same file.
        title: name as the field writes it.
        paper: authors, year, arXiv number.
        family: distribution of its policy.
        support: kind of its dose set (``interval``, ``infinite_clipped``, ...).
        checked: public code its losses were compared with besides its oracle in ``tests/oracles``, and the
            largest relative difference for the same weights, batch and noise in double precision.
    """

    module: str
    name: str
    title: str
    paper: str
    family: str
    support: str
    checked: str

    def config_class(self) -> type[Any]:
        """Import the agent's file and return its configuration dataclass."""
        result: type[Any] = getattr(importlib.import_module(self.module), f"{self.name}Config")
        return result

    def agent_class(self) -> type[Agent]:
        """Import the agent's file and return its class."""
        result: type[Agent] = getattr(importlib.import_module(self.module), self.name)
        return result


AGENTS: dict[str, AgentSpec] = {
    "fttpo": AgentSpec(
        "agents.fttpo",
        "FtTPO",
        "FtTPO",
        "Zhu, Wang, Nagai 2025, arXiv 2501.14373",
        "sparse q-Gaussian",
        "interval",
        "released code as released, 5e-14",
    ),
    "iql": AgentSpec(
        "agents.iql",
        "IQL",
        "IQL",
        "Kostrikov, Nair, Levine 2022, arXiv 2110.06169",
        "Gaussian",
        "infinite_clipped",
        "CORL, 1e-16",
    ),
    "awac": AgentSpec(
        "agents.awac",
        "AWAC",
        "AWAC",
        "Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359",
        "Gaussian",
        "infinite_clipped",
        "CORL, 0",
    ),
    "tawac": AgentSpec(
        "agents.tawac",
        "TAWAC",
        "TAWAC",
        "Zhu, Shah, Wang, Nagai, White 2025, arXiv 2408.07245",
        "Gaussian",
        "infinite_clipped",
        "the authors' formulas, 3e-16",
    ),
    "inac": AgentSpec(
        "agents.inac",
        "InAC",
        "InAC",
        "Xiao, Wang, Pan, White, White 2023, arXiv 2302.14372",
        "Gaussian",
        "infinite_clipped",
        "inac_pytorch, 7e-16",
    ),
    "sql": AgentSpec(
        "agents.sql",
        "SQL",
        "SQL",
        "Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810",
        "Gaussian",
        "infinite_clipped",
        "IVR, 4e-16",
    ),
    "eql": AgentSpec(
        "agents.eql",
        "EQL",
        "EQL",
        "Xu, Jiang, Li, Yang, Wang, Chan, Zhan 2023, arXiv 2303.15810",
        "Gaussian",
        "infinite_clipped",
        "IVR, 4e-16",
    ),
    "xql": AgentSpec(
        "agents.xql",
        "XQL",
        "XQL",
        "Garg, Hejna, Geist, Ermon 2023, arXiv 2301.02328",
        "Gaussian",
        "infinite_clipped",
        "Div99/XQL, 1e-15",
    ),
    "bc": AgentSpec(
        "agents.bc",
        "BC",
        "BC",
        "Bain, Sammut 1995, Machine Intelligence 15",
        "Gaussian",
        "infinite_clipped",
        "no public code",
    ),
    "pct_bc": AgentSpec(
        "agents.bc",
        "PercentBC",
        "%BC",
        "Chen et al. 2021, arXiv 2106.01345",
        "Gaussian",
        "infinite_clipped",
        "no public code",
    ),
    "td3": AgentSpec(
        "agents.td3",
        "TD3",
        "TD3",
        "Fujimoto, van Hoof, Meger 2018, arXiv 1802.09477",
        "deterministic",
        "point",
        "CORL, 3e-16",
    ),
    "td3_bc": AgentSpec(
        "agents.td3_bc",
        "TD3BC",
        "TD3+BC",
        "Fujimoto, Gu 2021, arXiv 2106.06860",
        "deterministic",
        "point",
        "CORL, 2e-16",
    ),
    "rebrac": AgentSpec(
        "agents.rebrac",
        "ReBRAC",
        "ReBRAC",
        "Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv 2305.09836",
        "deterministic",
        "point",
        "CORL, 3e-16",
    ),
    "spot": AgentSpec(
        "agents.spot",
        "SPOT",
        "SPOT",
        "Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239",
        "deterministic",
        "point",
        "thuml/SPOT and CORL, 3e-16",
    ),
    "decision_transformer": AgentSpec(
        "agents.decision_transformer",
        "DecisionTransformer",
        "Decision Transformer",
        "Chen et al. 2021, arXiv 2106.01345",
        "deterministic, given a return",
        "point",
        "kzl/decision-transformer, 3e-16",
    ),
    "cql": AgentSpec(
        "agents.cql",
        "CQL",
        "CQL",
        "Kumar, Zhou, Tucker, Levine 2020, arXiv 2006.04779",
        "squashed Gaussian",
        "full_box",
        "CORL, 2e-16",
    ),
    "cal_ql": AgentSpec(
        "agents.cql",
        "CalQL",
        "Cal-QL",
        "Nakamoto et al. 2023, arXiv 2303.05479",
        "squashed Gaussian",
        "full_box",
        "CORL, 3e-16",
    ),
    "onestep": AgentSpec(
        "agents.onestep",
        "Onestep",
        "Onestep RL",
        "Brandfonbrener, Whitney, Ranganath, Bruna 2021, arXiv 2106.08909",
        "truncated normal",
        "full_box",
        "onestep-rl, 3e-16",
    ),
    "bcq": AgentSpec(
        "agents.bcq",
        "BCQ",
        "BCQ",
        "Fujimoto, Meger, Precup 2019, arXiv 1812.02900",
        "best of generated doses",
        "point_set",
        "sfujim/BCQ, 4e-16",
    ),
    "bear": AgentSpec(
        "agents.bear",
        "BEAR",
        "BEAR",
        "Kumar, Fu, Tucker, Levine 2019, arXiv 1906.00949",
        "best draw of a squashed Gaussian",
        "point_set",
        "aviralkumar2907/BEAR, 4e-16",
    ),
    "plas": AgentSpec(
        "agents.plas",
        "PLAS",
        "PLAS",
        "Zhou, Bajracharya, Held 2020, arXiv 2011.07213",
        "deterministic",
        "point",
        "Wenxuan-Zhou/PLAS, 4e-16",
    ),
    "fql": AgentSpec(
        "agents.fql",
        "FQL",
        "FQL",
        "Park, Li, Levine 2025, arXiv 2502.02538",
        "flow, one step",
        "samples",
        "fql, 4e-16",
    ),
    "ifql": AgentSpec(
        "agents.ifql",
        "IFQL",
        "IFQL",
        "Hansen-Estruch et al. 2023, arXiv 2304.10573",
        "best of a flow's draws",
        "point_set",
        "fql, 1e-16",
    ),
    "fan": AgentSpec(
        "agents.fan",
        "FAN",
        "FAN",
        "Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        "flow, one step",
        "samples",
        "FAN, 6e-16",
    ),
    "faql": AgentSpec(
        "agents.fan",
        "FAQL",
        "FAQL",
        "Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        "flow, one step",
        "samples",
        "FAN, 6e-16",
    ),
    "nbrac": AgentSpec(
        "agents.fan",
        "NBRAC",
        "NBRAC",
        "Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        "noise, one step",
        "samples",
        "FAN, 4e-16",
    ),
    "nfql": AgentSpec(
        "agents.fan",
        "NFQL",
        "NFQL",
        "Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        "flow, one step",
        "samples",
        "FAN, 5e-16",
    ),
    "iqn": AgentSpec(
        "agents.iqn",
        "IQN",
        "IQN",
        "Dabney, Ostrovski, Silver, Munos 2018, arXiv 1806.06923",
        "best of a flow's draws",
        "point_set",
        "value-flows, 9e-16",
    ),
    "c51": AgentSpec(
        "agents.c51",
        "C51",
        "C51",
        "Bellemare, Dabney, Munos 2017, arXiv 1707.06887",
        "best of a flow's draws",
        "point_set",
        "value-flows with a log-softmax, 3e-16",
    ),
    "codac": AgentSpec(
        "agents.codac",
        "CODAC",
        "CODAC",
        "Ma, Jayaraman, Bastani 2021, arXiv 2107.06106",
        "squashed Gaussian",
        "full_box",
        "CODAC, 1e-14",
    ),
    "value_flows": AgentSpec(
        "agents.value_flows",
        "ValueFlows",
        "Value Flows",
        "Dong, Zheng, Finn, Sadigh, Eysenbach 2025, arXiv 2510.07650",
        "best of a flow's draws",
        "point_set",
        "value-flows with its factor gamma, 0",
    ),
    "quasi_optimal": AgentSpec(
        "agents.quasi_optimal",
        "QuasiOptimal",
        "Quasi-optimal",
        "Li, Zhou, Zhu 2023, arXiv 2301.08940",
        "sparse parabola",
        "interval",
        "released code, 7e-15",
    ),
    "response_model": AgentSpec(
        "agents.response_model",
        "ResponseModel",
        "Response model",
        "Deisenroth, Rasmussen 2011, ICML",
        "sparse q-Gaussian on a belief",
        "interval",
        "no public code",
    ),
}


def find(name: str) -> AgentSpec:
    """Return the entry called ``name``.

    Raises:
        UserError: there is no such agent; the message lists those there are.
    """
    if name not in AGENTS:
        raise UserError(f"there is no agent {name!r}; the suite has: {', '.join(AGENTS)}.")
    return AGENTS[name]


def build(
    name: str,
    config: Mapping[str, Any] | Any,
    problem: Problem,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    regularisation: Regularisation | Mapping[str, Any] | None = None,
) -> Agent:
    """Build a stack of agents with fresh weights.

    Args:
        name: registry key.
        config: the agent's configuration object, or its fields as stored in a run.
        problem: sizes of the task.
        seeds: S different integers.
        device: where the parameters live.
        dtype: their type, float32 if None.
        precision: of matrix products; bfloat16 is faster where the processor has it, and changes results.
        regularisation: what networks and updates have beyond the method, or its fields as stored in a run.

    Raises:
        UserError: unknown agent, fields its configuration does not have, or values out of range.
    """
    import torch

    from dosing.models.networks import Initialiser
    from dosing.models.regularisation import Regularisation
    from dosing.models.settings import check_settings

    entry = find(name)
    try:
        if isinstance(config, Mapping):
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
            config = entry.config_class()(**fields)
        check_settings(config)
    except TypeError as error:
        raise UserError(f"the configuration does not fit agent {name!r}: {error}.") from error
    product_dtype = torch.bfloat16 if precision == "bfloat16" else None
    options = Regularisation.of(regularisation)
    init = Initialiser(seeds, device, dtype or torch.float32, product_dtype, options)
    build_stack: Any = entry.agent_class()
    built: Agent = build_stack(init, problem, config)
    built.regularisation = options
    return built
