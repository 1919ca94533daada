"""Make the README's picture of the dashboard: ``python -m tests.app.picture STUDY [FILE]``.

STUDY is what ``python -m dosing demo --no-serve --out STUDY`` leaves. Needs Chromium on the PATH.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.app.served import FLAGS, ROOT, full_height, server, settle
from tests.conftest import find_chromium

LINK = "/?patient=7&visit=9"


def take(study: Path, file: Path) -> None:
    """Photograph the patient page down to the dose axis, 1280 pixels wide, light theme."""
    with server(study) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
        page.goto(address + LINK)
        settle(page, charts=3)
        full_height(page)
        end = page.get_by_role("heading", name="Episode of patient").bounding_box()
        assert end is not None
        page.screenshot(path=str(file), clip={"x": 0, "y": 0, "width": 1280, "height": end["y"] - 20})
        browser.close()


if __name__ == "__main__":
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "images" / "dashboard.png"
    take(Path(sys.argv[1]), target)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")
