"""Every page of the app's own navigation, wide and narrow, light and dark, as a person's browser draws it.

Texts are neither cut nor covered, nothing scrolls sideways, contrast and names are those of WCAG 2 AA (judged
by axe-core; texts of charts, which it leaves out, by the same formula), Tab follows the reading order, the
console holds no error, and nothing asks another host.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.app.served import full_height, rested
from tests.app.watched import Watched

SCRIPT = Path(__file__).with_name("render.js")

pytestmark = [pytest.mark.browser, pytest.mark.long, pytest.mark.timeout(900)]

SIZES = ((1440, 900), (390, 844))
"""Width and height in pixels: a laptop, and a telephone held upright."""
MAIN = "[data-testid=stMain]"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")
NATIVE = "scrollable-region-focusable"
"""The one rule left out: Chromium and Firefox themselves make what scrolls a stop of Tab."""


@pytest.fixture(scope="module")
def pages(browser: Any, address: str) -> list[str]:
    """Addresses of all pages, read off the app's own navigation."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(address)
    page.get_by_test_id("stExpandSidebarButton").click(timeout=120_000)
    links = page.locator('[data-testid="stSidebarNavLink"]')
    links.first.wait_for(timeout=60_000)
    with contextlib.suppress(Exception):  # a long list folds
        page.get_by_test_id("stSidebarNavViewButton").click(timeout=1_000)
    found = [link.evaluate("e => e.href") for link in links.all()]
    page.close()
    assert len(found) >= 15
    return found


def asked(page: Any, what: str) -> Any:
    """What a function of ``render.js`` says of the page."""
    return page.evaluate(f"({SCRIPT.read_text(encoding='utf-8')}).{what}()")


def accessibility(page: Any) -> list[str]:
    """What axe-core finds on the page itself, not in Streamlit's frame around it; one line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    options = {
        "runOnly": {"type": "tag", "values": list(RULES)},
        "rules": {NATIVE: {"enabled": False}},
        "resultTypes": ["violations"],
    }
    found = []
    for rule in axe.Axe().run(page, MAIN, options).response["violations"]:
        for node in rule["nodes"]:
            why = " ".join((node["any"] or node["all"] or node["none"])[0]["message"].split())
            found.append(f"{rule['id']}: {node['html'][:120]} {why[:110]} ({node['target'][-1][-80:]})")
    return found


def keyboard(page: Any) -> list[str]:
    """Controls of the page that Tab does not reach, and steps of Tab against the reading order."""
    wanted: list[str] = asked(page, "controls")
    faults, reached, places = [], set(), set()
    before: dict[str, Any] | None = None
    page.locator("h1").first.click()
    for _ in range(len(wanted) + 80):
        page.keyboard.press("Tab")
        now = asked(page, "focused")
        if now is None or now["place"] in places:
            break
        places.add(now["place"])
        if not now["main"]:
            continue
        reached.add(now["control"])
        beside = before is not None and (now["left"] >= before["right"] or now["right"] <= before["left"])
        if before is not None and not beside and now["bottom"] < before["top"] - 4:
            faults.append(f"Tab goes up from {before['what']} to {now['what']}")
        before = now
    missed = [name for number, name in enumerate(wanted) if number not in reached]
    return faults + [f"Tab does not reach {name}" for name in missed]


def faults_of(page: Any, folder: Path, name: str, theme: str) -> list[str]:
    """Everything that is wrong with a page at both sizes."""
    result = []
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        rested(page)
        full_height(page)
        page.screenshot(path=str(folder / f"{name}-{theme}-{width}.png"))
        found = asked(page, "layout") + asked(page, "contrast") + accessibility(page)
        if width == SIZES[0][0] and theme == "light":  # neither depends on colours or on the width
            found += asked(page, "unnamed") + keyboard(page)
        result += [f"{name}, {theme}, at {width}: {fault}" for fault in found]
    return result


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_readable(
    browser: Any, address: str, pages: list[str], tmp_path: Path, theme: str
) -> None:
    faults = []
    for link in pages:
        name = link.rsplit("/", 1)[1].split("?")[0] or "first"
        watched = Watched(browser, address, SIZES[0][0], theme)
        watched.page.goto(link)
        rested(watched.page)
        faults += faults_of(watched.page, tmp_path, name, theme)
        faults += [f"{name}, {theme}: console: {error}" for error in watched.errors]
        faults += [f"{name}, {theme}: asks {other}" for other in watched.elsewhere]
        watched.page.close()
    assert not faults, "\n".join(faults)


FAULTY = """<div class="stApp" style="background: white"><div data-testid="stMain" style="height: 400px">
<h1>Heading</h1>
<div style="width: 60px; overflow: hidden; white-space: nowrap">a text that is cut across</div>
<div style="height: 12px; width: 60px; overflow: hidden">a text that is cut below its edge</div>
<p style="margin: 0">first text</p><p style="margin: -18px 0 0 20px">second text</p>
<div style="width: 2000px">wide</div>
<div class="js-plotly-plot" style="width: 100px; height: 60px; overflow: hidden">
<svg width="100" height="60"><text x="5" y="20" style="fill: rgb(150, 150, 150)">faint</text>
<text x="5" y="40" style="fill: black">black</text>
<text x="80" y="55" style="fill: black">beyond</text></svg></div>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" width="20">
<p style="color: #999999">faint words</p>
<div style="position: relative; height: 60px"><button style="position: absolute; top: 40px">lower</button>
<button style="position: absolute; top: 0">upper</button></div>
<button onkeydown="event.preventDefault()">trap</button><button>behind the trap</button>
</div></div>"""
"""A page with one fault of every kind."""


def test_every_kind_of_fault_is_seen(browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_content(FAULTY)
    layout, contrast = asked(page, "layout"), asked(page, "contrast")
    for kind in ("scrolls sideways: ", "cut across: ", "cut below: ", "covered: "):
        assert [fault for fault in layout if fault.startswith(kind)], kind
    assert [fault for fault in layout if fault.startswith("cut by its chart: ")] == [
        'cut by its chart: "beyond"'
    ]
    assert ['"faint"' in fault for fault in contrast] == [True]
    assert len(asked(page, "unnamed")) == 2
    assert any("faint words" in fault for fault in accessibility(page))
    found = keyboard(page)
    assert "Tab goes up from BUTTON lower to BUTTON upper" in found
    assert "Tab does not reach BUTTON behind the trap" in found
    page.close()
