"""The command ``train``: one agent on recorded visits; every setting of the agent is a flag."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import agents
from dosing.cli import options
from dosing.errors import UserError
from dosing.studies import presets

if TYPE_CHECKING:
    from dosing.training.logged import OnLog


def register(command: Any) -> None:
    """Add the command to the command line; ``command`` makes a parser of a name, a function and a text."""
    parser: argparse.ArgumentParser = command(
        "train", run, "train an agent on recorded visits", add_help=False
    )
    parser.add_argument("agent", nargs="?", metavar="AGENT", help="see: python -m dosing agents")
    parser.add_argument(
        "-h", "--help", action="store_true", help="with AGENT, also lists that agent's settings"
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="environment id (simulated on the spot), a file, a folder of parts, or minari:ID",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/default"), help="study folder [%(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="seeds trained together [%(default)s]")
    parser.add_argument("--steps", type=int, default=2000, help="gradient updates [%(default)s]")
    options.add_preset(parser)
    parser.add_argument("--log-every", type=int, default=100, help="updates between log rows [%(default)s]")
    parser.add_argument(
        "--checkpoint-every", type=int, default=1000, help="updates between checkpoints [%(default)s]"
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="write metrics there too while it trains"
    )
    parser.add_argument("--threads", type=int, default=1, help="torch threads; two rarely help [%(default)s]")
    parser.add_argument(
        "--mode",
        choices=("auto", "eager", "compile", "graph"),
        default="auto",
        help="execution [%(default)s]",
    )
    options.add_device(parser)
    options.add_cohort(parser)
    options.add_external(parser)


def run(arguments: argparse.Namespace, rest: list[str]) -> int:
    """Run the command; ``rest`` holds the agent's own settings.

    Raises:
        UserError: unknown agent, data that cannot be read, or settings that are refused.
    """
    if arguments.help or arguments.agent is None:
        arguments.parser.print_help()
        if arguments.agent is None:
            return 0 if arguments.help else 2
        import tyro

        tyro.cli(agents.find(arguments.agent).config_class(), prog=arguments.agent, args=["--help"])
    if arguments.data is None and arguments.scenario is None:
        agents.find(arguments.agent)
        raise UserError(
            "train needs --data, a file or an environment id such as dosing/Treatment-v0, or --scenario, an "
            "id or the file of a scenario."
        )
    if arguments.threads < 1:
        raise UserError(f"--threads must be at least 1, got {arguments.threads}.")
    import torch

    torch.set_num_threads(arguments.threads)
    print(_train(arguments, rest).path)
    return 0


def _train(arguments: argparse.Namespace, rest: list[str]) -> Any:
    """Train with the preset's settings, overridden by flags; returns the run folder."""
    import tyro

    from dosing.studies import AgentSetup, DataSource
    from dosing.studies import train as train_agent
    from dosing.studies.data import describe, obtain_data
    from dosing.studies.grid import regularisations
    from dosing.training.offline import TrainingSettings

    config_class = agents.find(arguments.agent).config_class()
    preset = presets.find(arguments.preset)
    if preset.contrast:
        raise UserError(f"preset {arguments.preset} sets runs side by side: it is for compare.")
    default = config_class(**preset.settings(arguments.agent, config_class, arguments.steps))
    prog = f"python -m dosing train {arguments.agent}"
    config = tyro.cli(config_class, prog=prog, args=rest, default=default)
    if not preset.knows(arguments.agent) and arguments.preset:
        print(f"preset {arguments.preset} has nothing for {arguments.agent}: its own defaults are used.")
    settings = TrainingSettings(
        steps=arguments.steps,
        **options.training_options(arguments, preset),
        log_every=arguments.log_every,
        checkpoint_every=arguments.checkpoint_every,
        mode=arguments.mode,
        stream=arguments.stream,
    )
    settings.check()
    seeds = options.seed_range(arguments.seeds)
    regularised = regularisations(options.regularise_options(arguments), preset)
    if len(regularised) > 1:
        raise UserError("train takes one value of each option; several side by side are for compare.")
    shown = preset.data_of(arguments.agent) | options.data_options(arguments)
    data = obtain_data(options.source_of(arguments.data, arguments), arguments.out)
    print(describe(data, arguments.out, settings.stream))
    with _tensorboard(arguments.tensorboard) as on_log:
        run = train_agent(
            arguments.out,
            AgentSetup(arguments.agent, config, regularised[0], shown),
            DataSource(str(data)),
            seeds=seeds,
            training=settings,
            device=arguments.device,
            on_log=on_log,
        )
    if (learned := run.config().data).sample is not None:
        print(learned)
    return run


@contextmanager
def _tensorboard(folder: Path | None) -> Iterator[OnLog | None]:
    """What writes metrics to a folder for TensorBoard; None where it is not asked for.

    Raises:
        UserError: the package is not installed.
    """
    if folder is None:
        yield None
        return
    from dosing.training.logged import to_tensorboard

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard.") from None
    with SummaryWriter(str(folder)) as writer:
        yield to_tensorboard(writer)
