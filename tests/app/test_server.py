"""The dashboard's server: what it adds to Streamlit's page, and that it touches nothing else."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import streamlit
from plotly.offline import get_plotlyjs_version

from app.server import AHEAD, LIBRARY, ROOT, KnownRoot
from app.widgets.chart import ASSETS
from tests.app.served import ROOT as ROOT_FOLDER

PAGE = b"<!DOCTYPE html><html><head><title>x</title></head></html>"


def answered(accept: bytes, body: bytes = PAGE) -> tuple[dict[bytes, bytes], bytes, dict[bytes, bytes]]:
    """Headers and body that a browser gets, and the headers that the application was asked with."""
    sent: list[dict[str, Any]] = []
    asked: dict[bytes, bytes] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        asked.update(scope["headers"])
        headers = [(b"content-length", str(len(body)).encode()), (b"etag", b'"1"')]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"accept", accept), (b"accept-encoding", b"gzip")]
    scope = {"type": "http", "method": "GET", "path": "/what_if", "headers": headers}
    asyncio.run(KnownRoot(application)(scope, None, send))  # type: ignore[arg-type]
    return dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:]), asked


def test_a_page_is_told_where_its_root_is_before_anything_else_runs() -> None:
    headers, body, asked = answered(b"text/html,*/*")
    assert body.index(ROOT) == body.index(b"<head>") + len(b"<head>")
    assert body.replace(ROOT, b"").replace(AHEAD, b"") == PAGE
    assert body.index(AHEAD) > body.index(b"<title>")
    assert int(headers[b"content-length"]) == len(body)
    assert b"etag" not in headers  # else a browser keeps the page without it
    assert b"accept-encoding" not in asked  # what is packed cannot be added to


def test_what_is_no_page_goes_through_untouched() -> None:
    headers, body, asked = answered(b"application/json")
    assert (body, int(headers[b"content-length"]), headers[b"etag"]) == (PAGE, len(PAGE), b'"1"')
    assert asked[b"accept-encoding"] == b"gzip"
    headers, body, _ = answered(b"text/html", b"no head here")
    assert (body, headers[b"etag"]) == (b"no head here", b'"1"')


@pytest.mark.parametrize("link", ["/", "/what_if", "/?patient=1"])
def test_the_root_is_that_of_every_page(link: str) -> None:
    """Pages are one level below the root: the folder of the address is it, behind a proxy too."""
    assert b"new URL('.', location.href)" in ROOT

    for prefix in ("http://localhost:8501", "http://host/proxy/8501"):
        assert urljoin(prefix + link, ".") == f"{prefix}/"


def test_streamlits_page_still_reads_it() -> None:
    """Its script asks ``window.__streamlit`` for the address, and its page has a head to put it into."""
    static = Path(streamlit.__file__).parent / "static"
    assert "<head>" in (static / "index.html").read_text(encoding="utf-8")
    scripts = [file.read_text(encoding="utf-8") for file in static.glob("static/js/index.*.js")]
    assert any(re.search(r"window\.__streamlit\b", text) and "BACKEND_BASE_URL" in text for text in scripts)


def test_the_library_that_draws_is_the_one_whose_figures_it_draws() -> None:
    """Python's package and the build in a browser are of one version of Plotly."""
    head = (ASSETS / Path(LIBRARY).name).read_text(encoding="utf-8")[:100]
    assert f"plotly.js (basic - minified) v{get_plotlyjs_version()}\n" in head
    assert LIBRARY in (ASSETS / "chart.js").read_text(encoding="utf-8")


def test_the_library_draws_every_kind_of_trace_that_a_figure_has() -> None:
    """The basic build has lines, points, bars and pies."""
    used = {
        word
        for file in (ROOT_FOLDER / "app").rglob("*.py")
        for word in re.findall(r"\bgo\.(\w+)\(", file.read_text(encoding="utf-8"))
    }
    assert "Scatter" in used
    assert used <= {"Figure", "Scatter", "Bar", "Pie"}
