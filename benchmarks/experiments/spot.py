"""SPOT's experiments: how strong the penalty, which density, and what live treatment adds.

    python benchmarks/experiments/spot.py --data FOLDER [--updates N] [--penalties ...] [--visits N] [--full]

Three parts, on one medium and one medium-expert set unless ``--sets`` says otherwise (data as for
``locomotion.py``):

1. lambda over the paper's grid: return figure beside the constraint, the mean log-density of the policy's
   action at recorded states, under the variational auto-encoder that the penalty looks at (importance
   sampling, ``DRAWS`` latents). All lambdas share that density: its phase knows none.
2. The density: the auto-encoder's lower bound, its importance estimate, a conditional normal distribution.
3. Offline to online: the run with the published lambda goes on for ``--visits`` visits while lambda falls to
   a fifth.

Without ``--full`` all widths are ``--hidden`` and the first phase is a fifth of the updates. Every set is a
study of its own in ``--out`` and resumes where it was killed.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor

from benchmarks import mujoco
from benchmarks.mujoco import Trained
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.runs.files import read_json
from dosing.runs.folder import RunFolder
from dosing.studies import Grid
from dosing.studies.finetune import start_of
from dosing.studies.presets import find
from dosing.studies.report.svg import COLOURS, GREY, minus, sheet, stroke, text, ticks

PENALTIES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""The paper's grid for locomotion."""
DENSITIES = {"elbo": 1, "importance": 8, "gaussian": 1}
"""Estimates of the density, with the draws of the latent per estimate."""
STATES, DRAWS = 1000, 64
"""Recorded visits at which the constraint is measured, and latents per visit."""
WIDTH, HEIGHT, LEFT, TOP, FOOT = 420, 300, 52, 64, 62


def published(preset: str) -> float:
    """The paper's lambda on a set, by its preset."""
    from agents.spot import SPOTConfig

    settings = find(preset).settings("spot", SPOTConfig)
    return float(settings["penalty"])


def grids(preset: str, options: argparse.Namespace) -> list[Grid]:
    """Every lambda by the lower bound; every other density at the published lambda."""
    own = published(preset)
    short = mujoco.short(options, ["spot"])
    penalties = sorted({*options.penalties, own})
    result = [Grid(("spot",), short | {"penalty": penalties, "density": ["elbo"]}, preset)]
    for density, draws in DENSITIES.items():
        if density != "elbo":
            changed: dict[str, list[Any]] = {"penalty": [own], "density": [density], "n_samples": [draws]}
            result.append(Grid(("spot",), short | changed, preset))
    return result


@torch.no_grad()
def log_density(agent: Any, obs: Tensor, act: Tensor) -> Tensor:
    """Log-density ln p(a | s) ``[S, B]`` under the agent's auto-encoder, by importance sampling, in nats.

    Args:
        agent: SPOT with an auto-encoder.
        obs: in the agent's units, ``[S, B, O]``.
        act: on the [-1, 1] axis, ``[S, B, A]``.
    """
    shape = (*act.shape[:2], DRAWS, agent.vae.n_latent)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(act.dtype)
    constant = 0.5 * act.shape[-1] * math.log(2.0 * math.pi * agent.config.vae_beta / 4.0)
    weight: Tensor = agent.log_mean_weight(act, noise, *agent.vae(obs, act, noise))
    return weight - constant


def constraint(run: Path) -> dict[str, float]:
    """Mean log-density of the policy's action, and of the recorded one, at the same recorded visits."""
    start = start_of(RunFolder(run))
    agent, data, seeds = start.transferred(), start.dataset, len(start.seeds)
    chosen = torch.from_numpy(np.linspace(0, len(data) - 1, STATES).astype(np.int64))
    obs, act = (x[chosen].expand(seeds, -1, -1) for x in (data.obs, data.act))
    with torch.no_grad():
        distribution: Any = agent.policy(obs)
    return {
        "policy": float(log_density(agent, obs, distribution.base_dist.mode).mean()),
        "recorded": float(log_density(agent, obs, act).mean()),
    }


def measured(name: str, options: argparse.Namespace) -> tuple[Trained, dict[str, Any]]:
    """Everything on one set: the study, the constraint of every run on the lower bound, and the trial."""
    preset = mujoco.preset(options, name)
    found = mujoco.trained(name, grids(preset, options), options)
    own, lines = published(preset), []
    for run_name, run in found.runs.items():
        config = read_json(run / "config.json")["agent_config"]
        line = {key: config[key] for key in ("penalty", "density", "n_samples")}
        line |= {"score": vars(found.scored(run_name)), "published": config["penalty"] == own}
        if config["density"] == "elbo":
            line |= constraint(run)
        lines.append(line | {"run": run})
    begun = next(x for x in lines if x["published"] and x["density"] == "elbo")
    result: dict[str, Any] = {"lines": [{k: v for k, v in x.items() if k != "run"} for x in lines]}
    if options.visits:
        trial = mujoco.trials(found, ["spot"], [begun["run"]], options)[0]
        result["trial"] = {
            "curve": [{"visits": v, **vars(e)} for v, e in trial.points],
            "treated": trial.treated,
        }
    return found, result


def parts(found: Sequence[tuple[Trained, dict[str, Any]]], options: argparse.Namespace) -> list[str]:
    """The page."""
    result = [
        "# SPOT: the penalty, the density, live treatment",
        mujoco.opening(
            mujoco.command("spot", options, "penalties", "visits", "patients", "evaluations"),
            options,
            [x for x, _ in found],
            ["spot"],
        )
        + " The paper trains for 1,000,000 updates.",
        "## lambda",
        f"Log-density: mean over {STATES:,} recorded visits of ln p(a | s), in nats, of the policy's action "
        f"under the auto-encoder that the penalty looks at ({DRAWS} latents per visit). That of the recorded "
        "action is the same for every lambda: the density is fitted first. (p): the paper's lambda.",
        "![Return figure against log-density](spot.svg)",
    ]
    for x, numbers in found:
        lines = [
            [
                f"{line['penalty']:g}{' (p)' if line['published'] else ''}",
                mujoco.shown(Estimate(**line["score"])),
                minus(f"{line['policy']:.2f}"),
                minus(f"{line['policy'] - line['recorded']:+.2f}"),
            ]
            for line in numbers["lines"]
            if line["density"] == "elbo"
        ]
        head = ["lambda", "score", "log-density of the policy's action", "less the recorded action's"]
        result += [f"### {x.title}: recorded episodes {x.behaviour:.1f}", table(head, lines)]
    return [*result, *densities(found), *online(found, options)]


def densities(found: Sequence[tuple[Trained, dict[str, Any]]]) -> list[str]:
    """The table of density estimates at the published lambda."""
    lines = []
    for density, draws in DENSITIES.items():
        cells = [f"{density}, {draws} latents" if density == "importance" else density]
        for _, numbers in found:
            own = (x for x in numbers["lines"] if x["density"] == density and x["published"])
            line = next(own, None)
            cells.append(mujoco.shown(Estimate(**line["score"])) if line else "diverged")
        lines.append(cells)
    return ["## The density, at the paper's lambda", table(["density", *(x.title for x, _ in found)], lines)]


def online(found: Sequence[tuple[Trained, dict[str, Any]]], options: argparse.Namespace) -> list[str]:
    """The table of live treatment."""
    if not options.visits:
        return []
    lines = []
    for x, numbers in found:
        curve = numbers["trial"]["curve"]
        lines.append([x.title, *(mujoco.shown(Estimate(**_estimate(row))) for row in curve)])
    visits = [f"{row['visits']:,} visits" for row in found[0][1]["trial"]["curve"]]
    return [
        "## Offline to online, lambda falling to a fifth",
        f"{options.visits:,} visits of {options.patients} episodes side by side, one update per visit; the "
        "paper has 1,000,000.",
        table(["set", *visits], lines),
    ]


def _estimate(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "visits"}


def picture(found: Sequence[tuple[Trained, dict[str, Any]]]) -> str:
    """A panel per set: score against log-density, a point per lambda, the recorded action's as a rule."""
    width, height = WIDTH * len(found), TOP + HEIGHT + FOOT
    out = [
        *sheet(width, height),
        text(
            8, 18, "SPOT: score of the policy against how likely its action is among recorded ones", size=13
        ),
        text(8, 36, "A point per lambda, written beside it; bars: 95 % intervals.", fill=GREY),
    ]
    for number, (x, numbers) in enumerate(found):
        out.append(f'<g transform="translate({WIDTH * number},{TOP})">')
        out += [text(LEFT, -8, x.title, size=12), *_panel([r for r in numbers["lines"] if "policy" in r])]
        out.append("</g>")
    note = "x: mean ln p(action | state), nats; y: normalised score; dotted: the recorded actions' density"
    out += [text(8, height - 20, note, fill=GREY), text(8, height - 6, NOT_FOR_PATIENTS, fill=GREY)]
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(lines: Sequence[dict[str, Any]]) -> list[str]:
    recorded = lines[0]["recorded"]
    across = [float(value) for value in (*(r["policy"] for r in lines), recorded)]
    left, right = min(across), max(across)
    pad = 0.08 * (right - left) or 1.0
    left, right = left - pad, right + pad
    low = min(0.0, *(float(r["score"]["low"]) for r in lines))
    high = max(float(r["score"]["high"]) for r in lines) + 5.0

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - 24) * (value - left) / (right - left)

    def y_of(value: float) -> float:
        return HEIGHT * (high - value) / (high - low)

    out = []
    for value in ticks(low, high):
        out.append(stroke(LEFT, y_of(value), WIDTH - 24, y_of(value), "#e4e4e4"))
        out.append(text(LEFT - 6, y_of(value) + 4, minus(f"{value:g}"), anchor="end", fill=GREY))
    for value in ticks(left, right):
        out.append(text(x_of(value), HEIGHT + 16, minus(f"{value:g}"), anchor="middle", fill=GREY))
    out.append(stroke(x_of(recorded), 0, x_of(recorded), HEIGHT, GREY, 1, "3 3"))
    for r in lines:
        x, y, score = x_of(r["policy"]), y_of(r["score"]["value"]), r["score"]
        out.append(stroke(x, y_of(score["low"]), x, y_of(score["high"]), COLOURS[0], 1.4))
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[0]}"/>')
        out.append(text(x + 6, y - 5, f"{r['penalty']:g}"))
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not done, print, keep."""
    parser = argparse.ArgumentParser(description="SPOT's experiments on MuJoCo data.")
    mujoco.add_options(parser, "spot", updates=10_000, sets=("hopper-medium", "hopper-medium-expert"))
    parser.add_argument("--penalties", type=float, nargs="+", default=list(PENALTIES), help="lambda")
    mujoco.add_trial_options(parser, visits=5_000)
    options = mujoco.checked(parser.parse_args(argv))
    if options.full:
        options.updates, options.visits, options.seeds, options.patients = 1_000_000, 1_000_000, 5, 1
    found = []
    for name in options.sets:
        found.append(measured(name, options))
        content = {"found": [mujoco.numbers(x, options.at) | numbers for x, numbers in found]}
        mujoco.keep(options, "spot", parts(found, options), content, {"spot": picture(found)})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"spot: {error}")
