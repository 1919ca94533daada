"""Losses of SPOT (Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239), row by row.

The conditional variational auto-encoder: an encoder gives mean and ln sigma (within [-4, 15]) of a latent z
of 2A numbers, a decoder tanh(.) the action, p(a|z, s) = N(decoder(s, z), beta/4). With z = mean + sigma eps,

    D(s, a) = mean_(l, dims) (decoder(s, z_l) - a)^2
              + beta mean_latent [ -1/2 (1 + 2 ln sigma - mean^2 - sigma^2) ]
    L_vae   = mean D(s, a)                                                             (one draw)
    L_Q     = sum_i mean (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2
    L_pi    = -mean Q_1(s, pi(s)) / mean |Q_1(s, pi(s))| + lambda mean P(s, pi(s))

P is D, or -beta/(2A) times the logarithm of the mean over draws of p(a|z, s) p(z) / q(z|a, s), where the
normal density of a is taken without its constant. pi(s) has dropout: unit j of a hidden layer is 0 if its
uniform number is below the rate, else divided by one minus the rate.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import deterministic
from tests.oracles import mlp as nets


def latent(params: nets.Arrays, obs: np.ndarray, act: list[float]) -> tuple[list[float], list[float]]:
    """Mean and ln sigma of q(z|a, s)."""
    row = [float(x) for x in obs] + [float(x) for x in act]
    features = nets.mlp(params, "vae.encoder", row, trunk=True)
    mean = nets.head(params, "vae.mean", features)
    log_std = [min(max(x, -4.0), 15.0) for x in nets.head(params, "vae.log_std", features)]
    return mean, log_std


def decoded(params: nets.Arrays, obs: np.ndarray, z: list[float]) -> list[float]:
    """The decoder's action."""
    return [math.tanh(x) for x in nets.mlp(params, "vae.decoder", [float(x) for x in obs] + z)]


def distance(
    params: nets.Arrays, obs: np.ndarray, act: list[float], draws: np.ndarray, config: dict[str, Any]
) -> float:
    """D(s, a), proportional to the negative evidence bound up to a constant."""
    mean, log_std = latent(params, obs, act)
    error = 0.0
    for eps in draws:
        z = [m + math.exp(s) * float(e) for m, s, e in zip(mean, log_std, eps, strict=True)]
        for x, y in zip(decoded(params, obs, z), act, strict=True):
            error += (x - y) ** 2 / (len(act) * len(draws))
    divergence = 0.0
    for m, s in zip(mean, log_std, strict=True):
        divergence += -0.5 * (1.0 + 2.0 * s - m**2 - math.exp(s) ** 2) / len(mean)
    return error + float(config["vae_beta"]) * divergence


def log_density(
    params: nets.Arrays, obs: np.ndarray, act: list[float], draws: np.ndarray, config: dict[str, Any]
) -> float:
    """Logarithm of the mean importance weight: an estimate of ln p(a|s) from the draws."""
    mean, log_std = latent(params, obs, act)
    variance = config["vae_beta"] / 4.0
    total = 0.0
    for eps in draws:
        log_weight = 0.0
        z = []
        for m, s, e in zip(mean, log_std, eps, strict=True):
            value = m + math.exp(s) * float(e)
            z.append(value)
            log_weight += -0.5 * value**2 - 0.5 * math.log(2.0 * math.pi)  # ln p(z)
            log_weight -= -0.5 * float(e) ** 2 - s - 0.5 * math.log(2.0 * math.pi)  # ln q(z|a, s)
        for x, y in zip(decoded(params, obs, z), act, strict=True):
            log_weight += -0.5 * (x - y) ** 2 / variance - 0.5 * math.log(2.0 * math.pi * variance)
        total += math.exp(log_weight)
    return math.log(total / len(draws))


def dropped_act(
    params: nets.Arrays, obs: np.ndarray, uniform: np.ndarray | None, config: dict[str, Any]
) -> list[float]:
    """The actor with dropout by the given uniform numbers, one per hidden unit."""
    row = [float(x) for x in obs]
    used, layer = 0, 0
    while f"actor.net.layers.{layer + 1}.weight" in params:
        row = nets.relu(nets.head(params, f"actor.net.layers.{layer}", row))
        if config["dropout"] > 0.0:
            assert uniform is not None
            for j in range(len(row)):
                keep = float(uniform[used + j]) >= config["dropout"]
                row[j] = row[j] / (1.0 - config["dropout"]) if keep else 0.0
            used += len(row)
        layer += 1
    return [math.tanh(x) for x in nets.head(params, f"actor.net.layers.{layer}", row)]


def losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """The three losses of one seed, of which an update takes those of its phase.

    Args:
        params: The seed's parameters.
        batch: obs [B, O], act [B, A], reward [B], next_obs [B, O], terminated [B]; standard normal noise
            u_target [B, A], u_vae [B, 1, 2A], u_latent [B, L, 2A]; uniform noise u_dropout [B, hidden units].
        config: discount, target_noise, noise_clip, vae_beta, density, penalty (lambda), normalise_q, dropout.
        frozen: The parameters where no gradient flows; ``params`` if None.
    """
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    vae = size = value = penalty = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], [float(x) for x in batch["act"][b]]
        vae += distance(params, obs, act, batch["u_vae"][b], config) / n
        uniform = batch["u_dropout"][b] if config["dropout"] > 0.0 else None
        current = dropped_act(frozen, obs, uniform, config)
        size += abs(nets.action_values(frozen, "critic.net", obs, current)[0]) / n
        proposed = dropped_act(params, obs, uniform, config)
        value += nets.action_values(frozen, "critic.net", obs, proposed)[0] / n
        draws = batch["u_latent"][b]
        if config["density"] == "elbo":
            penalty += distance(frozen, obs, proposed, draws, config) / n
        elif config["density"] == "importance":
            constant = -0.5 * len(act) * math.log(2.0 * math.pi * config["vae_beta"] / 4.0)
            result = log_density(frozen, obs, proposed, draws, config) - constant
            penalty -= config["vae_beta"] / (2.0 * len(act)) * result / n
        else:
            raise ValueError(config["density"])
    return {
        "vae": vae,
        "critic": deterministic.critic_loss(params, frozen, batch, config),
        "actor": -value / (size if config["normalise_q"] else 1.0) + config["penalty"] * penalty,
    }
