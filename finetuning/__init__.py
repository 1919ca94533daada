"""Ways from recorded visits to live treatment, and their registry. Importing this needs no torch.

A method is an object with ``refusal`` and ``learner`` (``dosing.learner.Method``). To add one: write it in a
file of its own here, where agents may be imported, and add its line below.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dosing.errors import UserError

if TYPE_CHECKING:
    from dosing.learner import Method


@dataclass(frozen=True)
class Entry:
    """One method of the registry.

    Attributes:
        module: the file that holds it.
        name: of the object in that file.
        title: name as the field writes it.
        paper: authors, year, arXiv number.
    """

    module: str
    name: str
    title: str
    paper: str

    def method(self) -> Method:
        """Import the method's file and return the method."""
        found: Method = getattr(importlib.import_module(self.module), self.name)
        return found


_PEX = "Zhang, Xu, Yu 2023, arXiv 2302.00935"

METHODS: dict[str, Entry] = {
    "scratch": Entry("finetuning.rivals", "SCRATCH", "Scratch", _PEX),
    "buffer": Entry("finetuning.rivals", "BUFFER", "Buffer", _PEX),
    "direct": Entry("finetuning.rivals", "DIRECT", "Direct", _PEX),
    "awac": Entry("finetuning.rivals", "AWAC", "AWAC", "Nair, Gupta, Dalal, Levine 2020, arXiv 2006.09359"),
    "spot": Entry("finetuning.rivals", "SPOT", "SPOT", "Wu, Wu, Qiu, Wang, Long 2022, arXiv 2202.06239"),
    "cal_ql": Entry("finetuning.rivals", "CAL_QL", "Cal-QL", "Nakamoto et al. 2023, arXiv 2303.05479"),
    "rebrac": Entry(
        "finetuning.rivals",
        "REBRAC",
        "ReBRAC",
        "Tarasov, Kurenkov, Nikulin, Kolesnikov 2023, arXiv 2305.09836",
    ),
    "fan": Entry(
        "finetuning.rivals",
        "FAN",
        "FAN",
        "Lee, Kim, Balachandar, Mustafaoglu, Pingali 2026, arXiv 2605.01663",
    ),
}


def find(name: str) -> Entry:
    """Return the method called ``name``.

    Raises:
        UserError: there is no such method; the message lists those there are.
    """
    if name not in METHODS:
        raise UserError(f"there is no method {name!r} to fine-tune with; there are: {', '.join(METHODS)}.")
    return METHODS[name]
