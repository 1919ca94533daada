"""What the visitor selected: it lives in the address of the page and goes along to every other page.

The address is the truth. A widget shows what the address asks for, and what is chosen is written there: two
people who open one link see the same. Streamlit's own binding (``bind="query-params"``) forgets on the way to
another page what came with a link; it serves the settings of one page alone.
"""

from __future__ import annotations

from typing import Any

import streamlit as st

GROUPS = (("state_from", "patient", "visit", "numbers"), ("data",), ("agents",))
"""What goes along. A link that names one of a group replaces the whole group."""

_KEPT, _PAGE, _CHOSEN = "selection", "selection_page", "selection_chosen"


def carry(page: str) -> None:
    """Add what was selected to the address of another page, where its link names nothing else.

    To be called before a page is drawn. On the same page the address stays as it is: the browser's way back
    leads to what was shown.

    Args:
        page: about to be drawn.
    """
    kept = st.session_state.get(_KEPT, {})
    if st.session_state.get(_PAGE, page) != page:
        for group in GROUPS:
            if not any(name in st.query_params for name in group):
                st.query_params.update({name: kept[name] for name in group if name in kept})
    st.session_state[_PAGE] = page
    _keep()


def linked(name: str, wanted: Any) -> dict[str, Any]:
    """Arguments of a widget that shows what the address asks for and writes there what is chosen.

    Args:
        name: in the address, and key of the widget.
        wanted: what to show: what the address asks for, or what stands for it.
    """
    if st.session_state.pop(_CHOSEN, None) != name:  # else the widget holds it, or something newer
        st.session_state[name] = wanted
    return {"key": name, "on_change": _choose, "args": (name,)}


def choose(name: str, value: Any) -> None:
    """Write into the address what something else than the widget of this name chose; a callback."""
    st.query_params[name] = str(value)
    _keep()


def _choose(name: str) -> None:
    chosen = st.session_state[name]
    st.query_params[name] = chosen if isinstance(chosen, list) else str(chosen)
    st.session_state[_CHOSEN] = name
    _keep()


def _keep() -> None:
    asked = st.query_params
    st.session_state[_KEPT] = {
        name: asked.get_all(name) for group in GROUPS for name in group if name in asked
    }
