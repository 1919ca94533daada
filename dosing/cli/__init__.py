"""The command line, and the one place that joins agents, simulator and core.

``python -m dosing demo | simulate | train | compare | select | evaluate | finetune | recommend | report |
audit | agents | app``. Heavy imports happen inside the commands, so that help and listings are instant and
need no torch.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agents
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.cli import audit, collect, finetune, options, presets, recommend, report
from dosing.errors import UserError

DEFAULT_ENV = "dosing/Treatment-v0"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Bad input prints one sentence and returns 2."""
    parser, commands = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "train":
        commands[arguments.command].error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        _on_terminate()
        status: int = arguments.run(arguments, rest)
    except UserError as error:
        print(f"dosing: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  stays open until the interpreter ends
        return 1
    except OSError as error:  # a full disk, a file without permission
        where = f" ({error.filename})" if error.filename else ""
        print(f"dosing: {error.strerror or error}{where}; nothing half-written is left.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dosing: interrupted; a run folder continues from its last checkpoint.", file=sys.stderr)
        return 130
    return status


def _on_terminate() -> None:
    """Make SIGTERM end like Ctrl-C, with files whole and locks freed, and exit status 143."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, stop)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="python -m dosing",
        description="Simulate patients, learn doses, look at them.",
        epilog=NOT_FOR_PATIENTS,
    )
    parser.add_argument("--version", action="version", version=__version__)
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands: dict[str, argparse.ArgumentParser] = {}

    def command(name: str, run: Any, text: str, **options: Any) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = sub.add_parser(
            name, help=text, description=text, epilog=NOT_FOR_PATIENTS, **options
        )
        made.set_defaults(run=run)
        commands[name] = made
        return made

    demo = command(
        "demo", _demo, "simulate a cohort, train FtTPO and IQL, evaluate, print the table, serve it"
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="study folder [%(default)s]")
    demo.add_argument("--seeds", type=int, default=5, help="seeds trained together per agent [%(default)s]")
    demo.add_argument("--steps", type=int, default=None, help="gradient updates [2000; MuJoCo: 5000]")
    demo.add_argument(
        "--data",
        metavar="SOURCE",
        help="in place of patients: mujoco (Hopper-v5, recorded first), a D4RL file of Hopper, or minari:ID",
    )
    demo.add_argument("--patients", type=int, default=50, help="recorded patients [%(default)s]")
    demo.add_argument("--variant", default="corrected", help="variant of the environment [%(default)s]")
    options.add_device(demo)
    demo.add_argument("--no-serve", action="store_true", help="end after the table")
    demo.add_argument("--port", type=int, default=8501, help="port of the dashboard [%(default)s]")

    simulate = command("simulate", _simulate, "simulate patients and record their visits in a file")
    simulate.add_argument("env", nargs="?", default=DEFAULT_ENV, help="environment id [%(default)s]")
    simulate.add_argument("--out", type=Path, required=True, help="file ending in .parquet, .csv or .hdf5")
    options.add_cohort(simulate)

    train = command("train", _train, "train an agent on recorded visits", add_help=False)
    train.add_argument("agent", nargs="?", metavar="AGENT", help="see: python -m dosing agents")
    train.add_argument(
        "-h", "--help", action="store_true", help="with AGENT, also lists that agent's settings"
    )
    train.add_argument(
        "--data", metavar="SOURCE", help="environment id (simulated on the spot), a file, or minari:ID"
    )
    train.add_argument("--out", type=Path, default=Path("runs/default"), help="study folder [%(default)s]")
    train.add_argument("--seeds", type=int, default=5, help="seeds trained together [%(default)s]")
    train.add_argument("--steps", type=int, default=2000, help="gradient updates [%(default)s]")
    options.add_preset(train)
    train.add_argument("--log-every", type=int, default=100, help="updates between log rows [%(default)s]")
    train.add_argument(
        "--checkpoint-every", type=int, default=1000, help="updates between checkpoints [%(default)s]"
    )
    train.add_argument("--threads", type=int, default=1, help="torch threads; two rarely help [%(default)s]")
    train.add_argument(
        "--mode",
        choices=("auto", "eager", "compile", "graph"),
        default="auto",
        help="execution [%(default)s]",
    )
    train.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of products [%(default)s]"
    )
    options.add_device(train)
    options.add_cohort(train)
    options.add_external(train)

    compare = command("compare", _compare, "train and evaluate several agents on the same visits; resumable")
    compare.add_argument("--agents", nargs="+", default=["all"], help="agents [all]")
    compare.add_argument("--policy-families", nargs="+", default=[], help="cross agents with these laws")
    compare.add_argument(
        "--data", nargs="+", metavar="SOURCE", default=[DEFAULT_ENV], help=f"ids or files [{DEFAULT_ENV}]"
    )
    options.add_preset(compare)
    compare.add_argument("--out", type=Path, default=Path("runs/compare"), help="study folder [%(default)s]")
    compare.add_argument("--seeds", type=int, default=5, help="seeds trained together [%(default)s]")
    compare.add_argument("--steps", type=int, default=2000, help="gradient updates [%(default)s]")
    compare.add_argument(
        "--checkpoint-every", type=int, default=1000, help="updates between checkpoints [%(default)s]"
    )
    compare.add_argument(
        "--evaluate-at",
        nargs="+",
        type=int,
        default=[],
        metavar="UPDATE",
        help="evaluate after these updates too; written to curves.parquet",
    )
    compare.add_argument(
        "--evaluation-patients", type=int, default=None, help="per seed [1000; MuJoCo: 10 episodes]"
    )
    compare.add_argument("--workers", type=int, default=None, help="processes, one per core by default")
    compare.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[AGENT.]NAME=VALUE[,VALUE...]",
        help="a setting, or several values of it for one row each; repeatable",
    )
    options.add_device(compare)
    options.add_cohort(compare)
    options.add_external(compare)

    select = command(
        "select",
        _select,
        "choose settings from recorded visits alone: cross-validated against the constant dose; resumable",
    )
    select.add_argument("--agents", nargs="+", required=True, help="agents; all for the suite")
    select.add_argument(
        "--data", metavar="SOURCE", required=True, help="environment id (simulated on the spot) or a file"
    )
    options.add_preset(select)
    select.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[AGENT.]NAME=VALUE[,VALUE...]",
        help="a setting, or several values of it for one candidate each; repeatable",
    )
    select.add_argument("--folds", type=int, default=5, help="parts of the patients [%(default)s]")
    select.add_argument("--fold-seed", type=int, default=0, help="seed of the cut into parts [%(default)s]")
    select.add_argument("--out", type=Path, default=Path("runs/select"), help="study folder [%(default)s]")
    select.add_argument("--seeds", type=int, default=5, help="seeds trained together [%(default)s]")
    select.add_argument("--steps", type=int, default=2000, help="gradient updates [%(default)s]")
    select.add_argument(
        "--checkpoint-every", type=int, default=1000, help="updates between checkpoints [%(default)s]"
    )
    select.add_argument(
        "--estimators",
        nargs="+",
        default=["fqe"],
        help="of fqe, wis, wis_window, wdr: the first decides, the others are shown [fqe]",
    )
    select.add_argument(
        "--ridge", type=float, default=1.0, help="penalty of fqe on differences between states [%(default)s]"
    )
    select.add_argument(
        "--behaviour",
        choices=("recorded", "estimated"),
        default="recorded",
        help="density of the recorded doses, for importance weights [%(default)s]",
    )
    select.add_argument("--workers", type=int, default=None, help="processes, one per core by default")
    options.add_device(select)
    options.add_cohort(select)
    options.add_external(select)

    evaluate = command("evaluate", _evaluate, "evaluate a finished run on new simulated patients")
    evaluate.add_argument("path", type=Path, metavar="RUN", help="run folder")
    evaluate.add_argument(
        "--patients", type=int, default=None, help="new patients per seed [1000; MuJoCo: 10 episodes]"
    )

    for module in (recommend, report, audit, collect, finetune):
        module.register(command)

    command("agents", _agents, "list the agents")

    app = command("app", _app, "open the dashboard")
    app.add_argument("--out", type=Path, default=Path("runs/demo"), help="study folder to show [%(default)s]")
    app.add_argument("--port", type=int, default=8501, help="port on localhost [%(default)s]")
    return parser, commands


def _agents(arguments: argparse.Namespace, rest: list[str]) -> int:
    lines = [(name, e.title, e.family, e.support, e.checked, e.paper) for name, e in agents.AGENTS.items()]
    head = ("agent", "title", "policy", "dose set", "losses checked against", "paper")
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
    for line in [head, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _simulate(arguments: argparse.Namespace, rest: list[str]) -> int:
    from dosing.data.store import write_episodes
    from simulator.generate import simulate

    episodes = simulate(
        arguments.env,
        patients=arguments.patients,
        policy=arguments.policy,
        seed=arguments.data_seed,
        progress=True,
        **options.env_options(arguments.env_option),
    )
    metadata = write_episodes(episodes, arguments.out)
    print(f"{len(episodes):,} visits of {arguments.patients:,} patients in {arguments.out}")
    print(f"content hash {metadata['content_hash']}")
    return 0


def _train(arguments: argparse.Namespace, rest: list[str]) -> int:
    if arguments.help or arguments.agent is None:
        _, commands = _parser()
        commands["train"].print_help()
        if arguments.agent is None:
            return 0 if arguments.help else 2
        import tyro

        tyro.cli(agents.find(arguments.agent).config_class(), prog=arguments.agent, args=["--help"])
    entry = agents.find(arguments.agent)
    if arguments.data is None:
        raise UserError("train needs --data: an environment id such as dosing/Treatment-v0, or a file.")
    import torch
    import tyro

    from dosing.cli import studies
    from dosing.cli.compare import regularisations
    from dosing.training import TrainingSettings

    if arguments.threads < 1:
        raise UserError(f"--threads must be at least 1, got {arguments.threads}.")
    torch.set_num_threads(arguments.threads)

    preset = presets.find(arguments.preset)
    if preset.contrast:
        raise UserError(f"preset {arguments.preset} sets runs side by side: it is for compare.")
    default = entry.config_class()(**preset.settings(arguments.agent, entry.config_class()))
    prog = f"python -m dosing train {arguments.agent}"
    config = tyro.cli(entry.config_class(), prog=prog, args=rest, default=default)
    if not preset.knows(arguments.agent) and arguments.preset:
        print(f"preset {arguments.preset} has nothing for {arguments.agent}: its own defaults are used.")
    settings = TrainingSettings(
        steps=arguments.steps,
        **options.training_options(arguments, preset),
        log_every=arguments.log_every,
        checkpoint_every=arguments.checkpoint_every,
        mode=arguments.mode,
        precision=arguments.precision,
    )
    settings.check()
    seeds = options.seed_range(arguments.seeds)
    regularised = regularisations(options.settings_of(arguments.regularise), preset)
    if len(regularised) > 1:
        raise UserError("train takes one value of each option; several side by side are for compare.")
    data = studies.obtain_data(
        arguments.data,
        arguments.out,
        patients=arguments.patients,
        policy=arguments.policy,
        seed=arguments.data_seed,
        options=options.env_options(arguments.env_option),
        external=options.described(arguments),
    )
    run = studies.train_run(
        arguments.agent,
        config,
        data,
        arguments.out,
        seeds,
        settings,
        arguments.device,
        data_options=preset.data_of(arguments.agent) | options.data_options(arguments),
        regularisation=regularised[0],
    )
    print(run.path)
    return 0


def _side_by_side(arguments: argparse.Namespace) -> dict[str, Any]:
    """What compare and select ask for alike: data, settings, training, and processes."""
    from dosing.training import TrainingSettings

    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, got {arguments.workers}.")
    training = TrainingSettings(
        steps=arguments.steps,
        checkpoint_every=arguments.checkpoint_every,
        **options.training_options(arguments, presets.find(arguments.preset)),
    )
    return {
        "patients": arguments.patients,
        "policy": arguments.policy,
        "data_seed": arguments.data_seed,
        "env_options": options.env_options(arguments.env_option),
        "settings": options.settings_of(arguments.set),
        "preset": arguments.preset,
        "seeds": options.seed_range(arguments.seeds),
        "training": training,
        "data_options": options.data_options(arguments),
        "external": options.described(arguments),
        "regularise": options.settings_of(arguments.regularise),
        "device": arguments.device,
        "workers": arguments.workers,
    }


def _compare(arguments: argparse.Namespace, rest: list[str]) -> int:
    from dosing.cli import compare

    found = compare.compare(
        arguments.out,
        arguments.agents,
        arguments.data,
        families=arguments.policy_families,
        milestones=arguments.evaluate_at,
        evaluation_patients=arguments.evaluation_patients,
        **_side_by_side(arguments),
    )
    print(found)
    print(NOT_FOR_PATIENTS)
    return 0


def _select(arguments: argparse.Namespace, rest: list[str]) -> int:
    from dosing.cli import select
    from dosing.ope.selection import Settings

    found = select.select(
        arguments.out,
        arguments.agents,
        arguments.data,
        folds=arguments.folds,
        fold_seed=arguments.fold_seed,
        criterion=Settings(
            estimators=tuple(arguments.estimators), ridge=arguments.ridge, behaviour=arguments.behaviour
        ),
        **_side_by_side(arguments),
    )
    print(found)
    print(NOT_FOR_PATIENTS)
    return 0


def _evaluate(arguments: argparse.Namespace, rest: list[str]) -> int:
    from dosing.cli import studies
    from dosing.comparison import render
    from dosing.runs import RunFolder

    run = RunFolder(arguments.path)
    rows, rules = studies.evaluate_runs([run], arguments.patients)
    print(render([*rows, *rules]))
    for note in studies.task_notes([run], rows):
        print(f"note: {note}")
    print(NOT_FOR_PATIENTS)
    return 0


def _demo(arguments: argparse.Namespace, rest: list[str]) -> int:
    from dosing.cli import behaviour, compare

    seeds = options.seed_range(arguments.seeds)
    if arguments.data is not None:
        source = None if arguments.data == "mujoco" else arguments.data
        found = behaviour.demo(
            arguments.out, seeds=seeds, steps=arguments.steps, device=arguments.device, source=source
        )
    else:
        found = compare.demo(
            arguments.out,
            seeds=seeds,
            steps=2000 if arguments.steps is None else arguments.steps,
            patients=arguments.patients,
            variant=arguments.variant,
            device=arguments.device,
        )
    print(found)
    print(NOT_FOR_PATIENTS)
    if arguments.no_serve:
        return 0
    return _serve(arguments.out, arguments.port)


def _app(arguments: argparse.Namespace, rest: list[str]) -> int:
    if not arguments.out.is_dir():
        raise UserError(f"there is no study folder {arguments.out}; make one with: python -m dosing demo.")
    return _serve(arguments.out, arguments.port)


def _serve(study: Path, port: int) -> int:
    """Run the dashboard on localhost until it is stopped."""
    root = Path(__file__).resolve().parents[2]
    print(f"dashboard: http://localhost:{port}  (stop with Ctrl-C)", flush=True)
    command = [sys.executable, "-m", "streamlit", "run", str(root / "app" / "main.py")]
    command += ["--server.address", "localhost", "--server.port", str(port), "--server.headless", "true"]
    environment = os.environ | {"DOSING_STUDY": str(study.resolve())}
    try:
        return subprocess.run(command, cwd=root, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0
