import importlib

import numpy as np
import pytest

from dosing.errors import UserError
from simulator.bounds.differentiable import _reward, doses_of, train
from simulator.bounds.expected_reward import expected_return, expected_reward, known_patients

torch = pytest.importorskip("torch")
ENV_ID = "dosing/Treatment-v0"


@pytest.mark.parametrize("env_id", [ENV_ID, "dosing/LiIV-v0"])
def test_the_differentiable_reward_is_the_expected_reward(env_id: str) -> None:
    known = known_patients(env_id, 50, 0)
    rng = np.random.default_rng(0)
    mean, dose = rng.uniform(-1, 1, (8, 50)), rng.uniform(-1, 1, 50)
    ours = _reward(
        torch, known.cubic, torch.from_numpy(mean.T), torch.from_numpy(dose), torch.from_numpy(known.spread)
    )
    np.testing.assert_allclose(ours.numpy(), expected_reward(known, mean, dose), rtol=1e-10)


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("variant", ["simenv3", "li-data"])
def test_training_improves_on_no_training(recurrent: bool, variant: str) -> None:
    options = {"variant": variant, "steps": 8}
    known = known_patients(ENV_ID, 500, 0, **options)

    def value(iterations: int) -> float:
        policy = train(ENV_ID, recurrent=recurrent, iterations=iterations, batch=128, hidden=16, **options)
        doses = doses_of(policy, ENV_ID, 500, 0, **options)
        assert doses.shape == (8, 500)
        assert np.abs(doses).max() <= 1
        return float(expected_return(known, doses).mean())

    assert value(30) > value(1) + 0.3


def test_training_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    given = []
    for _ in range(2):
        policy = train(ENV_ID, recurrent=True, iterations=3, batch=16, hidden=4, steps=3)
        given.append(doses_of(policy, ENV_ID, 5, 0, steps=3))
    np.testing.assert_array_equal(*given)
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_torch_there_is_one_clear_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def fake(name: str) -> object:
        if name == "torch":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", fake)
    with pytest.raises(UserError, match="torch, which is not installed"):
        train(ENV_ID, recurrent=False)
