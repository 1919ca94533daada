"""A figure on a page: a component that draws it once and changes it in place.

Streamlit's own element for Plotly makes a chart anew, and draws it twice, whenever anything in it changes;
its copy of the library has every kind of chart there is, all of which a browser compiles first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from plotly.io.json import to_json_plotly

ASSETS = Path(__file__).parents[1] / "assets"
_mount = st.components.v2.component(
    "chart",
    html='<div class="chart" role="figure"></div>',
    js=(ASSETS / "chart.js").read_text(encoding="utf-8"),
    isolate_styles=False,
)


def chart(figure: Mapping[str, Any], key: str, alt: str, config: Mapping[str, Any]) -> None:
    """Draw a figure at the width of its place.

    Args:
        figure: what is drawn, as JSON has it; its layout has a height.
        key: of the chart.
        alt: the picture in words.
        config: Plotly's settings.
    """
    told, height = to_json_plotly(figure), figure["layout"]["height"]
    _mount(key=key, data={"figure": told, "alt": alt, "config": dict(config), "height": height})
