"""The pictures of the docs: ``python docs/screenshots.py [NAME ...]`` writes ``docs/images/NAME.png``.

Needs the extra ``dev`` and Chromium on the PATH. Each picture shows a study that one command makes, always
the same; it is made under ``--studies`` where it is not there yet (minutes each).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from playwright.sync_api import Browser, Page, sync_playwright

from tests.app.served import FLAGS, ROOT, full_height, rested, server
from tests.conftest import find_chromium

LAPTOP, TELEPHONE = (1440, 900), (390, 844)
"""Sizes in pixels, of the window and of the picture."""
CLINIC = "--agents fttpo iql --seeds 2 --steps 600 --evaluation-patients 200"
STUDIES = {
    "demo": "demo --no-serve",
    "warfarin": f"compare {CLINIC} --data dosing/Warfarin-v0 --policy nomogram",
    "insulin": f"compare {CLINIC} --data dosing/Insulin-v0 --policy protocol",
}
"""Commands of ``python -m dosing``, without ``--out``."""
MARGIN = 20


@dataclass(frozen=True)
class Picture:
    """One picture: a page of a study, from its top or from a heading on.

    Attributes:
        study: one of :data:`STUDIES`.
        link: of the page.
        size: of the window; the picture is as wide, and as high but for ``end``.
        theme: of the page.
        start: text above which the picture begins; empty for the top of the page.
        end: text above which it ends; empty for the height of the window.
        opens: label of a fold that is opened first.
    """

    study: str
    link: str
    size: tuple[int, int] = LAPTOP
    theme: Literal["light", "dark"] = "light"
    start: str = ""
    end: str = ""
    opens: str = ""


PICTURES = {
    "dashboard": Picture("demo", "/?patient=7&visit=9"),
    "patient": Picture("demo", "/?patient=7&visit=9", TELEPHONE, start="Patient 7, visit 9"),
    "what-if": Picture("demo", "/what_if?patient=7&visit=9", theme="dark"),
    "sparse-against-gaussian": Picture("demo", "/sparse_gaussian?patient=7&visit=9"),
    "dose-and-response": Picture("demo", "/dose_response?patient=7&visit=9"),
    "comparison": Picture("demo", "/comparison"),
    "warfarin": Picture("warfarin", "/?patient=44&visit=30", end="Your decision"),
    "insulin": Picture(
        "insulin",
        "/?patient=21&visit=30",
        start="Episode of patient",
        end="What the adverse events mean",
        opens="Episode of patient",
    ),
}


def study(name: str, folder: Path) -> Path:
    """The study's folder, made where it is not there."""
    made = folder / name
    if not (made / "table.json").is_file():
        words = [sys.executable, "-m", "dosing", *STUDIES[name].split(), "--out", str(made)]
        subprocess.run(words, cwd=ROOT, check=True)
    return made


def take(browser: Browser, address: str, picture: Picture, file: Path) -> None:
    """Photograph a part of a page."""
    width, height = picture.size
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=picture.theme)
    page.set_default_timeout(300_000)
    page.goto(address + picture.link)
    rested(page)
    if picture.opens:
        page.get_by_text(picture.opens).click()
        rested(page)
    if picture.start or picture.end:
        full_height(page)
        top = _top(page, picture.start) if picture.start else 0.0
        bottom = _top(page, picture.end) if picture.end else top + height
        page.screenshot(path=str(file), clip={"x": 0, "y": top, "width": width, "height": bottom - top})
    else:
        page.screenshot(path=str(file))
    page.close()


def _top(page: Page, text: str) -> float:
    """A little above a text of the page.

    Raises:
        ValueError: the page does not have it.
    """
    box = page.get_by_text(text).first.bounding_box()
    if box is None:
        raise ValueError(f"the page has no {text!r}")
    return box["y"] - MARGIN


def main() -> None:
    """Take the pictures that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--studies", type=Path, default=ROOT / "runs" / "pictures", help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="[%(default)s]")
    arguments = parser.parse_args()
    names = arguments.names or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"there is no picture {', '.join(unknown)}: choose from {', '.join(PICTURES)}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        for kind in STUDIES:
            wanted = [name for name in names if PICTURES[name].study == kind]
            if not wanted:
                continue
            with server(study(kind, arguments.studies)) as address:
                for name in wanted:
                    picture, file = PICTURES[name], arguments.out / f"{name}.png"
                    take(browser, address, picture, file)
                    print(
                        f"{file}: {picture.size[0]} pixels wide, {file.stat().st_size / 1000:.0f} kB",
                        flush=True,
                    )
        browser.close()


if __name__ == "__main__":
    main()
