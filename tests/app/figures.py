"""The figures of a page under test."""

from __future__ import annotations

import json
from typing import Any

from streamlit.testing.v1 import AppTest


def specs(at: AppTest) -> list[str]:
    """Every figure of a page in the order of the page, as the JSON that Plotly draws."""
    return [json.loads(one.proto.json)["figure"] for one in at.get("bidi_component")]


def charts(at: AppTest) -> list[dict[str, Any]]:
    """As :func:`specs`, read."""
    return [json.loads(spec) for spec in specs(at)]
