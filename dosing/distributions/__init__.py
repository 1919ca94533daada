"""Probability distributions for doses: ``from dosing.distributions import QGaussian``.

Names are resolved on first use, so that importing the package does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dosing.distributions.bounded import TanhNormal, TruncatedNormal
    from dosing.distributions.clipped import Clipped
    from dosing.distributions.draws import Draws
    from dosing.distributions.parabola import Parabola
    from dosing.distributions.q_exponential import exp_q, log_q
    from dosing.distributions.q_gaussian import QGaussian, support_radius
    from dosing.distributions.scaled_beta import ScaledBeta
    from dosing.distributions.student_t import StudentT
    from dosing.distributions.univariate import Univariate, central_interval

__all__ = [
    "Clipped",
    "Draws",
    "Parabola",
    "QGaussian",
    "ScaledBeta",
    "StudentT",
    "TanhNormal",
    "TruncatedNormal",
    "Univariate",
    "central_interval",
    "exp_q",
    "log_q",
    "support_radius",
]

_MODULES = {
    "Clipped": "clipped",
    "Draws": "draws",
    "Parabola": "parabola",
    "QGaussian": "q_gaussian",
    "ScaledBeta": "scaled_beta",
    "StudentT": "student_t",
    "TanhNormal": "bounded",
    "TruncatedNormal": "bounded",
    "Univariate": "univariate",
    "central_interval": "univariate",
    "exp_q": "q_exponential",
    "log_q": "q_exponential",
    "support_radius": "q_gaussian",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
