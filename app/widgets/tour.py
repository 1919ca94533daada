"""What the product is, in one sentence, and a tour of three steps in its place for whoever asks."""

from __future__ import annotations

import streamlit as st

from app.text import sentence
from app.widgets import write

WHAT = (
    "A simulator: which dose each learned policy recommends, whether it is worth following, and which doses "
    "it could ever give."
)
STEPS = (
    "Choose a patient and a visit below; the keys ← and → go to the visit before and after.",
    "Each card is one policy's answer: its dose, and whether following it was better than one "
    "constant dose for everyone. Amber is a caution; grey is no advice.",
    "The picture shows every dose each policy could give, a lane each. Red lies beyond the hard "
    "limits. Below: what happened to this patient so far.",
)
_STEP = "tour_step"


def tour() -> None:
    """The sentence, or the step of the tour that this visitor is at."""
    step = st.session_state.get(_STEP, 0)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if step:
            write.markdown("**{} of {}.** {}", step, len(STEPS), STEPS[step - 1], width="content")
        else:
            write.markdown("{}", WHAT, width="content")
        last = step == len(STEPS)
        if not last:
            st.button(
                sentence("{}", "Next" if step else "Show me how"),
                key="tour_next",
                type="tertiary" if not step else "secondary",
                on_click=_go,
                args=(step + 1,),
            )
        if step:
            st.button("Close", key="tour_close", on_click=_go, args=(0,))


def _go(step: int) -> None:
    st.session_state[_STEP] = step
