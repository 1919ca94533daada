"""The dashboard; started by ``python -m dosing app --out STUDY``, which sets DOSING_STUDY."""

from pathlib import Path

import streamlit as st

st.set_page_config(
    page_title="Dosing research simulator",
    page_icon=str(Path(__file__).parent / "assets" / "icon.svg"),
    layout="wide",
)
st.navigation(
    [
        st.Page("pages/patient.py", title="Patient", default=True),
        st.Page("pages/comparison.py", title="Comparison", url_path="comparison"),
        st.Page("pages/about.py", title="About", url_path="about"),
    ],
    position="top",
).run()
