"""The command ``demo``: the main job, from simulated patients to the dashboard."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import agents
from dosing import NOT_FOR_PATIENTS
from dosing.cli import options
from dosing.cli.serve import serve
from dosing.errors import UserError


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    titles = ", ".join(agents.find(name).title for name in agents.DEMO_PATIENTS)
    parser: argparse.ArgumentParser = command(
        "demo", run, f"simulate a cohort, train {titles}, evaluate, print the table, serve it"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="study folder [%(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="seeds trained together per agent [%(default)s]")
    parser.add_argument("--steps", type=int, default=None, help="gradient updates [2000; MuJoCo: 5000]")
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="in place of patients: mujoco (Hopper-v5, recorded first), a D4RL file of Hopper, or minari:ID",
    )
    parser.add_argument("--patients", type=int, default=50, help="recorded patients [%(default)s]")
    options.add_scenario(parser, f"whose patients [{options.DEFAULT_ENV}]")
    parser.add_argument("--variant", help="variant of the scenario [its first]")
    parser.add_argument(
        "--preset",
        choices=["published", "common", "clinical-small", "belief"],
        help=f"the same settings for {' and '.join(agents.DEMO)} alone, such as published [each its own]",
    )
    options.add_device(parser)
    parser.add_argument("--no-serve", action="store_true", help="end after the table")
    parser.add_argument("--port", type=int, default=8501, help="port of the dashboard [%(default)s]")


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command."""
    del rest
    from dosing.studies import Cohort, mujoco_data
    from dosing.studies.commands import note_command
    from dosing.studies.comparison import demo
    from dosing.studies.naming import TABLE
    from dosing.studies.scenarios import variant_options
    from simulator.envs.registered import scenario_id

    seeds = options.seed_range(arguments.seeds)
    if arguments.data is not None and (arguments.scenario or arguments.variant):
        raise UserError("--data takes the place of patients: leave --scenario and --variant out.")
    if arguments.data is not None:
        source = None if arguments.data == "mujoco" else arguments.data
        result = mujoco_data.demo(
            arguments.out, seeds=seeds, steps=arguments.steps, device=arguments.device, source=source
        )
    else:
        scenario = scenario_id(arguments.scenario or options.DEFAULT_ENV)
        result = demo(
            arguments.out,
            seeds=seeds,
            steps=2000 if arguments.steps is None else arguments.steps,
            scenario=scenario,
            cohort=Cohort(arguments.patients, options=variant_options(scenario, arguments.variant)),
            device=arguments.device,
            preset=arguments.preset,
        )
    note_command(arguments.out / TABLE, arguments.argv)
    print(result)
    print(NOT_FOR_PATIENTS)
    if arguments.no_serve:
        return 0
    return serve(arguments.out, arguments.port)
