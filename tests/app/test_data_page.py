"""The data page: what the visits hold, a simulated cohort, one patient, files that can be read back."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.analysis import data
from app.analysis.data import Quantity
from app.charts.data import histograms
from app.theme import NOTICE
from dosing import NOT_FOR_PATIENTS
from dosing.data.store import read_episodes
from dosing.runs.folder import find_runs
from dosing.studies.data import episodes_of
from simulator.cohorts.generate import simulate
from simulator.envs.registered import TRUSTED
from tests.app.figures import specs
from tests.app.test_charts import texts
from tests.app.test_pages import words
from tests.app.test_what_if import minus, open_app  # noqa: F401
from tests.support.registries import own_registries

PAGE = "views/data.py"


def test_the_recorded_visits_are_shown_as_they_are(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, place="2")
    assert not at.error
    episodes = episodes_of(find_runs(full_study)[0])
    said = words(at)
    assert "72 visits of 3 patients" in said
    assert at.code[0].value == episodes.metadata.content_hash
    assert minus(data.mean_return(episodes)) in said
    table = at.dataframe[0].value
    assert len(table) == 50
    assert np.allclose(table["s4"], episodes.obs[:50, 3], atol=6e-4)
    assert np.allclose(table["dose given"], episodes.act[:50, 0], atol=6e-4)
    assert table["visit"].tolist()[:25] == [*range(1, 25), 1]
    assert f"Patient number {episodes.episode[24]}" in said
    assert len(specs(at)) == 3
    card, rest = (element.value for element in at.code if element.value.startswith("{"))
    assert '"motion"' in card
    assert '"obs_units"' in rest


def test_a_cohort_is_simulated_as_asked_for(open_app, full_study: Path) -> None:  # noqa: F811
    link = {
        "visits": "simulated now",
        "variant": "simenv3",
        "patients": "40",
        "seed": "7",
        "option_realism": "3",
    }
    at = open_app(full_study, PAGE, **link, behaviour="constant", given="0.5")
    assert not at.error
    made = simulate(
        "dosing/Treatment-v0", patients=40, seed=7, policy="constant:0.5", variant="simenv3", realism=3
    )
    assert at.code[0].value == made.content_hash()
    assert "960 visits of 40 patients" in words(at)
    names = [button.proto.label for button in at.get("download_button")]
    assert names == ["Download parquet", "Download csv"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_holds_the_same_visits_and_the_notice(tmp_path: Path, suffix: str) -> None:
    made = data.cohort("dosing/LiI-v0", "published", 5, 1, "titration", ())
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data.export(made, suffix))
    back = read_episodes(path)
    assert back.content_hash() == made.content_hash()
    assert back.metadata.notice == NOT_FOR_PATIENTS


def test_the_largest_cohorts_take_a_moment() -> None:
    assert data.most_patients("dosing/Treatment-v0", "corrected") == 10_000
    assert data.most_patients("dosing/Treatment-v0", "li-evaluation") == 2_400
    start = time.perf_counter()
    data.cohort("dosing/Treatment-v0", "corrected", 10_000, 0, "titration", (("realism", 5),))
    assert time.perf_counter() - start < 10.0  # about half a second on an idle core


def test_without_the_recorded_visits_a_cohort_can_still_be_simulated(
    open_app,  # noqa: F811
    full_study: Path,
    tmp_path: Path,
) -> None:
    study = shutil.copytree(full_study, tmp_path / "study")
    for file in (study / "data").iterdir():
        file.unlink()
    at = open_app(study, PAGE)
    assert any("the recorded visits" in e.value for e in at.error)
    assert not specs(at)
    at.segmented_control(key="visits").set_value("simulated now").run()
    assert not at.exception
    assert "2,400 visits of 100 patients" in words(at)


def test_a_scenario_of_a_file_is_offered_once_a_person_named_it(open_app, full_study: Path) -> None:  # noqa: F811
    """Simulated with its own limits and unit; what it has no choice of is not asked for."""
    file = Path(__file__).resolve().parents[2] / "examples" / "two_compartment.py"
    link = {"visits": "simulated now", "env": "example/TwoCompartment-v0", "patients": "5"}
    with own_registries():
        assert "example/TwoCompartment-v0" not in data.environments()
        os.environ[TRUSTED] = str(file)  # as the command app leaves it for the dashboard's process
        at = open_app(full_study, PAGE, **link, behaviour="constant", given="600")
        assert not at.exception
        assert not at.error
        boxes = {box.label: box.options for box in at.selectbox}
        assert "Variant" not in boxes
        assert boxes["Doses by"] == ["uniform", "constant"]
        assert data.most_patients("example/TwoCompartment-v0", "") == 10_000 // 14
        made = simulate("example/TwoCompartment-v0", patients=5, policy="constant:600")
        assert at.code[0].value == made.content_hash()
        assert "70 visits of 5 patients" in words(at)


def test_an_empty_study_names_the_command(open_app, empty_study: Path) -> None:  # noqa: F811
    at: AppTest = open_app(empty_study, PAGE)
    assert at.code[0].value == "python -m dosing demo"


def test_one_visit_is_enough_to_be_drawn(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, visits="simulated now", patients="1")
    assert "one patient, no interval" in words(at)
    assert len(specs(at)) == 3


def test_histograms_hold_all_visits_on_axes_of_their_own() -> None:
    values = np.random.default_rng(0).normal(size=500)
    figure = histograms([Quantity("INR", "1", values), Quantity("dose", "mg", values * 10, (-50.0, 60.0))])
    assert figure.layout.title.text == NOTICE
    for bars in figure.data:
        assert np.sum(bars.y) == pytest.approx(100.0)
    assert f"<b>dose</b> (mg)<br>mean {minus(f'{10 * values.mean():.2f}')}" in texts(figure)
    assert [s.x0 for s in figure.layout.shapes] == [-50.0, 60.0]
    assert {s.xref for s in figure.layout.shapes} == {"x2"}
    low, high = figure.layout.xaxis2.range
    assert low < -50.0
    assert high > 60.0
    assert figure.layout.xaxis.range[1] < 6.0


def test_a_link_to_no_scenario_says_so(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, PAGE, visits="simulated now", variant="nonsense", patients="10001")
    assert "asks for variant 'nonsense', which is not there; this is 'corrected'" in words(at)
    assert "asks for patients '10001', which must lie from 1 to 10,000: not used" in words(at)
    assert len(specs(at)) == 3
