"""The documentation as a site: it builds without a warning, and nothing in it comes from another host."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.served import FLAGS

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(\w+:)?//|<link\b[^>]*\bhref=\"?(\w+:)?//"
)

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site without what is made from docstrings: `make docs` builds all of it, in minutes."""
    pytest.importorskip("mkdocs", reason="needs the Python package mkdocs-material (extra: docs)")
    folder = tmp_path_factory.mktemp("documentation")
    settings = f"""
INHERIT: {ROOT / "mkdocs.yml"}
docs_dir: {ROOT / "docs"}
site_dir: {folder / "site"}
hooks: [{ROOT / "docs" / "hooks.py"}]
plugins: [search]
"""
    (folder / "mkdocs.yml").write_text(settings, encoding="utf-8")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return folder / "site"


def test_no_page_fetches_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [page.name for page in pages if FETCHED.search(page.read_text(encoding="utf-8"))] == []
    assert FETCHED.search('<link rel="stylesheet" href="https://fonts.example.org/css">')


def test_linked_files_of_the_repository_are_pages(site: Path) -> None:
    assert "class FtTPO" in re.sub(r"<[^>]+>", "", (site / "repository/agents/fttpo.py.html").read_text())
    assert (site / "repository/benchmarks/results/modes.html").is_file()
    assert (site / "repository/benchmarks/results/modes.svg").is_file()


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.mark.browser
def test_a_reader_without_internet_reads_and_searches(address: str, chromium: str) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "agents.html", "safety.html"):
            page.goto(address + name)
            page.wait_for_selector("h1")
        page.get_by_role("textbox").first.fill("quasi-optimal")
        page.locator(".md-search-result__item").first.wait_for(timeout=30_000)
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
