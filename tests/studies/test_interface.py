"""The Python interface of studies: light to import, few parameters, documented, and nothing missing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from dosing import studies
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.recommendation.records import Recommender
from dosing.runs.folder import RunFolder
from dosing.studies import (
    AgentSetup,
    Cohort,
    DataSource,
    Grid,
    Resources,
    TrainingSettings,
    evaluate,
    load,
    recommend,
    references,
    train,
)
from tests.support.samples import cohort, small

MOST_PARAMETERS = 8


def test_importing_the_interface_imports_nothing_heavy() -> None:
    heavy = "torch", "gymnasium", "scipy", "pyarrow", "pandas"
    code = f"import sys, dosing.studies; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", studies.__all__)
def test_every_name_is_there_documented_and_short(name: str) -> None:
    thing = getattr(studies, name)
    assert thing.__name__ == name
    assert inspect.getdoc(thing)
    assert name in dir(studies)
    if inspect.isfunction(thing):
        assert len(inspect.signature(thing).parameters) <= MOST_PARAMETERS
        documented = inspect.getdoc(thing) or ""
        assert "Raises:" in documented or name == "load"
        hints = inspect.get_annotations(thing)
        assert set(inspect.signature(thing).parameters) | {"return"} == set(hints)


def test_an_unknown_name_is_told_apart_from_the_interface() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rank'"):
        _ = studies.rank  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    study = tmp_path_factory.mktemp("study")
    data = DataSource("dosing/Treatment-v0", Cohort(patients=3, seed=1))
    return train(study, AgentSetup("bc", small("bc")), data, seeds=(0, 1), training=TrainingSettings(steps=3))


def test_a_run_is_trained_loaded_asked_and_evaluated(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 20)
    assert run.done
    assert isinstance(load(run), Recommender)
    state = cohort().obs[0].tolist()
    assert recommend(str(run.path), state).dose == recommend(run, state).dose
    result = evaluate(run.path, 4)
    assert result.rows[0].name == "BC"
    assert isinstance(result.rows[0].recommended, Estimate)
    assert str(result).startswith("agent")


def test_the_version_of_a_scenario_names_its_simulated_data(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dosing.studies import data

    source = DataSource("dosing/Treatment-v0", Cohort(patients=2))
    before = data.obtain_data(source, tmp_path)
    assert data.obtain_data(source, tmp_path) == before
    monkeypatch.setattr(data, "version_of", lambda *_: "99")
    assert data.obtain_data(source, tmp_path) != before


def test_one_source_or_several_are_taken() -> None:
    one = DataSource("a.csv")
    assert (
        DataSource.several("a.csv") == DataSource.several(Path("a.csv")) == DataSource.several([one]) == [one]
    )
    assert [source.source for source in DataSource.several(["a.csv", one])] == ["a.csv", "a.csv"]
    assert Grid.of("iql") == Grid.of(["iql"]) == Grid(("iql",))


def test_bad_settings_are_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match="workers must be at least 1, got 0"):
        Resources(workers=0).launcher(Path("study"))
    with pytest.raises(UserError, match="nobody"):
        AgentSetup("nobody")
