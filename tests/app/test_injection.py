"""No link, file or person can put anything but text on a page: a Chromium looks, and counts requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from dosing.recommendation.audit_log import FILE, AuditLog, shown
from dosing.recommendation.decisions import record_decision
from dosing.runs.folder import find_runs
from dosing.studies.data import episodes_of
from dosing.studies.loading import recommend
from tests.app.injected import HOST, MARK, PAYLOAD, make_study, pages, parameters
from tests.app.served import FLAGS, server

pytestmark = pytest.mark.browser

LOOK = """([host, mark]) => {
    const main = document.querySelector('[data-testid=stMain]');
    const about = e => e.outerHTML.includes(host) || e.outerHTML.includes(mark);
    const markup = 'img, a, b, .stMarkdownBadge, .stMarkdownColoredText, .katex, span[role=img]';
    const made = [...main.querySelectorAll(markup)].filter(e =>
        e.closest('.js-plotly-plot') ? e.matches('a, img') : about(e) || e.matches('span[role=img]'));
    const inner = [...main.querySelectorAll('strong, code')].filter(e => e.textContent === mark);
    const figures = [...main.querySelectorAll('.js-plotly-plot')].map(e =>
        JSON.stringify([e.data.map(d => [d.hovertemplate, d.customdata, d.name]), e.layout.annotations,
            ...Object.keys(e.layout).filter(k => /axis/.test(k)).map(k => e.layout[k].title)]));
    const tags = figures.filter(text => /<(a|img|i|sub|sup)[ >]/.test(text) || text.includes('$ %{x}'));
    return {made: [...made, ...inner].map(e => e.outerHTML.slice(0, 300)), tags: tags.length,
        seen: main.innerText.split(mark).length - 1 + figures.join('').split(mark).length - 1};
}"""


QUIET = """() => {
    const busy = ['stStatusWidget', 'stSkeleton', 'stSpinner'].map(n => `[data-testid=${n}]`).join(', ');
    const text = document.querySelector('[data-testid=stMain]').innerText;
    const same = !document.querySelector(busy + ', [data-stale=true]') && window.told === text;
    window.quiet = same ? (window.quiet || 0) + 1 : 0;
    window.told = text;
    return window.quiet >= 6;
}"""
"""No script runs, and nothing on the page has changed for a second or so."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("injected") / "study")


@pytest.fixture(scope="module")
def address(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard on that study, with a decision whose reason is markup too."""
    log = AuditLog(tmp_path_factory.mktemp("log") / FILE)
    for run in find_runs(study):
        state = episodes_of(run).obs[0].tolist()
        for visit in (("0", 1), (PAYLOAD, 1)):
            number = log.append(*shown(recommend(run, state).to_json(), visit=visit)).number
            record_decision(log, number, "modify", [0.25], PAYLOAD[:300])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOSING_AUDIT", str(log.path))
        with server(study) as result:
            yield result


@pytest.fixture(scope="module")
def page(chromium: str, address: str) -> Iterator[Any]:
    """One window that keeps every request which left this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.elsewhere = []
        here = (address, address.replace("http", "ws"), "data:", "blob:")
        opened.on("request", lambda r: None if r.url.startswith(here) else opened.elsewhere.append(r.url))
        yield opened
        browser.close()


def settled(page: Any) -> dict[str, Any]:
    """What is on the page once its script has run and nothing more appears."""
    page.wait_for_selector("h1", timeout=60_000)
    page.evaluate("window.quiet = 0")
    page.wait_for_function(QUIET, timeout=90_000, polling=200)
    assert page.get_by_text("Traceback").count() == 0
    assert page.get_by_test_id("stException").count() == 0, page.get_by_test_id("stException").inner_text()
    result: dict[str, Any] = page.evaluate(LOOK, [HOST, MARK])
    return result


def checked(page: Any) -> int:
    """Nothing was made of a payload; returns how often its text is on the page."""
    result = settled(page)
    assert result["made"] == []
    assert result["tags"] == 0
    assert page.elsewhere == []
    return int(result["seen"])


def test_every_parameter_is_known() -> None:
    known = set(parameters())
    assert {
        "numbers",
        "agent",
        "rule1",
        "rule4",
        "visit",
        "patient",
        "data",
        "dose2",
        "kinds",
        "estimator",
    } <= known
    assert len(known) > 35


@pytest.mark.long
@pytest.mark.parametrize("place", pages(), ids=lambda place: place or "patient")
def test_a_link_and_a_name_in_the_data_show_as_text_alone(page: Any, address: str, place: str) -> None:
    """Every parameter at once, asking for a recorded visit and for typed numbers; so are all names."""
    every = dict.fromkeys(parameters(), PAYLOAD)
    seen = 0
    for more in ({}, {"state_from": "typed numbers", "choices": "4", "visits": "simulated now"}):
        page.goto(f"{address}/{place}?{urlencode(every | more)}")
        seen += checked(page)
    if place not in ("live_treatment", "runs", "glossary"):  # which have nothing to show here
        assert seen > 0


@pytest.mark.long
def test_a_decision_shows_its_reason_and_its_patient_as_text(page: Any, study: Path, address: str) -> None:
    state = " ".join(map(repr, episodes_of(find_runs(study)[0]).obs[0].tolist()))
    page.goto(f"{address}/?{urlencode({'state_from': 'typed numbers', 'numbers': state})}")
    assert checked(page) > 5
    assert f"http://{HOST}/t" in page.inner_text("body").replace("\N{WORD JOINER}", "")


@pytest.mark.long
def test_a_file_of_somebody_shows_as_text_alone(page: Any, address: str) -> None:
    page.goto(f"{address}/upload")
    settled(page)
    seen = 0
    for name, content in (
        ("x.csv", f'"{PAYLOAD}","b"\n1,2\n'),
        ("y.csv", ",".join(f'"{PAYLOAD} {k}"' for k in range(8)) + f'\n1,2,3,4,5,6,7,"{PAYLOAD}"\n'),
        (f"{MARK}:green-badge[x].csv", f'"{PAYLOAD}\n'),
    ):
        file = page.locator("input[type=file]")
        file.wait_for(state="attached", timeout=30_000)
        file.set_input_files({"name": name, "mimeType": "text/csv", "buffer": content.encode()})
        page.get_by_text(name.split(":")[0]).first.wait_for(timeout=30_000)
        page.get_by_text(re.compile("NOTHING LOADED|Which column is what")).first.wait_for(timeout=30_000)
        seen += checked(page)
    assert seen > 0


def test_nothing_was_asked_of_another_host(page: Any) -> None:
    """The last word, after all pages of this module: not one request left the machine."""
    assert json.dumps(page.elsewhere) == "[]"
