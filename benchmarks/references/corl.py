"""CORL (github.com/corl-team/CORL): its own update functions at its own settings.

    python -m benchmarks.references.corl METHOD FOLDER_OF_THE_CHECKOUT

A CORL file imports its simulator and its logger at the top. No update uses them, so they need not be
installed: empty stand-ins take their place.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any
from unittest.mock import MagicMock

import torch

from benchmarks.speed.protocol import (
    BATCH,
    EPISODE,
    N_ACT,
    N_OBS,
    READY,
    ROWS,
    WINDOWS,
    Learner,
    serve,
    synthetic,
)

NOT_NEEDED = ("d4rl", "gym", "pyrallis", "wandb")


def iql(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """As its ``train`` builds it."""
    q, v = module.TwinQ(N_OBS, N_ACT), module.ValueFunction(N_OBS)
    actor = module.GaussianPolicy(N_OBS, N_ACT, 1.0, dropout=config.actor_dropout)
    adam = torch.optim.Adam
    trainer = module.ImplicitQLearning(
        max_action=1.0,
        actor=actor,
        actor_optimizer=adam(actor.parameters(), lr=config.actor_lr),
        q_network=q,
        q_optimizer=adam(q.parameters(), lr=config.qf_lr),
        v_network=v,
        v_optimizer=adam(v.parameters(), lr=config.vf_lr),
        discount=config.discount,
        tau=config.tau,
        beta=config.beta,
        iql_tau=config.iql_tau,
        max_steps=config.max_timesteps,
        device="cpu",
    )
    return trainer.train, "2x256, Gaussian policy"


def td3_bc(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """As its ``train`` builds it."""
    adam = torch.optim.Adam
    actor = module.Actor(N_OBS, N_ACT, 1.0)
    critics = [module.Critic(N_OBS, N_ACT) for _ in range(2)]
    trainer = module.TD3_BC(
        max_action=1.0,
        actor=actor,
        actor_optimizer=adam(actor.parameters(), lr=3e-4),
        critic_1=critics[0],
        critic_1_optimizer=adam(critics[0].parameters(), lr=3e-4),
        critic_2=critics[1],
        critic_2_optimizer=adam(critics[1].parameters(), lr=3e-4),
        discount=config.discount,
        tau=config.tau,
        policy_noise=config.policy_noise,
        noise_clip=config.noise_clip,
        policy_freq=config.policy_freq,
        alpha=config.alpha,
        device="cpu",
    )
    return trainer.train, "2x256, actor every 2nd update"


def awac(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """As its ``train`` builds it."""
    adam = torch.optim.Adam
    sizes = {"state_dim": N_OBS, "action_dim": N_ACT, "hidden_dim": config.hidden_dim}
    actor = module.Actor(**sizes)
    critics = [module.Critic(**sizes) for _ in range(2)]
    trainer = module.AdvantageWeightedActorCritic(
        actor=actor,
        actor_optimizer=adam(actor.parameters(), lr=config.learning_rate),
        critic_1=critics[0],
        critic_1_optimizer=adam(critics[0].parameters(), lr=config.learning_rate),
        critic_2=critics[1],
        critic_2_optimizer=adam(critics[1].parameters(), lr=config.learning_rate),
        gamma=config.gamma,
        tau=config.tau,
        awac_lambda=config.awac_lambda,
    )
    return trainer.update, "3x256, Gaussian policy"


def bc(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """As its ``train`` builds it."""
    del config
    actor = module.Actor(N_OBS, N_ACT, 1.0)
    optimizer = torch.optim.Adam(actor.parameters(), lr=3e-4)
    return module.BC(max_action=1.0, actor=actor, actor_optimizer=optimizer, device="cpu").train, "2x256"


def _spot(module: Any, config: Any) -> Any:
    """As its ``train`` builds it."""
    adam = torch.optim.Adam
    vae = module.VAE(N_OBS, N_ACT, config.vae_latent_dim, 1.0, config.vae_hidden_dim)
    actor = module.Actor(N_OBS, N_ACT, 1.0, config.actor_init_w)
    critics = [module.Critic(N_OBS, N_ACT, config.critic_init_w) for _ in range(2)]
    return module.SPOT(
        max_action=1.0,
        vae=vae,
        vae_optimizer=adam(vae.parameters(), lr=config.vae_lr),
        actor=actor,
        actor_optimizer=adam(actor.parameters(), lr=config.actor_lr),
        critic_1=critics[0],
        critic_1_optimizer=adam(critics[0].parameters(), lr=config.critic_lr),
        critic_2=critics[1],
        critic_2_optimizer=adam(critics[1].parameters(), lr=config.critic_lr),
        discount=config.discount,
        tau=config.tau,
        policy_noise=config.policy_noise,
        noise_clip=config.noise_clip,
        policy_freq=config.policy_freq,
        beta=config.beta,
        lambd=config.lambd,
        num_samples=config.num_samples,
        iwae=config.iwae,
        device="cpu",
    )


def spot(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """Its main updates."""
    return _spot(module, config).train, "2x256, VAE 2x750, actor every 2nd update"


def spot_vae(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """The updates of its VAE."""
    return _spot(module, config).vae_train, "VAE 2x750"


def _conservative(module: Any, config: Any, trainer: Any) -> Any:
    """What CQL and Cal-QL share; the critics are of the width that ours have by default."""
    adam = torch.optim.Adam
    critics = [module.FullyConnectedQFunction(N_OBS, N_ACT, config.orthogonal_init, 2) for _ in range(2)]
    actor = module.TanhGaussianPolicy(N_OBS, N_ACT, 1.0, orthogonal_init=config.orthogonal_init)
    same = (
        "discount alpha_multiplier use_automatic_entropy_tuning backup_entropy policy_lr qf_lr bc_steps "
        "soft_target_update_rate target_update_period cql_n_actions cql_importance_sample cql_lagrange "
        "cql_target_action_gap cql_temp cql_alpha cql_max_target_backup cql_clip_diff_min cql_clip_diff_max"
    )
    return trainer(
        critic_1=critics[0],
        critic_1_optimizer=adam(critics[0].parameters(), config.qf_lr),
        critic_2=critics[1],
        critic_2_optimizer=adam(critics[1].parameters(), config.qf_lr),
        actor=actor,
        actor_optimizer=adam(actor.parameters(), config.policy_lr),
        target_entropy=-float(N_ACT),
        device="cpu",
        **{name: getattr(config, name) for name in same.split()},
    )


def cql(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """As its ``train`` builds it, with critics of two hidden layers."""
    return _conservative(module, config, module.ContinuousCQL).train, "critics 2x256, actor 3x256"


def cal_ql(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """As its ``train`` builds it, before any visit of its own."""
    return _conservative(module, config, module.CalQL).train, "critics 2x256, actor 3x256"


def decision_transformer(module: Any, config: Any) -> tuple[Callable[[Any], object], str]:
    """What its ``train`` does with a batch; there it is no function of its own."""
    same = (
        "embedding_dim num_layers num_heads seq_len episode_len attention_dropout residual_dropout "
        "embedding_dropout max_action"
    )
    model = module.DecisionTransformer(N_OBS, N_ACT, **{name: getattr(config, name) for name in same.split()})
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min((k + 1) / config.warmup_steps, 1.0))

    def update(batch: Any) -> float:
        obs, act, to_go, steps, mask = batch
        predicted = model(obs, act, to_go, steps, padding_mask=~mask.bool())
        loss = ((predicted - act).square() * mask.unsqueeze(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad)
        optimizer.step()
        warm_up.step()
        return float(loss)

    layers = f"{config.num_layers} layers of {config.embedding_dim}"
    return update, f"{WINDOWS} windows of {config.seq_len}, {layers}"


METHODS = {
    "cql": ("offline.cql", cql),
    "cal_ql": ("finetune.cal_ql", cal_ql),
    "iql": ("offline.iql", iql),
    "td3_bc": ("offline.td3_bc", td3_bc),
    "awac": ("offline.awac", awac),
    "bc": ("offline.any_percent_bc", bc),
    "spot": ("finetune.spot", spot),
    "spot_vae": ("finetune.spot", spot_vae),
    "decision_transformer": ("offline.dt", decision_transformer),
}
"""File and builder by method."""


def transitions(module: Any) -> Iterator[Any]:
    """Batches of its replay buffer."""
    data = synthetic()
    buffer = module.ReplayBuffer(N_OBS, N_ACT, ROWS, "cpu")
    buffer.load_d4rl_dataset(
        {
            "observations": data["obs"],
            "actions": data["act"],
            "rewards": data["reward"],
            "next_observations": data["next_obs"],
            "terminals": data["terminal"],
            "mc_returns": data["reward"],  # their values do not matter for speed
        }
    )
    while True:
        yield buffer.sample(BATCH)


def windows(module: Any, config: Any) -> Iterator[Any]:
    """Batches of its loader, without processes of its own: their time would not be counted."""
    data = synthetic()
    module.gym.make.return_value.get_dataset.return_value = {
        "observations": data["obs"],
        "actions": data["act"],
        "rewards": data["reward"],
        "terminals": data["terminal"],
        "timeouts": data["terminal"],
    }
    dataset = module.SequenceDataset("", seq_len=config.seq_len, reward_scale=config.reward_scale)
    assert config.batch_size == WINDOWS
    assert config.episode_len == EPISODE
    yield from torch.utils.data.DataLoader(dataset, batch_size=WINDOWS)


def build(method: str, folder: str) -> Learner:
    """Import the method's file from the checkout and put its learner on the synthetic data."""
    for name in NOT_NEEDED:
        sys.modules[name] = MagicMock()
    sys.path.insert(0, folder)
    file, builder = METHODS[method]
    module = importlib.import_module(f"algorithms.{file}")
    config = module.TrainConfig()
    update, settings = builder(module, config)
    batches = transitions(module) if hasattr(module, "ReplayBuffer") else windows(module, config)
    ready = cycle(list(islice(batches, READY)))
    return Learner(lambda: update(next(ready)), lambda: update(next(batches)), settings)


if __name__ == "__main__":
    serve(lambda: build(sys.argv[1], sys.argv[2]))
