"""Every agent with a thin law: trained as without it, stacked as alone, resumed as unstopped; or refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import agents
from dosing.agent import Agent, HasFurtherDensities, LearnsReturns, value_of
from dosing.cli.main import main
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.models.regularisation import Regularisation
from dosing.runs.config import RunConfig
from dosing.studies import Grid, Resources, compare
from dosing.studies.grid import regularisations
from dosing.studies.naming import family_of
from dosing.studies.presets import Preset
from dosing.training.belief_agent import OnBelief
from dosing.training.checkpoint import load_training_state, training_state
from dosing.training.compilation import updater
from dosing.training.offline import TrainingSettings
from dosing.training.sampler import Sampler
from dosing.training.thin_agent import FAT, Thinned
from dosing.types import Problem
from tests.support.samples import PROBLEM, cohort, dataset, long_for_most, run_config, small

SEEDS = (3, 7)
REFUSED = {
    "fttpo": "sparse already",
    "fttpo_released": "the released code",
    "quasi_optimal": "sparse already",
    "response_model": "looks back",
    "decision_transformer": "looks back",
}
"""Agents without a thin law, and a word of why; every other one has to have one."""
THIN = [name for name in agents.AGENTS if name not in REFUSED]
REST = [name for name in THIN if name not in ("iql", "td3_bc", "fql")]


def built(name: str, seeds: tuple[int, ...] = SEEDS, config: Any = None, **options: Any) -> Agent:
    own = {"thin": 0.0} | options
    return agents.build(name, config or small(name), PROBLEM, seeds, dtype=torch.float64, regularisation=own)


def trained(agent: Agent, steps: int = 5, start: int = 0) -> list[dict[str, Tensor]]:
    """With every phase of the small agents in it."""
    take, sampler = updater(agent), Sampler(dataset(dtype=torch.float64), agent, 20)
    return [take(sampler(step)) for step in range(start, start + steps)]


def thin_part(agent: Agent) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in agent.state_dict().items() if name.startswith("thin.")}


@pytest.mark.parametrize("name", REFUSED)
def test_an_agent_without_a_thin_law_says_why_in_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]) as error:
        built(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["iql", "td3_bc", "fql", *long_for_most(REST)])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_agent_is_trained_as_without_a_thin_law(name: str, dropout: float) -> None:
    """To the bit, its reports and what it draws included, while every weight of the thin law moves."""
    alone, wrapped = built(name, thin=None, dropout=dropout), built(name, dropout=dropout)
    assert isinstance(wrapped, Thinned)
    before = thin_part(wrapped)
    for without, beside in zip(trained(alone), trained(wrapped), strict=True):
        assert all(torch.equal(beside[key], value) for key, value in without.items())
        assert set(beside) - set(without) == {"loss/thin", "thin/half_width"}
    for key, value in alone.state_dict().items():
        assert torch.equal(wrapped.inner.state_dict()[key], value), key
    for key, value in thin_part(wrapped).items():
        assert bool((value != before[key]).flatten(1).any(1).all()), f"{key} stood still"


@pytest.mark.long
@pytest.mark.parametrize("name", ["iql", "td3_bc", "fql", *long_for_most(REST)])
def test_a_seed_of_a_stack_is_the_seed_alone_and_a_resumed_agent_goes_on(name: str) -> None:
    together, alone, resumed = built(name), built(name, (7,)), built(name)
    trained(together, 3)
    load_training_state(resumed, training_state(together))
    trained(together, 2, start=3)
    trained(resumed, 2, start=3)
    trained(alone)
    for key, value in training_state(together).items():
        assert torch.equal(training_state(resumed)[key], value), key
    for key, value in alone.state_dict().items():
        if value.dim() > 0:
            torch.testing.assert_close(together.state_dict()[key][1], value[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("q", [-2.0, 0.0, 0.7])
@pytest.mark.parametrize("mean", ["shared", "free"])
def test_the_support_lies_inside_the_limits_at_every_weight_and_state(q: float, mean: str) -> None:
    agent = built("fql", thin=q, thin_mean=mean)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in agent.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.3 * noise).mul_(30.0)
        obs = 10.0 ** torch.linspace(-3.0, 4.0, 40).view(1, 40, 1) * torch.ones(2, 1, 8)
        law: Any = agent.policy(obs.double()).base_dist  # type: ignore[attr-defined]
        assert law.kind == "interval"
        low, high = law.support.lower_bound, law.support.upper_bound
        assert bool(((low > -1.0) & (low < high) & (high < 1.0)).all())
        for u in (0.0, 0.5, 1.0):
            drawn = law.rsample_from(torch.full((*law.batch_shape, law.n_uniforms), u).double())
            assert bool(((drawn >= low) & (drawn <= high)).all())
        ends = torch.tensor([-1.0, 1.0]).double().view(2, 1, 1, 1)
        assert bool((law.log_prob(ends) == -math.inf).all())


@pytest.mark.parametrize("name", ["iql", "fql", "td3_bc"])
def test_several_doses_are_thinned_at_once(name: str) -> None:
    problem = Problem(n_obs=8, n_act=3, horizon=24)
    own = {"thin": 0.5}
    agent = agents.build(name, small(name), problem, SEEDS, dtype=torch.float64, regularisation=own)
    data = dataset(dtype=torch.float64)
    data = replace(data, act=data.act * torch.tensor([1.0, -0.5, 0.2]))
    take, sampler = updater(agent), Sampler(data, agent, 20)
    reports = [take(sampler(step)) for step in range(4)]
    assert all(bool(report["loss/thin"].isfinite().all()) for report in reports)
    assert agent.policy(data.obs[:5].expand(2, -1, -1)).mode.shape == (2, 5, 3)


def test_the_fat_policy_stays_beside_the_thin_one() -> None:
    obs = dataset(dtype=torch.float64).obs[:5].expand(2, -1, -1)
    iql = built("iql")
    assert isinstance(iql, Thinned)
    assert isinstance(iql, HasFurtherDensities)
    at = torch.zeros(2, 5, 1).double()
    assert torch.equal(iql.densities(obs)[FAT].log_prob(at), iql.inner.policy(obs).log_prob(at))
    assert torch.equal(iql.policy(obs).mode, iql.inner.policy(obs).mode.clamp(-0.999, 0.999))
    assert torch.equal(value_of(iql, obs, at), value_of(iql.inner, obs, at))  # type: ignore[arg-type]
    assert set(built("inac").densities(obs)) == {FAT, "behaviour"}  # type: ignore[operator]
    assert built("td3_bc").densities(obs) == {}  # type: ignore[operator]
    estimated = built("fql").densities(obs)[FAT]  # type: ignore[operator]
    grid = torch.linspace(-4.0, 4.0, 4001).double()
    density = estimated.log_prob(grid.view(-1, 1, 1, 1)).exp()
    np.testing.assert_allclose(torch.trapezoid(density, grid, dim=0).detach(), 1.0, atol=1e-6)
    assert isinstance(built("c51"), LearnsReturns)
    assert not isinstance(iql, LearnsReturns)


def test_gaussian_fttpo_and_one_dose_of_imitation_are_told_by_their_law_not_their_name() -> None:
    assert isinstance(built("fttpo", config=small("fttpo", actor="gaussian")), Thinned)
    with pytest.raises(UserError, match="no two critics"):
        built("bc", config=small("bc", policy_family="point"))
    with pytest.raises(UserError, match="no two critics"):
        built("td3_bc", critics=1)
    with pytest.raises(UserError, match="one dose"):
        built("td3_bc", thin_mean="free")
    with pytest.raises(UserError, match="cost budget"):
        built("iql", cost_budget=1.0)


def test_on_a_belief_the_thin_law_is_the_policy() -> None:
    agent = built("iql", advantage="model", imagined=1)
    assert isinstance(agent, OnBelief)
    assert isinstance(agent.inner, Thinned)


@pytest.mark.parametrize("wrong", [{"thin": 1.0}, {"thin": math.nan}, {"thin": 0.0, "thin_mean": "own"}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=list(wrong)[-1]):
        Regularisation(**wrong)


def test_a_preset_and_a_stored_run_carry_the_option() -> None:
    (options,) = regularisations({}, Preset("a thin one", regularisation={"thin": 0.5}))
    assert options == Regularisation(thin=0.5)
    config: RunConfig = run_config(regularisation=options)
    again = RunConfig.from_json(config.to_json(), "here")
    assert again.regularisation == options
    assert again.key != run_config().key
    assert family_of(again) == "sparse q-Gaussian (q=0.5) from Gaussian"
    assert Regularisation(thin_mean="free") == Regularisation()


@pytest.mark.long
def test_a_comparison_sets_fat_and_thin_rows_side_by_side(tmp_path: Path) -> None:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    comparison = compare(
        tmp_path / "study",
        Grid(("iql", "fttpo"), {"hidden": [(8, 8)]}, regularise={"thin": [None, 0.0]}),
        tmp_path / "visits.parquet",
        seeds=range(2),
        training=TrainingSettings(steps=6, batch_size=8),
        evaluation_patients=4,
        resources=Resources(workers=1),
    )
    rows = {row.name: row for row in comparison.rows}
    assert {"IQL, thin=none", "IQL, thin=0.0", "FtTPO"} <= set(rows)
    assert rows["IQL, thin=0.0"].recommended == rows["IQL, thin=none"].recommended  # the mean is shared
    assert any(note.startswith("FtTPO has no thin row: ") for note in comparison.notes)
    (pair,) = comparison.differences
    assert pair.distributions == ("thin", "fat")
    assert pair.recommended.value == 0.0
    assert pair.sampled.value != 0.0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--thin", "width=1"], "no option 'width'"),
        (["--thin", "q=0", "--regularise", "thin=0"], "set twice"),
        (["--thin", "q=1"], "below 1"),
    ],
)
def test_what_is_typed_wrongly_is_refused(
    typed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    told = ["train", "iql", "--data", str(tmp_path / "visits.parquet"), "--out", str(tmp_path), *typed]
    assert main(told) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_train_takes_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_episodes(cohort(), tmp_path / "visits.parquet")
    told = ["train", "iql", "--data", str(tmp_path / "visits.parquet"), "--out", str(tmp_path / "out")]
    assert main([*told, "--seeds", "1", "--steps", "3", "--thin", "q=0.5", "mean=free"]) == 0
    run = Path(capsys.readouterr().out.splitlines()[-1])
    assert '"thin": 0.5' in (run / "config.json").read_text()
