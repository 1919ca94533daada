"""Ranges of the settings that agents share, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dosing.errors import UserError


@dataclass(frozen=True)
class CriticSettings:
    """Settings of every method that learns a critic by temporal differences."""

    hidden: tuple[int, ...] = (256, 256)
    """Hidden widths of every network."""
    learning_rate: float = 3e-4
    """Adam step size of every network."""
    discount: float = 0.9
    """gamma: 0.9 on the treatment simulators, 0.99 on MuJoCo."""
    target_rate: float = 0.005
    """Polyak rate of the target networks."""


_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden": (lambda x: min(x, default=1) >= 1, "widths of at least 1, or none for linear functions"),
    "learning_rate": (lambda x: x > 0.0, "above 0"),
    "discount": (lambda x: 0.0 <= x <= 1.0, "between 0 and 1"),
    "target_rate": (lambda x: 0.0 < x <= 1.0, "above 0 and at most 1"),
    "temperature": (lambda x: x > 0.0, "above 0"),
    "inverse_temperature": (lambda x: x >= 0.0, "at least 0"),
    "weight_clip": (lambda x: x > 0.0, "above 0"),
    "max_clip": (lambda x: x > 0.0, "above 0"),
    "actor_decay_steps": (lambda x: x is None or x >= 1, "at least 1 or None"),
    "actor_every": (lambda x: x >= 1, "at least 1"),
    "nodes": (lambda x: x >= 1, "at least 1"),
    "target_noise": (lambda x: x >= 0.0, "at least 0"),
    "noise_clip": (lambda x: x >= 0.0, "at least 0"),
    "vae_hidden": (lambda x: min(x, default=0) >= 1, "one or more widths of at least 1"),
    "vae_learning_rate": (lambda x: x > 0.0, "above 0"),
    "vae_beta": (lambda x: x > 0.0, "above 0"),
    "vae_steps": (lambda x: x >= 1, "at least 1"),
}
"""What the settings that methods share by name have to be."""


def check_settings(config: Any) -> None:
    """Refuse settings no method can work with; what concerns one method alone is checked in its own file.

    Raises:
        UserError: a number is not finite, a choice is unknown, or a setting shared by name is out of range.
    """
    hints = get_type_hints(type(config))
    for name, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name} must be a finite number, got {value}.")
        if get_origin(hints[name]) is Literal and value not in get_args(hints[name]):
            raise UserError(f"{name} must be one of {', '.join(get_args(hints[name]))}, got {value!r}.")
        good, wanted = _RANGES.get(name, (None, ""))
        if good is not None and not good(value):
            raise UserError(f"{name} must be {wanted}, got {value}.")


def reconfigure(owner: Any, **settings: Any) -> None:
    """Change fields of ``owner.config`` that an agent reads anew at every update, such as a decaying penalty.

    Raises:
        UserError: the method has no such setting, or the value is out of range.
    """
    config: Any = getattr(owner, "config", None)
    if unknown := [name for name in settings if not hasattr(config, name)]:
        raise UserError(f"{type(owner).__name__} has no setting {unknown[0]!r}.")
    changed = replace(config, **settings)
    check_settings(changed)
    object.__setattr__(owner, "config", changed)
