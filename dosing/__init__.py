"""Core of the dosing research simulator: data, training, evaluation and the guarded recommender.

Importing this package imports nothing heavy, so that ``simulator`` runs without torch.
"""

__version__ = "0.1.0"

NOT_FOR_PATIENTS = (
    "Research simulator. Not a medical device. Simulated patients only; never use a dose shown here."
)
"""The one sentence that stands wherever a dose is shown."""
