"""A page of a real browser that remembers what went wrong on it."""

from __future__ import annotations

from typing import Any


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

    def close(self) -> None:
        """Close the page, which must have reported no error and asked no other host."""
        assert self.errors == []
        assert self.elsewhere == []
        self.page.close()
