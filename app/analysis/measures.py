"""What the numbers along a training are called on screen: one table of words for all agents. No Streamlit."""

from __future__ import annotations

UNITLESS, RETURN, DOSE = "no unit", "return", "dose, on a scale from minus 1 to 1"

LOSSES = {
    "actor": "policy",
    "alpha": "entropy factor",
    "behaviour": "model of recorded doses",
    "critic": "critic, the learned value of doses",
    "flow": "flow that generates doses or returns",
    "lagrange": "weight of the conservative penalty",
    "multiplier": "weight of the distance from recorded doses",
    "online": "policy learned under treatment",
    "proposal": "proposal that the policy learns from",
    "residual": "optimality residual",
    "response": "model of how patients respond",
    "temperature": "entropy factor",
    "upper": "upper expectile of values",
    "vae": "autoencoder of recorded doses",
    "value": "learned value of states",
}
"""What is fitted, by the name of its loss after ``loss/``."""
MEASURES = {
    "advantage": ("advantage of recorded doses: their value less that of the state", RETURN),
    "alpha": ("entropy factor", UNITLESS),
    "cost/loss": ("loss of the cost critic", "squared cost"),
    "cost/multiplier": ("charge for cost beyond the budget", "return per cost"),
    "cost/predicted": ("cost predicted of the policy", "cost per patient"),
    "deviation": ("spread of generated returns", RETURN),
    "discrepancy": ("discrepancy from recorded doses", UNITLESS),
    "distance": ("squared distance from imitated doses", "squared dose"),
    "entropy": ("entropy of the policy", "nat"),
    "gap": ("conservative gap: value of other doses less that of recorded ones", RETURN),
    "guided": ("visits led by the earlier policy", "share"),
    "half_width": ("half-width of the dose interval", DOSE),
    "inverse_temperature": ("sharpness of the choice between policies", "per return"),
    "move": ("change of generated doses by the policy", DOSE),
    "multiplier": ("weight of the penalty", UNITLESS),
    "penalty": ("penalty for rarely recorded doses", UNITLESS),
    "q": ("learned value of recorded doses", RETURN),
    "reward/error": ("error of the reward model", "squared reward"),
    "scale": ("scale of the dose distribution", DOSE),
    "spread": ("spread of the dose distribution", DOSE),
    "temperature": ("entropy factor", UNITLESS),
    "value": ("learned value of states", RETURN),
    "value/clipped_share": ("values held at a bound", "share"),
    "weight": ("weight of a visit in the loss", UNITLESS),
    "weight/clipped_share": ("weights held at their bound", "share"),
    "weight/zero_share": ("recorded doses with weight 0", "share"),
    "worth": ("value of the policy's doses", RETURN),
}
"""Words and unit of every other measure, by its name."""


def measure_words(name: str) -> str:
    """A measure's name with its unit; one that the tables lack comes as plain words.

    Args:
        name: as the metrics of a run have it, such as ``loss/actor``.
    """
    kind, _, rest = name.partition("/")
    if kind == "loss":
        return f"loss of the {LOSSES.get(rest, rest.replace('_', ' '))} ({UNITLESS})"
    if name in MEASURES:
        return "{} ({})".format(*MEASURES[name])
    return name.replace("/", ", ").replace("_", " ")
