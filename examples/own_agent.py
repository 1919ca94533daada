"""An agent of your own, in one file: it joins every comparison, table and page.

    python examples/own_agent.py [--out FOLDER]

It clones the recorded doses, those that were followed by a reward above the batch's median. The page "Add an
agent" of the documentation says what a method needs to belong to the suite.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from agents import AGENTS, AgentSpec
from dosing.agent import Agent
from dosing.models.batch import Batch
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.policy_heads import Policy
from dosing.studies import Resources, TrainingSettings, compare
from dosing.types import About, Problem


@dataclass(frozen=True)
class UpperHalfConfig:
    """Settings of the agent; each becomes an option of the command line."""

    hidden: tuple[int, ...] = (64, 64)
    """Hidden widths of the policy."""
    learning_rate: float = 3e-4
    """Adam step size."""


class UpperHalf(Agent):
    """S stacked seeds: every network has a leading seed axis, every loss is ``[S]``.

    ``actor`` is the policy: a Beta distribution on the interval between the limits.
    """

    about = About(paper="no paper: an example", family="Beta", support="full_box", checked="no public code")

    def __init__(self, init: Initialiser, problem: Problem, config: UpperHalfConfig) -> None:
        super().__init__(problem, init.seeds)
        self.config = config
        self.actor = Policy(init, problem, config.hidden, "beta")
        self.optimizers = {"actor": adam(self.actor, config.learning_rate)}

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L = - E [ 1(r > median r) ln pi(a | s) ], ``[S]``."""
        kept = batch.reward > batch.reward.median(-1, keepdim=True).values  # [S, B]
        loss = -(kept * self.actor.log_prob(batch.obs, batch.act)).sum(-1) / kept.sum(-1).clamp(min=1)
        return {"actor": loss}, {"kept": kept.double().mean(-1)}


AGENTS["upper_half"] = AgentSpec(module=Path(__file__).stem, name="UpperHalf", title="Upper half")

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder [%(default)s]")
    comparison = compare(
        parser.parse_args().out / "own_agent",
        ["upper_half", "bc"],
        "dosing/Treatment-v0",
        seeds=range(2),
        training=TrainingSettings(steps=200),
        evaluation_patients=100,
        resources=Resources(workers=1),  # a further process would have to read this file to know the agent
    )
    print(comparison)
