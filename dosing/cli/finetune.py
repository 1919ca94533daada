"""The command ``finetune``: go on learning from live treatment, within dose limits and a harm budget."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agents import finetuning
from dosing import NOT_FOR_PATIENTS
from dosing.cli import options
from dosing.errors import UserError


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "finetune", run, "go on from finished runs in live treatment: several methods side by side; resumable"
    )
    parser.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help=f"of {', '.join(finetuning.METHODS)}; all for those that can start from the runs. Settings "
        "follow the name: pex,members=4,others=online",
    )
    parser.add_argument("--methods", dest="also", nargs="+", default=[], metavar="METHOD", help="the same")
    parser.add_argument(
        "--run", dest="runs", nargs="+", type=Path, default=[], metavar="RUN", help="finished run folders"
    )
    parser.add_argument("--out", type=Path, help="study folder [that of the first run]")
    options.add_scenario(parser, "environment of the trial [that of the data]")
    parser.add_argument(
        "--env-option", action="append", default=[], metavar="NAME=VALUE", help="of it; repeatable"
    )
    for name, kind, text in (
        ("visits", int, "visits of every seed's patients"),
        ("patients", int, "patients of a seed treated side by side (episodes for a MuJoCo task)"),
        ("updates-per-visit", float, "updates of a seed per visit of one of its patients"),
        ("start", int, "visits before the first update"),
        ("batch-size", int, "transitions per update"),
        ("evaluate-every", int, "visits between evaluations"),
        ("checkpoint-every", int, "visits between checkpoints"),
    ):
        default = _defaults[name.replace("-", "_")]
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} [%(default)s]")
    parser.add_argument(
        "--published-start",
        action="store_true",
        help="visits before the first update as in each method's released code, where known, not --start",
    )
    parser.add_argument("--seeds", type=int, help="the runs' first so many seeds [all]")
    parser.add_argument(
        "--harm-budget",
        type=float,
        metavar="COST",
        help="acceptable cost per patient: a seed stops once its patients cost more with 95 %% confidence",
    )
    parser.add_argument(
        "--evaluation-patients", type=int, help="per seed and evaluation [1000; MuJoCo: 10 episodes]"
    )
    options.add_resources(parser)


_defaults = {
    "visits": 20_000,
    "patients": 32,
    "updates_per_visit": 1.0,
    "start": 1000,
    "batch_size": 256,
    "evaluate_every": 2000,
    "checkpoint_every": 2000,
}
"""Those of ``dosing.finetuning.method.TrialSettings``, here so that help needs no torch."""


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    methods = [*arguments.methods, *arguments.also]
    if not methods:
        raise UserError(f"name a method, or all; there are: {', '.join(finetuning.METHODS)}.")
    resources = options.resources_of(arguments)
    for name in methods if methods != ["all"] else ():
        finetuning.find(name)
    from dosing.finetuning.method import TrialSettings
    from dosing.runs.config import EnvironmentReference
    from dosing.runs.folder import RunFolder
    from dosing.studies import finetune
    from dosing.studies.commands import note_command
    from dosing.studies.finetune_table import TABLE, TRIALS
    from simulator.envs.registered import SUFFIX, scenario_id

    more = options.env_options(arguments.env_option)
    env: EnvironmentReference | dict[str, Any] = more
    if arguments.scenario is not None:
        env = EnvironmentReference(scenario_id(arguments.scenario), more)
        own = RunFolder(arguments.runs[0]).config().env if arguments.runs else None
        if arguments.scenario.endswith(SUFFIX) and own and own.id == env.id:
            env = more  # the file is named only to be loaded
    settings = TrialSettings(
        **{name: getattr(arguments, name) for name in _defaults}, harm_budget=arguments.harm_budget
    )
    result = finetune.finetune(
        methods,
        arguments.runs,
        study=arguments.out,
        settings=settings,
        published_start=arguments.published_start,
        env=env,
        seeds=arguments.seeds,
        evaluation_patients=arguments.evaluation_patients,
        resources=resources,
    )
    study = arguments.out or arguments.runs[0].resolve().parents[2]
    note_command(study / TRIALS / TABLE, arguments.argv)
    print(result)
    print(NOT_FOR_PATIENTS)
    return 0
