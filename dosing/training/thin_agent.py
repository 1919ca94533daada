"""Fat to thin for any agent: a sparse law of the dose distilled from its policy while it trains.

``Thinned`` trains an agent as it would train alone, to the bit, and after every update of it fits a thin law
(``dosing.models.thin``) to its policy at the states of the batch. The thin law is the policy; the fat one
stays beside it. What the thin law is fitted to follows from what the policy is, not from whose it is:

* a density that is positive everywhere: reverse KL by quadrature;
* draws: reverse KL from a kernel estimate over ``DRAWS`` of them;
* one dose: it stays the mean, and the width is the disagreement of the agent's own critics about it;
* a bounded support, a memory of the episode, or one dose without two critics: refused.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from dosing.agent import Agent, HasFurtherDensities, LearnsReturns, value_of
from dosing.data.dataset import Dataset
from dosing.distributions.draws import Draws
from dosing.distributions.q_gaussian import from_uniform, n_uniforms
from dosing.distributions.quadrature import standard_nodes
from dosing.distributions.univariate import Univariate
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.critics import Critic
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.thin import (
    LEARNING_RATE,
    ThinActor,
    bandwidth,
    disagreement,
    divergence,
    divergence_from_draws,
    spread_score,
)
from dosing.training.regularised import noise_plan, take_step
from dosing.types import Noise

NODES = 32
"""Quadrature nodes, or for several dose dimensions draws of the thin law beside a kernel estimate."""
DRAWS = 64
"""Draws of a fat policy without a density that a kernel estimate is made of."""
DRAWN_STATES = 16
"""States of a batch at which such a policy is drawn from: a draw may cost a whole flow."""
FAT = "fat"
"""Name of the fat policy among the further densities."""


def thinned(agent: Agent, init: Initialiser) -> Agent:
    """The agent with the thin law of its regularisation, or as it is where there is none.

    Args:
        agent: fresh, with its regularisation.
        init: initialiser of its seeds, after its own networks.

    Raises:
        UserError: there is nothing that a thin law of its policy could honestly be fitted to.
    """
    if agent.regularisation.thin is None:
        return agent
    name = type(agent).__name__
    if agent.budget is not None:
        raise UserError(
            f"a thin law of {name} is distilled without a cost budget, whose predictions are of the fat "
            "policy's doses: leave one of the two out."
        )
    if agent.looks_back:
        raise UserError(
            f"a thin law is learned at the state of one visit, and {name} looks back on the visits before."
        )
    law = _law(
        agent, torch.zeros(len(agent.seeds), 1, agent.problem.n_obs, dtype=init.dtype, device=init.device)
    )
    critic = getattr(agent, "critic", None)
    if law.kind == "interval":
        raise UserError(
            f"the policy of {name} is sparse already: its doses lie in a bounded interval, and there is "
            "nothing to thin."
        )
    if law.kind == "point" and not (isinstance(critic, Critic) and critic.members > 1):
        raise UserError(
            f"the policy of {name} is one dose, and it has no two critics whose disagreement could give a "
            "thin law its width."
        )
    if law.kind == "point" and agent.regularisation.thin_mean == "free":
        raise UserError(
            f"the policy of {name} is one dose, which its thin law has as its mean: leave it shared."
        )
    return (ThinnedWithReturns if isinstance(agent, LearnsReturns) else Thinned)(agent, init, law)


class Thinned(Agent):
    """An agent, and the thin law of its policy.

    Args:
        inner: the agent; :func:`thinned` says which.
        init: initialiser of its seeds, after its own networks.
        law: its policy per dose dimension at any state, which tells what the thin law is fitted to.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(self, inner: Agent, init: Initialiser, law: Univariate) -> None:
        super().__init__(inner.problem, inner.seeds)
        options, q = inner.regularisation, cast(float, inner.regularisation.thin)
        self.inner, self.regularisation = inner, options
        self.needs, self.rewards = inner.needs, inner.rewards  # type: ignore[misc]
        self.episodes, self.warm_up = inner.episodes, inner.warm_up
        self.thin = ThinActor(init, inner.problem, q, options.thin_mean == "free")
        self.own = adam(self.thin, LEARNING_RATE)
        self.optimizers = inner.optimizers | {"thin": self.own}
        self.drawn, self.one_dose = isinstance(law, Draws), law.kind == "point"
        self.by_noise = self.drawn and inner.problem.n_act > 1
        for name, values in zip(("nodes", "weights"), standard_nodes(q, NODES), strict=True):
            column = torch.as_tensor(values, dtype=init.dtype, device=init.device).view(-1, 1, 1, 1)
            self.register_buffer(name, column, persistent=False)

    @property
    def discount(self) -> float:
        """That of the agent."""
        return self.inner.discount

    @property
    def config(self) -> Any:
        """That of the agent."""
        return cast(Any, self.inner).config

    @config.setter
    def config(self, changed: Any) -> None:
        cast(Any, self.inner).config = changed

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """All that the agent draws, as it draws it alone; then the thin law's own, if its loss draws."""
        own = {}
        if self.by_noise:
            states = min(batch_size, DRAWN_STATES)
            shape = (NODES, states, self.problem.n_act, n_uniforms(self.thin.q))
            own = {"thin": Noise("uniform", shape)}
        return noise_plan(self.inner, batch_size) | own

    def prepare(self, dataset: Dataset) -> None:
        """That of the agent."""
        self.inner.prepare(dataset)

    def view(self, dataset: Dataset) -> Dataset:
        """That of the agent."""
        viewed: Dataset = self.inner.view(dataset)
        return viewed

    def rows(self, dataset: Dataset) -> Tensor | None:
        """Those of the agent."""
        return self.inner.rows(dataset)

    def schedule(self, step: int) -> None:
        """That of the agent."""
        self.inner.schedule(step)

    def phase(self, step: int) -> int:
        """That of the agent."""
        return self.inner.phase(step)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Those of the agent, and the loss ``thin`` beside the policy before the update."""
        losses, metrics = self.inner.losses_and_metrics(batch)
        thin, own = self.distillation(batch)
        return losses | {"thin": thin}, metrics | own

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """That of the agent, then a step of the thin law towards the policy that came of it."""
        metrics = take_step(self.inner, batch)
        loss, own = self.distillation(batch)
        self.descend([loss], [self.own])
        return metrics | {"loss/thin": loss.detach()} | own

    def distillation(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss ``[S]`` of the thin law beside the agent's policy, a constant, and metrics."""
        obs = batch.obs[:, :DRAWN_STATES] if self.drawn else batch.obs
        fat = _law(self.inner, obs)
        thin = self.thin(obs, fat.mode)
        if self.one_dose:
            loss = spread_score(thin, disagreement(cast(Critic, self.inner.critic), obs, fat.mode))
        elif not isinstance(fat, Draws):
            loss = divergence(thin, fat, self.nodes, self.weights)
        else:
            points, weights = self.nodes, self.weights.squeeze(-1)
            if self.by_noise:
                points = from_uniform(batch.noise["thin"].transpose(0, 1), self.thin.q)
                weights = torch.full_like(weights, 1.0 / NODES)
            loss = divergence_from_draws(thin, equally_likely_draws(fat), points, weights)
        half_width = (thin.radius * thin.scale).detach().mean((1, 2))
        return loss.mean(-1), {"thin/half_width": half_width}

    def policy(self, obs: Tensor) -> Distribution:
        """The thin law, exactly 0 outside an interval inside the limits."""
        return Independent(self.thin(obs, _law(self.inner, obs).mode), 1, validate_args=False)

    def densities(self, obs: Tensor) -> dict[str, Distribution]:
        """The fat policy, estimated where it is known by draws, and the agent's further densities."""
        fat = self.inner.policy(obs)
        law = cast(Any, fat).base_dist
        if isinstance(law, Draws):
            draws = equally_likely_draws(law)
            each = Normal(draws.movedim(0, -1), bandwidth(draws).unsqueeze(-1), validate_args=False)
            chances = Categorical(logits=torch.zeros_like(each.loc), validate_args=False)
            fat = Independent(MixtureSameFamily(chances, each, validate_args=False), 1, validate_args=False)
        own = {} if self.one_dose else {FAT: fat}
        further = self.inner.densities(obs) if isinstance(self.inner, HasFurtherDensities) else {}
        return own | further

    def value_of(self, obs: Tensor, act: Tensor) -> Tensor | None:
        """What the agent believes the return of a dose to be; its later doses are those of the fat policy."""
        return value_of(self.inner, obs, act)


class ThinnedWithReturns(Thinned):
    """The same of an agent that learns the distribution of returns."""

    def returns(self, obs: Tensor, act: Tensor) -> Tensor:
        """Those of the agent; see :class:`dosing.agent.LearnsReturns`."""
        return cast(LearnsReturns, self.inner).returns(obs, act)


@torch.no_grad()
def _law(agent: Agent, obs: Tensor) -> Univariate:
    """The agent's policy per dose dimension at ``obs [S, B, O]``: ``[S, B, A]``, a constant."""
    law: Univariate = cast(Any, agent.policy(obs)).base_dist
    return law


def equally_likely_draws(law: Draws) -> Tensor:
    """``DRAWS`` equally likely doses ``[K, S, B, A]`` of a finite law, at fixed probabilities."""
    middle = (torch.arange(DRAWS, dtype=law.values.dtype, device=law.values.device) + 0.5) / DRAWS
    return law.rsample_from(middle.view(-1, 1, 1, 1, 1).expand(-1, *law.batch_shape, 1))
