"""A real Chromium: it loads, follows links, changes the patient; nothing overflows, fails or goes outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dosing import NOT_FOR_PATIENTS
from tests.app.served import full_height, settle
from tests.app.watched import Watched

pytestmark = pytest.mark.browser

PAGES = (
    ("Overview", 1),
    ("What if", 2),
    ("Dose and response", 1),
    ("Sparse against Gaussian", 1),
    ("Cohort", 2),
    ("Off-policy evaluation", 2),
    ("Training", 4),
    ("Live treatment", 0),
    ("Runs", 0),
    ("Data", 3),
)
"""Pages beside Patient and Comparison, with the charts on them."""


def visible_doses(page: Any) -> list[str]:
    return page.locator('[data-testid="stMetricValue"]').all_inner_texts()


def texts_outside(page: Any) -> list[str]:
    """Texts of charts that are cut off by the chart's own edge, and elements wider than the window."""
    return page.evaluate("""() => {
        const cut = [];
        for (const chart of document.querySelectorAll('.js-plotly-plot')) {
            const box = chart.getBoundingClientRect();
            for (const text of chart.querySelectorAll('svg text')) {
                const r = text.getBoundingClientRect();
                if (r.width && (r.left < box.left - 1 || r.right > box.right + 1
                    || r.top < box.top - 1 || r.bottom > box.bottom + 1)) cut.push(text.textContent);
            }
        }
        if (document.documentElement.scrollWidth > window.innerWidth) cut.push('page wider than window');
        return cut;
    }""")


@pytest.mark.long
def test_the_first_screen_needs_no_scrolling(browser: Any, address: str) -> None:
    """Of two policies and three switches; the demonstration has a policy more, a row of switches less."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{address}/?patient=1&visit=2")
    settle(page, 2)
    for place in (page.get_by_test_id("stMetricValue").last, page.locator(".st-key-so_far0")):
        box = place.bounding_box()
        assert box["y"] + box["height"] <= 900
    page.close()


def overlapping_labels(page: Any) -> list[str]:
    """Pairs of labels in one chart that cover each other."""
    return page.evaluate("""() => {
        const pairs = [];
        for (const chart of document.querySelectorAll('.js-plotly-plot')) {
            const labels = [...chart.querySelectorAll('.annotation-text, .gtitle, .xtitle, .ytitle')]
                .map(t => [t.textContent, t.getBoundingClientRect()]).filter(([, r]) => r.width);
            labels.forEach(([a, p], i) => labels.slice(i + 1).forEach(([b, q]) => {
                const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
                const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
                if (across > 2 && down > 3) pairs.push(a + ' / ' + b);
            }));
        }
        return pairs;
    }""")


def go(page: Any, name: str) -> None:
    """Follow the link to a page; the navigation on top keeps most in groups that the keyboard opens."""
    link = page.get_by_role("link", name=name, exact=True)
    page.get_by_test_id("stTopNavSection").first.wait_for(timeout=30_000)  # not on a narrow window
    for group in page.get_by_test_id("stTopNavSection").all():
        if link.count():
            break
        group.focus()
        group.press("Enter")
        page.get_by_test_id("stTopNavDropdownLink").first.wait_for(timeout=30_000)
        link = page.get_by_test_id("stTopNavDropdownLink").get_by_text(name, exact=True)
        if not link.count():
            page.keyboard.press("Escape")
            page.get_by_test_id("stTopNavDropdownLink").first.wait_for(state="hidden", timeout=30_000)
    link.click()
    page.get_by_role("heading", level=1, name=re.compile(f"^{name}")).wait_for(timeout=30_000)


def check_layout(page: Any, picture: Path) -> None:
    """At both widths nothing is cut off or covered; leaves a picture of each to look at."""
    for width in (1280, 375):
        page.set_viewport_size({"width": width, "height": 900})
        full_height(page)
        page.screenshot(path=str(picture.with_name(f"{picture.name}-{width}.png")))
        assert texts_outside(page) == []
        assert overlapping_labels(page) == []


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_or_covered(browser: Any, address: str, tmp_path: Path, theme: str) -> None:
    watched = Watched(browser, address, 1280, theme)
    page = watched.page
    page.goto(f"{address}/?patient=1&visit=5&log=true&proposals=true")
    settle(page, charts=2)
    for fold, charts in (("Nearest training visits", 2), ("Episode of patient 1", 4)):
        page.get_by_text(fold).click()
        settle(page, charts)
    assert NOT_FOR_PATIENTS in page.inner_text("body")
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('.js-plotly-plot .xtitle')).fill")
    assert (background, ink) == {
        "light": ("rgb(255, 255, 255)", "rgb(31, 35, 40)"),
        "dark": ("rgb(20, 23, 26)", "rgb(232, 234, 237)"),
    }[theme]
    check_layout(page, tmp_path / "patient")
    page.get_by_test_id("stExpandSidebarButton").click()  # on a narrow window the pages are in the side bar
    page.get_by_role("link", name="Comparison").click()
    page.get_by_role("heading", name="Study table").wait_for(timeout=30_000)
    page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()
    settle(page)
    check_layout(page, tmp_path / "comparison")
    watched.close()


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_the_other_pages_are_whole_too(browser: Any, address: str, tmp_path: Path, theme: str) -> None:
    watched = Watched(browser, address, 1280, theme)
    page = watched.page
    page.goto(address)
    settle(page, charts=2)
    for name, charts in PAGES:
        page.set_viewport_size({"width": 1280, "height": 900})
        go(page, name)
        settle(page, charts)
        assert NOT_FOR_PATIENTS in page.inner_text("body")
        check_layout(page, tmp_path / f"{name.lower().replace(' ', '-')}-{theme}")
    watched.close()


@pytest.mark.long
def test_the_keyboard_moves_a_dose_and_the_link_holds_it(browser: Any, address: str) -> None:
    watched = Watched(browser, address, 1280, "light")
    page = watched.page
    page.goto(address)
    settle(page, charts=2)
    go(page, "What if")
    page.get_by_text("Regimen 1", exact=True).wait_for(timeout=30_000)
    settle(page, charts=2)
    slider = page.get_by_role("slider").nth(1)  # the first one is the visit
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_url("**dose1=**", timeout=20_000)
    dose = float(page.url.split("dose1=")[1].split("&")[0])
    page.get_by_text(f"dose {dose:.3f} at every visit").first.wait_for(timeout=20_000)
    watched.close()


@pytest.mark.long
def test_the_keyboard_moves_the_visit_and_a_link_shows_the_same_to_another(
    browser: Any, address: str
) -> None:
    watched = Watched(browser, address, 1280, "light")
    page = watched.page
    page.goto(f"{address}/?patient=1&visit=5")
    settle(page, charts=2)
    first = visible_doses(page)
    assert len(first) == 2
    slider = page.get_by_role("slider")
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_url("**visit=6**", timeout=20_000)
    settle(page, charts=2)
    moved = visible_doses(page)
    assert moved != first
    page.get_by_role("heading", name="Patient", exact=True).click()  # away from the slider: the keys alone
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**visit=7**", timeout=20_000)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**visit=6**", timeout=20_000)
    page.get_by_role("button", name="Next").click()
    page.wait_for_url("**visit=7**", timeout=20_000)
    page.get_by_role("button", name="Previous").click()
    page.wait_for_url("**visit=6**", timeout=20_000)
    settle(page, charts=2)
    assert visible_doses(page) == moved
    page.get_by_role("combobox", name="Patient", exact=True).click()
    page.get_by_role("option", name=re.compile("^patient 2, 24 visits")).click()
    page.wait_for_url("**patient=2**", timeout=20_000)
    settle(page, charts=2)
    assert visible_doses(page) != moved

    other = Watched(browser, address, 1280, "light")
    other.page.goto(page.url)
    settle(other.page, charts=2)
    assert visible_doses(other.page) == visible_doses(page)
    for there, charts in (("What if", 2), ("About", 0), ("Overview", 1)):  # and outlives other pages
        go(other.page, there)
        settle(other.page, charts)
        assert "patient=2" in other.page.url
        assert "visit=6" in other.page.url
        go(other.page, "Patient")
        settle(other.page, charts=2)
        assert visible_doses(other.page) == visible_doses(page)
    for one in (watched, other):
        one.close()


@pytest.mark.long
def test_the_first_screen_answers_without_scrolling(browser: Any, address: str) -> None:
    """In this order: who, which dose, which doses it could ever give, what happened so far."""
    watched = Watched(browser, address, 1440, "light")
    page = watched.page
    page.goto(f"{address}/?patient=1&visit=5")
    settle(page, charts=2)
    tops = {}
    for name, place in {
        "who": page.get_by_text(re.compile("^Patient 1, visit 5 of 24, last dose")),
        "dose": page.get_by_test_id("stMetricValue").last,
        "could": page.locator(".js-plotly-plot").nth(0).locator(".bglayer").first,
        "far": page.locator(".js-plotly-plot").nth(1).locator(".bglayer").first,
    }.items():
        box = place.bounding_box()
        tops[name] = box["y"]
        assert box["y"] + box["height"] <= 900, name
    assert tops["who"] < tops["could"] < tops["far"]
    page.set_viewport_size({"width": 390, "height": 844})
    full_height(page)
    order = [
        page.get_by_text(re.compile("^Patient 1, visit 5 of 24, last dose")),
        page.get_by_test_id("stMetricValue").first,
        page.locator(".js-plotly-plot").nth(0),
        page.locator(".js-plotly-plot").nth(1),
        page.get_by_role("heading", name="Your decision"),
    ]
    heights = [place.bounding_box()["y"] for place in order]
    assert heights == sorted(heights)
    watched.close()


@pytest.mark.long
def test_a_refusal_is_as_large_as_a_dose(browser: Any, address: str, tmp_path: Path) -> None:
    watched = Watched(browser, address, 375, "light")
    page = watched.page
    page.goto(f"{address}/?state_from=typed+numbers&numbers=1+2+3+nan+5+6+7+8")
    page.get_by_text("REFUSED: no dose.").first.wait_for(timeout=60_000)
    assert page.get_by_text("REFUSED: no dose.").count() == 2
    assert "must be a finite number" in page.inner_text("body")
    assert visible_doses(page) == []
    page.screenshot(path=str(tmp_path / "refused.png"))
    watched.close()


@pytest.mark.long
def test_a_link_straight_to_a_page_opens_the_whole_dashboard(browser: Any, address: str) -> None:
    """Not the page's file alone, without the navigation and the wide layout that ``main.py`` sets."""
    watched = Watched(browser, address, 1280, "light")
    page = watched.page
    page.goto(f"{address}/comparison")
    page.get_by_role("heading", name="Comparison").wait_for(timeout=60_000)
    page.get_by_role("link", name="Patient", exact=True).wait_for(timeout=60_000)  # drawn after the page
    assert page.get_by_role("link", name="main", exact=True).count() == 0
    assert page.get_by_role("heading", name="Comparison").bounding_box()["x"] < 200
    watched.close()  # nor are there errors on the way
