"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dosing.errors import UserError
from dosing.models.regularisation import Regularisation
from dosing.studies import presets
from dosing.studies.settings import Cohort, DataSource, Grid, Resources

if TYPE_CHECKING:
    from dosing.data.external import External

DEFAULT_ENV = "dosing/Treatment-v0"
"""Scenario that is simulated where none is named."""

TRAINING_OPTIONS: dict[str, tuple[type, str]] = {
    "batch_size": (int, "transitions per update [256]"),
    "n_step": (int, "most visits whose rewards a target sums before it bootstraps [1]"),
    "trace": (float, "lambda: probability of one more visit in that sum [1]"),
    "averaging": (float, "eta: weights kept are a running average; 8: about the last fifth [0: the last]"),
}
"""Fields of ``dosing.training.offline.TrainingSettings`` that a preset may set and a flag overrides."""

THIN = {"q": "thin", "mean": "thin_mean"}
"""Names within --thin, and the options of ``Regularisation`` that they are."""


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where it runs."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[%(default)s]")


def add_resources(parser: argparse.ArgumentParser) -> None:
    """Where the runs of a study are computed."""
    add_workers(parser)
    add_device(parser)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Processes of this machine, or jobs of a cluster."""
    parser.add_argument("--workers", type=int, default=None, help="processes, one per core by default")
    parser.add_argument(
        "--cluster", choices=("local", "slurm"), help="submit every run as a job of its own [processes here]"
    )
    parser.add_argument(
        "--cluster-option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="such as partition=gpu gpus_per_node=1 timeout_min=240 parallel=200",
    )


def resources_of(arguments: argparse.Namespace) -> Resources:
    """From :func:`add_resources` or :func:`add_workers`; UserError for less than one process."""
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, got {arguments.workers}.")
    more = options_of(arguments.cluster_option)
    device = getattr(arguments, "device", "cpu")
    return Resources(device, arguments.workers, arguments.cluster, more)


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Named settings, and the options of training and of the data that override them."""
    parser.add_argument(
        "--preset", metavar="NAME", help=f"named settings, which flags override: {presets.listed()}"
    )
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        help="read a data set in parts while it is learned from [from half a GiB of visits on]",
    )
    options = ", ".join(Regularisation.__dataclass_fields__)
    parser.add_argument(
        "--regularise",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"what networks and updates have beyond the method; repeatable: {options}",
    )
    parser.add_argument(
        "--cost-budget",
        metavar="COST",
        help="acceptable cost per episode: agents learn from reward less a price of cost, and bounded dose "
        "sets are trimmed; inf for none (compare and select: COST,COST...)",
    )
    parser.add_argument(
        "--thin",
        nargs="*",
        metavar="NAME=VALUE",
        help="distil a sparse q-Gaussian from the policy and give doses by it: q=0 (below 1) mean=shared or "
        "free (compare and select: beside the policy as it is)",
    )
    for name, (kind, text) in TRAINING_OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=text)
    for name, text in (
        ("standardise-obs", "agents see states less their mean, over their standard deviation"),
        ("scale-reward", "agents see rewards over their standard deviation"),
    ):
        parser.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, help=f"{text}; evaluation does not [yes]"
        )
    parser.add_argument(
        "--shift-reward",
        type=float,
        metavar="NUMBER",
        help="added to every reward before it is scaled, such as -1 in mazes; evaluation does not [0]",
    )


def regularise_options(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """Options of ``Regularisation`` to their values: those of --regularise, of --thin and of --cost-budget.

    Raises:
        UserError: one is not written NAME=VALUE, a budget is no number, or it is given in both ways.
    """
    given = settings_of(arguments.regularise) | _thin_options(arguments)
    if arguments.cost_budget is None:
        return given
    if "cost_budget" in given:
        raise UserError("cost_budget is set twice: by --regularise and by --cost-budget.")
    try:
        return given | {"cost_budget": [float(part) for part in arguments.cost_budget.split(",")]}
    except ValueError:
        raise UserError(
            f"--cost-budget must be a cost per episode, or inf for none, got {arguments.cost_budget!r}."
        ) from None


def _thin_options(arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """Options ``thin`` and ``thin_mean`` to their values, of --thin; none where it is not given.

    Raises:
        UserError: it has another name, or is given by --regularise too.
    """
    if arguments.thin is None:
        return {}
    given = {"q": [0.0]} | settings_of(arguments.thin)
    if unknown := [name for name in given if name not in THIN]:
        raise UserError(f"--thin has no option {unknown[0]!r}; it has: {', '.join(THIN)}.")
    if twice := [
        name for name in THIN.values() if any(x.startswith(f"{name}=") for x in arguments.regularise)
    ]:
        raise UserError(f"{twice[0]} is set twice: by --regularise and by --thin.")
    return {THIN[name]: values for name, values in given.items()}


def training_options(arguments: argparse.Namespace, preset: presets.Preset) -> dict[str, Any]:
    """Fields of ``TrainingSettings``: the preset's, overridden by flags."""
    given = {name: getattr(arguments, name) for name in TRAINING_OPTIONS}
    return preset.training | {name: value for name, value in given.items() if value is not None}


def data_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of the data that were given as flags."""
    given = {n: getattr(arguments, n) for n in ("standardise_obs", "scale_reward", "shift_reward")}
    return {name: value for name, value in given.items() if value is not None}


def add_cohort(parser: argparse.ArgumentParser) -> None:
    """Which patients are simulated."""
    parser.add_argument("--patients", type=int, default=50, help="simulated patients [%(default)s]")
    parser.add_argument(
        "--data-seed", type=int, default=0, help="seed of the simulated patients [%(default)s]"
    )
    parser.add_argument("--policy", help="rule that doses them [the scenario's usual one, such as uniform]")
    parser.add_argument(
        "--env-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="such as variant=simenv3; repeatable",
    )


def add_scenario(parser: argparse.ArgumentParser, text: str) -> None:
    """The scenario, by its id or its file; ``text`` says what for."""
    parser.add_argument(
        "--scenario",
        "--env",
        dest="scenario",
        metavar="ID",
        help=f"{text}: an id or FILE.py, which is run",
    )


def add_external(parser: argparse.ArgumentParser) -> None:
    """Where visits come from, and what a file of another program does not say itself."""
    add_scenario(parser, "simulated where --data is left out, else where the visits come from")
    result = parser.add_argument_group("files of other programs (D4RL, Minari, CSV, parquet)")
    for end in ("low", "high"):
        result.add_argument(
            f"--dose-{end}", nargs="+", type=float, default=[], metavar="DOSE", help=f"{end} limit per action"
        )
    result.add_argument(
        "--horizon", type=int, help="visits after which episodes were cut, where not recorded"
    )
    result.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="ROLE=NAME",
        help="columns of a table: obs=x1,x2 act=dose ...",
    )
    result.add_argument(
        "--clip-rounding",
        action="store_true",
        help="put doses that rounding left beyond a limit at that limit, and say how many",
    )
    result.add_argument(
        "--split-at-jumps", action="store_true", help="episodes end where the next row does not follow"
    )


def add_grid(parser: argparse.ArgumentParser, out: str) -> None:
    """What compare and select ask for alike; ``out`` is the default study folder."""
    add_preset(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[AGENT.]NAME=VALUE[,VALUE...]",
        help="a setting, or several values of it for one row each; repeatable",
    )
    parser.add_argument("--out", type=Path, default=Path(out), help="study folder [%(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="seeds trained together [%(default)s]")
    parser.add_argument("--steps", type=int, default=2000, help="gradient updates [%(default)s]")
    parser.add_argument(
        "--checkpoint-every", type=int, default=1000, help="updates between checkpoints [%(default)s]"
    )
    add_resources(parser)
    add_cohort(parser)
    add_external(parser)


def grid_of(arguments: argparse.Namespace, families: Sequence[str] = ()) -> Grid:
    """The agents and settings of :func:`add_grid`; UserError for one that is not written NAME=VALUE."""
    regularise = regularise_options(arguments)
    if arguments.thin is not None:
        regularise["thin"] = [None, *regularise["thin"]]
    return Grid(
        tuple(arguments.agents),
        settings=settings_of(arguments.set),
        preset=arguments.preset,
        families=tuple(families),
        regularise=regularise,
        data_options=data_options(arguments),
    )


def source_of(source: str | None, arguments: argparse.Namespace) -> DataSource:
    """A source of visits with the arguments of :func:`add_cohort` and :func:`add_external`.

    Args:
        source: of ``--data``; None simulates patients of ``--scenario``.
        arguments: of the command.

    Raises:
        UserError: neither is given, or what is said of the visits cannot be.
    """
    scenario = arguments.scenario
    if source is None:
        if scenario is None:
            raise UserError(
                f"name the visits: --data with a file, or --scenario with an id such as {DEFAULT_ENV}."
            )
        source, scenario = scenario, None
    more = env_options(arguments.env_option)
    cohort = Cohort(arguments.patients, arguments.policy, arguments.data_seed, more)
    return DataSource(source, cohort, described(source, scenario, arguments))


def grid_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seeds, training and resources of :func:`add_grid`, as ``compare`` and ``select`` take them.

    Raises:
        UserError: a number of processes or seeds below 1, or an option that is not written NAME=VALUE.
    """
    from dosing.training.offline import TrainingSettings

    resources = resources_of(arguments)
    training = TrainingSettings(
        steps=arguments.steps,
        checkpoint_every=arguments.checkpoint_every,
        stream=arguments.stream,
        **training_options(arguments, presets.find(arguments.preset)),
    )
    return {
        "seeds": seed_range(arguments.seeds),
        "training": training,
        "resources": resources,
    }


def described(source: str, scenario: str | None, arguments: argparse.Namespace) -> External | None:
    """What was said about the visits of a source; None where nothing was that they do not say themselves."""
    from dosing.studies import data

    if scenario is not None and data.comes_from(source, scenario):
        scenario = None
    return data.external_of(
        scenario,
        env_options(arguments.env_option),
        low=arguments.dose_low,
        high=arguments.dose_high,
        horizon=arguments.horizon,
        columns=arguments.columns,
        split_at_jumps=arguments.split_at_jumps,
        clip_rounding=arguments.clip_rounding,
    )


def load_scenario(scenario: str | None) -> None:
    """Load the file of a scenario that was typed, or trust its module, here and in processes started later.

    Raises:
        UserError: there is no such file, or it does not register one scenario.
    """
    if scenario is not None:
        from simulator.envs.registered import scenario_id

        scenario_id(scenario)


def seed_range(count: int) -> tuple[int, ...]:
    """Seeds 0 to ``count`` - 1; UserError if there are none."""
    if count < 1:
        raise UserError(f"--seeds must be at least 1, got {count}.")
    return tuple(range(count))


def options_of(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE; a value that reads as JSON (3, 0.5, true, [64, 64]) is that, else it is text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UserError(f"an option is written NAME=VALUE, got {pair!r}.")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def settings_of(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Parse NAME=VALUE or NAME=VALUE,VALUE... into the values each setting takes in turn.

    A value that reads as JSON (3, 0.5, true, [64,64]) is that, else it is text.
    """
    settings: dict[str, list[Any]] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name or not text:
            raise UserError(f"a setting is written NAME=VALUE or NAME=VALUE,VALUE, got {pair!r}.")
        if name in settings:
            raise UserError(f"{name} is set twice; several values of it are written {name}=VALUE,VALUE.")
        try:
            settings[name] = json.loads(f"[{text}]")
        except ValueError:
            settings[name] = [options_of([f"value={part}"])["value"] for part in text.split(",")]
    return settings


def env_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE options of an environment; UserError for a name that is an option of the command."""
    options = options_of(pairs)
    for name in ("env_id", "patients", "policy", "seed", "progress", "workers"):
        if name in options:
            raise UserError(f"{name} is not an option of an environment; see the help of this command.")
    return options
