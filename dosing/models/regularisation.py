"""Options that keep any agent from learning the noise of few patients; none of them belongs to a method.

They reach the networks through ``dosing.models.networks.Initialiser`` and every update through
``dosing.agent``, so that a method's file knows nothing of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dosing.errors import UserError

Prior = Literal["none", "constant_dose"]
Advantage = Literal["critic", "model"]
ThinMean = Literal["shared", "free"]


@dataclass(frozen=True)
class Regularisation:
    """What networks and updates can have beyond the method; by default nothing."""

    critics: int | None = None
    """Critics in every ensemble; None keeps the method's own number (two for most)."""
    pessimism: float | None = None
    """Value of an ensemble: its mean minus this many standard deviations; None is the least critic, as
    published with twin critics."""
    dose_quadratic: bool = False
    """Critics quadratic in the dose, Q = c(s) + b(s) a + a' A(s) a, as in quasi-optimal learning (Li, Zhou,
    Zhu 2023, arXiv 2301.08940): c, b and A are what the network computes."""
    layer_norm: bool = False
    """Layer normalisation before every activation of critics, values and policies (Ba, Kiros, Hinton 2016),
    where the method has none."""
    dropout: float = 0.0
    """Share of hidden units left out of every trained network, drawn anew for each update (Srivastava et al.
    2014); targets and the deployed policy use all of them."""
    weight_decay: float = 0.0
    """Decoupled decay of weights, not of biases, per unit of step size (Loshchilov, Hutter 2019, arXiv
    1711.05101): a linear head decays towards the same answer for every patient."""
    prior: Prior = "none"
    """constant_dose: policies start at the constant dose estimated from the data, and with weight_decay
    their biases decay towards it as well."""
    scale_advantage: bool = False
    """Divide advantages by their standard deviation over the batch before a temperature is applied."""

    advantage: Advantage = "critic"
    """model: what is learned are advantages in a response model of the patients, and the state is
    the belief about the patient; see ``dosing.training.belief_agent``."""
    imagined: int = 20
    """Further doses at every recorded visit whose advantage in the response model is learned too."""
    cost_budget: float | None = None
    """Largest acceptable cost per episode, in the scenario's own unit: what is learned from is reward less
    lambda times cost, and bounded dose sets are trimmed; see ``dosing.models.cost_budget``. None and infinity
    are no budget."""
    thin: float | None = None
    """Index q < 1 of a sparse q-Gaussian that is distilled from the policy and takes its place; see
    ``dosing.training.thin_agent``. None keeps the policy."""
    thin_mean: ThinMean = "shared"
    """shared: its mean is the dose that the policy recommends; free: it starts there and goes where the
    divergence is least. Without ``thin`` it has no meaning."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UserError: a value is out of range.
        """
        checks: dict[str, tuple[bool, str]] = {
            "critics": (self.critics is None or self.critics >= 1, "at least 1"),
            "pessimism": (self.pessimism is None or 0.0 <= self.pessimism < math.inf, "at least 0"),
            "dropout": (0.0 <= self.dropout < 1.0, "at least 0 and below 1"),
            "weight_decay": (0.0 <= self.weight_decay < math.inf, "at least 0"),
            "prior": (self.prior in get_args(Prior), f"one of {', '.join(get_args(Prior))}"),
            "advantage": (self.advantage in get_args(Advantage), f"one of {', '.join(get_args(Advantage))}"),
            "imagined": (self.imagined >= 0, "at least 0"),
            "cost_budget": (self.cost_budget is None or self.cost_budget >= 0.0, "at least 0"),
            "thin": (self.thin is None or -math.inf < self.thin < 1.0, "a number below 1"),
            "thin_mean": (self.thin_mean in get_args(ThinMean), f"one of {', '.join(get_args(ThinMean))}"),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise UserError(f"{name} must be {wanted}, got {getattr(self, name)!r}.")
        if self.cost_budget == math.inf:
            object.__setattr__(self, "cost_budget", None)
        if self.thin is None:
            object.__setattr__(self, "thin_mean", "shared")

    @classmethod
    def of(cls, fields: Regularisation | Mapping[str, Any] | None) -> Regularisation:
        """From plain fields, as kept with a run; None is the default.

        Raises:
            UserError: a field is unknown or out of range.
        """
        if isinstance(fields, Regularisation):
            return fields
        try:
            return cls(**dict(fields or {}))
        except TypeError as error:
            raise UserError(f"regularisation has no such option: {error}.") from error

    def changed(self) -> dict[str, Any]:
        """Options that differ from the default, as plain fields."""
        default = asdict(Regularisation())
        return {name: value for name, value in asdict(self).items() if value != default[name]}


PLAIN = Regularisation()
"""Nothing beyond the method."""
