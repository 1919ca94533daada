"""A real Chromium: it loads, follows links, changes the patient; nothing overflows, fails or goes outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dosing import NOT_FOR_PATIENTS
from tests.app.served import FLAGS, full_height, server, settle

pytestmark = pytest.mark.browser
WIDTHS, THEMES = (1280, 375), ("light", "dark")


@pytest.fixture(scope="module")
def address(full_study: Path) -> Iterator[str]:
    with server(full_study) as found:
        yield found


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield launched
        launched.close()


class Watched:
    """A page that remembers every error it reported and every request that left the machine."""

    def __init__(self, browser: Any, address: str, width: int, theme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        here = (address, address.replace("http", "ws"), "data:", "blob:")
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", lambda r: None if r.url.startswith(here) else self.elsewhere.append(r.url))
        self.page.on("websocket", lambda w: None if w.url.startswith(here) else self.elsewhere.append(w.url))


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


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_story(browser: Any, address: str, tmp_path: Path, width: int, theme: str) -> None:
    watched = Watched(browser, address, width, theme)
    page = watched.page
    page.goto(f"{address}/?patient=1&visit=5")
    settle(page, charts=3)
    assert NOT_FOR_PATIENTS in page.inner_text("body")
    first = visible_doses(page)
    assert len(first) == 2
    full_height(page)
    page.screenshot(path=str(tmp_path / f"patient-{width}-{theme}.png"))
    assert texts_outside(page) == []
    assert overlapping_labels(page) == []
    background = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('.js-plotly-plot .xtitle')).fill")
    assert (background, ink) == {
        "light": ("rgb(255, 255, 255)", "rgb(31, 35, 40)"),
        "dark": ("rgb(20, 23, 26)", "rgb(232, 234, 237)"),
    }[theme]
    page.set_viewport_size({"width": width, "height": 900})

    slider = page.get_by_role("slider")  # with the keyboard alone
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_url("**visit=6**", timeout=20_000)
    settle(page, charts=3)
    moved = visible_doses(page)
    assert moved != first
    page.get_by_role("combobox").click()
    page.get_by_role("option", name="2", exact=True).click()
    page.wait_for_url("**patient=2**", timeout=20_000)
    settle(page, charts=3)
    assert visible_doses(page) != moved

    other = Watched(browser, address, width, theme)  # a second person opens the same link
    other.page.goto(page.url)
    settle(other.page, charts=3)
    assert visible_doses(other.page) == visible_doses(page)

    if width < 600:
        page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_role("link", name="Comparison").click()
    page.get_by_role("heading", name="Study table").wait_for(timeout=30_000)
    settle(page)
    full_height(page)
    page.screenshot(path=str(tmp_path / f"comparison-{width}-{theme}.png"))
    assert texts_outside(page) == []
    assert overlapping_labels(page) == []
    for one in (watched, other):
        assert one.errors == []
        assert one.elsewhere == []
        one.page.close()


def test_a_refusal_is_as_large_as_a_dose(browser: Any, address: str, tmp_path: Path) -> None:
    watched = Watched(browser, address, 375, "light")
    page = watched.page
    page.goto(f"{address}/?state_from=typed+numbers&numbers=1+2+3+nan+5+6+7+8")
    page.get_by_text("REFUSED: no dose.").first.wait_for(timeout=60_000)
    assert page.get_by_text("REFUSED: no dose.").count() == 2
    assert "must be a finite number" in page.inner_text("body")
    assert visible_doses(page) == []
    page.screenshot(path=str(tmp_path / "refused.png"))
    assert watched.errors == []
    assert watched.elsewhere == []
    page.close()
