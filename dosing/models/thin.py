"""A sparse law of the dose distilled from any policy: its network, and what it is fitted by.

The thin law pi_theta(.|s) is a q-Gaussian of q < 1, one per dose dimension d, whose support [m - h, m + h]
lies inside the limits by parametrisation (``policy_heads.sparse_distribution``). The fat law pi is a policy
as it stands, a constant here. With z_k and w_k nodes and weights of Gauss-Jacobi quadrature
(``distributions.quadrature``), sigma the scale and H the entropy of the thin law, its loss beside

    a density     - H(pi_theta) - sum_d sum_k w_k ln pi_d(m_d + sigma_d z_k)  =  KL(pi_theta || pi)
    K draws x_j   the same, with ln (1/K) sum_j prod_d N(a_d; x_jd, b_d^2) in place of ln pi; for several dose
                  dimensions by draws of the thin law, since the kernel estimate is no product
    one dose m    sum_d [ ln S_d + v_d / (2 S_d^2) ],  S the standard deviation of the thin law and v the
                  variance over the critics of the dose that each of them thinks best near m

The last is the Gaussian score of a standard deviation: at one state it is least where S^2 = v, and over
states that the network cannot tell apart where S^2 is the mean of v.

Source of the first: Zhu, Wang, Nagai 2025, arXiv 2501.14373, where the fat law is FtTPO's own proposal.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from dosing.distributions.q_gaussian import QGaussian
from dosing.distributions.univariate import Univariate
from dosing.models.critics import Critic
from dosing.models.networks import Initialiser, Linear, Mlp
from dosing.models.policy_heads import MEAN_LIMIT, sparse_distribution
from dosing.models.regularisation import PLAIN
from dosing.types import Problem

HIDDEN = (64, 64)
"""Widths of the thin law's network, whatever the method's own."""
LEARNING_RATE = 1e-3
"""Adam step size of the thin law."""
START = 1e-3
"""Bound of its heads' first weights: a mean of its own starts at the dose that the fat policy recommends."""
NARROW = -2.0
"""Where the half-width starts, before the sigmoid: an eighth of the room. A law that starts wide between two
peaks would stay there and cover both, which is a minimum of the divergence, and not the least."""
FARTHEST = 0.99
"""Largest |dose| at which a mean of its own starts: beyond, tanh hardly moves."""
QUARTER = 2.0 * 0.3186393639643752
"""Width, in standard deviations, of the shortest interval that holds a quarter of a normal distribution."""
LEAST_BANDWIDTH = 0.01
"""Smallest bandwidth of a kernel estimate, on the [-1, 1] axis: draws that agree have no other scale."""
REACH = 0.25
"""How far from the recommended dose each critic looks for a better one, on the [-1, 1] axis."""


class ThinActor(nn.Module):
    """Network of the thin law: a width and, with a mean of its own, how far the mean is from the fat dose.

    Args:
        init: initialiser of the S seeds, after the agent's own networks.
        problem: sizes.
        q: index, below 1.
        own_mean: the mean starts at the fat policy's recommended dose and moves; else it is that dose.
    """

    def __init__(self, init: Initialiser, problem: Problem, q: float, own_mean: bool) -> None:
        super().__init__()
        self.q = q
        own = copy.copy(init)  # goes on with the streams of the seeds
        own.regularisation = PLAIN
        self.trunk = Mlp(own, [problem.n_obs, *HIDDEN], activate_last=True)
        self.width = Linear(own, HIDDEN[-1], problem.n_act, bound=START)
        nn.init.constant_(self.width.bias, NARROW)
        self.shift = Linear(own, HIDDEN[-1], problem.n_act, bound=START) if own_mean else None

    def forward(self, obs: Tensor, dose: Tensor) -> QGaussian:
        """Per-dimension law at ``obs [S, B, O]``, given the fat policy's dose ``[S, B, A]`` there."""
        features = self.trunk(obs)
        mean = dose.clamp(-MEAN_LIMIT, MEAN_LIMIT)
        if self.shift is not None:
            start = torch.atanh(dose.clamp(-FARTHEST, FARTHEST) / MEAN_LIMIT)
            mean = MEAN_LIMIT * torch.tanh(start + self.shift(features))
        return sparse_distribution(mean, self.width(features), self.q)


def divergence(thin: QGaussian, fat: Univariate, nodes: Tensor, weights: Tensor) -> Tensor:
    """KL(thin || fat) ``[S, B]``, summed over dose dimensions, by quadrature.

    Args:
        thin: per dimension, ``[S, B, A]``.
        fat: likewise, of positive density wherever the thin law may reach.
        nodes: of the standard q-Gaussian, ``[N, 1, 1, 1]``.
        weights: of the nodes, likewise.
    """
    average = (weights * fat.log_prob(thin.loc + thin.scale * nodes)).sum(0)
    return -(thin.entropy() + average).sum(-1)


def divergence_from_draws(thin: QGaussian, draws: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """KL(thin || kernel estimate of K draws) ``[S, B]``.

    Args:
        thin: per dimension, ``[S, B, A]``.
        draws: of the fat policy, equally likely, ``[K, S, B, A]``.
        points: standardised doses z of the thin law, ``[N, S, B, A]`` or fewer where they are the same.
        weights: with which they average over it, ``[N, 1, 1]``.
    """
    doses = thin.loc + thin.scale * points
    average = (weights * kernel_log_density(doses, draws, bandwidth(draws))).sum(0)
    return -thin.entropy().sum(-1) - average


def bandwidth(draws: Tensor) -> Tensor:
    """Bandwidth ``[S, B, A]`` of a Gaussian kernel estimate from draws ``[K, S, B, A]``.

    1.06 s K^(-1/(A + 4)) (Silverman 1986, section 3.4), where s is the smaller of the standard deviation and
    of that of a normal distribution whose shortest interval with a quarter of the draws is as long: beside
    two peaks the first is their distance, which would fill the valley, the second the width of one of them.
    """
    count, width = draws.shape[0], draws.shape[-1]
    quarter = max(1, round(0.25 * count))
    ordered = draws.sort(0).values
    shortest = (ordered[quarter:] - ordered[:-quarter]).amin(0) / QUARTER
    scale = torch.minimum(draws.std(0), shortest)
    result: Tensor = 1.06 * count ** (-1.0 / (width + 4.0)) * scale
    return result.clamp(min=LEAST_BANDWIDTH)


def kernel_log_density(doses: Tensor, draws: Tensor, width: Tensor) -> Tensor:
    """Joint log-density ``[N, S, B]`` of a Gaussian kernel estimate.

    Args:
        doses: where, ``[N, S, B, A]``.
        draws: ``[K, S, B, A]``.
        width: bandwidth ``[S, B, A]``.
    """
    distance = ((doses.unsqueeze(1) - draws) / width).square().sum(-1)  # [N, K, S, B]
    norm = width.log().sum(-1) + 0.5 * width.shape[-1] * math.log(2.0 * math.pi) + math.log(len(draws))
    return torch.logsumexp(-0.5 * distance, 1) - norm


def spread_score(thin: QGaussian, variance: Tensor) -> Tensor:
    """Gaussian score ``[S, B]`` of the thin law's standard deviation for a variance ``[S, B, A]``."""
    own = thin.variance
    return (0.5 * own.log() + 0.5 * variance / own).sum(-1)


@torch.no_grad()
def disagreement(critic: Critic, obs: Tensor, dose: Tensor) -> Tensor:
    """Variance over the critics of the dose that each thinks best near ``dose``, ``[S, B, A]``.

    Best within ``REACH``, one dose dimension at a time, on the parabola through three values of the critic:
    a critic of another shape is smoothed over that range, and critics that would both move the dose as far as
    they may agree. Of each seed's own critics alone.

    Args:
        critic: E members.
        obs: ``[S, B, O]``.
        dose: ``[S, B, A]``.
    """
    n_act = dose.shape[-1]
    centre = dose.clamp(-1.0 + REACH, 1.0 - REACH).unsqueeze(2)
    step = REACH * torch.eye(n_act, dtype=dose.dtype, device=dose.device)
    doses = torch.cat((centre - step, centre + step, centre), 2)  # [S, B, 2 A + 1, A]
    states = obs.unsqueeze(2).expand(-1, -1, doses.shape[2], -1)
    values = critic(states.flatten(1, 2), doses.flatten(1, 2)).unflatten(-1, doses.shape[1:3])
    below, above, here = values.split((n_act, n_act, 1), -1)  # [S, E, B, A]
    slope, curvature = 0.5 * (above - below), 0.5 * (above + below) - here
    tiny = torch.finfo(slope.dtype).tiny
    top = (-0.5 * slope / curvature.clamp(max=-tiny)).clamp(-1.0, 1.0)
    best = REACH * torch.where(curvature < 0.0, top, slope.sign())
    return best.var(1, correction=0)
