"""Why agents trained on few patients get worse: what FtTPO learns along training, and which part is at fault.

    OMP_NUM_THREADS=1 python benchmarks/experiments/diagnosis.py [--data-sets 4] [--updates 3000] [--patients
    2000]

SimEnv3, 50 recorded patients, every data set of other patients, one seed each, all in one stack. ``published
networks`` are the method's own (2x256) at its default temperature; other lines say what they change.

* Overfitting of the critic: its loss on the recorded patients and on 50 others, at the same weights.
* Advantage noise against tau: the standard deviation of A(s, a) between data sets at the same recorded visits
  (noise), and that of its mean over data sets (signal), in units of tau.
* Self-starving weights: the share of recorded doses with weight zero, and the effective share of the batch,
  (sum w)^2 / (B sum w^2).
* Bootstrapping on noise: the discount; partial observation: earlier visits among the states.
* Proposal against actor: returns of the recommended dose, and of doses drawn from actor and proposal.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import agents
from benchmarks.curves import Line, Panel, draw
from benchmarks.experiments.cohort import RESULTS, Cohorts, Replicates
from benchmarks.experiments.learning import plain
from benchmarks.machine import describe
from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.data.dataset import Dataset
from dosing.evaluation.rules import following
from dosing.evaluation.statistics import Estimate, mean_over_seeds
from dosing.models.batch import Batch
from dosing.policy import Observations
from dosing.rng import generator
from dosing.runs.files import write_atomic, write_json
from dosing.studies.presets import PRESETS
from dosing.training.compilation import updater
from dosing.training.sampler import Sampler
from dosing.types import Array, Problem

SIZE, BATCH = 50, 256
PRESET = PRESETS["clinical-small"]
SMALL: dict[str, Any] = dict(PRESET.shared) | dict(PRESET.agents["fttpo"])
REGULARISED = dict(PRESET.regularisation)


@dataclass(frozen=True)
class Variant:
    """One line: settings of FtTPO, what it has beyond the method, and earlier visits it sees."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    regularisation: dict[str, Any] = field(default_factory=dict)
    history: int = 0


VARIANTS = (
    Variant("published networks"),
    Variant("discount 0", {"discount": 0.0}),
    Variant("temperature 1", {"temperature": 1.0}),
    Variant("weight decay 3", {}, {"weight_decay": 3.0}),
    Variant("dropout 0.5", {}, {"dropout": 0.5}),
    Variant("layer norm", {}, {"layer_norm": True}),
    Variant("10 critics", {}, {"critics": 10, "pessimism": 1.0}),
    Variant("2 earlier visits", history=2),
    Variant("linear, quadratic in the dose", {"hidden": (), "learning_rate": 1e-3}, {"dose_quadratic": True}),
    Variant("clinical-small", SMALL, REGULARISED),
    Variant("clinical-small, discount 0", SMALL | {"discount": 0.0}, REGULARISED),
    Variant("clinical-small, 2 earlier visits", SMALL, REGULARISED, history=2),
)


class Watch:
    """One variant on its data sets, looked at along training."""

    def __init__(self, variant: Variant, cohorts: Cohorts, others: Cohorts) -> None:
        self.cohorts = cohorts
        own = [Dataset.from_episodes(e) for e in cohorts.episodes]
        unseen = [
            Dataset.from_episodes(e, d.transform) for e, d in zip(others.episodes, own, strict=True)
        ]  # other patients on the scale of those trained on
        joined = Dataset.join(own)
        problem = Problem(joined.obs.shape[1], joined.act.shape[1])
        self.agent: Any = agents.build(
            "fttpo", variant.settings, problem, cohorts.seeds, regularisation=variant.regularisation
        )
        self.policy = Replicates(self.agent, [d.transform for d in own])
        self.take, self.sampler = updater(self.agent), Sampler(joined, self.agent, BATCH)
        self.batches = [Sampler(d, self.agent, 1200)(0) for d in (joined, Dataset.join(unseen))]
        first = own[0]
        raw = first.obs.double() * torch.tensor(first.transform.obs_scale) + torch.tensor(
            first.transform.obs_mean
        )
        self.states = np.broadcast_to(raw.float().numpy(), (len(own), *raw.shape))  # the same visits for all
        self.doses = first.act.expand(len(own), -1, -1)

    @torch.no_grad()
    def look(self) -> dict[str, Any]:
        """What can be seen at the present weights."""
        agent: Any = self.agent
        recorded, unseen = (agent.losses(batch)["critic"].double() for batch in self.batches)
        weight = self._weight(self.batches[0])
        effective = weight.sum(-1).square() / (weight.shape[-1] * weight.square().sum(-1)).clamp(min=1e-30)
        obs = self.policy._obs(self.states)
        advantage = agent.critic.pessimistic(obs, self.doses) - agent.value(obs)  # [data sets, visits]
        advantage = (advantage / agent.config.temperature).double()
        returns = {
            "recommended": self.cohorts.returns(following(self.policy)),
            "actor": self.cohorts.returns(self.policy.sampled),
            "proposal": self.cohorts.returns(self._proposal),
        }
        return {
            "critic, recorded": over(recorded),
            "critic, other patients": over(unseen),
            "zero weight": over((weight == 0.0).double().mean(-1)),
            "effective share": over(effective.double()),
            "advantage noise": float(advantage.std(0).mean()),
            "advantage signal": float(advantage.mean(0).std()),
        } | {name: mean_over_seeds(result, shared_patients=True) for name, result in returns.items()}

    def _weight(self, batch: Batch) -> torch.Tensor:
        """Weights ``[S, B]`` of the recorded doses, as FtTPO's proposal sees them."""
        agent = self.agent
        advantage = agent.scaled(agent.critic.pessimistic(batch.obs, batch.act) - agent.value(batch.obs))
        weight: torch.Tensor = (1.0 + advantage / agent.config.temperature).clamp(
            0.0, agent.config.weight_clip
        )
        return weight

    def _proposal(self, obs: Observations, visit: int) -> Array:
        distribution: Any = cast(Any, self.policy.densities(obs)["proposal"]).base_dist
        shape = (*distribution.batch_shape[1:], distribution.n_uniforms)
        noise = np.stack([generator(s, "evaluation", visit).random(shape) for s in self.policy.seeds])
        unit = distribution.rsample_from(torch.as_tensor(noise, dtype=torch.float32)).clamp(-1.0, 1.0)
        return self.policy.transform.to_dose(unit.double().numpy())


def over(values: torch.Tensor) -> Estimate:
    """Mean over data sets."""
    return mean_over_seeds(values.unsqueeze(0).numpy())


def follow(variant: Variant, marks: Sequence[int], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train a variant and look at it after so many updates."""
    cohorts = Cohorts.of(SIZE, arguments.data_sets, arguments.patients, variant.history)
    others = Cohorts.of(SIZE, arguments.data_sets, arguments.patients, variant.history, first=OTHERS)
    watch = Watch(variant, cohorts, others)
    result = []
    for step in range(max(marks)):
        watch.take(watch.sampler(step))
        if step + 1 in marks:
            result.append({"variant": variant.name, "update": step + 1} | watch.look())
    return result


OTHERS = 5000
"""Seed of the first data set that nobody is trained on."""
COLUMNS = (
    "critic, recorded",
    "critic, other patients",
    "zero weight",
    "effective share",
    "advantage noise",
    "advantage signal",
    "recommended",
    "actor",
    "proposal",
)


def page(
    result: list[dict[str, Any]], arguments: argparse.Namespace, constant: Estimate, minutes: float
) -> str:
    """Everything as markdown."""
    head = ["", "updates", *COLUMNS]
    lines = [
        [row["variant"], f"{row['update']:,}"]
        + [f"{row[c]:.2f}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS]
        for row in result
    ]
    about = __doc__.split("\n\n", 2)[2] if __doc__ else ""
    parts = [
        "# Why agents trained on few patients get worse",
        f"`OMP_NUM_THREADS=1 python benchmarks/experiments/diagnosis.py --data-sets {arguments.data_sets} "
        "--updates "
        f"{arguments.updates} --patients {arguments.patients}` on {describe()}; dosing {__version__}; "
        f"{minutes:.0f} minutes of processor time.",
        about.replace("``", "`"),
        f"The last three columns are returns over 24 visits on {arguments.patients:,} evaluation patients; "
        f"the constant dose estimated from the same data returns {constant}. Means over data sets, 95 % "
        "intervals.",
        "![Return and critic loss along training](diagnosis.svg)",
        table(head, lines),
    ]
    return "\n\n".join([*parts, NOT_FOR_PATIENTS]) + "\n"


def picture(result: list[dict[str, Any]], constant: Estimate) -> str:
    """Returns along training, one panel per variant."""
    panels = []
    for name in dict.fromkeys(row["variant"] for row in result):
        rows = [row for row in result if row["variant"] == name]
        updates = tuple(row["update"] for row in rows)
        lines = [
            Line(words, updates, tuple(row[key] for row in rows))
            for words, key in (("recommended dose", "recommended"), ("drawn from the actor", "actor"))
        ]
        panels.append(Panel(name, tuple(lines)))
    rules = [("constant dose estimated from the same data", constant.value)]
    return draw(panels, rules, f"FtTPO along training on {SIZE} patients: return per patient", of_groups="")


def main() -> None:
    """Train, look, and keep page, numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-sets", type=int, default=4, help="[%(default)s]")
    parser.add_argument("--updates", type=int, default=3000, help="[%(default)s]")
    parser.add_argument("--patients", type=int, default=2000, help="evaluated on [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    marks = sorted({min(m, arguments.updates) for m in (200, 500, 1000, 2000, arguments.updates)})
    constants = Cohorts.of(SIZE, arguments.data_sets, arguments.patients).constants()
    constant = mean_over_seeds(constants, shared_patients=True)
    result = []
    for variant in VARIANTS:
        result += follow(variant, marks, arguments)
        print(f"{(time.process_time() - began) / 60:5.1f} min  {variant.name}", file=sys.stderr, flush=True)
    minutes = (time.process_time() - began) / 60
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.out / "diagnosis.json",
        {"machine": describe(), "version": __version__, "rows": plain(result)},
    )
    write_atomic(arguments.out / "diagnosis.svg", picture(result, constant).encode())
    text = page(result, arguments, constant, minutes)
    write_atomic(arguments.out / "diagnosis.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
