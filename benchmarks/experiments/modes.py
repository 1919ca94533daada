"""Two good doses far apart: which agents can represent both, and which recommend the bad dose between them.

    OMP_NUM_THREADS=1 python benchmarks/experiments/modes.py [--agents NAME ...] [--updates 3000] [--study
    FOLDER]

Doses were recorded around -0.6 and +0.5 in equal parts, and anywhere (uniformly) in a tenth of the visits.
The reward is 1 at either of the two and falls to almost 0 between them, whatever the state; every visit is
the last one. A distribution with one peak has to choose: one of the two doses, or, where it imitates, the
dose between, which is bad. Every agent has four seeds, two hidden layers of 64 units and its own other
defaults. What is trained stays in the study folder: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.data.dataset import Dataset, Transform
from dosing.errors import UserError
from dosing.policy import DosePolicy
from dosing.runs.files import write_atomic, write_json
from dosing.studies.report.svg import COLOURS, GREY, sheet, stroke, text
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Array, Problem

RESULTS = Path(__file__).resolve().parents[1] / "results"
LEFT_DOSE, RIGHT_DOSE, SPREAD = -0.6, 0.5, 0.08
"""The two good doses, and the standard deviation of the recorded doses around them."""
NEAR = 0.2
"""A dose this near to a good one counts as that one; half of the reward is left there."""
ANYWHERE = 0.1
VISITS, SEEDS, STATES, DRAWS = 4096, (0, 1, 2, 3), 64, 64
SMALL = {"hidden": (64, 64), "vae_hidden": (64, 64), "learning_rate": 1e-3}
COLUMNS, WIDTH, HEIGHT, BINS = 4, 240, 120, 60


def reward(dose: Array) -> Array:
    """At most 1, at either of the two good doses; half of it at :data:`NEAR` from them."""
    distance = np.minimum(abs(dose - LEFT_DOSE), abs(dose - RIGHT_DOSE))
    return np.asarray(0.5 ** ((distance / NEAR) ** 2))


def recorded() -> Dataset:
    """The recorded visits."""
    rng = np.random.default_rng(0)
    good = rng.choice([LEFT_DOSE, RIGHT_DOSE], VISITS) + SPREAD * rng.standard_normal(VISITS)
    dose = np.where(rng.random(VISITS) < ANYWHERE, rng.uniform(-1.0, 1.0, VISITS), good)
    obs = torch.as_tensor(rng.standard_normal((VISITS, 2)), dtype=torch.float32)
    return Dataset(
        obs=obs,
        act=torch.as_tensor(dose, dtype=torch.float32)[:, None],
        reward=torch.as_tensor(reward(dose), dtype=torch.float32),
        next_obs=obs.flip(0),
        terminated=torch.ones(VISITS),
        starts=torch.arange(VISITS + 1),
        transform=Transform((0.0, 0.0), (1.0, 1.0), (-1.0,), (1.0,)),
    )


@dataclass(frozen=True)
class PolicyDoses:
    """Delivered doses of one agent, all after clipping to [-1, 1].

    Attributes:
        agent: registry key.
        drawn: doses drawn from the policy at each state, ``[S, N, B]``.
        recommended: recommended doses, ``[S, B]``.
        seconds: processor time of the training.
    """

    agent: str
    drawn: Array
    recommended: Array
    seconds: float

    def near(self, dose: float) -> Array:
        """Share of the drawn doses near a good dose, ``[S, B]``."""
        return np.asarray((abs(self.drawn - dose) <= NEAR).mean(1))

    @property
    def both(self) -> int:
        """Seeds that at most states give each good dose in a tenth of the draws, and others in few."""
        left, right = self.near(LEFT_DOSE), self.near(RIGHT_DOSE)
        good = (left >= 0.1) & (right >= 0.1) & (left + right > 0.75)
        return int((good.mean(1) > 0.5).sum())


def train(name: str, updates: int) -> PolicyDoses:
    """Train one agent and draw from it."""
    config_class = agents.find(name).config_class()
    own = {field: value for field, value in SMALL.items() if hasattr(config_class, field)}
    agent = agents.build(name, own, Problem(2, 1, 1), SEEDS)
    data = recorded()
    sampler, take = Sampler(data, agent, 256), updater(agent)
    start = time.process_time()
    for step in range(agent.warm_up + updates):
        take(sampler(step))
    seconds = time.process_time() - start
    policy = DosePolicy(agent, data.transform)
    obs = np.random.default_rng(1).standard_normal((STATES, 2)).astype(np.float32)
    every = np.broadcast_to(obs, (len(SEEDS), STATES, 2))
    drawn = np.stack([policy.sampled(every, visit) for visit in range(DRAWS)], 1)
    best = policy.recommended(every)
    return PolicyDoses(name, np.clip(drawn[..., 0], -1, 1), np.clip(best[..., 0], -1, 1), seconds)


def page(result: Sequence[PolicyDoses], updates: int, refused: dict[str, str]) -> str:
    """Table and picture."""
    head = (
        "agent", "policy", "seeds with both doses", "drawn near -0.6", "drawn near 0.5", "drawn elsewhere",
        "reward, drawn", "reward, recommended",
    )  # fmt: skip
    lines = []
    for x in result:
        entry = agents.find(x.agent)
        left, right = x.near(LEFT_DOSE).mean(), x.near(RIGHT_DOSE).mean()
        numbers = (left, right, 1.0 - left - right)
        rewards = (reward(x.drawn).mean((1, 2)), reward(x.recommended).mean(1))
        lines.append(
            [
                entry.title,
                entry.about.family,
                f"{x.both} of {len(SEEDS)}",
                *(f"{share:.0%}" for share in numbers),
                *(f"{r.mean():.2f} ({r.min():.2f} to {r.max():.2f})" for r in rewards),
            ]
        )
    missing = [n for n in agents.AGENTS if n not in refused and n not in {x.agent for x in result}]
    parts = [
        "# Two good doses far apart",
        f"`python benchmarks/experiments/modes.py`. Version {__version__}. {describe()}. {VISITS:,} "
        "recorded visits, "
        f"{updates:,} updates of the policy, {len(SEEDS)} seeds; {DRAWS} drawn doses and one recommended at "
        f"each of {STATES} states. Both doses: at most states each in a tenth of the draws, and others in "
        "less than a quarter. Rewards: mean over seeds (smallest to largest seed).",
        "![Drawn doses of every agent](modes.svg)",
        table(head, lines),
        *(f"{agents.find(name).title}: {why}" for name, why in refused.items()),
        *([f"Not run: {', '.join(agents.find(n).title for n in missing)}."] if missing else []),
        NOT_FOR_PATIENTS,
    ]
    return "\n\n".join(parts) + "\n"


def picture(result: Sequence[PolicyDoses]) -> str:
    """Histograms of the drawn doses of the first seed over those recorded."""
    edges = np.linspace(-1.0, 1.0, BINS + 1)
    base = np.histogram(recorded().act.numpy(), edges)[0] / VISITS
    rows = -(-len(result) // COLUMNS)
    width, height = COLUMNS * WIDTH, 56 + rows * HEIGHT + 36
    out = [
        *sheet(width, height),
        text(8, 18, "Two good doses, at the dotted lines: what each policy gives", size=14),
        text(8, 36, "Filled: doses drawn from the policy, first seed. Grey line: recorded doses. "
             "Tick: recommended dose. Heights: square root of shares.", fill=GREY),
    ]  # fmt: skip
    across, up = WIDTH - 24, HEIGHT - 42

    def x_of(dose: float) -> float:
        return 12 + across * (dose + 1.0) / 2.0

    def y_of(share: float) -> float:
        return 24 + up * (1.0 - min(1.0, math.sqrt(share)))

    for number, x in enumerate(result):
        column, row = number % COLUMNS, number // COLUMNS
        out.append(f'<g transform="translate({WIDTH * column},{50 + HEIGHT * row})">')
        out.append(text(12, 16, agents.find(x.agent).title, size=12))
        out.append(text(WIDTH - 12, 16, f"both: {x.both} of {len(SEEDS)} seeds", anchor="end", fill=GREY))
        for dose in (LEFT_DOSE, RIGHT_DOSE):
            out.append(stroke(x_of(dose), 24, x_of(dose), 24 + up, GREY, 1, "2 3"))
        shares = np.histogram(x.drawn[0], edges)[0] / x.drawn[0].size
        for low, high, share in zip(edges[:-1], edges[1:], shares, strict=True):
            if share > 0.0:
                size = f'width="{x_of(high) - x_of(low):.1f}" height="{24 + up - y_of(share):.1f}"'
                place = f'x="{x_of(low):.1f}" y="{y_of(share):.1f}"'
                out.append(f'<rect {place} {size} fill="{COLOURS[0]}"/>')
        middles = 0.5 * (edges[:-1] + edges[1:])
        path = " ".join(f"{x_of(m):.1f},{y_of(share):.1f}" for m, share in zip(middles, base, strict=True))
        out.append(f'<polyline points="{path}" fill="none" stroke="{GREY}" stroke-width="1"/>')
        out.append(stroke(12, 24 + up, 12 + across, 24 + up, "#999"))
        at = x_of(float(np.median(x.recommended[0])))
        out.append(stroke(at, 24 + up - 5, at, 24 + up + 6, COLOURS[1], 3))
        out.append("</g>")
    out.append(text(8, height - 18, "x: dose from -1 to 1 (no unit)", fill=GREY))
    out.append(text(8, height - 5, NOT_FOR_PATIENTS, fill=GREY))
    return "\n".join([*out, "</svg>"]) + "\n"


def trained(name: str, updates: int, folder: Path) -> PolicyDoses:
    """:func:`train`, or what it left in this folder."""
    path = folder / f"{name}-{updates}.npz"
    if path.exists():
        with np.load(path) as kept:
            return PolicyDoses(name, kept["drawn"], kept["recommended"], float(kept["seconds"]))
    result = train(name, updates)
    content = io.BytesIO()
    np.savez_compressed(content, drawn=result.drawn, recommended=result.recommended, seconds=result.seconds)
    write_atomic(path, content.getvalue())
    return result


def keep(result: Sequence[PolicyDoses], updates: int, refused: dict[str, str]) -> None:
    """Write page, picture and numbers."""
    rows: list[dict[str, Any]] = [
        {
            "agent": x.agent,
            "both": x.both,
            "left": x.near(LEFT_DOSE).mean(1).tolist(),
            "right": x.near(RIGHT_DOSE).mean(1).tolist(),
        }
        for x in result
    ]
    write_json(RESULTS / "modes.json", {"updates": updates, "agents": rows, "refused": refused})
    write_atomic(RESULTS / "modes.svg", picture(result).encode())
    write_atomic(RESULTS / "modes.md", page(result, updates, refused).encode())


def main() -> None:
    """Train, print, keep."""
    parser = argparse.ArgumentParser(description="Two good doses far apart.")
    parser.add_argument("--agents", nargs="*", default=list(agents.AGENTS))
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument(
        "--study", type=Path, default=RESULTS.parents[1] / "runs" / "modes", help="[runs/modes]"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.study.mkdir(parents=True, exist_ok=True)
    result: list[PolicyDoses] = []
    refused: dict[str, str] = {}
    for name in options.agents:
        try:
            result.append(trained(name, options.updates, options.study))
            print(name, result[-1].both, f"{result[-1].seconds:.0f} s", flush=True)
        except UserError as error:
            refused[name] = str(error)
            print(name, error, flush=True)
        if result:
            keep(result, options.updates, refused)


if __name__ == "__main__":
    main()
