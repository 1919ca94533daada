"""What if: the page's numbers are those of the roll-outs, in every state of the page."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from app.analysis import what_if
from app.analysis.regimens import Outcome, Strip, Tried, as_csv
from app.analysis.regimens_page import as_html
from app.charts import what_if as charts_what_if
from app.readers import study
from app.readers.study import Run
from app.text import sentence
from app.theme import GREY, MARKS, NOTICE, TARGET
from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.evaluation.rules import constant
from dosing.evaluation.statistics import Estimate
from dosing.recommendation.simulated import FollowRecommender
from dosing.runs.files import write_json
from dosing.runs.folder import CONFIG, find_runs
from dosing.safety import DoseLimits
from dosing.studies import loading
from dosing.studies.baseline import Baseline
from dosing.studies.data import episodes_of
from simulator.cohorts.posterior import Candidates, bands, difference
from tests.app.figures import charts, specs
from tests.app.test_charts import texts
from tests.app.test_pages import ROOT, words

PAGE = "views/what_if.py"
STATE = "0.5 -0.25 0 1 0 0 0.125 -1"
TYPED = {"state_from": "typed numbers", "numbers": STATE}


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer candidates than the page draws: the same code, faster."""
    monkeypatch.setattr(what_if, "Candidates", lambda *a, **k: Candidates(*a, **k, count=2**14))
    what_if._candidates.clear()
    what_if._match.clear()
    what_if._follow.clear()


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch):
    def start(folder: Path, page: str, **link: str) -> AppTest:
        """A link straight to the page."""
        monkeypatch.setenv("DOSING_STUDY", str(folder))
        at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
        for name, value in link.items():
            at.query_params[name] = value
        at.switch_page(page).run()
        assert not at.exception
        return at

    return start


def minus(text: object) -> str:
    return str(text).replace("-", "\N{MINUS SIGN}")


def traces(at: AppTest, index: int) -> go.Figure:
    return go.Figure(**{k: v for k, v in _spec(at, index).items() if k in ("data", "layout")})


def _spec(at: AppTest, index: int) -> dict[str, object]:

    result: dict[str, object] = charts(at)[index]
    return result


@pytest.mark.long
def test_the_page_shows_what_the_roll_outs_give(open_app, full_study: Path) -> None:
    at = open_app(full_study, PAGE, **TYPED, dose1="0.4", rule2="follow IQL", matched="100")
    assert not at.error
    run = next(r for r in find_runs(full_study) if r.config().agent == "iql")
    matched = Candidates("dosing/Treatment-v0", count=2**14).match([float(x) for x in STATE.split()], 100)
    rule = FollowRecommender(loading.recommender_of(run))
    fixed, followed = matched.roll_out(constant(0.4)), matched.roll_out(rule)
    said = words(at)
    assert f"Mean return **{minus(fixed.mean_return)}**" in said
    assert f"Mean return **{minus(followed.mean_return)}**" in said
    assert f"{matched.accepted:,} of 16,384 simulated patients could show this state" in said
    assert f"**{minus(difference(followed, fixed))}**" in said
    assert len(specs(at)) == 2  # both in one, and their difference
    medians = [t for t in _spec(at, 0)["data"] if t.get("customdata")]  # type: ignore[attr-defined]
    assert len(medians) == 6  # return, one state, dose
    assert "dose 0.400 at every visit, visit" in medians[0]["hovertemplate"]
    at = open_app(
        full_study, PAGE, **TYPED, dose1="0.4", rule2="follow IQL", matched="100", drawn="side by side"
    )
    assert len(specs(at)) == 3


@pytest.mark.long
def test_a_slider_moves_only_its_own_choice(open_app, full_study: Path) -> None:
    at = open_app(full_study, PAGE, **TYPED, dose1="0.4", matched="100")
    before = words(at)
    at.slider(key="dose1").set_value(-0.5).run()
    assert not at.exception
    after = words(at)
    matched = Candidates("dosing/Treatment-v0", count=2**14).match([float(x) for x in STATE.split()], 100)
    assert f"Mean return **{minus(matched.roll_out(constant(-0.5)).mean_return)}**" in after
    kept = [line for line in before.splitlines() if line.startswith("- Mean return")][1]
    assert kept in after


@pytest.mark.long
def test_two_people_with_one_link_see_the_same(open_app, full_study: Path) -> None:
    link = {"patient": "1", "visit": "5", "choices": "3", "rule3": "dose per visit", "doses3": "0.6 0.3"}
    first, second = (open_app(full_study, PAGE, **link, shown="s4", matched="100") for _ in range(2))
    assert words(first) == words(second)
    assert first.selectbox(key="patient").value == 1
    assert first.slider(key="visit").value == 5
    assert first.selectbox(key="shown").value == "s4"
    assert "2 typed doses" in words(first)
    assert len(specs(first)) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    ("link", "says"),
    [
        ({**TYPED, "rule1": "dose per visit", "doses1": "0.5 7"}, "dose 2 must lie within the hard limits"),
        ({**TYPED, "rule1": "dose per visit", "doses1": "tall"}, "dose 1 must be a number, got 'tall'"),
        ({**TYPED, "rule1": "dose per visit"}, "Type one dose or more"),
        ({"state_from": "typed numbers"}, "Type 8 numbers: s1, s2"),
        ({**TYPED, "numbers": "1 2 3"}, "a state is 8 finite numbers"),
        ({**TYPED, "numbers": "1 2 3 4 5 6 7 x"}, "a state is 8 numbers"),
        ({**TYPED, "numbers": "9 9 9 9 9 9 9 9"}, "none of 16,384 simulated patients could show"),
        ({**TYPED, "numbers": "1.4 -1 0 1.5 0 0 1 -1"}, "Few patients"),
        ({**TYPED, "dose1": "7"}, "asks for dose1 '7', which must lie from -1.0 to 1.0: not used"),
        ({"patient": "99"}, "asks for patient '99'"),
        (
            {**TYPED, "rule2": "follow X"},
            "asks for rule2 'follow X', which is not there; this is 'follow FtTPO'",
        ),
    ],
)
def test_what_is_wrong_or_rare_is_said(open_app, full_study: Path, link: dict[str, str], says: str) -> None:
    at = open_app(full_study, PAGE, **link)
    assert says in words(at)


@pytest.mark.long
def test_without_the_recorded_visits_typed_numbers_still_work(
    open_app,
    full_study: Path,
    tmp_path: Path,
) -> None:
    copied = shutil.copytree(full_study, tmp_path / "study")
    for file in (copied / "data").iterdir():
        file.unlink()
    at = open_app(copied, PAGE, numbers=STATE, matched="100")
    assert "Typed numbers still work" in words(at)
    assert len(specs(at)) == 2


@pytest.mark.long
def test_a_damaged_run_is_named_while_the_other_choice_still_shows(open_app, damaged_study: Path) -> None:
    at = open_app(damaged_study, PAGE, **TYPED, rule2="follow IQL", matched="100")
    assert any("changed or truncated" in e.value for e in at.error)
    assert len(specs(at)) == 1


@pytest.mark.long
def test_data_from_elsewhere_has_no_patients_to_match(
    open_app,
    full_study: Path,
    tmp_path: Path,
) -> None:
    copied = shutil.copytree(full_study, tmp_path / "study")
    for run in find_runs(copied):
        write_json(run.path / CONFIG, replace(run.config(), env=None).to_json())
    at = open_app(copied, PAGE)
    assert "Nothing can be rolled forward here" in words(at)
    assert not specs(at)


def strip(limits: tuple[float, ...] = (), unit: str = "1", **more: Any) -> Strip:
    values = np.random.default_rng(0).normal(size=(2, 50, 6))
    return Strip("dose given", unit, np.arange(1.0, 7.0), bands(values), limits=limits, steps=True, **more)


@pytest.mark.long
def test_bands_are_drawn_as_they_are_and_labelled_at_their_end() -> None:
    one = strip((-3.0, 3.0), "mg")
    figure = charts_what_if.regimens(
        [("three doses", MARKS[0], [one, one])], [charts_what_if.common_range([one])] * 2
    )
    assert figure.layout.title.text == NOTICE
    assert figure.layout.xaxis.title.text == "visits from the chosen state"
    drawn = [t for t in figure.data if t.yaxis == "y2"]
    assert [list(t.y) for t in drawn] == [list(one.bands[k]) for k in (0, 4, 1, 3, 2)]
    assert [t.fill for t in drawn] == [None, "tonexty", None, "tonexty", None]
    assert "<b>dose given</b> (mg)" in texts(figure)
    assert f"<b>{minus(f'{one.bands[2, -1]:.2f}')}</b>" in texts(figure)
    assert f"90 %: {one.bands[4, -1]:.1f}" in texts(figure)
    edges = [s.y0 for s in figure.layout.shapes if s.yref == "y2" and s.line.color == GREY]
    assert edges == [-3.0, 3.0]
    low, high = figure.layout.yaxis2.range
    assert low < -3.0
    assert high > 3.0


@pytest.mark.long
def test_overlaid_regimens_share_axes_and_name_their_target_and_ends() -> None:
    one = strip(target=(-0.5, 0.5))
    other = replace(one, bands=one.bands + 0.01)  # nearly the same at the end
    figure = charts_what_if.regimens(
        [("a", MARKS[0], [one]), ("b", MARKS[1], [other])], [charts_what_if.common_range([one, other])]
    )
    lines = [t for t in figure.data if t.customdata is not None]
    assert [t.line.color for t in lines] == [MARKS[0].colour, MARKS[1].colour]
    assert [list(t.y) for t in lines] == [list(one.bands[2]), list(other.bands[2])]
    ribbons = [t for t in figure.data if t.fill == "tonexty"]
    assert [list(t.y) for t in ribbons] == [list(one.bands[4]), list(other.bands[4])]
    (band,) = [s for s in figure.layout.shapes if s.type == "rect"]
    assert (band.y0, band.y1, band.fillcolor) == (-0.5, 0.5, TARGET)
    assert "shaded: target -0.5 to 0.5" in texts(figure)
    ends = sorted(a.y for a in figure.layout.annotations if a.xshift == 4)
    assert len(ends) == 2
    assert ends[1] - ends[0] > 0.05  # numbers do not cover each other


@pytest.mark.long
def test_a_constant_dose_starts_from_the_one_that_agents_are_compared_with(
    open_app, full_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = open_app(full_study, PAGE, **TYPED, matched="100", choices="1")
    assert Baseline.of(episodes_of(find_runs(full_study)[0])).dose is None  # three patients tell none
    assert at.slider(key="dose1").value == 0.0
    assert "these visits tell no constant dose" in words(at)
    row = SimpleNamespace(baseline=SimpleNamespace(dose=0.374))
    monkeypatch.setattr(study, "measured", lambda run: row)
    at = open_app(full_study, PAGE, **TYPED, matched="100", choices="1")
    assert at.slider(key="dose1").value == pytest.approx(0.37)  # the nearest step of the slider
    assert "constant dose estimated from the recorded visits, 0.374" in words(at)


@pytest.mark.long
def test_regimens_are_added_and_removed_and_those_after_move_up(open_app, full_study: Path) -> None:
    link = {"choices": "3", "rule2": "follow IQL", "rule3": "dose per visit", "doses3": "0.6 0.3"}
    at = open_app(full_study, PAGE, **TYPED, dose1="0.4", matched="100", **link)
    at.button(key="remove1").click().run()
    assert not at.exception
    assert at.query_params["choices"] in ("2", ["2"])
    assert at.selectbox(key="rule1").value == "follow IQL"
    assert at.selectbox(key="rule2").value == "dose per visit"
    assert at.text_input(key="doses2").value == "0.6 0.3"
    at.button(key="add").click().run()
    assert not at.exception
    assert at.query_params["choices"] in ("3", ["3"])
    assert at.selectbox(key="rule3").value


@pytest.mark.long
def test_files_hold_what_the_picture_shows() -> None:
    one = Tried("dose <b>", MARKS[0], Outcome((strip((-3.0, 3.0), "mg", target=(0.0, 1.0)),), (LINE,)))
    table = list(csv.DictReader(as_csv([one], "patient\n1").decode().splitlines()[2:]))
    assert as_csv([one], "patient\n1").decode().splitlines()[:2] == [f"# {NOT_FOR_PATIENTS}", "# patient 1"]
    drawn = one.outcome.strips[0]
    np.testing.assert_array_equal([float(r["value"]) for r in table], drawn.bands[2])
    np.testing.assert_array_equal([float(r["low"]) for r in table], drawn.bands[0])
    assert {(r["regimen"], r["quantity"], r["unit"], r["band"]) for r in table} == {
        ("dose <b>", "dose given", "mg", "10 to 90 %")
    }
    page = as_html([one], [one.outcome.lines], "patient 1", "Line: median.")
    assert page.count(NOT_FOR_PATIENTS) >= 2
    assert "dose &lt;b&gt;" in page
    assert "<b>a*b</b> &lt;i&gt;" in page
    assert page.count('class="regimen"') == 1
    assert 'class="target"' in page
    assert "<script" not in page


LINE = sentence("**{}** {}", "a*b", "<i>")


@pytest.mark.long
def test_differences_show_their_interval_and_what_it_says() -> None:
    better = Estimate(2.0, 1.0, 3.5, 0.95, 300, 3, "t")
    unclear = Estimate(0.2, -1.0, 1.4, 0.95, 300, 1, "t")
    figure = charts_what_if.differences("dose 0.4", [("IQL", MARKS[1], better), ("b", MARKS[2], unclear)])
    first, second = figure.data
    assert (first.x[0], first.error_x.array[0], first.error_x.arrayminus[0]) == (2.0, 1.5, 1.0)
    assert second.y[0] < first.y[0]
    assert "<b>IQL</b>: better" in texts(figure)
    assert "<b>b</b>: not distinguishable" in texts(figure)
    assert {(s.x0, s.x1) for s in figure.layout.shapes} == {(0, 0)}
    assert figure.layout.xaxis.title.text == "return minus that of regimen 1 (no unit)"
    assert figure.layout.title.text == NOTICE


@pytest.mark.long
def test_typed_doses_are_read_within_the_limits() -> None:
    limits = DoseLimits((0.0,), (5.0,), "mg")
    assert what_if.typed_doses(["0", "2.5", "5"], limits) == [0.0, 2.5, 5.0]
    with pytest.raises(UserError, match="dose 2 must lie"):
        what_if.typed_doses(["0", "nan"], limits)
    with pytest.raises(UserError, match=r"hard limits 0\.000 mg to 5\.000 mg"):
        what_if.typed_doses(["5.1"], limits)


@pytest.mark.long
def test_doses_follow_each_other_and_the_last_one_stays(full_study: Path) -> None:
    folder = find_runs(full_study)[0]
    world = what_if.World.of(Run(folder, folder.config(), None, "x"), 0)  # type: ignore[arg-type]
    matched = what_if.match(world, STATE.split(), 20)
    assert what_if.give(world, matched, [0.5, 0.25]).dose[0, 0].tolist() == [0.5] + [0.25] * 23
