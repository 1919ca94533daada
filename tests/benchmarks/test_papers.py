"""The papers' experiments on MuJoCo data: what they measure, and what their pages say."""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq
from torch import Tensor

import agents
from benchmarks import curves, mujoco
from benchmarks.experiments import ablations_locomotion, fan, locomotion, pex, spot
from benchmarks.report import spelled
from dosing import NOT_FOR_PATIENTS
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.studies import presets
from dosing.studies.comparison_table import Row
from dosing.studies.mujoco_data import CollectionPlan, collect

SVG = "{http://www.w3.org/2000/svg}"


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 2.0, value + 2.0, 0.95, 10, 1, "t over patients")


def minus(words: str) -> str:
    """A real minus sign for every tilde."""
    return words.replace("~", "\N{MINUS SIGN}")


def row(name: str, returns: float) -> Row:
    nothing = dict.fromkeys(
        ("difference", "verdict", "half_width", "width_kind", "mass_outside_limits", "mass_outside_sparse")
    )
    return Row(name, "point", estimate(returns), estimate(returns), cost=None, baseline=None, **nothing)


def study(quality: str, names: list[str]) -> mujoco.Trained:
    """A study on Hopper whose runs are nowhere."""
    rows = {name: row(name, 1000.0 + 100.0 * k) for k, name in enumerate(names)}
    runs = {name: Path("nowhere") for name in names}
    return mujoco.Trained("hopper", quality, Path("nowhere"), runs, rows, 123_456, 42.0, ())


def options(**more: Any) -> argparse.Namespace:
    usual = {"sets": ["hopper-medium"], "updates": 70, "at": [], "seeds": 1, "episodes": 10, "hidden": [8, 8]}
    usual |= {"full": False, "standardise_obs": False, "proposals": list(locomotion.PROPOSALS)}
    return argparse.Namespace(**usual | more)


def test_data_sets_are_found_by_their_whole_quality(tmp_path: Path) -> None:
    for name in ("hopper-medium-expert-1k", "hopper-medium-replay-v2", "hopper-medium-v2", "hopper-mixed"):
        (tmp_path / f"{name}.hdf5").touch()
    assert mujoco.named_file(tmp_path, "hopper-medium")[2] == str(tmp_path / "hopper-medium-v2.hdf5")
    assert mujoco.named_file(tmp_path, "hopper-medium-expert")[:2] == ("hopper", "medium-expert")
    every = mujoco.checked(argparse.Namespace(data=tmp_path, sets=None)).sets
    assert every == ["hopper-medium", "hopper-medium-expert", "hopper-medium-replay"]
    (tmp_path / "hopper_medium-v2.hdf5").touch()
    with pytest.raises(UserError, match=r"several of hopper-medium: .*-v2\.hdf5, hopper_medium-v2"):
        mujoco.named_file(tmp_path, "hopper-medium")
    (tmp_path / "walker2d_medium_replay-v2.hdf5").touch()
    assert mujoco.named_file(tmp_path, "walker2d-medium-replay")[2].endswith("medium_replay-v2.hdf5")
    minari = "minari:mujoco/hopper/medium-v0"
    assert mujoco.named_file(tmp_path, minari) == ("hopper", "medium", minari)
    with pytest.raises(UserError, match="minari:mujoco/TASK/QUALITY"):
        mujoco.named_file(tmp_path, "minari:mujoco/hopper/simple-v0")
    with pytest.raises(UserError, match=r"no walker2d-medium\*"):
        mujoco.named_file(tmp_path, "walker2d-medium")
    with pytest.raises(UserError, match="TASK-QUALITY"):
        mujoco.named_file(tmp_path, "hopper-best")
    with pytest.raises(UserError, match="holds no"):
        mujoco.checked(argparse.Namespace(data=tmp_path / "empty", sets=None))


@pytest.mark.mujoco
@pytest.mark.minari
@pytest.mark.long
def test_what_collect_records_is_taken_from_a_file_and_from_minari(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.delenv(mujoco.VARIABLE, raising=False)
    visits = collect(CollectionPlan("Hopper-v5", "replay", 300, start=300, hidden=(8,)))
    names = ("hopper-medium-replay", "minari:mujoco/hopper/medium-v0")
    write_episodes(visits, tmp_path / f"{names[0]}-300.hdf5")
    write_episodes(visits, names[1])
    short = ["--updates", "4", "--hidden", "4", "--episodes", "2", "--agents", "bc"]
    for name, folder in zip(names, (["--data", str(tmp_path)], []), strict=True):
        out = ["--out", str(tmp_path / "out"), "--results", str(tmp_path), "--name", "page"]
        locomotion.main([*folder, "--sets", name, *short, *out])
        page = (tmp_path / "page.md").read_text()
        assert f"--sets {name} --updates 4" in page
        assert "300 transitions per data set" in page
        assert "| BC | " in page
    (tmp_path / f"{names[0]}-300.hdf5").rename(tmp_path / "walker2d-medium.hdf5")
    with pytest.raises(UserError, match="not of Walker2d-v5"):
        locomotion.main(["--data", str(tmp_path), "--sets", "walker2d-medium", *short, *out])


def test_a_score_is_linear_in_the_return_and_keeps_its_interval() -> None:
    known = mujoco.scored("hopper", estimate(1000.0))
    step = mujoco.score("hopper", 2.0) - mujoco.score("hopper", 0.0)
    assert known.value - known.low == pytest.approx(step)
    assert known.high - known.value == pytest.approx(step)
    assert step > 0.0


def test_a_score_of_one_seed_alone_is_shown_without_an_interval() -> None:
    alone = Estimate(-0.01, -0.01, -0.01, 0.95, 1, 1, "one seed, no interval")
    assert mujoco.shown(alone) == "0.0"
    assert mujoco.shown(estimate(-0.01)) == "0.0 [-2.0, 2.0]"


def test_the_page_of_locomotion_has_recommended_and_drawn_actions() -> None:
    found = [study("medium", ["FtTPO", "IQL"]), study("medium-expert", ["FtTPO"])]
    drawn = {"FtTPO": estimate(2000.0), "IQL": estimate(3000.0)}
    found[0] = replace(
        found[0],
        seconds={"IQL": 7200.0},
        rows={k: replace(v, sampled=drawn[k]) for k, v in found[0].rows.items()},
    )
    page = "\n\n".join(locomotion.parts(found, options(agents=["fttpo"], name="here", moves=False)))
    first, _, second = page.partition("## An action drawn from the policy")
    for part, returns in ((first, (1000.0, 1100.0)), (second, (2000.0, 3000.0))):
        fttpo, iql = (mujoco.shown(mujoco.scored("hopper", estimate(value))) for value in returns)
        alone = mujoco.shown(mujoco.scored("hopper", estimate(1000.0)))
        assert f"| FtTPO | {fttpo} | {alone} |" in part
        assert f"| IQL | {iql} | diverged | - | 2.00 |" in part
        assert "| recorded episodes, mean | 42.0 | 42.0 |" in part
    assert "2.00 hours of offline training" in first


def test_an_ablation_is_named_by_what_its_run_says_was_changed() -> None:
    preset, short = "d4rl-mujoco/hopper-medium-expert", {"hidden": [(8, 8)]}
    grids = {change.name: change.grid(short, preset) for change in ablations_locomotion.CHANGED}
    named = ablations_locomotion.namer(grids, 70)
    usual = presets.find(preset)

    def run(scale: float = 1.0, agent: str = "fttpo", **own: Any) -> dict[str, Any]:
        config = agents.find(agent).config_class()
        settings = usual.settings(agent, config) | {"hidden": [8, 8]} | own
        transform = {"obs_scale": [1.0, scale], "reward_scale": 1.0}
        return {"agent": agent, "agent_config": asdict(config(**settings)), "transform": transform}

    assert named(run()) == "nothing"
    assert named(run(q_actor=-1.0)) == "q of the actor -1"
    assert named(run(proposal="student_t")) == "proposal Student's t"
    assert named(run(temperature=0.1)) == "a tenth of the temperature"
    assert named(run(scale=2.0)) == "states standardised"
    assert named(run(agent="fttpo_released")) == "the released code"
    with pytest.raises(KeyError):
        named(run(q_actor=-1.0, share_mean=False))


def test_every_ablation_has_its_line_with_scores_and_hours() -> None:
    found = [replace(study("medium", ["nothing", "q of the actor -1"]), seconds={"nothing": 3600.0})]
    page = "\n\n".join(ablations_locomotion.parts(found, options(name="here")))
    assert "--hidden 8 8 --name here`" in page
    assert "| changed | hopper medium | hours of training |" in page
    first, second = (mujoco.shown(mujoco.scored("hopper", estimate(value))) for value in (1000.0, 1100.0))
    assert f"| nothing | {first} |" in page
    assert "| 1.00 |" in page
    assert f"| q of the actor -1 | {second} |" in page
    assert page.count("| the released code | diverged | 0.00 |") == 2


def test_runs_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would hide each other on the page."""
    (tmp_path / "hopper-medium.hdf5").touch()
    runs = [tmp_path / "a", tmp_path / "b"]
    rows = [replace(row("FtTPO", 1.0), sampled=estimate(1.0)) for _ in runs]
    monkeypatch.setattr(mujoco, "compare", lambda *_, **__: SimpleNamespace(rows=rows, notes=()))
    monkeypatch.setattr(mujoco, "read_json", lambda _: {"runs": runs})
    monkeypatch.setattr(mujoco, "is_own", lambda _: False)
    empty = SimpleNamespace(episode=np.zeros(2), reward=np.zeros(2))
    monkeypatch.setattr(mujoco, "episodes_of", lambda _: empty)
    asked = options(data=tmp_path, out=tmp_path, workers=1, device="cpu", cluster=None)
    monkeypatch.setattr(mujoco, "resources_of", lambda _: None)
    with pytest.raises(RuntimeError, match="have one name"):
        mujoco.trained("hopper-medium", [], asked)


def test_the_published_length_is_in_the_command() -> None:
    asked = options(full=True, name="here")
    assert "--full" in mujoco.command("locomotion", asked, "name")
    assert "--hidden" not in mujoco.command("locomotion", asked, "name")
    assert "--full" not in mujoco.command("locomotion", options(name="here"), "name")


def test_what_is_of_fttpo_alone_is_refused_without_it(tmp_path: Path) -> None:
    (tmp_path / "hopper-medium.hdf5").touch()
    for more in (["--moves"], ["--proposals", "q_gaussian"]):
        with pytest.raises(UserError, match="name fttpo among --agents"):
            locomotion.main(["--data", str(tmp_path), "--agents", "bc", *more])


def test_later_evaluations_are_those_of_the_second_half(monkeypatch: pytest.MonkeyPatch) -> None:
    along = {"recommended": (1.0, 20.0, 50.0), "sampled": (2.0, 30.0, 80.0)}

    def points(self: object, name: str, at: object, rule: str = "recommended") -> list[tuple[int, Estimate]]:
        return [(u, estimate(v)) for u, v in zip((10, 50, 100), along[rule], strict=True)]

    monkeypatch.setattr(mujoco.Trained, "points", points)
    page = locomotion._later([study("medium", ["IQL"])], [10, 50], "agent", ["IQL"])
    assert "| IQL | 35.0 | 55.0 | 2 |" in page


def test_a_command_leaves_out_what_has_no_value_but_not_a_zero() -> None:
    given = options(weak=0, moves=False, full=True, at=[], settings=["a", "b"], name="", harm_budget=1.5)
    names = ("weak", "moves", "full", "at", "settings", "name", "harm_budget")
    assert spelled(given, *names) == "--weak 0 --full --settings a b --harm-budget 1.5"


def test_updates_below_a_curve_do_not_overlap() -> None:
    """The last is always there; of the others those that leave room."""
    updates = (5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000)
    line = curves.Line("hopper medium", updates, [estimate(float(k)) for k in range(len(updates))])
    drawn = ElementTree.fromstring(curves.draw([curves.Panel("IQL", (line,))], [], "here"))
    ends = sorted(
        (float(t.attrib["x"]), 3.5 * len(str(t.text)), str(t.text))
        for t in drawn.iter(f"{SVG}text")
        if str(t.text).endswith("k")
    )
    assert ends[0][2] == "5k"
    assert ends[-1][2] == "100k"
    assert all(a[0] + a[1] < b[0] - b[1] for a, b in itertools.pairwise(ends))


class Linear:
    """A linear auto-encoder of one dose: a = w z_1 + N(0, beta/4), with its exact posterior."""

    n_latent, weight, beta = 2, 1.5, 0.5

    def __call__(self, obs: Tensor, act: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        spread = self.weight**2 + self.beta / 4.0
        mean = torch.cat((self.weight * act / spread, torch.zeros_like(act)), -1)
        narrow = torch.full_like(act, 0.5 * math.log(self.beta / 4.0 / spread))
        log_std = torch.cat((narrow, torch.zeros_like(act)), -1)
        z = mean.unsqueeze(2) + log_std.exp().unsqueeze(2) * noise
        return self.weight * z[..., :1], z, mean, log_std


def test_the_log_density_is_that_of_a_linear_auto_encoder() -> None:
    """Which is normal, of variance w^2 + beta/4; with the exact posterior every weight is the density."""
    from agents.spot import SPOT

    vae, act = Linear(), torch.linspace(-2.0, 2.0, 5).double().view(1, 5, 1)
    agent: Any = SimpleNamespace(vae=vae, config=SimpleNamespace(vae_beta=vae.beta))
    agent.log_mean_weight = lambda *rest: SPOT.log_mean_weight(agent, *rest)
    found = spot.log_density(agent, torch.zeros(1, 5, 3).double(), act)
    wanted = stats.norm.logpdf(act[..., 0].numpy(), scale=math.sqrt(vae.weight**2 + vae.beta / 4.0))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_the_page_of_spot_has_every_lambda_and_density() -> None:
    scores = {"elbo": 50.0, "importance": 51.0, "gaussian": 52.0}
    lines: list[dict[str, Any]] = [
        {"penalty": 0.1, "density": d, "n_samples": 1, "score": vars(estimate(v)), "published": True}
        for d, v in scores.items()
    ]
    lines.append(lines[0] | {"penalty": 2.0, "score": vars(estimate(30.0)), "published": False})
    for k, line in enumerate(x for x in lines if x["density"] == "elbo"):
        line |= {"policy": -3.0 + k, "recorded": -1.0}
    curve = [{"visits": v, **vars(estimate(v / 10.0))} for v in (0, 100)]
    found = [(study("medium", ["SPOT"]), {"lines": lines, "trial": {"curve": curve, "treated": 3.0}})]
    asked = options(penalties=[0.1, 2.0], visits=100, patients=4, evaluations=1)
    page = "\n\n".join(spot.parts(found, asked))
    assert minus("| 0.1 (p) | 50.0 [48.0, 52.0] | ~3.00 | ~2.00 |") in page
    assert minus("| 2 | 30.0 [28.0, 32.0] | ~2.00 | ~1.00 |") in page
    assert "| importance, 8 latents | 51.0 [49.0, 53.0] |" in page
    assert "| hopper medium | 0.0 [-2.0, 2.0] | 10.0 [8.0, 12.0] |" in page
    assert "70 offline updates, 1 seed(s), 123,456 transitions" in page
    assert "--penalties 0.1 2.0 --visits 100" in page
    drawn = ElementTree.fromstring(spot.picture(found))
    assert len(list(drawn.iter(f"{SVG}circle"))) == 2


def test_the_page_of_pex_has_a_line_per_trial_and_says_how_weak_the_start_is() -> None:
    trials = [
        mujoco.TrialResult(name, [(0, estimate(1.0)), (50, estimate(last))], treated)
        for name, last, treated in (("PEX", 5.0, 2.5), ("Scratch", 3.0, None))
    ]
    start = {"iql": study("medium", ["IQL"])}
    found = [pex.Part("hopper medium", 70, start, trials), pex.Part("weak", 7, start, trials[:1])]
    asked = options(methods=["pex"], settings=[], weak=7, visits=50, patients=4, evaluations=1, name="pex")
    page = "\n\n".join(pex.parts(found, asked))
    assert page.count("| PEX | 1.0 [-1.0, 3.0] | 5.0 [3.0, 7.0] | 3.0 | 2.5 |") == 2
    assert "| Scratch | 1.0 [-1.0, 3.0] | 3.0 [1.0, 5.0] | 2.0 | - |" in page
    assert "Offline, 7 updates: IQL " in page
    drawn = ElementTree.fromstring(pex.picture(found))
    assert len(list(drawn.iter(f"{SVG}polyline"))) == 3


@pytest.mark.parametrize("kappa", [0.2, 0.5, 0.9])
def test_the_exact_value_of_the_branch_is_the_expectile_of_its_two_ends(kappa: float) -> None:
    ends = np.array([fan.RISE, -fan.RISE])

    def balance(z: float) -> float:
        above, below = np.clip(ends - z, 0.0, None), np.clip(z - ends, 0.0, None)
        return float(kappa * above.mean() - (1.0 - kappa) * below.mean())

    assert fan.expectile(kappa) == pytest.approx(brentq(balance, -fan.RISE, fan.RISE))
    assert fan.expectile(0.9) == pytest.approx(24.0)


def test_the_tree_pays_as_it_says() -> None:
    data = fan.tree()
    first, second = (torch.arange(len(data)) % 2 == k for k in (0, 1))
    assert bool((data.reward[first] == 0.0).all())
    assert not bool(data.terminated[first].any())
    assert bool(data.terminated[second].all())
    upper = data.act[first, 0] > 0.0
    assert bool((data.obs[second, 0] == torch.where(upper, 1.0, -1.0)).all())
    paid = fan.UNIT * data.reward[second]
    assert bool((paid[~upper] == fan.SURE).all())
    assert bool((paid[upper] == fan.RISE * data.act[second, 0][upper].sign()).all())


@pytest.mark.slow
def test_only_the_critic_that_is_told_the_noise_takes_the_branch() -> None:
    """FAN's Z is near the expectile and above the sure branch; the ordinary critic is below it."""
    told = fan.valued("fan", 0.9, "FAN", 800)
    plain = fan.valued("faql", None, "FAQL", 800)
    np.testing.assert_allclose(told.upper, told.exact, atol=5.0)
    np.testing.assert_allclose(plain.upper, plain.exact, atol=5.0)
    np.testing.assert_allclose([*told.lower, *plain.lower], fan.SURE, atol=2.5)
    assert min(told.upper) > max(told.lower)
    assert max(plain.upper) < min(plain.lower)


def test_the_page_of_fan_has_the_tree_and_every_agent() -> None:
    branch = [
        fan.Valued("FAN, kappa 0.9", [23.0, 25.0], [10.0, 10.0], 24.0, [0.5, 0.5]),
        fan.Valued("FAQL, ordinary critic", [-1.0, 1.0], [10.0, 10.0], 0.0, [0.5, 0.5]),
    ]
    found = [study("medium", ["FAN", "FQL"]), study("medium-expert", ["FAN"])]
    page = "\n\n".join(fan.parts(branch, found, options(tree=9, agents=["fan", "fql"], alphas=[3.0])))
    assert "| FAN, kappa 0.9 | 24 | 24.0 (23.0 to 25.0) | 10 | 10.0 (10.0 to 10.0) | above 0 |" in page
    assert (
        minus("| FAQL, ordinary critic | 0 | 0.0 (~1.0 to 1.0) | 10 | 10.0 (10.0 to 10.0) | below 0 |")
        in page
    )
    assert page.count("| FQL | ") == 1
    assert "| FQL | " + mujoco.shown(found[0].scored("FQL")) + " | - |" in page
    drawn = fan.picture(branch)
    assert NOT_FOR_PATIENTS in drawn
    bars = [r for r in ElementTree.fromstring(drawn).iter(f"{SVG}rect") if r.get("width") == "22"]
    assert [float(bar.attrib["height"]) for bar in bars] == pytest.approx(
        [4.2 * v for v in (24, 10, 0, 10)], abs=0.1
    )
