"""IFQL, implicit flow Q-learning: IDQL (Hansen-Estruch et al. 2023, arXiv 2304.10573) with a flow.

The flow variant is that of Park, Li, Levine 2025, arXiv 2502.02538. Values as in IQL, from recorded doses
alone; a flow imitates the recorded doses; the dose is the best of a few draws of it. With expectile kappa,
x_0 standard normal and t uniform:

    L_V    = E [ |kappa - 1{u < 0}| u^2 ],        u = min_i Qbar_i(s, a) - V(s)
    L_Q    = sum_i E [ (r + gamma (1 - d) V(s') - Q_i(s, a))^2 ]
    L_flow = E |v(s, (1 - t) x_0 + t a, t) - (a - x_0)|^2 / n
    pi(s)  = argmax over N draws a_k = clip(F_10(s, eps_k), -1, 1) of min_i Q_i(s, a_k)

n is the number of dose dimensions, F_10 the end of ten Euler steps of the flow v. One Adam step is taken on
the sum; then the target critics follow by Polyak averaging.

The distribution is a set of fixed draws of the flow, each with the probability that it is the best of N draws
from the set; the best of the first N is the recommended dose. Not inherited from the released code: its
target critics follow the parameters of before the step, one update late, and its choice of the best works for
one state at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Distribution

from dosing.agent import Agent
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.candidates import best_of_candidates, generated
from dosing.models.critics import Critic, Value
from dosing.models.flows import Velocity, matching_loss, spread
from dosing.models.in_sample import in_sample_values
from dosing.models.losses import expectile_loss, target_copy, td_loss
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.settings import CriticSettings
from dosing.types import About, Noise, Problem


@dataclass(frozen=True)
class IFQLConfig(CriticSettings):
    """Settings of IFQL: widths and discount of the treatment simulators, the rest as the paper.

    The paper's experiments use four hidden layers of 512 and a discount of 0.99 (0.995 where episodes are
    long).
    """

    expectile: float = 0.9
    """kappa: 0.5 learns the value of the recorded policy, towards 1 the best recorded dose."""
    candidates: int = 32
    """N, draws of the flow to choose from: 1 imitates, many follow the critics."""
    layer_norm: bool = True
    """Layer normalisation in critics and value."""
    flow_steps: int = 10
    """Euler steps of the flow."""


class IFQL(Agent):
    """S stacked seeds of IFQL."""

    about = About(
        paper="Hansen-Estruch et al. 2023, arXiv 2304.10573",
        family="best of a flow's draws",
        support="point_set",
        checked="fql, 1e-16",
    )

    def __init__(self, init: Initialiser, problem: Problem, config: IFQLConfig) -> None:
        super().__init__(problem, init.seeds)
        if not 0.0 < config.expectile < 1.0:
            raise UserError(f"expectile must be above 0 and below 1, got {config.expectile}.")
        for name in ("candidates", "flow_steps"):
            if getattr(config, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(config, name)}.")
        if init.regularisation.prior != "none":
            raise UserError("IFQL chooses among imitated doses, none of which can start at a prior dose.")
        self.config = config
        n_obs, n_act, hidden = problem.n_obs, problem.n_act, config.hidden
        self.critic = Critic(
            init,
            n_obs,
            n_act,
            hidden,
            scheme="xavier",
            activation="gelu",
            layer_norm=config.layer_norm,
            norm_after=True,
        )
        self.value = Value(
            init,
            n_obs,
            hidden,
            scheme="xavier",
            activation="gelu",
            layer_norm=config.layer_norm,
            norm_after=True,
        )
        self.flow = Velocity(init, problem, hidden)
        trained = [*self.critic.parameters(), *self.value.parameters(), *self.flow.parameters()]
        self.critic_target = target_copy(self.critic)
        self.optimizers = {"joint": adam(trained, config.learning_rate)}

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Normal noise of the flow's start, uniform times of it."""
        start = Noise("normal", (batch_size, self.problem.n_act))
        return {"start": start, "time": Noise("uniform", (batch_size, 1))}

    def policy(self, obs: Tensor) -> Distribution:
        """The candidates, each with its probability of being chosen."""
        return best_of_candidates(self.proposed, obs, self.problem.n_act, self.config.candidates)

    def proposed(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Doses ``[S, B, M, A]`` of the flow and their values ``[S, B, M]``, by noise ``[M, A]``."""
        act = generated(self.flow, obs, noise, self.config.flow_steps)
        return act, spread(self.critic.pessimistic, obs, act)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses ``critic``, ``value`` and ``flow``, each ``[S]``."""
        c = self.config
        x = in_sample_values(batch, self.critic, self.critic_target, self.value, c.discount)
        start, time = batch.noise["start"], batch.noise["time"]
        losses = {
            "critic": td_loss(x.q, x.target),
            "value": expectile_loss(x.advantage, c.expectile).mean(-1),
            "flow": matching_loss(self.flow, batch.obs, batch.act, start, time),
        }
        return losses, x.metrics()
