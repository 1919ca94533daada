"""The dashboard; started by ``python -m dosing app --out STUDY``, which sets DOSING_STUDY.

The pages live in ``views``: a folder called ``pages`` would be taken by Streamlit for pages of its own, and a
link straight to one of them would bypass this file.
"""

import gc
from pathlib import Path

import streamlit as st

from app.widgets.url_state import carry

st.set_page_config(
    page_title="Dosing research simulator",
    page_icon=str(Path(__file__).parent / "icon.svg"),
    layout="wide",
)
page = st.navigation(
    {
        "": [
            st.Page("views/patient.py", title="Patient", default=True),
            st.Page("views/overview.py", title="Overview", url_path="overview"),
        ],
        "One state": [
            st.Page("views/what_if.py", title="What if", url_path="what_if"),
            st.Page("views/dose_response.py", title="Dose and response", url_path="dose_response"),
            st.Page("views/sparse_gaussian.py", title="Sparse against Gaussian", url_path="sparse_gaussian"),
        ],
        "Results": [
            st.Page("views/comparison.py", title="Comparison", url_path="comparison"),
            st.Page("views/cohort.py", title="Cohort", url_path="cohort"),
            st.Page("views/ope.py", title="Off-policy evaluation", url_path="ope"),
            st.Page("views/training.py", title="Training", url_path="training"),
            st.Page("views/live_treatment.py", title="Live treatment", url_path="live_treatment"),
            st.Page("views/runs.py", title="Runs", url_path="runs"),
        ],
        "Records": [
            st.Page("views/upload.py", title="Upload", url_path="upload"),
            st.Page("views/audit.py", title="Audit", url_path="audit"),
        ],
        "Background": [
            st.Page("views/data.py", title="Data", url_path="data"),
            st.Page("views/agents.py", title="Agents", url_path="agents"),
            st.Page("views/glossary.py", title="Glossary", url_path="glossary"),
            st.Page("views/about.py", title="About", url_path="about"),
        ],
    },
    position="top",
)


@st.cache_resource(show_spinner=False)
def set_aside() -> None:
    """Let the search for garbage pass over what the first page loaded for good: a third of a second each."""
    gc.collect()
    gc.freeze()


carry(page.url_path)
page.run()
set_aside()
