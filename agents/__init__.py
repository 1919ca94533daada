"""The suite: one file per method, and the registry that names them. Importing this imports no agent."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dosing.entry_points import AGENTS as GROUP
from dosing.entry_points import leave_out, syntax_of, usable
from dosing.errors import UserError
from dosing.types import About

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
        full_name: what the title stands for; empty where it says so itself.
    """

    module: str
    name: str
    title: str
    full_name: str = ""

    @property
    def about(self) -> About:
        """The class's own ``about``, read from the text of its file: nothing is imported."""
        return _abouts(self.module)[self.name]

    def family_of(self, settings: Mapping[str, Any]) -> str:
        """Distribution of the policy with the settings of a run, in words."""
        if settings.get("actor") == "gaussian":
            return "clipped Gaussian"
        chosen = {"squashed_gaussian": "squashed_gaussian"}.get(settings.get("actor", ""), self.about.family)
        family: str = settings.get("policy_family", chosen)
        return family.replace("_", " ").replace("gaussian", "Gaussian")

    def config_class(self) -> type[Any]:
        """Import the agent's file and return its configuration dataclass."""
        result: type[Any] = getattr(importlib.import_module(self.module), f"{self.name}Config")
        return result

    def agent_class(self) -> type[Agent]:
        """Import the agent's file and return its class."""
        result: type[Agent] = getattr(importlib.import_module(self.module), self.name)
        return result


@functools.cache
def _abouts(module: str) -> dict[str, About]:
    """The ``about`` of every class in a file that has one: ``About(name="text", ...)``, all literals."""
    return {
        node.name: About(**{str(k.arg): ast.literal_eval(k.value) for k in item.value.keywords})
        for node in syntax_of(module).body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Call)
        if ast.unparse(item.targets[0]) == "about"
    }


AGENTS: dict[str, AgentSpec] = {
    "fttpo": AgentSpec("agents.fttpo", "FtTPO", "FtTPO", "fat-to-thin policy optimisation"),
    "fttpo_released": AgentSpec(
        "agents.fttpo_released",
        "FtTPOReleased",
        "FtTPO as released",
        "fat-to-thin policy optimisation, as its code was released",
    ),
    "iql": AgentSpec("agents.iql", "IQL", "IQL", "implicit Q-learning"),
    "awac": AgentSpec("agents.awac", "AWAC", "AWAC", "advantage-weighted actor-critic"),
    "tawac": AgentSpec("agents.tawac", "TAWAC", "TAWAC", "Tsallis advantage-weighted actor-critic"),
    "inac": AgentSpec("agents.inac", "InAC", "InAC", "in-sample actor-critic"),
    "sql": AgentSpec("agents.sql", "SQL", "SQL", "sparse Q-learning"),
    "eql": AgentSpec("agents.eql", "EQL", "EQL", "exponential Q-learning"),
    "xql": AgentSpec("agents.xql", "XQL", "XQL", "extreme Q-learning"),
    "bc": AgentSpec("agents.bc", "BC", "BC", "behaviour cloning"),
    "pct_bc": AgentSpec("agents.bc", "PercentBC", "%BC", "behaviour cloning of the best patients"),
    "td3": AgentSpec("agents.td3", "TD3", "TD3", "twin delayed deep deterministic policy gradient"),
    "td3_bc": AgentSpec("agents.td3_bc", "TD3BC", "TD3+BC", "TD3 with behaviour cloning"),
    "rebrac": AgentSpec("agents.rebrac", "ReBRAC", "ReBRAC", "revisited behaviour-regularised actor-critic"),
    "spot": AgentSpec("agents.spot", "SPOT", "SPOT", "supported policy optimisation"),
    "decision_transformer": AgentSpec(
        "agents.decision_transformer",
        "DecisionTransformer",
        "Decision Transformer",
        "doses as a sequence to be continued",
    ),
    "cql": AgentSpec("agents.cql", "CQL", "CQL", "conservative Q-learning"),
    "cal_ql": AgentSpec("agents.cql", "CalQL", "Cal-QL", "calibrated conservative Q-learning"),
    "onestep": AgentSpec("agents.onestep", "Onestep", "Onestep RL", "one step of policy improvement"),
    "bcq": AgentSpec("agents.bcq", "BCQ", "BCQ", "batch-constrained Q-learning"),
    "bear": AgentSpec("agents.bear", "BEAR", "BEAR", "bootstrapping error accumulation reduction"),
    "plas": AgentSpec("agents.plas", "PLAS", "PLAS", "policy in the latent action space"),
    "fql": AgentSpec("agents.fql", "FQL", "FQL", "flow Q-learning"),
    "ifql": AgentSpec("agents.ifql", "IFQL", "IFQL", "implicit flow Q-learning"),
    "fan": AgentSpec("agents.fan", "FAN", "FAN", "flow-anchored noise-conditioned Q-learning"),
    "faql": AgentSpec("agents.fan", "FAQL", "FAQL", "FAN with an ordinary critic"),
    "nbrac": AgentSpec("agents.fan", "NBRAC", "NBRAC", "FAN with the distances of ReBRAC"),
    "nfql": AgentSpec("agents.fan", "NFQL", "NFQL", "FAN with the distillation of FQL"),
    "iqn": AgentSpec("agents.iqn", "IQN", "IQN", "implicit quantile networks"),
    "c51": AgentSpec("agents.c51", "C51", "C51", "categorical distribution of returns, 51 atoms"),
    "codac": AgentSpec("agents.codac", "CODAC", "CODAC", "conservative offline distributional actor-critic"),
    "value_flows": AgentSpec(
        "agents.value_flows", "ValueFlows", "Value Flows", "distribution of returns by a flow"
    ),
    "quasi_optimal": AgentSpec(
        "agents.quasi_optimal", "QuasiOptimal", "Quasi-optimal", "quasi-optimal q-Gaussian policy"
    ),
    "response_model": AgentSpec(
        "agents.response_model",
        "ResponseModel",
        "Response model",
        "planning",
    ),
}


def _add_packaged() -> None:
    """Take the agents of installed packages in: entry points ``name = module:Class`` of ``dosing.agents``."""
    for entry in usable(GROUP, AGENTS):
        spec = AgentSpec(entry.module, entry.attr, entry.attr)
        try:
            known = spec.about is not None and f"{spec.name}Config" in _classes(spec.module)
        except (KeyError, TypeError, ValueError, SyntaxError, OSError):
            known = False
        if known:
            AGENTS[entry.name] = spec
        else:
            leave_out(
                entry,
                f"{entry.module} has to hold a class {entry.attr or 'of an agent'} with its `about`, and "
                f"{entry.attr or '<class>'}Config; see the documentation, Add an agent",
            )


def _classes(module: str) -> set[str]:
    return {node.name for node in syntax_of(module).body if isinstance(node, ast.ClassDef)}


_add_packaged()

DEMO = ("fttpo", "iql")
"""A bounded policy and a Gaussian one; both have critics."""
DEMO_PATIENTS: Mapping[str, str] = {
    "response_model": "clinical-small",
    "fttpo": "belief",
    "iql": "clinical-small",
}
"""What the demonstration trains on recorded patients, each agent with a preset."""
COLLECTOR = "td3"
"""Learns online, from nothing, where data are to be recorded."""


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
    regularisation: Regularisation | Mapping[str, Any] | None = None,
    fresh: bool = True,
) -> Agent:
    """Build a stack of agents with fresh weights.

    Args:
        name: registry key.
        config: the agent's configuration object, or its fields as stored in a run.
        problem: sizes of the task.
        seeds: S different integers.
        device: where the parameters live.
        dtype: their type, float32 if None.
        regularisation: what networks and updates have beyond the method, or its fields as stored in a run.
        fresh: draw weights; else they are 0, for a stack whose weights are loaded next: drawing takes most of
            the time.

    Raises:
        UserError: unknown agent, fields its configuration does not have, or values out of range.
    """
    import torch

    from dosing.models.networks import Initialiser
    from dosing.models.regularisation import Regularisation
    from dosing.models.settings import check_settings
    from dosing.training.belief_agent import OnBelief, belief_problem
    from dosing.training.regularised import keep_budget
    from dosing.training.thin_agent import thinned

    entry = find(name)
    try:
        if isinstance(config, Mapping):
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
            config = entry.config_class()(**fields)
        check_settings(config)
    except TypeError as error:
        raise UserError(f"the configuration does not fit agent {name!r}: {error}.") from error
    options = Regularisation.of(regularisation)
    init = Initialiser(seeds, device, dtype or torch.float32, options, fresh)
    build_stack: Any = entry.agent_class()

    def stack(sizes: Problem) -> Agent:
        made: Agent = build_stack(init, sizes, config)
        made.regularisation = options
        keep_budget(made, init)
        return thinned(made, init)

    if options.advantage == "critic":
        return stack(problem)
    return OnBelief(stack(belief_problem(problem)), problem, options.imagined)
