"""The registry as a table: every agent, what its doses are and what it learns from. No Streamlit here."""

from __future__ import annotations

from typing import Any

import torch

import agents
from app.analysis.model_card import KINDS
from dosing.agent import Agent, AimsAtReturn, LearnsReturns, value_of
from dosing.types import Problem

PROBLEM = Problem(n_obs=2, n_act=1, horizon=24)
"""The smallest task that every agent can be built for."""


def learns_from(agent: Agent) -> str:
    """What an agent's updates rest on, read off the agent itself."""
    obs, act = (torch.zeros(len(agent.seeds), 1, n) for n in (agent.problem.n_obs, agent.problem.n_act))
    with torch.no_grad():
        value = value_of(agent, obs, act)
    if isinstance(agent, LearnsReturns):
        words = ["a learned distribution of returns"]
    elif value is not None:
        words = ["learned values of doses"]
    elif isinstance(agent, AimsAtReturn):
        words = ["recorded doses, given the return that followed"]
    else:
        words = ["recorded doses alone"]
    if "next_act" in agent.needs:
        words.append("the dose recorded next")
    if agent.episodes is not None:
        words.append("pairs of visits of whole episodes")
    elif agent.context > 1:
        words.append(f"episodes of up to {agent.context} visits")
    return ", ".join(words)


def table() -> list[dict[str, Any]]:
    """One line per agent of the registry, in its order."""
    lines = []
    for name, entry in agents.AGENTS.items():
        built = agents.build(name, entry.config_class()(), PROBLEM, (0,))
        lines.append(
            {
                "agent": entry.title,
                "name": name,
                "paper": entry.about.paper,
                "distribution of the dose": entry.about.family,
                "dose set": KINDS[entry.about.support],
                "learns from": learns_from(built),
            }
        )
    return lines
