"""Settings of PEX and which of them contradict each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dosing.errors import UserError


@dataclass(frozen=True)
class PEXConfig:
    """Settings of PEX: two members, a softmax at an inverse temperature of 10, as published.

    The paper's mazes use an expectile of 0.9 and beta 10, its locomotion tasks those of IQL.
    """

    members: int = 2
    """K, policies in the set, the one that learns included."""
    others: Literal["seeds", "runs", "online"] = "seeds"
    """Where the K - 2 further frozen members come from: seeds of the offline run that do not take part in the
    trial, each used once; other runs; or the trial itself."""
    runs: str = ""
    """Folders of the other runs, separated by ":", one per further member."""
    snapshot_every: int | None = None
    """Updates from one frozen member of the trial to the next; None spaces them evenly."""
    inverse_temperature: float = 10.0
    """1 / alpha of the choice: 0 chooses evenly, large the dose of highest value."""
    logits: Literal["raw", "scaled"] = "raw"
    """Values in the choice as they are, or divided by their running standard deviation."""
    adaptive: bool = False
    """Adapt alpha so that the choice keeps a target entropy."""
    entropy: float = 0.9
    """Target entropy at the beginning, as a share of ln K."""
    entropy_end: float = 0.1
    """The same at the end."""
    temperature_learning_rate: float = 1e-3
    """Adam step size of ln alpha."""
    mix: Literal["policies", "values", "gradients"] = "policies"
    """What is mixed."""
    doses: Literal["proposed", "recorded"] = "proposed"
    """Doses that the policy is fitted to: proposed anew at the batch's states, or the batch's own."""
    critic: Literal["offline", "random"] = "offline"
    """Where Q, V and their targets start."""
    expectile: float | None = None
    """kappa of V; None is the offline run's."""
    beta: float | None = None
    """Inverse temperature of the policy's weights; None is the offline run's."""
    step_size: float | None = None
    """Adam step size of every network; None is the offline run's."""
    draws: int = 8
    """Draws of the policy that learns in the finite distribution of the composite one."""
    share: float = 0.5
    """Share of recorded visits in a batch; 0 learns from new ones alone."""
    offline_step_size: float | None = None
    """Adam step size at which the offline policy goes on learning; None freezes it, as published."""
    evaluation_epsilon: float | None = None
    """Probability of a random proposal, and of a random choice, in evaluations; 0.1 as published. None
    evaluates what doses in the trial."""

    def check(self) -> None:
        """Refuse settings that cannot work.

        Raises:
            UserError: one of the settings is out of range, or some contradict each other.
        """
        others, every, rate = self.members - 2, self.snapshot_every, self.temperature_learning_rate
        adapts, epsilon = self.offline_step_size, self.evaluation_epsilon
        checks = [
            (
                0.0 <= self.share < 1.0,
                f"the share of recorded visits must be at least 0 and below 1, got {self.share}",
            ),
            (adapts is None or adapts > 0.0, f"offline_step_size must be above 0, got {adapts}"),
            (
                epsilon is None or 0.0 <= epsilon <= 1.0,
                f"evaluation_epsilon must be between 0 and 1, got {epsilon}",
            ),
            (
                (adapts is None and epsilon is None) or self.mix == "policies",
                f"with mix={self.mix} no frozen policy doses: leave offline_step_size and "
                "evaluation_epsilon out",
            ),
            (
                others >= 0,
                f"members must be at least 2, a frozen one and one that learns, got {self.members}",
            ),
            (self.draws >= 1, f"draws must be at least 1, got {self.draws}"),
            (every is None or every >= 1, f"snapshot_every must be at least 1, got {every}"),
            (0.0 < self.entropy < 1.0, f"entropy must be above 0 and below 1, got {self.entropy}"),
            (
                0.0 < self.entropy_end < 1.0,
                f"entropy_end must be above 0 and below 1, got {self.entropy_end}",
            ),
            (rate > 0.0, f"temperature_learning_rate must be above 0, got {rate}"),
            (
                not self.adaptive or self.inverse_temperature > 0.0,
                "an adaptive temperature starts at an inverse_temperature above 0",
            ),
            (
                not self.adaptive or self.mix != "values",
                "with mix=values nothing is chosen whose entropy a temperature could adapt",
            ),
            (
                self.others != "online" or self.mix == "policies",
                f"with mix={self.mix} one policy learns: others=online freezes none",
            ),
            (
                self.others != "runs" or len(self.folders) == others,
                f"others=runs needs {others} run(s) in runs for {self.members} members, "
                f"got {len(self.folders)}",
            ),
        ]
        for good, said in checks:
            if not good:
                raise UserError(f"{said}.")

    @property
    def folders(self) -> list[str]:
        """The other runs."""
        return [folder for folder in self.runs.split(":") if folder]
