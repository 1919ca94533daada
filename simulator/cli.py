"""Command line of the simulator alone: ``python -m simulator list | run | card | ceiling``."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from dosing import NOT_FOR_PATIENTS
from dosing.data.store import Episodes
from dosing.errors import Terminated, UserError, end_on_sigterm
from simulator.cohorts.generate import simulate, simulate_to
from simulator.envs import PACKAGED, SCENARIOS, scenario_class
from simulator.envs.registered import scenario_id
from simulator.scenarios import card_of

ROWS_SHOWN = 12
"""Rows of the table that ``run`` prints when no file is asked for."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 after a user's error, 130 or 143 after an interrupt."""
    try:
        chosen = _parser().parse_args(arguments)
        if "env_id" in chosen:
            chosen.env_id = scenario_id(chosen.env_id)
        end_on_sigterm()
        status = int(chosen.run(chosen) or 0)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at the end
        return 1
    except Terminated:
        print("terminated; nothing was left half written", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted; nothing was left half written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m simulator", description=f"Simulated patients. {NOT_FOR_PATIENTS}")
    commands = parser.add_subparsers(required=True, metavar="list | run | card | ceiling")

    command = commands.add_parser("list", help="print every environment id with its variants")
    command.add_argument("files", nargs="*", metavar="FILE.py", help="files of further scenarios, which run")
    command.set_defaults(run=_list)

    command = commands.add_parser("run", help="simulate patients under a behaviour policy")
    _environment_options(command)
    command.add_argument("--patients", type=int, default=50, help="number of patients (50)")
    command.add_argument(
        "--policy",
        help="uniform, constant:DOSE, titration or one of the scenario's card (the scenario's usual one)",
    )
    command.add_argument("--workers", type=int, default=1, help="threads (1)")
    command.add_argument("--out", help=".parquet, .csv or .hdf5 file, or minari:namespace/name-v0")
    command.set_defaults(run=_run)

    command = commands.add_parser("card", help="print the scenario card as JSON")
    _environment_options(command)
    command.set_defaults(run=_card)

    command = commands.add_parser("ceiling", help="compute the best returns that are possible or reachable")
    _environment_options(command)
    command.add_argument("--patients", type=int, default=300, help="patients of the clairvoyant bound (300)")
    command.add_argument(
        "--gamma", type=float, default=1.0, help="discount of the return (1: add rewards up)"
    )
    command.add_argument(
        "--trained", action="store_true", help="also train memoryless and recurrent policies (needs torch)"
    )
    command.set_defaults(run=_ceiling)
    return parser


def _environment_options(command: argparse.ArgumentParser) -> None:
    ids = ", ".join(SCENARIOS)
    command.add_argument("env_id", metavar="ENV", help=f"one of {ids}, module:ID, or FILE.py, which is run")
    command.add_argument("--seed", type=int, default=0, help="seed of the replication (0)")
    command.add_argument("--steps", type=int, help="visits per patient (the scenario's own number)")
    command.add_argument("--cohort", help="train or evaluation (train)")
    option = command.add_argument_group("environment options")
    option.add_argument("--variant", help="variant of the scenario (its first)")
    option.add_argument("--realism", type=int, help="graded realism, 1 to 5")
    option.add_argument("--history", type=int, help="show the last K observations and doses")
    option.add_argument("--latent", action="store_true", default=None, help="show the latent mean too")
    option.add_argument("--noise", type=float, help="standard deviation of measurement noise")
    option.add_argument("--missing", type=float, help="probability that an entry is not measured")
    option.add_argument("--missing-visits", type=float, help="probability that a visit is not measured")
    option.add_argument("--first-patient", type=int, help="number of the first patient")
    option.add_argument("--out-of-range", help="deliver (at the limit) or raise")
    option.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of this scenario alone, see its card; repeatable",
    )


def _options(chosen: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Return the environment options that were given."""
    names = ("variant", "realism", "history", "latent", "noise", "missing", "missing_visits", "out_of_range")
    given = {name: getattr(chosen, name) for name in (*names, "steps", "cohort", "first_patient", *more)}
    return {name: value for name, value in given.items() if value is not None} | _own_options(chosen.option)


def _own_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE options: true, false and numbers as such, all else as text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign or not name.isidentifier():
            raise UserError(f"an option is written NAME=VALUE, got {pair!r}")
        try:
            options[name] = json.loads(value.lower() if value.lower() in ("true", "false") else value)
        except json.JSONDecodeError:
            options[name] = value
    return options


def _list(chosen: argparse.Namespace) -> None:
    named = [scenario_id(file) for file in chosen.files]
    for env_id in dict.fromkeys([*SCENARIOS, *named, *PACKAGED]):
        try:
            if env_id not in SCENARIOS:
                print(f"{env_id}\n    {card_of(env_id, {}).get('title', 'states no title')}")
                continue
            scenario = scenario_class(env_id)
        except UserError as error:  # what one package brings is no reason to show nothing
            print(f"warning: {error}", file=sys.stderr)
            continue
        print(f"{env_id}\n    {scenario.title}\n    variants: {', '.join(scenario.variants)}")
        print(f"    options: {', '.join(scenario.option_names)}")


def _card(chosen: argparse.Namespace) -> None:
    print(json.dumps(card_of(chosen.env_id, _options(chosen)), indent=2))


def _run(chosen: argparse.Namespace) -> None:
    request: dict[str, Any] = _options(chosen) | {
        "patients": chosen.patients,
        "policy": chosen.policy,
        "seed": chosen.seed,
        "workers": chosen.workers,
        "progress": True,
    }
    if chosen.out:
        stored = simulate_to(chosen.out, chosen.env_id, **request)
        print(f"{chosen.out}: {stored.rows:,} visits of {stored.patients:,} patients")
        print(f"content hash {stored.content_hash}")
    else:
        _print_table(simulate(chosen.env_id, **request))
    print(NOT_FOR_PATIENTS)


def _print_table(episodes: Episodes) -> None:
    """Print the first visits and the return of the whole cohort."""
    names = episodes.metadata.obs_names[:8]
    head = ["patient", "visit", *names, "dose_requested", "dose_delivered", "reward", "cost"]
    widths = [max(len(name), 7) for name in head]
    print("  ".join(name.rjust(width) for name, width in zip(head, widths, strict=True)))
    for i in range(min(len(episodes), ROWS_SHOWN)):
        values = [*episodes.obs[i, : len(names)], episodes.act_requested[i, 0], episodes.act[i, 0]]
        values += [episodes.reward[i], episodes.cost[i]]
        cells = [str(episodes.episode[i]), str(episodes.step[i]), *(f"{value:.3f}" for value in values)]
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    if len(episodes) > ROWS_SHOWN:
        print(f"... {len(episodes) - ROWS_SHOWN:,} more visits; --out FILE keeps them all")
    returns = np.bincount(episodes.episode - episodes.episode[0], weights=episodes.reward.astype(np.float64))
    n = len(returns)
    half = 1.96 * returns.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
    print(f"mean undiscounted return {returns.mean():.2f} +- {half:.2f} (95 % interval, {n} patients)")
    print(f"mean cost {episodes.cost.sum() / n:.2f} per patient")


def _ceiling(chosen: argparse.Namespace) -> None:
    from simulator.bounds.table import ceilings, print_ceilings

    table = ceilings(
        chosen.env_id,
        patients=chosen.patients,
        seed=chosen.seed,
        gamma=chosen.gamma,
        trained=chosen.trained,
        progress=True,
        **_options(chosen),
    )
    print(f"{chosen.env_id}, {chosen.patients} patients of seed {chosen.seed}, discount {chosen.gamma:g}")
    print_ceilings(table)
    print(NOT_FOR_PATIENTS)
