"""The printable page: it says what the recommendation says, needs nothing but itself, escapes all text."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dosing import NOT_FOR_PATIENTS
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.recommendation.decisions import Decision
from dosing.recommendation.dose_context import DoseContext, Evidence
from dosing.recommendation.printed import BANNER
from dosing.recommendation.records import NearVisit, Recommendation, SeedSet, StateEntry
from dosing.recommendation.report import Said, report

ENTRIES = (StateEntry("INR", "1", 0.5, 10), StateEntry("weight", "kg"), StateEntry("age", "years"))
FOUND = Recommendation(
    status="ok",
    dose=(4.25,),
    proposed=(4.25,),
    unit="mg",
    limits=((0.0,), (15.0,)),
    kind="interval",
    bounded=True,
    support=((3.125,), (5.875,)),
    mass_outside=0.0,
    seeds=(SeedSet(0, (4.1,), (3.125,), (5.5,)), SeedSet(1, (4.4,), (3.5,), (5.875,))),
    reasons=(),
    state=(2.5, 71.25, 60.0),
    provenance={
        "run": "runs/x",
        "agent": "fttpo",
        "weights": "a1" * 32,
        "data": "b2" * 32,
        "card": "c3" * 32,
        "monitor": "d4" * 32,
        "env": {"id": "dosing/X", "options": {"variant": "plain"}},
        "versions": {"dosing": "0.1.0", "torch": "2.13.0"},
    },
    time="2026-01-02T03:04:05+00:00",
    current=(5.0,),
    step=((4.0,), (6.0,)),
    central=((3.5,), (5.25,)),
    spread=(0.2121,),
    distance=1.234,
    threshold=3.5,
    nearest=(
        NearVisit(7, 3, 0.75, (2.625, 70.0, 59.0), (4.125,), -1.5),
        NearVisit(9, 0, 1.234, (2.25, 72.0, 61.0), (3.875,), 2.0),
    ),
    safe_default="hold the dose",
)
NOTHING = dict.fromkeys(
    ("dose", "proposed", "kind", "bounded", "support", "mass_outside", "central", "spread")
)
REFUSED = replace(
    FOUND,
    status="refused",
    seeds=(),
    nearest=(),
    distance=None,
    reasons=("INR must be 0.5 to 10.",),
    **NOTHING,
)
DEFERRED = replace(FOUND, status="deferred", reasons=("the state is unlike the training visits.",))
LIMITED = replace(FOUND, status="limited", proposed=(17.5,), dose=(15.0,), codes=("hard_limit",))


DECISION = Decision(
    12,
    "2026-01-02T03:05:00.000+00:00",
    "modify",
    (3.5,),
    "kidneys",
    9,
    8,
    {
        "limits": [[0.0], [15.0]],
        "dose": [4.25],
        "unit": "mg",
        "provenance": {"agent": "fttpo"},
        "patient": "7",
        "visit": 9,
    },
)
CONTEXT = DoseContext(
    Evidence("mg", "worse", Estimate(-2.41, -3.02, -1.79, 0.95, 5000, 5, "t over seeds"), 4.1, 50, ""),
    DECISION,
)


class Words(HTMLParser):
    """All text of a page, its elements balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "br", "rect", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)


def words(*result: Recommendation, context: DoseContext = CONTEXT, **more: Any) -> str:
    """The text of a page on these recommendations, one space between pieces."""
    said = [Said(f"Agent {k + 1}", "a distribution", one, context) for k, one in enumerate(result)]
    return re.sub(r"\s+", " ", " ".join(Words(report(said, ENTRIES, **more)).pieces))


def test_the_page_says_what_the_recommendation_says() -> None:
    text = words(FOUND, about="patient 7, visit 9")
    for part in (
        "patient 7, visit 9 · made 2026-01-02T03:04:05+00:00",
        "INR 2.5 weight 71.25 kg age 60 years current dose 5 mg",
        "Agent 1 a distribution ▲ Dose within limits · worse than one constant dose Recommended dose 4.25 mg "
        "Decision in force: "
        "fttpo, for patient 7, visit 9: another dose, 3.50 mg instead of 4.25 mg. Reason: kidneys. (audit "
        "record 12, 2026-01-02 03:05 UTC, replaces record 9) Worse than one constant dose of 4.1 mg "
        "estimated from the same 50 patients: on 1,000 new simulated patients x 5 seeds, following it was "
        "worth 2.4 less [1.8, 3.0].",
        "Could give: 3.125 to 5.875 mg (exact support)",
        "Central 90 %: 3.5 to 5.25 mg",
        "Mass outside the hard limits, 0 to 15 mg: 0 (exactly)",
        "Doses of 2 training seeds: 4.1; 4.4 (standard deviation 0.2121 mg)",
        "Step limit: 4 to 6 mg",
        "Distance from the training visits: 1.23, unfamiliar beyond 3.5",
        "patient visit distance dose then (mg) reward then INR weight (kg) age (years)",
        "7 4 0.75 4.125 \N{MINUS SIGN}1.5 2.625 70 59",
        "9 1 1.23 3.875 2 2.25 72 61",
        "runs/x",
        *(char * 32 for char in ("a1", "b2", "c3", "d4")),
        "id dosing/X, options variant plain",
        "dosing 0.1.0, torch 2.13.0",
    ):
        assert part in text, part


def test_rules_for_reference_stand_in_a_table_of_their_own() -> None:
    rules = [Said("clinic: rule", "a rule, no agent", one, CONTEXT) for one in (FOUND, REFUSED, LIMITED)]
    text = words(FOUND, reference=rules)
    assert "For reference: a rule, no agent rule status dose reasons and worth" in text
    table = text.split("For reference:")[1].split("What this rests on")[0]
    assert "clinic: rule ▲ Dose within limits · worse than one constant dose 4.25 mg" in table
    assert "clinic: rule ✕ REFUSED: no dose. none" in table
    assert all(reason in table for one in (REFUSED, LIMITED) for reason in one.reasons)
    assert table.count("Worse than one constant dose of 4.1 mg") == 1
    assert table.count("Worth: as above.") == 2
    assert "For reference" not in words(FOUND)
    other = replace(FOUND, state=(9.0, 9.0, 9.0))
    with pytest.raises(UserError, match="on one state"):
        words(FOUND, reference=[Said("clinic: rule", "a rule", other, CONTEXT)])


@pytest.mark.parametrize("result", [FOUND, REFUSED, DEFERRED, LIMITED])
def test_the_banner_stands_at_both_ends(result: Recommendation) -> None:
    text = words(result)
    assert NOT_FOR_PATIENTS in BANNER
    assert text.split("</title>")[0].count(BANNER) == 2
    title = "Dose recommendation of a research simulator, not for patients"
    assert text.strip().removeprefix(title).strip().startswith(BANNER)
    assert text.strip().endswith(BANNER)


def test_what_was_deferred_is_called_so_before_its_dose() -> None:
    text = words(DEFERRED)
    assert text.index("DEFERRED: not advice") < text.index("4.25 mg")
    assert "Dose the policy would give, not advice 4.25 mg" in text
    assert "Recommended dose" not in text
    assert "the state is unlike the training visits. Safe default: hold the dose." in text


def test_a_refusal_has_no_dose() -> None:
    text = words(REFUSED, context=DoseContext(CONTEXT.evidence))
    assert "✕ REFUSED: no dose. INR must be 0.5 to 10. Safe default: hold the dose." in text
    assert "4.25" not in text
    assert "<svg" not in report([Said("x", "y", REFUSED, CONTEXT)], ENTRIES)


@pytest.mark.parametrize(
    ("codes", "limit"), [(("hard_limit",), "a hard limit"), (("step_limit",), "a step limit")]
)
def test_a_limit_shows_what_was_proposed(codes: tuple[str, ...], limit: str) -> None:
    assert f"Proposed 17.5 mg, held at {limit} Recommended dose 15 mg" in words(replace(LIMITED, codes=codes))


def test_what_is_no_support_is_not_called_one() -> None:
    wide = replace(
        FOUND, kind="infinite_clipped", bounded=False, mass_outside=1.25e-7, support=((-9.0,), (30.0,))
    )
    text = words(wide)
    assert "Could give: \N{MINUS SIGN}9 to 30 mg (central 99%, not a support)" in text
    assert "Mass outside the hard limits, 0 to 15 mg: 1.25e\N{MINUS SIGN}07" in text
    assert "0 (as computed)" in words(replace(wide, mass_outside=0.0))  # no exact zero
    drawn = report([Said("x", "y", wide, CONTEXT)], ENTRIES)
    assert "stroke-dasharray" in drawn
    assert (
        drawn.count("\u25c2</text>") == drawn.count("\u25b8</text>") == 1
    )  # both ends lie beyond the drawing
    assert "stroke-dasharray" not in report([Said("x", "y", FOUND, CONTEXT)], ENTRIES)


def test_the_drawing_stands_where_the_numbers_are() -> None:
    drawn = report([Said("x", "y", FOUND, CONTEXT)], ENTRIES)
    low, high = -0.15 * 15, 1.15 * 15  # ends of its axis
    scale = 460 / (high - low)
    (box,) = re.findall(r'<rect x="([\d.]+)" y="5" width="([\d.]+)"', drawn)
    assert float(box[0]) == pytest.approx((3.125 - low) * scale, abs=0.06)
    assert float(box[1]) == pytest.approx((5.875 - 3.125) * scale, abs=0.11)
    (dose,) = re.findall(r'd="M([\d.]+) 4l7 8', drawn)
    assert float(dose) == pytest.approx((4.25 - low) * scale, abs=0.06)


def test_what_agents_share_stands_once() -> None:
    other = replace(FOUND, provenance=FOUND.provenance | {"weights": "e5" * 32})
    text = words(FOUND, other)
    assert text.count("b2" * 32) == text.count("Nearest training visits") == 1
    assert f"run and weights of Agent 2 runs/x {'e5' * 32}" in text
    apart = words(FOUND, replace(other, nearest=FOUND.nearest[:1]))
    assert "Nearest training visits of Agent 1" in apart
    assert "Nearest training visits of Agent 2" in apart


def test_several_doses_are_all_told() -> None:
    pair = replace(
        FOUND,
        dose=(1.5, 2.5),
        proposed=(1.5, 2.5),
        limits=((0.0, 0.0), (2.0, 4.0)),
        support=((1.0, 2.0), (1.75, 3.0)),
        central=((1.0, 2.0), (1.75, 3.0)),
        seeds=(SeedSet(0, (1.5, 2.5), (1.0, 2.0), (1.75, 3.0)),),
        spread=None,
        step=None,
        nearest=(),
    )
    text = words(pair)
    assert "Recommended dose 1.5, 2.5 mg" in text
    assert "1, 2 to 1.75, 3 mg" in text
    assert report([Said("x", "y", pair, CONTEXT)], ENTRIES).count("<svg") == 2


def test_nothing_on_the_page_comes_from_anywhere_else() -> None:
    page = report([Said(f"Agent {k}", "a distribution", FOUND, CONTEXT) for k in range(4)], ENTRIES)
    assert not re.search(r"https?:|//|url\(|@import|<script|<link|<img|<iframe|\bsrc=|\bhref=|\bon\w+=", page)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page


EVIL = '"><script>alert(1)</script>&'


def test_every_text_is_escaped() -> None:
    result = replace(
        REFUSED,
        state=(EVIL, 1.0, 2.0),
        current=(EVIL,),
        unit=EVIL,
        reasons=(EVIL,),
        notes=(EVIL,),
        time=EVIL,
        safe_default=EVIL,
        provenance=dict.fromkeys(FOUND.provenance, EVIL) | {"versions": {EVIL: EVIL}},
    )
    entries = (StateEntry(EVIL, EVIL), *ENTRIES[1:])
    dosed = replace(FOUND, unit=EVIL, state=result.state, current=result.current)
    decided = replace(DECISION, reason=EVIL, asked={**DECISION.asked, "unit": EVIL, "patient": EVIL})
    unknown = Evidence(EVIL, missing=EVIL)
    page = report(
        [Said(EVIL, EVIL, result, DoseContext(unknown, decided)), Said("b", "b", dosed, CONTEXT)],
        entries,
        EVIL,
    )
    assert "<script" not in page
    assert page.count(html.escape(EVIL, quote=True)) > 19
    Words(page)


def test_entries_without_names_are_numbered() -> None:
    assert "entry 1 2.5 entry 2 71.25" in re.sub(
        r"\s+", " ", " ".join(Words(report([Said("a", "b", FOUND, CONTEXT)])).pieces)
    )


def test_a_page_is_on_one_state() -> None:
    with pytest.raises(UserError, match="on one state"):
        words(FOUND, replace(FOUND, state=(1.0, 2.0, 3.0)))
    with pytest.raises(UserError, match="at least one"):
        report([])


def test_of_many_seeds_the_lowest_and_the_highest_dose_are_told() -> None:
    doses = (4.1, 4.75, 3.5, 4.0)
    seeds = tuple(SeedSet(k, (dose,), (3.125,), (5.875,)) for k, dose in enumerate(doses))
    assert "Doses of 4 training seeds: 3.5 to 4.75" in words(replace(FOUND, seeds=seeds))


@pytest.mark.long
@pytest.mark.browser
def test_four_agents_fit_one_sheet_of_paper(chromium: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    entries = tuple(StateEntry(f"observation {k}", "mg/dL") for k in range(8))
    state = tuple(float(k) for k in range(8))
    visits = tuple(NearVisit(k, k, 0.5, state, (4.0,), 1.0) for k in range(5))
    full = replace(DEFERRED, state=state, nearest=visits)
    kinds = [full, replace(full, status="limited", codes=("hard_limit",)), full]
    page_ = report(
        [Said(f"Agent {k}", "a distribution of doses", one, CONTEXT) for k, one in enumerate([*kinds, full])],
        entries,
    )
    file = tmp_path / "page.html"
    file.write_text(page_, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 375, "height": 800})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda r: problems.append(r.url) if not r.url.startswith("file:") else None)
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        pdf = page.pdf(prefer_css_page_size=True)
        browser.close()
    assert problems == []
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf)) == 1
