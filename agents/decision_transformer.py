"""Decision Transformer. Chen et al. 2021, arXiv 2106.01345 (NeurIPS 2021).

No value is learned: a sequence model imitates the recorded doses given the return that followed them, and is
then asked for a high one. An episode is read as tokens, three per visit, of the last K visits (the context):

    R_1, s_1, a_1, R_2, s_2, a_2, ...,      R_t = r_t + r_(t+1) + ...   (return-to-go, undiscounted)
    x   = LN(E_R R_t + w_t), LN(E_s s_t + w_t), LN(E_a a_t + w_t),      w_t learned for every time step t
    x  <- x + attention(LN(x)),   x <- x + W_2 relu(W_1 LN(x)),         once per layer (GPT-2)
    pi  = tanh(W LN(x at the token s_t)),      L = mean over recorded visits and doses of (pi - a_t)^2

A token attends to itself and to earlier tokens, so that pi sees R_t, s_t and what came before, not a_t. While
acting, R_1 is the target and R_(t+1) = R_t - r_t with the reward received; a_t is the delivered dose. A state
without history is a first visit. Returns-to-go are divided by their standard deviation in the data, where the
released code divides by 1000; the target is a quantile of the recorded returns unless it is set.

Gradients are clipped by the norm of each seed alone. Dropout leaves out a unit for all tokens of a window
(Gal, Ghahramani 2016, arXiv 1512.05287), after the embedding and on every residual branch; attention weights,
of which the released code drops some as well, are all used. Padding is masked while learning, and there is
none while acting: the released code pads doses with -10 in the one and with 0 in the other. CORL's loss
counts padding as visits without error; here the mean is over visits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.nn.functional import scaled_dot_product_attention

from dosing.agent import Agent, History
from dosing.data.dataset import Dataset
from dosing.distributions.point import Point
from dosing.errors import UserError
from dosing.models.batch import Batch
from dosing.models.networks import Initialiser, Linear, Mlp, StackedLayerNorm, decay_of, decays
from dosing.models.optimisers import adam, clip_by_seed, set_learning_rate
from dosing.models.prior import Centred
from dosing.training.sampler import EXTRAS
from dosing.types import About, Noise, Problem

EPISODES = 256
"""Episodes of one seed that are computed at once while acting; more would only take memory."""


@dataclass(frozen=True)
class DecisionTransformerConfig:
    """Settings of Decision Transformer: a smaller network and a shorter warm-up than the paper's.

    The paper's locomotion experiments use a context of 20 (5 on Reacher), three layers of width 128 with one
    head, dropout 0.1, a step size of 1e-4 after 1e4 updates of warm-up, decay 1e-4, gradients clipped at
    0.25, batches of 64 windows (a batch size of 1280) and 1e5 updates; targets 12000 (HalfCheetah), 3600
    (Hopper), 5000 (Walker2d) and half of each.
    """

    context: int = 20
    """K, visits the policy looks at, the one at hand included; never more than an episode has."""
    width: int = 64
    """Width of every token; a multiple of the number of heads."""
    layers: int = 2
    """Layers of attention and feed-forward network."""
    heads: int = 1
    """Attention heads per layer."""
    learning_rate: float = 1e-4
    """AdamW step size after the warm-up."""
    warm_up_steps: int = 100
    """Updates over which the step size grows linearly from nearly 0."""
    decay: float = 1e-4
    """AdamW's decay of every parameter, per unit of step size."""
    gradient_clip: float = 0.25
    """Largest norm of a seed's gradient; a larger one is scaled down to it."""
    residual_dropout: float = 0.1
    """Share of units left out after the embedding and on every residual branch, drawn for every window."""
    target_quantile: float = 0.95
    """Quantile of the recorded returns that the policy aims at."""
    target_return: float | None = None
    """Return to aim at instead, in the data's own unit."""
    max_visits: int = 1000
    """Most visits of an episode, where the task does not say how many it has."""


class Layer(nn.Module):
    """One layer of GPT-2: causal attention and a feed-forward network, each behind a normalisation."""

    def __init__(self, init: Initialiser, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = (StackedLayerNorm(init, width) for _ in range(2))
        self.qkv = Linear(init, width, 3 * width, scheme="gpt2")
        self.out = Linear(init, width, width, scheme="gpt2")
        self.mlp = Mlp(init, [width, 4 * width, width], scheme="gpt2")

    def forward(self, x: Tensor, allowed: Tensor | None, keep: tuple[Tensor, Tensor] | None) -> Tensor:
        """Map tokens to tokens.

        Args:
            x: ``[S, N, T, W]``.
            allowed: ``[S N, 1, T, T]``, True where a token (third axis) attends to another; None is causal.
            keep: factors of the units of the two branches, ``[S, N, 1, W]`` each, or None.
        """
        seeds, windows, tokens, width = x.shape
        q, k, v = (
            self.qkv(self.attention_norm(x.flatten(1, 2)))
            .view(seeds * windows, tokens, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)  # [3, S N, H, T, W / H]
        )
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None)
        branch = self.out(mixed.transpose(1, 2).reshape(seeds, windows * tokens, width)).view_as(x)
        x = x + (branch if keep is None else branch * keep[0])
        branch = self.mlp(self.mlp_norm(x.flatten(1, 2))).view_as(x)
        moved: Tensor = x + (branch if keep is None else branch * keep[1])
        return moved


class CausalTransformer(nn.Module):
    """Actions predicted from windows of (return-to-go, state, action).

    Args:
        init: initialiser of the S seeds.
        problem: sizes.
        config: width, layers, heads.
        visits: time steps there are embeddings for.
    """

    def __init__(
        self, init: Initialiser, problem: Problem, config: DecisionTransformerConfig, visits: int
    ) -> None:
        super().__init__()
        width = config.width
        self.embed_return = Linear(init, 1, width, scheme="gpt2")
        self.embed_obs = Linear(init, problem.n_obs, width, scheme="gpt2")
        self.embed_act = Linear(init, problem.n_act, width, scheme="gpt2")
        self.embed_time = init.stack(lambda rng: 0.02 * rng.standard_normal((visits, width)), (visits, width))
        self.embed_norm = StackedLayerNorm(init, width)
        self.layers = nn.ModuleList(Layer(init, width, config.heads) for _ in range(config.layers))
        self.last_norm = StackedLayerNorm(init, width)
        self.head = Linear(init, width, problem.n_act, scheme="gpt2")
        self.prior = Centred(init, problem.n_act, self.head.bias)

    def forward(
        self,
        return_to_go: Tensor,
        obs: Tensor,
        act: Tensor,
        time_step: Tensor,
        mask: Tensor | None = None,
        keep: Sequence[Tensor] = (),
    ) -> Tensor:
        """Action ``[S, N, K, A]`` in [-1, 1] at every visit of N windows.

        Args:
            return_to_go: ``[S, N, K]``, scaled.
            obs: ``[S, N, K, O]``.
            act: ``[S, N, K, A]``; that of a visit reaches later visits only.
            time_step: ``[S, N, K]`` whole numbers.
            mask: ``[S, N, K]``, 0 where a row is padding; None where none is. What is predicted there means
                nothing.
            keep: factors ``[S, N, 1, W]`` of the units after the embedding and of every residual branch.
        """
        seeds, windows, visits = return_to_go.shape
        rows = time_step.flatten(1).unsqueeze(-1).expand(-1, -1, self.embed_time.shape[-1])
        time = self.embed_time.gather(1, rows)  # [S, N K, W]
        parts = (
            self.embed_return(return_to_go.reshape(seeds, -1, 1)),
            self.embed_obs(obs.flatten(1, 2)),
            self.embed_act(act.flatten(1, 2)),
        )
        tokens = torch.stack([self.embed_norm(part + time) for part in parts], 2)  # [S, N K, 3, W]
        x = tokens.view(seeds, windows, 3 * visits, -1)
        allowed = None
        if mask is not None:
            real = mask.bool().unsqueeze(-1).expand(-1, -1, -1, 3).reshape(seeds * windows, 1, 1, -1)
            square = torch.ones(3 * visits, 3 * visits, dtype=torch.bool, device=x.device)
            # a padded token attends to itself, as softmax over nothing is NaN
            allowed = (real & square.tril()) | torch.eye(3 * visits, dtype=torch.bool, device=x.device)
        if keep:
            x = x * keep[0]
        for i, layer in enumerate(self.layers):
            x = layer(x, allowed, (keep[2 * i + 1], keep[2 * i + 2]) if keep else None)
        states = x.view(seeds, windows * visits, 3, -1)[:, :, 1]
        predicted = torch.tanh(self.prior(self.head(self.last_norm(states))))
        return predicted.view(seeds, windows, visits, -1)


class DecisionTransformer(Agent):
    """S stacked seeds of Decision Transformer."""

    about = About(
        paper="Chen et al. 2021, arXiv 2106.01345",
        family="deterministic, given a return",
        support="point",
        checked="kzl/decision-transformer, 3e-16",
    )

    rewards = "fixed"

    needs: ClassVar[frozenset[str]] = frozenset({"return_to_go", "time_step", "mask"})
    aim: Tensor
    spread: Tensor
    known: Tensor

    def __init__(self, init: Initialiser, problem: Problem, config: DecisionTransformerConfig) -> None:
        super().__init__(problem, init.seeds)
        _check(config)
        self.config = config
        self.visits = problem.horizon or config.max_visits
        self.context = min(config.context, self.visits)
        self.actor = CausalTransformer(init, problem, config, self.visits)
        for parameter in self.actor.parameters():
            decays(parameter, decay_of(parameter) + config.decay)
        one = torch.ones(len(init.seeds), 1, dtype=init.dtype, device=init.device)
        self.register_buffer("aim", torch.zeros_like(one).repeat(1, 3))
        self.register_buffer("spread", one)
        self.register_buffer("known", torch.zeros_like(one, dtype=torch.bool))
        self.optimizers = {"actor": adam(self.actor, config.learning_rate)}

    def noise(self, batch_size: int) -> dict[str, Noise]:
        """Uniform noise of the dropout: one number per window, unit and place of dropout."""
        c = self.config
        places = 1 + 2 * c.layers
        if c.residual_dropout == 0.0:
            return {}
        return {"dropout": Noise("uniform", (batch_size // self.context, places * c.width))}

    def prepare(self, dataset: Dataset) -> None:
        """Take the range of the recorded returns, the one to aim at, and the spread of the returns-to-go.

        Raises:
            UserError: an episode has more visits than there are time steps, or rewards are shifted.
        """
        super().prepare(dataset)
        if dataset.transform.reward_shift:
            raise UserError("this agent aims at a return of recorded rewards: leave shift_reward out.")
        longest = int(dataset.starts.diff().max())
        if longest > self.visits:
            raise UserError(f"this agent has time steps for {self.visits} visits, an episode has {longest}.")
        if bool(self.known.all()):
            return
        to_go = EXTRAS["return_to_go"](dataset)[:, 0]
        returns, rows = to_go[dataset.starts[:-1]], len(dataset) // dataset.replicates
        parts = [returns[dataset.starts[:-1] // rows == k] for k in range(dataset.replicates)]
        result = [torch.stack((r.min(), r.quantile(self.config.target_quantile), r.max())) for r in parts]
        self.aim.copy_(torch.stack(result))
        if self.config.target_return is not None:
            self.aim[:, 1] = float(dataset.transform.scaled(np.asarray(self.config.target_return)))
        spread = to_go.view(dataset.replicates, rows).std(1, correction=0, keepdim=True)
        self.spread.copy_(torch.where(spread > 0.0, spread, torch.ones_like(spread)))
        self.known.fill_(True)

    def schedule(self, step: int) -> None:
        """Linear warm-up of the step size."""
        c = self.config
        share = min((step + 1) / c.warm_up_steps, 1.0)
        set_learning_rate(self.optimizers["actor"], c.learning_rate * share)

    def losses_and_metrics(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss ``actor``, ``[S]``."""
        c = self.config

        def windows(rows: Tensor) -> Tensor:
            return rows.reshape(len(rows), -1, batch.length, *rows.shape[2:])  # [S, N, K, ...]

        to_go, step, mask = (
            windows(batch.extra[name].squeeze(-1)) for name in ("return_to_go", "time_step", "mask")
        )
        keep: list[Tensor] = []
        if c.residual_dropout > 0.0:
            uniform = batch.noise["dropout"].unsqueeze(2)  # [S, N, 1, places * W]
            kept = (uniform >= c.residual_dropout).to(uniform.dtype) / (1.0 - c.residual_dropout)
            keep = list(kept.split(c.width, -1))
        act = windows(batch.act)
        scaled = to_go / self.spread.unsqueeze(-1)
        predicted = self.actor(scaled, windows(batch.obs), act, step.long(), mask, keep)
        error = (predicted - act).square().mean(-1) * mask
        return {"actor": error.sum((1, 2)) / mask.sum((1, 2))}, {}

    def adjust_gradients(self) -> None:
        """Every seed's gradient is scaled down to the largest norm."""
        clip_by_seed(self.actor, self.config.gradient_clip)

    @property
    def targets(self) -> Tensor:
        """Returns ``[S, 3]``: lowest recorded, aimed at by default, highest recorded."""
        return self.aim

    def policy(self, obs: Tensor) -> Distribution:
        """The distribution of one dose at a first visit, aiming at the default return."""
        return self.policy_after(History.at_first_visit(obs, self.problem.n_act))

    def policy_after(self, history: History) -> Distribution:
        """The distribution of one dose after a history, aiming at the default return."""
        return self.policy_for(history, self.aim[:, 1:2].expand(-1, history.obs.shape[1]))

    def policy_for(self, history: History, target: Tensor) -> Distribution:
        """The distribution at the last visit of the histories of B episodes, aiming at ``target [S, B]``.

        Raises:
            UserError: the episodes have more visits than there are time steps.
        """
        seeds, episodes, visits = history.obs.shape[:3]
        if visits > self.visits:
            raise UserError(f"this agent has time steps for {self.visits} visits, got {visits}.")
        received = torch.cat((torch.zeros_like(target).unsqueeze(-1), history.reward.cumsum(-1)), -1)
        to_go = (target.unsqueeze(-1) - received) / self.spread.unsqueeze(-1)  # [S, B, T]
        unknown = history.obs.new_zeros(seeds, episodes, 1, self.problem.n_act)  # the dose in question
        step = torch.arange(visits, device=to_go.device).expand(seeds, episodes, -1)
        columns = (to_go, history.obs, torch.cat((history.act, unknown), 2), step)
        recent = [column[:, :, -self.context :].split(EPISODES, 1) for column in columns]
        act = torch.cat([self.actor(*part)[:, :, -1] for part in zip(*recent, strict=True)], 1)
        return Independent(Point(act, validate_args=False), 1, validate_args=False)


def _check(config: DecisionTransformerConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        UserError: one of the settings is out of range.
    """
    checks: dict[str, tuple[Any, str]] = {
        name: (getattr(config, name) >= 1, "at least 1")
        for name in ("context", "width", "layers", "heads", "warm_up_steps", "max_visits")
    }
    checks |= {
        "decay": (config.decay >= 0.0, "at least 0"),
        "gradient_clip": (config.gradient_clip > 0.0, "above 0"),
        "residual_dropout": (0.0 <= config.residual_dropout < 1.0, "at least 0 and below 1"),
        "target_quantile": (0.0 <= config.target_quantile <= 1.0, "between 0 and 1"),
    }
    for name, (good, wanted) in checks.items():
        if not good:
            raise UserError(f"{name} must be {wanted}, got {getattr(config, name)}.")
    if config.width % config.heads:
        raise UserError(f"width must be a multiple of heads ({config.heads}), got {config.width}.")
