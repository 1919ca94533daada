"""Ways from recorded visits to live treatment, and their registry. Importing this needs no torch.

A method is an object with ``refusal`` and ``learner`` (``dosing.finetuning.method.Method``). To add one:
write it in a file of its own here, where agents may be imported, and add its line below. Settings of a method
that has a ``config`` may follow its name: ``pex,members=4,others=online``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from dosing.errors import UserError

if TYPE_CHECKING:
    from dosing.finetuning.method import Method


@dataclass(frozen=True)
class MethodSpec:
    """One method of the registry.

    Attributes:
        module: the file that holds it.
        name: of the object in that file.
        title: name as the field writes it.
        paper: authors, year, arXiv number.
        settings: of the method, where they differ from its own.
        first_visits: visits before the first update in the method's released code; None is not known.
    """

    module: str
    name: str
    title: str
    paper: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    first_visits: int | None = None

    def method(self) -> Method:
        """Import the method's file and return the method.

        Raises:
            UserError: the method has no such setting, or the value is none for it.
        """
        result: Any = getattr(importlib.import_module(self.module), self.name)
        if self.settings:
            if not hasattr(result, "config"):
                raise UserError(f"{self.title} has no settings of its own, got {', '.join(self.settings)}.")
            result = replace(result, config=_changed(result.config, self.settings))
        method: Method = result
        return method


_PEX = "Zhang, Xu, Yu 2023, arXiv 2302.00935"

METHODS: dict[str, MethodSpec] = {
    "scratch": MethodSpec("agents.finetuning.transfer", "SCRATCH", "Scratch", _PEX, first_visits=5000),
    "buffer": MethodSpec("agents.finetuning.transfer", "BUFFER", "Buffer", _PEX, first_visits=5000),
    "direct": MethodSpec("agents.finetuning.transfer", "DIRECT", "Direct", _PEX, first_visits=5000),
    "awac": MethodSpec(
        "agents.finetuning.transfer",
        "AWAC",
        "AWAC",
        "Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359",
        first_visits=0,
    ),
    "spot": MethodSpec(
        "agents.finetuning.transfer",
        "SPOT",
        "SPOT",
        "Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239",
        first_visits=0,
    ),
    "cal_ql": MethodSpec(
        "agents.finetuning.transfer",
        "CAL_QL",
        "Cal-QL",
        "Nakamoto et al. 2023, arXiv 2303.05479",
        first_visits=0,
    ),
    "rebrac": MethodSpec(
        "agents.finetuning.transfer",
        "REBRAC",
        "ReBRAC",
        "Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv 2305.09836",
        first_visits=0,
    ),
    "fan": MethodSpec(
        "agents.finetuning.transfer",
        "FAN",
        "FAN",
        "Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
        first_visits=0,
    ),
    "pex": MethodSpec("agents.finetuning.pex", "PEX", "PEX", _PEX, first_visits=5000),
    "off2on": MethodSpec(
        "agents.finetuning.off2on",
        "OFF2ON",
        "Off2On",
        "Lee, Seo, Lee, Abbeel, Shin 2021, arXiv 2107.00702",
        first_visits=1000,
    ),
    "bt": MethodSpec("agents.finetuning.bt", "BT", "BT", "Campos et al. 2021, arXiv 2102.13515"),
    "jsrl": MethodSpec("agents.finetuning.jsrl", "JSRL", "JSRL", "Uchendu et al. 2023, arXiv 2204.02372"),
}

STARTS_FROM = "iql"
"""Registry key of the agent whose runs most methods can go on from."""


def find(name: str) -> MethodSpec:
    """Return the method called ``name``, with the settings that follow the name: ``NAME,SETTING=VALUE,...``.

    Raises:
        UserError: there is no such method, the message lists those there are; or a setting is not written so.
    """
    key, *pairs = name.split(",")
    if key not in METHODS:
        raise UserError(f"there is no method {key!r} to fine-tune with; there are: {', '.join(METHODS)}.")
    settings: dict[str, Any] = {}
    for pair in pairs:
        setting, separator, value = pair.partition("=")
        if not separator or not setting or setting in settings:
            raise UserError(
                f"settings of {key} are written {key},SETTING=VALUE,..., each once, got {name!r}."
            )
        try:
            settings[setting] = json.loads(value)
        except ValueError:
            settings[setting] = value
    entry = METHODS[key]
    title = f"{entry.title} ({', '.join(pairs)})" if pairs else entry.title
    return replace(entry, title=title, settings=settings)


def _changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration with other settings, each of the type that it is declared with."""
    from dosing.models.settings import check_settings

    hints, names = get_type_hints(type(config)), [f.name for f in fields(config)]
    values = {}
    for name, value in settings.items():
        if name not in names:
            raise UserError(f"there is no setting {name!r}; there are: {', '.join(names)}.")
        hint = hints[name]
        kinds = () if get_origin(hint) is Literal else get_args(hint) or (hint,)
        if float in kinds and type(value) is int:
            value = float(value)
        if kinds and type(value) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise UserError(f"{name} must be of type {wanted}, got {value!r}.")
        values[name] = value
    changed = replace(config, **values)
    check_settings(changed)
    return changed
