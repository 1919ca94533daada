"""The server of the dashboard: Streamlit's own, with the root of every page and the library that draws.

``python -m dosing app`` starts it. Without it a link straight to a page asks for ``/PAGE/_stcore/health``
first, which is not there: two errors in the browser's console and a lost moment before anything is drawn. And
a browser would ask for the library that draws when the first chart comes.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIBRARY = "assets/plotly-basic.min.js"
HERE = Path(__file__).parent
ROOT = b"<script>window.__streamlit = {BACKEND_BASE_URL: new URL('.', location.href).href}</script>"
"""What Streamlit's page reads as its server's address. Pages are one level below it, behind a proxy too."""
AHEAD = b'<link rel="preload" as="script" href="./%s">' % LIBRARY.encode()
"""The library that draws, fetched while the page connects and its script runs."""


class KnownRoot:
    """Puts :data:`ROOT` first and :data:`AHEAD` last into the head of Streamlit's page."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application that serves the page."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything but a page goes through untouched."""
        if scope["type"] != "http" or b"text/html" not in dict(scope["headers"]).get(b"accept", b""):
            await self._app(scope, receive, send)
            return
        started: Message = {}

        async def pass_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message  # its length is known with the first part of its body
                return
            if started:
                before = message.get("body", b"")
                body = before.replace(b"<head>", b"<head>" + ROOT, 1).replace(
                    b"</head>", AHEAD + b"</head>", 1
                )
                headers = MutableHeaders(scope=started)
                if body != before and "content-length" in headers:
                    headers["content-length"] = str(int(headers["content-length"]) + len(body) - len(before))
                    del headers["etag"]  # that of the file as it was
                await send(started)
                message, started = {**message, "body": body}, {}
            await send(message)

        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self._app({**scope, "headers": plain}, receive, pass_on)


app = st.App(
    HERE / "main.py",
    middleware=[Middleware(KnownRoot)],
    routes=[Mount("/assets", StaticFiles(directory=HERE / "assets"))],
)
