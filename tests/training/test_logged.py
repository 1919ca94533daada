"""A training tells every row of its log while it runs."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dosing.cli.main import main
from dosing.runs.files import read_table
from dosing.runs.folder import CONFIG, METRICS, RunFolder
from dosing.training.logged import Logged, to_tensorboard
from dosing.training.offline import TrainingSettings, train
from tests.support.samples import dataset, stack


class Writer:
    """Has the interface of ``torch.utils.tensorboard.SummaryWriter``, and keeps what it is told."""

    made: ClassVar[list[Writer]] = []

    def __init__(self, folder: str = "") -> None:
        self.folder, self.told, self.closed = folder, list[tuple[str, int, float]](), False
        self.made.append(self)

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.told.append((tag, global_step, scalar_value))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


def recorded(path: Path) -> list[tuple[str, int, float]]:
    table = read_table(path / METRICS).to_pydict()
    rows = zip(table["name"], table["seed"], table["step"], table["value"], strict=True)
    return [(f"{name}/seed-{seed}", step, value) for name, seed, step, value in rows]


def test_every_row_is_told_when_it_is_made(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")
    writer, seen = Writer(), list[Logged]()
    write = to_tensorboard(writer)

    def on_log(logged: Logged) -> None:
        assert not (tmp_path / METRICS).exists()  # before the run is done
        seen.append(logged)
        write(logged)

    settings = TrainingSettings(steps=12, batch_size=8, log_every=5)
    train(stack("iql", (3, 7)), dataset(), RunFolder(tmp_path), settings, on_log=on_log)
    assert [logged.step for logged in seen] == [5, 10, 12]
    assert seen[0].seconds <= seen[1].seconds <= seen[2].seconds
    assert sorted(writer.told) == sorted(recorded(tmp_path))
    assert {tag.rpartition("/")[2] for tag, _, _ in writer.told} == {"seed-3", "seed-7"}


def test_telling_changes_no_bit(tmp_path: Path) -> None:
    tables: list[Any] = []
    for on_log in (None, to_tensorboard(Writer())):
        run = RunFolder(tmp_path / str(on_log is None))
        run.path.mkdir()
        (run.path / CONFIG).write_text("{}")
        settings = TrainingSettings(steps=10, batch_size=8, log_every=5)
        train(stack("iql", (3,)), dataset(), run, settings, on_log=on_log)
        tables.append(recorded(run.path))
    assert tables[0] == tables[1]


def test_the_command_writes_to_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"train iql --data dosing/Treatment-v0 --patients 4 --seeds 1 --steps 3 --out {tmp_path}".split()
    words += ["--device", "cpu", "--tensorboard", str(tmp_path / "board")]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # not installed
    assert main(words) == 2
    assert "--tensorboard needs the package tensorboard" in capsys.readouterr().err
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    assert main(words) == 0
    writer = Writer.made[-1]
    assert writer.folder == str(tmp_path / "board")
    assert writer.closed
    assert sorted(writer.told) == sorted(recorded(Path(capsys.readouterr().out.splitlines()[-1])))
