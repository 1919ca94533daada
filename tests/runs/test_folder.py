"""Run folders: files whole or not at all, changes noticed, one writer at a time, damage told plainly."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dosing.data import partial
from dosing.data.partial import clear_partials, partial_path
from dosing.errors import UserError
from dosing.runs.config import SCHEMA
from dosing.runs.files import (
    read_checkpoint,
    read_json,
    read_table,
    read_tensors,
    write_atomic,
    write_checkpoint,
    write_json,
    write_table,
    write_tensors,
)
from dosing.runs.folder import CONFIG, DONE, METRICS, WEIGHTS, RunFolder, find_runs
from tests.support.samples import run_config

TENSORS = {"a": torch.randn(3, 4), "b.c": torch.zeros((), dtype=torch.int64)}


@pytest.fixture
def finished(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "agent" / "data" / "key")
    write_json(run.path / CONFIG, run_config().to_json())
    write_tensors(run.path / WEIGHTS, TENSORS, {"step": "3"})
    write_table(run.path / METRICS, {"step": [1, 2], "value": [0.5, 0.25]})
    run.finish()
    return run


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Writing


def test_everything_reads_back_exactly(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", TENSORS, {"step": "7"})
    tensors, metadata = read_tensors(tmp_path / "t")
    assert metadata == {"step": "7"}
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert torch.equal(tensors[name], value)
        assert tensors[name].dtype == value.dtype
    write_json(tmp_path / "j", {"x": [0.1, None], "word": "dose"})
    assert read_json(tmp_path / "j") == {"x": [0.1, None], "word": "dose"}
    write_table(tmp_path / "p", {"n": [1, 2], "x": [0.1, math.nan]})
    assert str(read_table(tmp_path / "p").to_pydict()) == str({"n": [1, 2], "x": [0.1, math.nan]})
    assert files(tmp_path) == ["j", "p", "t"]


def failing(error: OSError) -> Any:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sub" / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr(os, broken, failing(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device\.$"):
        write_atomic(path, b"new and longer")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert files(path.parent) == ["file"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C and SIGTERM arrive as exceptions that are no ``Exception``."""
    path = tmp_path / "file"
    write_atomic(path, b"old")
    for interruption in (KeyboardInterrupt(), SystemExit(143)):
        monkeypatch.setattr(os, "fsync", failing(interruption))  # type: ignore[arg-type]
        with pytest.raises(type(interruption)):
            write_atomic(path, b"new")
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert files(tmp_path) == ["file"]


def test_the_content_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Order of the system calls: the file is flushed, then renamed, then its folder is flushed."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(source: Any, target: Any, **options: Any) -> None:
        assert Path(source).read_bytes() == b"content"
        assert Path(source).parent == Path(target).parent
        calls.append("rename")
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_atomic(tmp_path / "file", b"content")
    assert calls == ["file", "rename", "folder"]


def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file" / "x", b"")
    with (
        pytest.raises(UserError, match="cannot write the run folder"),
        RunFolder(tmp_path / "file" / "x").lock(),
    ):
        pass


def test_json_refuses_what_it_cannot_carry(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "j", {"x": math.nan})
    assert files(tmp_path) == []


# Reading damaged files


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 64, b'{"a": 1', b"PAR1 and more", b"[1, 2]", b"\xff\xfe{}"]
)
@pytest.mark.parametrize("read", [read_json, read_tensors, read_table])
def test_a_damaged_file_is_told_in_a_sentence(read: Any, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"file .*(damaged|truncated|should hold)"):
        read(path)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        read(path)
    with pytest.raises(UserError):
        read(tmp_path)


@pytest.mark.parametrize("name", [WEIGHTS, METRICS])
def test_a_file_cut_anywhere_is_noticed(name: str, finished: RunFolder) -> None:
    path = finished.path / name
    whole = path.read_bytes()
    read = read_tensors if name == WEIGHTS else read_table
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated"):
            read(path)


@pytest.mark.long
def test_any_flipped_bit_of_a_checkpoint_is_refused_and_says_what_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_checkpoint(path, TENSORS, {"step": "7", "seconds": "1.5"})
    whole, read = path.read_bytes(), read_checkpoint(path)
    assert read[1] == {"step": "7", "seconds": "1.5"}
    assert all(torch.equal(read[0][name], value) for name, value in TENSORS.items())
    for bit in range(0, 8 * len(whole), 3):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(UserError, match=f"delete {re.escape(str(path))}") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)


@pytest.mark.long
def test_any_flipped_bit_of_a_table_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(path, {"n": list(range(40)), "x": np.linspace(0, 1, 40), "word": ["a", "b"] * 20})
    whole, table, refused = path.read_bytes(), read_table(path), 0
    for bit in range(0, 8 * len(whole), 7):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert read_table(path).to_pydict() == table.to_pydict(), bit
        except UserError:
            refused += 1
    assert refused > 100


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="written by another program"):
        read_table(tmp_path / "t.parquet")


# Temporary names


def test_temporary_names_differ_between_writers_and_clear_after_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.json"
    assert len({partial_path(target) for _ in range(100)}) == 100
    own = partial_path(target)
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # above the largest number of a process
    dead = partial_path(target)
    rows = dead.with_name(dead.name + ".rows")
    monkeypatch.setattr(partial, "_host", lambda: "0123456789")
    elsewhere = partial_path(target)
    monkeypatch.undo()
    for path in (own, dead, rows, elsewhere, target):
        path.touch()
    clear_partials(tmp_path)
    assert files(tmp_path) == sorted([own.name, elsewhere.name, target.name])
    clear_partials(tmp_path / "nowhere")


def test_writers_with_one_process_number_do_not_meet(tmp_path: Path) -> None:
    """As two hosts or containers that share a folder: the same number, the same file, at the same time."""
    target = tmp_path / "x.json"
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                write_json(target, {"writer": number})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert files(tmp_path) == ["x.json"]
    assert read_json(target)["writer"] in range(4)


def test_a_lock_clears_what_a_killed_writer_left(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)
    left = partial_path(finished.path / WEIGHTS)
    monkeypatch.undo()
    left.touch()
    with finished.lock():
        assert not left.exists()


# Verification


def test_a_finished_run_verifies(finished: RunFolder) -> None:
    assert finished.done
    verified = finished.verify()
    assert verified.config == finished.config() == run_config()
    assert verified.hashes == read_json(finished.path / DONE)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, METRICS])
def test_any_changed_bit_of_a_finished_run_is_noticed(name: str, finished: RunFolder) -> None:
    path = finished.path / name
    whole = bytearray(path.read_bytes())
    for place in (0, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError, match=f"{name} was changed or truncated"):
            finished.verify()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"{name} was changed or truncated"):
        finished.verify()
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        finished.verify()
    path.write_bytes(whole)
    finished.verify()


@pytest.mark.parametrize("record", ["", "{}", '{"config.json": null}', "[]", "not json"])
def test_a_run_nothing_vouches_for_is_not_used(record: str, finished: RunFolder) -> None:
    (finished.path / DONE).write_text(record)
    with pytest.raises(UserError):
        finished.verify()


def test_a_record_that_leaves_a_file_out_is_not_enough(finished: RunFolder) -> None:
    hashes = read_json(finished.path / DONE)
    for name in (CONFIG, WEIGHTS, METRICS):
        write_json(finished.path / DONE, {k: v for k, v in hashes.items() if k != name})
        with pytest.raises(UserError, match=f"does not vouch for {name}"):
            finished.verify()


def test_an_unfinished_run_is_not_verified(finished: RunFolder) -> None:
    (finished.path / DONE).unlink()
    assert not finished.done
    with pytest.raises(UserError, match="not finished"):
        finished.verify()


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, None, str(SCHEMA)])
def test_another_schema_is_refused(schema: Any, finished: RunFolder) -> None:
    (finished.path / CONFIG).write_text(json.dumps({"schema": schema}))
    with pytest.raises(UserError, match=f"has schema {schema}, this version reads {SCHEMA}"):
        finished.config()


def test_what_is_no_run_folder_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run folder"):
        RunFolder(tmp_path / "nowhere").config()
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder(tmp_path).config()


def test_only_finished_runs_are_found(finished: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "agent" / "data" / "other")
    write_json(other.path / CONFIG, run_config().to_json())
    assert find_runs(tmp_path) == [finished]
    assert find_runs(tmp_path / "nowhere") == []


# One writer


HOLD = """
import sys, time
from pathlib import Path
from dosing.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.mark.long
def test_a_second_process_is_locked_out_until_the_first_is_gone(tmp_path: Path) -> None:
    """Also after kill -9: the lock is the system's, so nothing stale can stay."""
    run = RunFolder(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process is writing the run"), run.lock():
            pass
        first.kill()
    with run.lock():
        pass
