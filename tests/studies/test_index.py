"""The index of a study: the same answer as from reading everything, and none where anything has changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.runs.files import read_json, sha256
from dosing.runs.folder import DONE, EPISODES, WEIGHTS, find_runs
from dosing.studies import (
    Comparison,
    Grid,
    Resources,
    TrainingSettings,
    compare,
    comparison,
    jobs,
    references,
)
from dosing.studies.dose_sets import DOSES
from dosing.studies.index import INDEX, question, stamp
from dosing.studies.naming import CURVES, TABLE
from tests.support.samples import cohort

GRID = Grid(("fttpo",), {"hidden": [(8,)], "temperature": [0.1, 1.0]}, preset="sparse-vs-gaussian")
TINY = TrainingSettings(steps=6, batch_size=8, checkpoint_every=3)
USUAL: dict[str, Any] = {
    "seeds": (0, 1),
    "training": TINY,
    "milestones": (3,),
    "evaluation_patients": 4,
    "resources": Resources("cpu", workers=1),
}


def answer(study: Path, grid: Grid = GRID, **options: Any) -> Comparison:
    return compare(study, grid, study.parent / "visits.parquet", **USUAL | options)


@pytest.fixture(scope="module", autouse=True)
def quick_search() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "SEARCH_PATIENTS", 50)
        yield


@pytest.fixture(scope="module")
def finished(quick_search: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with visits and a finished study on them; nobody writes here."""
    folder = tmp_path_factory.mktemp("index")
    write_episodes(cohort(), folder / "visits.parquet")
    answer(folder / "study")
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that has been opened once: a copy's files have times of their own."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    answer(tmp_path / "study")
    return tmp_path / "study"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tells how many jobs were looked at, once per call that reads everything."""
    calls: list[int] = []
    real = jobs.run_jobs

    def counted(asked: Any, *rest: Any) -> Any:
        calls.append(len(asked))
        return real(asked, *rest)

    monkeypatch.setattr(comparison, "run_jobs", counted)
    return calls


def test_the_index_tells_what_reading_everything_tells(study: Path, read: list[int]) -> None:
    known = answer(study)
    assert read == []
    (study / INDEX).unlink()
    full = answer(study)
    assert read == [len(find_runs(study))] == [4]
    assert known == full
    assert str(known) == str(full)
    assert full.differences
    assert len({row.name for row in full.rows}) == len(full.rows)


def test_a_copied_or_moved_study_is_read_once(finished: Path, tmp_path: Path, read: list[int]) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    first, again = answer(tmp_path / "study"), answer(tmp_path / "study")
    assert len(read) == 1
    assert first == again


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"seeds": (0,)},
        {"milestones": ()},
        {"evaluation_patients": 5},
        {"training": TrainingSettings(steps=7, batch_size=8, checkpoint_every=3)},
        {"grid": Grid(("iql",), {"hidden": [(8,)]})},
    ],
    ids=str,
)
def test_another_question_has_another_answer(study: Path, read: list[int], options: dict[str, Any]) -> None:
    answer(study, **options)
    assert len(read) == 1
    answer(study)  # the table is now that of the other question
    assert len(read) == 2


def touch(study: Path) -> None:
    file = find_runs(study)[0].path / WEIGHTS
    content, times = file.read_bytes(), file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # even with size and time as before


def drop_doses(study: Path) -> None:
    (find_runs(study)[1].path / DOSES).unlink()


def touch_rules(study: Path) -> None:
    (file,) = study.glob(f"references/*/{EPISODES}")
    file.write_bytes(file.read_bytes())


def touch_milestone(study: Path) -> None:
    file = find_runs(study)[2].at(3) / EPISODES
    file.write_bytes(file.read_bytes())


def touch_visits(study: Path) -> None:
    file = study.parent / "visits.parquet"
    file.write_bytes(file.read_bytes())


def drop_curves(study: Path) -> None:
    (study / CURVES).unlink()


def edit_table(study: Path) -> None:
    text = (study / TABLE).read_text()
    (study / TABLE).write_text(text.replace('"verdict": "', '"verdict": "very '))


def damage_index(study: Path) -> None:
    (study / INDEX).write_bytes((study / INDEX).read_bytes()[:40])


def forge_index(study: Path) -> None:
    (study / INDEX).write_text(json.dumps(read_json(study / INDEX) | {"files": "0" * 64}))


CHANGES = (
    touch,
    drop_doses,
    touch_rules,
    touch_milestone,
    touch_visits,
    drop_curves,
    edit_table,
    damage_index,
    forge_index,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_changed_is_read_again_and_the_index_made_anew(
    study: Path, read: list[int], change: Callable[[Path], None]
) -> None:
    before = answer(study)
    assert read == []
    change(study)
    assert answer(study) == before
    assert len(read) == 1
    assert answer(study) == before
    assert len(read) == 1
    assert read_json(study / INDEX)["table"] == sha256(study / TABLE)
    assert read_json(study / TABLE)["presets"] == ["sparse-vs-gaussian"]


def test_a_damaged_run_is_refused_whatever_the_index_says(study: Path) -> None:
    file = find_runs(study)[0].path / WEIGHTS
    content, times = bytearray(file.read_bytes()), file.stat()
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="was changed or truncated since the run finished"):
        answer(study)


def test_a_run_that_is_unfinished_again_is_finished_and_not_passed_over(study: Path, read: list[int]) -> None:
    before, run = answer(study), find_runs(study)[0]
    (run.path / DONE).unlink()
    assert answer(study) == before
    assert read
    assert run.done


def test_other_code_does_not_use_the_index(
    study: Path, read: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "code.py").write_text("")
    monkeypatch.setattr("dosing.studies.index.CODE", (tmp_path / "code.py",))
    answer(study)
    answer(study)
    assert len(read) == 1
    (tmp_path / "code.py").write_text("changed")
    answer(study)
    assert len(read) == 2


def test_stamps_see_names_sizes_and_times_and_pass_over_locks(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "milestones" / "3").mkdir(parents=True)
    stamps = [stamp(folder)]
    for file in ("a", "milestones/3/b"):
        (folder / file).write_text("x")
        stamps.append(stamp(folder))
    (folder / "a").rename(folder / "c")
    stamps.append(stamp(folder))
    assert len(set(stamps)) == 4
    (folder / ".lock").write_text("")
    assert stamp(folder) == stamps[-1]
    assert stamp(folder / "nothing") == stamp(tmp_path / "none") != stamp(folder / "c")


def test_questions_are_told_apart_to_the_last_number() -> None:
    many = np.linspace(0.0, 1.0, 3000)  # numpy's own words leave out the middle
    other = many.copy()
    other[1500] += 1e-9
    grids = [Grid(("iql",), {"discount": cast(Any, values)}) for values in (many, other, many.tolist())]
    assert question(grids[0]) == question(grids[2]) != question(grids[1])
