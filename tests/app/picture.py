"""Make pictures of the docs: ``python -m tests.app.picture STUDY [NAME]``, into ``docs/images/NAME.png``.

Needs Chromium on the PATH. STUDY is what one of these leaves:

- ``dashboard`` (of the README): ``python -m dosing demo --no-serve --out STUDY``;
- ``warfarin``: ``python -m dosing compare --agents fttpo iql --data dosing/Warfarin-v0 --policy nomogram
  --seeds 2 --steps 600 --evaluation-patients 200 --out STUDY``;
- ``insulin``: the same of ``dosing/Insulin-v0`` with ``--policy protocol``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.app.served import FLAGS, ROOT, full_height, server, settle
from tests.conftest import find_chromium

WIDTH, MARGIN = 1280, 20


@dataclass(frozen=True)
class Part:
    """A part of the patient page: from one heading, or the top, to what comes after it."""

    link: str
    start: str
    end: str


PARTS = {
    "dashboard": Part("/?patient=7&visit=9", "", "Episode of patient"),
    "warfarin": Part("/?patient=44&visit=30", "What each policy could give", "Your decision"),
    "insulin": Part("/?patient=21&visit=30", "Episode of patient", "What the adverse events mean"),
}


def take(study: Path, part: Part, file: Path) -> None:
    """Photograph a part of the page, 1280 pixels wide, light theme."""
    with server(study) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(address + part.link)
        settle(page, charts=3)
        full_height(page)
        top = top_of(page, part.start) if part.start else 0.0
        height = top_of(page, part.end) - top
        page.screenshot(path=str(file), clip={"x": 0, "y": top, "width": WIDTH, "height": height})
        browser.close()


def top_of(page: Any, text: str) -> float:
    """A little above a text of the page."""
    box = page.get_by_text(text).first.bounding_box()
    assert box is not None, f"the page has no {text!r}"
    return float(box["y"]) - MARGIN


if __name__ == "__main__":
    name = sys.argv[2] if len(sys.argv) > 2 else "dashboard"
    target = ROOT / "docs" / "images" / f"{name}.png"
    take(Path(sys.argv[1]), PARTS[name], target)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
