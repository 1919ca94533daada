"""What this is and is not, how the numbers are made, and what they rest on."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.readers import study
from app.text import Markdown, bullets, code
from app.widgets import page, write
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
        versions = run.config.versions
        lines.append(
            {
                "agent": run.label,
                "paper": run.entry.about.paper,
                "seeds": len(run.config.seeds),
                "data": run.config.data.name,
                "data hash": run.data[:16],
                "weights hash": weights,
                "files": state,
                "dosing": versions.get("dosing"),
                "torch": versions.get("torch"),
                "made": run.config.created[:16].replace("T", " "),
                "folder": run.folder.path.name,
            }
        )
    return pd.DataFrame(lines)


listing = page.open_page("About")
write.markdown("{}", Markdown(WORDS))
write.subheader("Provenance")
write.table(provenance(listing.runs))
write.caption(
    "Study folder {}, software version {}. Hashes are SHA-256, first 16 digits.",
    code(study.study()),
    __version__,
)
write.subheader("Scenario")
try:
    card = study.episodes(listing.runs[0]).metadata.card
    write.markdown("{}", card.get("title", "Recorded data without a scenario card."))
    write.markdown("{}", bullets(card.get("sources", ())))
    write.markdown("{}", card.get("limits_of_the_model", ""))
    with st.expander("The whole scenario card"):
        write.record(dict(card))
except UserError as error:
    page.problems([str(error)])
