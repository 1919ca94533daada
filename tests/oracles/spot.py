"""Losses of SPOT (Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239), row by row.

The conditional variational auto-encoder: an encoder gives mean and ln sigma (within [-4, 15]) of a latent z
of 2A numbers, a decoder tanh(.) the action, p(a|z, s) = N(decoder(s, z), beta/4). With z = mean + sigma eps,

    D(s, a) = mean_(l, dims) (decoder(s, z_l) - a)^2
              + beta mean_latent [ -1/2 (1 + 2 ln sigma - mean^2 - sigma^2) ]
    L_vae   = mean D(s, a)                                                             (one draw)
    L_Q     = sum_i mean (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2
    L_pi    = -mean Q_1(s, pi(s)) / mean |Q_1(s, pi(s))| + lambda mean P(s, pi(s))

P is D, or -beta/(2A) times the logarithm of the mean over draws of p(a|z, s) p(z) / q(z|a, s), where the
normal density of a is taken without its constant, or -beta/(2A) times that of N(tanh m(s), sigma(s)^2), whose
own loss is -mean ln p(a|s). With a squashed Gaussian policy a ~ pi(.|s), and

    L_pi    = -mean min_i Q_i(s, a) / mean |min_i Q_i(s, a)| + lambda mean P(s, a) + alpha mean ln pi(a|s)
    L_alpha = -ln alpha mean [ln pi(a|s) - A],        alpha a constant in L_pi,

with a' ~ pi(.|s'), unsmoothed, in L_Q. pi(s) has dropout: unit j of a hidden layer is 0 if its
uniform number is below the rate, else divided by one minus the rate.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles import deterministic, policies
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
    params: nets.Arrays,
    obs: np.ndarray,
    uniform: np.ndarray | None,
    config: dict[str, Any],
    name: str = "actor",
) -> list[float]:
    """The actor with dropout by the given uniform numbers, one per hidden unit."""
    row = [float(x) for x in obs]
    used, layer = 0, 0
    while f"{name}.net.layers.{layer + 1}.weight" in params:
        row = nets.relu(nets.head(params, f"{name}.net.layers.{layer}", row))
        if config["dropout"] > 0.0:
            assert uniform is not None
            for j in range(len(row)):
                keep = float(uniform[used + j]) >= config["dropout"]
                row[j] = row[j] / (1.0 - config["dropout"]) if keep else 0.0
            used += len(row)
        layer += 1
    return [math.tanh(x) for x in nets.head(params, f"{name}.net.layers.{layer}", row)]


def drawn(
    params: nets.Arrays,
    obs: np.ndarray,
    noise: np.ndarray,
    uniform: np.ndarray | None,
    config: dict[str, Any],
) -> tuple[list[float], float]:
    """A dose of the squashed Gaussian policy with dropout, by uniform numbers, and its log-density."""
    row, used, layer = [float(x) for x in obs], 0, 0
    while f"actor.trunk.layers.{layer}.weight" in params:
        row = nets.relu(nets.head(params, f"actor.trunk.layers.{layer}", row))
        if uniform is not None:
            for j in range(len(row)):
                keep = float(uniform[used + j]) >= config["dropout"]
                row[j] = row[j] / (1.0 - config["dropout"]) if keep else 0.0
            used += len(row)
        layer += 1
    act, log_prob = [], 0.0
    for loc, raw, u in zip(
        nets.head(params, "actor.loc", row), nets.head(params, "actor.scale", row), noise, strict=True
    ):
        normal = policies.Normal(loc, math.exp(min(max(raw, -5.0), 2.0)))
        x = normal.ppf(float(u[0]))
        act.append(math.tanh(x))
        log_prob += normal.logpdf(x) + 2.0 * math.log(math.cosh(x))
    return act, log_prob


def soft_critic_loss(
    params: nets.Arrays, frozen: nets.Arrays, batch: nets.Arrays, config: dict[str, Any]
) -> float:
    """``sum_i mean (r + gamma (1 - d) min_j Qbar_j(s', a') - Q_i(s, a))^2``, a' drawn from the policy."""
    n, total = len(batch["reward"]), 0.0
    for b in range(n):
        uniform = batch["u_target_dropout"][b] if config.get("target_dropout") else None
        next_act, _ = drawn(frozen, batch["next_obs"][b], batch["u_next_act"][b], uniform, config)
        future = nets.pessimistic(
            nets.action_values(frozen, "critic_target.net", batch["next_obs"][b], next_act)
        )
        target = float(batch["reward"][b])
        target += config["discount"] * (1.0 - float(batch["terminated"][b])) * future
        for q in nets.action_values(
            params, "critic.net", batch["obs"][b], [float(x) for x in batch["act"][b]]
        ):
            total += (target - q) ** 2 / n
    return total


GAUSSIAN = {"policy_family": "clipped_gaussian", "log_std_min": -5.0, "log_std_max": 2.0}


def penalty_of(
    params: nets.Arrays, obs: np.ndarray, act: list[float], draws: np.ndarray | None, config: dict[str, Any]
) -> float:
    """P(s, a) by the density's name."""
    if config["density"] == "gaussian":
        unit = config["vae_beta"] / (2.0 * len(act))
        return -unit * policies.log_policy(params, "behaviour", obs, act, GAUSSIAN)
    assert draws is not None
    if config["density"] == "elbo":
        return distance(params, obs, act, draws, config)
    if config["density"] == "importance":
        constant = -0.5 * len(act) * math.log(2.0 * math.pi * config["vae_beta"] / 4.0)
        result = log_density(params, obs, act, draws, config) - constant
        return -config["vae_beta"] / (2.0 * len(act)) * result
    raise ValueError(config["density"])


def behaviour_loss(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """``-mean ln p(a|s)`` of the normal distribution."""
    del config, frozen
    n = len(batch["reward"])
    total = 0.0
    for b in range(n):
        act = [float(x) for x in batch["act"][b]]
        total -= policies.log_policy(params, "behaviour", batch["obs"][b], act, GAUSSIAN) / n
    return {"behaviour": total}


def soft_losses(
    params: nets.Arrays, batch: nets.Arrays, config: dict[str, Any], frozen: nets.Arrays | None = None
) -> dict[str, float]:
    """As :func:`losses`, with a squashed Gaussian policy; and that of ln alpha."""
    frozen = params if frozen is None else frozen
    n = len(batch["reward"])
    size = value = penalty = log_prob = fixed = 0.0
    for b in range(n):
        obs, uniform = batch["obs"][b], batch["u_dropout"][b] if config["dropout"] > 0.0 else None
        current, now = drawn(frozen, obs, batch["u_act"][b], uniform, config)
        size += abs(nets.pessimistic(nets.action_values(frozen, "critic.net", obs, current))) / n
        proposed, own = drawn(params, obs, batch["u_act"][b], uniform, config)
        value += nets.pessimistic(nets.action_values(frozen, "critic.net", obs, proposed)) / n
        draws = batch["u_latent"][b] if "u_latent" in batch else None
        penalty += penalty_of(frozen, obs, proposed, draws, config) / n
        log_prob, fixed = log_prob + own / n, fixed + now / n
    alpha = math.exp(float(frozen["log_temperature"][0]))
    return {
        "critic": soft_critic_loss(params, frozen, batch, config),
        "actor": -value / (size if config["normalise_q"] else 1.0)
        + config["penalty"] * penalty
        + alpha * log_prob,
        "temperature": -float(params["log_temperature"][0]) * (fixed - len(batch["act"][0])),
    }


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

    def dropped_target(b: int) -> list[float]:
        mask = batch["u_target_dropout"][b]
        return dropped_act(frozen, batch["next_obs"][b], mask, config, "actor_target")

    policy = dropped_target if config.get("target_dropout") and config["dropout"] > 0.0 else None
    vae = size = value = penalty = 0.0
    for b in range(n):
        obs, act = batch["obs"][b], [float(x) for x in batch["act"][b]]
        if config["density"] != "gaussian":
            vae += distance(params, obs, act, batch["u_vae"][b], config) / n
        uniform = batch["u_dropout"][b] if config["dropout"] > 0.0 else None
        current = dropped_act(frozen, obs, uniform, config)
        size += abs(nets.action_values(frozen, "critic.net", obs, current)[0]) / n
        proposed = dropped_act(params, obs, uniform, config)
        value += nets.action_values(frozen, "critic.net", obs, proposed)[0] / n
        draws = batch["u_latent"][b] if "u_latent" in batch else None
        penalty += penalty_of(frozen, obs, proposed, draws, config) / n
    return {
        "vae": vae,
        "critic": deterministic.critic_loss(params, frozen, batch, config, policy=policy),
        "actor": -value / (size if config["normalise_q"] else 1.0) + config["penalty"] * penalty,
    }
