"""What this is and is not, how the numbers are made, and what they rest on."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.readers import study
from app.widgets import page
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.errors import UserError

WORDS = f"""
**What it is.** A research simulator for dosing decisions. Patients are simulated; agents learn a dose from
recorded visits (offline reinforcement learning); the dashboard shows which doses each learned policy could
give.

**What it is not.** {NOT_FOR_PATIENTS} It has not been validated against patients, it knows no drug by name,
and a dose on its screen is the output of a program under study.

**How a dose gets here.** A state goes to a trained policy, and its answer passes one guarded recommender. The
recommender refuses bad input and damaged weights, holds the dose within the hard limits and says so, and
reports which doses the policy could give, with the probability outside the limits before any clipping. Only
an exact zero is written 0 (exactly).

**How the numbers are made.** Every agent is trained with several seeds on recorded visits. Agents and
reference rules are evaluated on the same new simulated patients; intervals are 95 %. Each is compared with
one constant dose for everyone, estimated from the same recorded visits: the least that learning has to beat.

**How to link.** The address of a page names the patient, the visit and the scale: whoever opens it on this
machine sees the same. Visits count from 1.
"""


def provenance(runs: tuple[study.Run, ...]) -> pd.DataFrame:
    """One line per run: what was trained on what, with hashes checked now."""
    lines = []
    for run in runs:
        try:
            weights, state = study.recommender(run).provenance["weights"][:16], "verified"
        except UserError as error:
            weights, state = "unknown", f"damaged: {error}"
        versions = run.config["versions"]
        lines.append(
            {
                "agent": run.label,
                "paper": run.entry.about.paper,
                "seeds": len(run.config["seeds"]),
                "data": run.config["data"]["name"],
                "data hash": run.data[:16],
                "weights hash": weights,
                "files": state,
                "dosing": versions.get("dosing"),
                "torch": versions.get("torch"),
                "made": str(run.config.get("created", "unknown"))[:16].replace("T", " "),
                "folder": run.folder.path.name,
            }
        )
    return pd.DataFrame(lines)


listing = page.open_page("About")
st.markdown(WORDS)
st.subheader("Provenance")
st.table(provenance(listing.runs), hide_index=True)
st.caption(
    f"Study folder `{study.study()}`, software version {__version__}. Hashes are SHA-256, first 16 digits."
)
st.subheader("Scenario")
try:
    card = study.episodes(listing.runs[0]).metadata.get("card", {})
    st.markdown(f"{card.get('title', 'Recorded data without a scenario card.')}")
    st.markdown("\n".join(f"- {source}" for source in card.get("sources", ())))
    st.markdown(card.get("limits_of_the_model", ""))
    with st.expander("The whole scenario card"):
        st.json(card)
except UserError as error:
    page.problems([str(error)])
