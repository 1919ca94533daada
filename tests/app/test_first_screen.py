"""The first screen: who the patient is, in what order patients stand, near visits, names and words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import agents
from app.analysis.patients import PatientTable, said
from app.charts import episode
from app.theme import GREY, TARGET, number
from app.widgets.glossary import GROUPS, meaning
from dosing.recommendation.recommender import recommend
from dosing.recommendation.records import EarlierVisit
from dosing.runs.folder import find_runs
from dosing.studies.data import episodes_of
from dosing.studies.loading import recommender_of
from tests.app.test_pages import open_app, plain, run_of, unfolded, words  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
def test_the_picker_says_who_and_where(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, patient="2", visit="9")
    episodes = episodes_of(find_runs(full_study)[0])
    row = int(((episodes.episode == 2) & (episodes.step == 7)).argmax())
    options = [plain(option) for option in at.selectbox(key="patient").options]
    assert options[2] == "patient 2, 24 visits"
    last = number(float(episodes.act[row, 0]))
    assert f"Patient 2, visit 9 of 24, last dose {last}. Seen:" in words(at)
    assert plain(at.slider(key="visit").set_value(10).run().selectbox(key="patient").options[2]) == options[2]
    assert "no dose before" in words(open_app(full_study))


@pytest.mark.long
def test_buttons_step_through_the_visits_and_stop_at_the_ends(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, patient="1", visit="23")
    at.button(key="go_right").click().run()
    assert at.slider(key="visit").value == 24
    assert at.query_params["visit"] in ("24", ["24"])
    assert at.button(key="go_right").disabled
    assert not at.button(key="go_left").disabled
    at.button(key="go_left").click().run()
    assert at.slider(key="visit").value == 23
    assert open_app(full_study, visit="1").button(key="go_left").disabled


def by_hand(full_study: Path) -> tuple[dict[int, float], dict[int, int]]:
    """Largest disagreement and deferrals of every patient, one visit at a time."""
    runs = find_runs(full_study)
    guarded = [recommender_of(run) for run in runs]
    episodes = episodes_of(runs[0])
    apart: dict[int, float] = {}
    deferred: dict[int, int] = {}
    for row in range(len(episodes)):
        patient = int(episodes.episode[row])
        before = [k for k in range(row) if episodes.episode[k] == patient]
        earlier = [
            EarlierVisit(
                tuple(episodes.obs[k].tolist()), tuple(episodes.act[k].tolist()), float(episodes.reward[k])
            )
            for k in before
        ]
        results = [recommend(one, episodes.obs[row].tolist(), earlier=earlier) for one in guarded]
        doses = [result.dose[0] for result in results if result.dose is not None]
        share = (max(doses) - min(doses)) / 2.0  # the limits are -1 and 1
        apart[patient] = max(apart.get(patient, 0.0), share)
        bad = sum(result.status in ("deferred", "refused") for result in results)
        deferred[patient] = deferred.get(patient, 0) + bad
    return apart, deferred


@pytest.mark.long
def test_orders_agree_with_asking_one_visit_at_a_time(open_app, full_study: Path) -> None:  # noqa: F811
    runs = find_runs(full_study)
    episodes = episodes_of(runs[0])
    table = PatientTable.of(episodes)
    result = said(table, [recommender_of(run) for run in runs])
    apart, deferred = by_hand(full_study)
    np.testing.assert_allclose(result.apart, [apart[p] for p in table.patient.tolist()], atol=1e-5)
    assert result.deferred.tolist() == [deferred[p] for p in table.patient.tolist()]
    returns = {p: float(episodes.reward[episodes.episode == p].sum()) for p in table.patient.tolist()}
    for order, worst_first in (
        ("worst outcome", sorted(returns, key=lambda p: returns[p])),
        ("disagreement", sorted(apart, key=lambda p: -apart[p])),
        ("deferrals", sorted(deferred, key=lambda p: -deferred[p])),
    ):
        at = open_app(full_study, order=order)
        options = [plain(option) for option in at.selectbox(key="patient").options]
        assert [int(re.findall(r"\d+", option)[0]) for option in options] == worst_first
        assert "(" in options[0]
    assert f"(return {number(min(returns.values()), 1)})" in plain(
        open_app(full_study, order="worst outcome").selectbox(key="patient").options[0]
    )


def test_patients_in_any_order_of_their_numbers() -> None:
    from types import SimpleNamespace

    meta = SimpleNamespace(action_low=(0.0,), action_high=(1.0,), dose_unit="mg")
    episodes = SimpleNamespace(
        episode=np.array([7, 7, 2]),
        reward=np.array([1.0, 2.0, -5.0]),
        act=np.array([[0.25], [0.5], [0.75]]),
        metadata=meta,
    )
    table = PatientTable.of(episodes)  # type: ignore[arg-type]
    assert table.patient.tolist() == [7, 2]
    assert table.returns().tolist() == [3.0, -5.0]
    assert table.at_visit(2) == {7: "visit 2 of 2, last dose 0.250 mg", 2: "visit 1 of 1, no dose before"}


@pytest.mark.long
def test_near_visits_are_listed_without_the_visit_itself(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study, patient="1", visit="5")
    episodes = episodes_of(find_runs(full_study)[0])
    row = int(((episodes.episode == 1) & (episodes.step == 4)).argmax())
    result = recommend(recommender_of(run_of(full_study, "iql")), episodes.obs[row].tolist())
    assert (1, 4) in [(near.patient, near.visit) for near in result.nearest]  # the nearest to itself
    assert not at.table
    table = unfolded(at, "nearest0").table[0].value
    expected = [(n.patient, n.visit + 1) for n in result.nearest if (n.patient, n.visit) != (1, 4)]
    assert list(zip(table["patient"].astype(int), table["visit"].astype(int), strict=True)) == expected
    near = next(n for n in result.nearest if (n.patient, n.visit) != (1, 4))
    assert plain(table["dose given (no unit)"][0]) == number(near.dose[0])
    typed = open_app(full_study, state_from="typed numbers", numbers="0 0 0 0 0 0 0 0")
    assert len(unfolded(typed, "nearest0").table[0].value) == len(result.nearest)


def test_what_happened_later_is_not_what_happened_so_far() -> None:
    visits, dose = np.arange(1.0, 6.0), np.linspace(0.1, 0.5, 5)
    kept = episode.Kept("INR", "1", 2.0, 3.0, np.array([1.0, 2.0, 2.5, 9.0, 9.0]))
    figure = episode.so_far(visits, dose, (0.0, 1.0), 2, kept)
    given, seen = figure.data
    assert list(given.x) == [1.0, 2.0]
    assert list(given.y) == pytest.approx([0.1, 0.2])
    assert list(seen.y) == [1.0, 2.0, 2.5]
    (band,) = (s for s in figure.layout.shapes if s.fillcolor == TARGET)
    assert (band.y0, band.y1, band.yref) == (2.0, 3.0, "y2")
    limits = {s.y0 for s in figure.layout.shapes if s.line.color == GREY and s.y0 == s.y1}
    assert limits == {0.0, 1.0}
    assert len(episode.so_far(visits, dose, (0.0, 1.0), 0).data[0].x) == 0


def test_names_are_spelled_out_by_the_registry(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study)
    said_ = words(at)
    for agent in ("fttpo", "iql"):
        entry = agents.find(agent)
        assert entry.full_name
        assert f"**{entry.title}**, :small[{entry.full_name}: " in said_
    own = {key: entry for key, entry in agents.AGENTS.items() if entry.module.startswith("agents.")}
    assert not [key for key, entry in own.items() if not entry.full_name]
    assert len({entry.full_name for entry in own.values()}) == len(own)


@pytest.mark.long
def test_the_tour_has_three_steps_and_can_be_closed(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study)
    what = "which dose each learned policy recommends"
    assert what in words(at)
    for step in (1, 2, 3):
        at.button(key="tour_next").click().run()
        assert f"**{step} of 3.**" in words(at)
        assert what not in words(at)
    assert "tour_next" not in [button.key for button in at.button]
    at.button(key="tour_close").click().run()
    assert what in words(at)


def test_the_glossary_explains_every_word(open_app, empty_study: Path) -> None:  # noqa: F811
    text = words(open_app(empty_study, "views/glossary.py")).lower()
    for word in (
        "law",
        "training seed",
        "return",
        "mode",
        "critic",
        "cvar",
        "half-width",
        "ess",
        "ceiling",
        "off-policy",
        "**q**",
        "sparse",
        "gate",
        "belief",
        "constant dose",
        "novelty",
    ):
        assert word in text
    terms = [term for group in GROUPS.values() for term in group]
    assert len({term.word for term in terms}) == len(terms)
    assert all(term.plain.endswith(".") for term in terms)
    with pytest.raises(KeyError):
        meaning("nothing of the kind")


def test_every_help_is_in_the_glossary() -> None:
    """A page that asks for a word which the glossary lacks would fail when it is drawn."""
    asked = set()
    for path in (ROOT / "app").rglob("*.py"):
        asked |= set(re.findall(r'meaning\("([^"]+)"\)', path.read_text(encoding="utf-8")))
    assert asked
    assert asked <= {term.word for group in GROUPS.values() for term in group}


def test_doses_below_0_are_explained_where_they_appear(open_app, full_study: Path) -> None:  # noqa: F811
    at = open_app(full_study)
    (found,) = (caption for caption in at.caption if "below 0" in caption.value)
    assert "no drug is meant" in found.help


def test_a_recommended_dose_can_be_tried(open_app, full_study: Path) -> None:  # noqa: F811
    """Each number on a card has a link that takes it to What if; a deferred dose has none."""
    at = open_app(full_study, patient="1", visit="5")
    links = [link.proto for link in at.get("page_link")]
    assert [plain(link.label) for link in links] == [f"Try {m.value} in What if" for m in at.metric]
    assert all("dose2=" in link.query_string for link in links)
