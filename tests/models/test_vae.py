"""The conditional auto-encoder: its loss by hand, what it learns, and the doses that it can generate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.models.networks import Initialiser
from dosing.models.optimisers import adam
from dosing.models.regularisation import Regularisation
from dosing.models.vae import ConditionalVae, Perturbation, vae_loss
from dosing.policy import DosePolicy
from dosing.types import Problem
from tests.support.samples import PROBLEM, cohort, dataset, small

SEEDS = (0, 5)


def vae(n_act: int = 1, **options: Any) -> ConditionalVae:
    """An auto-encoder of two seeds; ``centred`` or options of regularisation."""
    centred = options.pop("centred", False)
    init = Initialiser(SEEDS, dtype=torch.float64, regularisation=Regularisation(**options))
    return ConditionalVae(init, Problem(2, n_act), (8, 8), centred=centred)


def normal(*shape: int) -> torch.Tensor:
    """Fixed normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_loss_by_hand() -> None:
    """One dose, one draw: (0.5 - 0.3)^2 + beta (KL_1 + KL_2) / 2."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    mean = torch.tensor([[[0.4, 0.0]]], dtype=torch.float64)
    log_std = torch.tensor([[[0.0, math.log(0.5)]]], dtype=torch.float64)
    result = vae_loss(0.3 * one, 0.5 * one.unsqueeze(2), mean, mean, log_std, beta=0.25)
    divergence = 0.5 * 0.4**2 + 0.5 * (0.25 - 1.0 - 2.0 * math.log(0.5))
    assert result.tolist() == pytest.approx([0.2**2 + 0.25 * divergence / 2.0])


def test_decoding_is_what_the_forward_pass_does() -> None:
    model, obs = vae(2), normal(2, 3, 2)
    decoded, z, mean, log_std = model(obs, normal(2, 3, 2), normal(2, 3, 5, 4))
    assert decoded.shape == (2, 3, 5, 2)
    torch.testing.assert_close(z, mean.unsqueeze(2) + log_std.exp().unsqueeze(2) * normal(2, 3, 5, 4))
    torch.testing.assert_close(torch.tanh(model.decode(obs, z[:, :, 3])), decoded[:, :, 3])


@pytest.mark.long
def test_of_a_constant_dose_it_learns_that_dose_and_no_latent() -> None:
    """The least of D is 0: every latent gives the dose, and the posterior is the prior."""
    model = vae()
    optimizer = adam(model, 3e-3)
    obs, act = normal(2, 64, 2), torch.full((2, 64, 1), 0.4, dtype=torch.float64)
    noise = torch.Generator().manual_seed(2)
    for _ in range(2000):
        drawn = torch.randn(2, 64, 1, 2, dtype=torch.float64, generator=noise)
        optimizer.zero_grad()
        vae_loss(act, *model(obs, act, drawn), beta=0.5).sum().backward()
        optimizer.step()
    with torch.no_grad():
        _, _, mean, log_std = model(obs, act, normal(2, 64, 1, 2))
        np.testing.assert_allclose(model.image(obs, 64, 0.5), 0.4, atol=0.02)
    np.testing.assert_allclose(mean, 0.0, atol=0.1)
    np.testing.assert_allclose(log_std, 0.0, atol=0.1)


# The doses that it can generate


@pytest.mark.parametrize("n_act", [1, 2])
def test_the_image_is_that_of_a_cube_with_its_corners(n_act: int) -> None:
    """By a decoder that returns its latent: doses fill [-radius, radius], moved by at most reach."""
    model = vae(n_act)
    decoder: Any = model.decoder
    decoder.forward = lambda x: torch.atanh(x[..., 2 : 2 + n_act])
    obs = normal(2, 3, 2)
    for radius, reach in ((0.5, 0.0), (0.4, 0.3)):
        doses = model.image(obs, 512, radius, reach)
        assert doses.shape == (2, 3, 512, n_act)
        np.testing.assert_allclose(doses.amax(2), radius + reach, rtol=1e-12)
        np.testing.assert_allclose(doses.amin(2), -radius - reach, rtol=1e-12)
        assert bool((doses[0, 0] == doses[1, 2]).all()), "the points do not depend on state or seed"
        share = (doses.abs() < 0.5 * (radius + reach)).double().mean((0, 1, 2))
        assert bool((share > 0.2).all()), "the inside is covered as well"
    assert float(model.image(obs, 64, 0.9, 0.5).abs().max()) == 1.0


def test_a_perturbed_dose_stays_near_and_within_the_box() -> None:
    init = Initialiser(SEEDS, dtype=torch.float64)
    move = Perturbation(init, Problem(2, 1), (8,), 0.05)
    last: Any = move.net.layers[-1]
    with torch.no_grad():
        last.bias.fill_(50.0)
    act = torch.tensor([-1.0, 0.0, 0.97]).double().view(1, 3, 1).expand(2, -1, -1)
    result = move(torch.zeros(2, 3, 2, dtype=torch.float64), act)
    np.testing.assert_allclose(result[0, :, 0].detach(), [-0.95, 0.05, 1.0], rtol=1e-12)


def test_a_centred_decoder_starts_at_the_prior_dose() -> None:
    plain, centred = vae(prior="constant_dose"), vae(prior="constant_dose", centred=True)
    assert not [key for key in plain.state_dict() if "prior" in key]
    last: Any = centred.decoder.layers[-1]
    prior: Any = centred.prior
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    prior.centre(torch.tensor([0.3]))
    np.testing.assert_allclose(centred.image(normal(2, 3, 2), 8, 0.5).detach(), 0.3)


@pytest.mark.parametrize("name", ["bcq", "plas"])
def test_admissible_doses_are_the_generators_in_dose_units(name: str) -> None:
    agent = agents.build(name, small(name), PROBLEM, SEEDS)
    transform = dataset().transform
    obs = cohort().obs[:5].astype(np.float32)
    result = DosePolicy(agent, transform).admissible(np.broadcast_to(obs, (2, *obs.shape)), 32)
    assert result is not None
    assert result.shape == (2, 5, 32, 1)
    inside = transform.obs(torch.from_numpy(obs).double()).float().expand(2, -1, -1)
    with torch.no_grad():
        unit = agent.admissible(inside, 32)
    assert unit is not None
    np.testing.assert_allclose(result, transform.to_dose(unit.double().numpy()), rtol=1e-6)
    assert (result >= np.asarray(transform.act_low)).all()
    assert (result <= np.asarray(transform.act_high)).all()
    assert np.ptp(result, axis=2).min() > 0.0


def test_an_agent_without_a_generator_has_no_admissible_doses() -> None:
    agent = agents.build("iql", small("iql"), PROBLEM, SEEDS)
    assert DosePolicy(agent, dataset().transform).admissible(np.zeros((2, 1, 8), np.float32)) is None
