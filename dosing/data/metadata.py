"""What recorded visits say about themselves: typed, versioned, and hashed with the file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dosing.errors import UserError
from dosing.safety import LIMITED_BY, DoseLimits
from dosing.typed_json import typed

SCHEMA = "dosing-episodes/2"
"""Version of the layout and of these fields; readers refuse any other."""


@dataclass(frozen=True)
class DatasetMetadata:
    """Where visits come from, what was observed and given, and between which limits.

    Raises:
        UserError: limits that are none, or not those of the scenario's own card; names of another number.
    """

    env_id: str | None = None
    """Environment that the visits come from."""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    first_patient: int = 0
    """Number of the first patient of the simulated population."""
    patients: int | None = None
    policy: str | None = None
    """Rule or agent that gave the doses."""
    scenario_version: str | None = None
    code_version: str | None = None
    notice: str | None = None
    obs_names: tuple[str, ...] = ()
    obs_units: tuple[str, ...] = ()
    obs_low: tuple[float, ...] = ()
    obs_high: tuple[float, ...] = ()
    action_low: tuple[float, ...] = ()
    """Hard lower limit of every dose dimension; empty where the source states none."""
    action_high: tuple[float, ...] = ()
    dose_name: str = "dose"
    dose_unit: str = "1"
    limited_by: tuple[str, ...] = LIMITED_BY
    gamma: float | None = None
    """Discount factor of the scenario."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Card of the scenario; empty where there is none."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """Layout and name of the file of another program that the visits were read from."""
    collected: Mapping[str, Any] = field(default_factory=dict)
    """How an agent recorded the visits while it learned."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that recorded the visits."""
    rows_left_out: int = 0
    """Rows of another program's file that are no visits here."""
    doses_clipped: int = 0
    """Doses that were put at the limit they exceeded by rounding."""
    rows: int = 0
    n_obs: int = 0
    n_act: int = 0
    content_hash: str = ""
    """SHA-256 of the visits; empty before they are written or joined."""

    def __post_init__(self) -> None:
        """Refuse metadata that contradict themselves."""
        if self.action_low and self.action_high:
            DoseLimits(self.action_low, self.action_high, self.dose_unit)
        dose = self.card.get("dose") or {}
        for name, own in (("hard_low", self.action_low), ("hard_high", self.action_high)):
            said = dose.get(name) if isinstance(dose, Mapping) else None
            if said is not None and list(said) != list(own):
                raise UserError(
                    f"the dose limits {list(self.action_low)} to {list(self.action_high)} are not those of "
                    f"the scenario's card, whose {name} is {said}."
                )
        for name in ("obs_names", "obs_units", "obs_low", "obs_high"):
            if self.n_obs and (entries := getattr(self, name)) and len(entries) != self.n_obs:
                raise UserError(f"{name} has {len(entries)} entries for {self.n_obs} observed numbers.")

    @property
    def limits(self) -> DoseLimits:
        """Hard dose limits.

        Raises:
            UserError: none are stated.
        """
        for name in ("action_low", "action_high"):
            if not getattr(self, name):
                raise UserError(
                    f"the data set's own card lacks {name!r}: no agent learns without hard limits."
                )
        return DoseLimits(self.action_low, self.action_high, self.dose_unit)

    def to_json(self) -> dict[str, Any]:
        """Plain fields with the schema, and the hash of all of them."""
        content = {"schema": SCHEMA} | asdict(self)
        return content | {"metadata_hash": _hash(content)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> DatasetMetadata:
        """Inverse of :meth:`to_json`, for content that :func:`unchanged` let pass.

        Raises:
            UserError: a field is unknown, of another type, or contradicts another.
        """
        own = {k: v for k, v in content.items() if k not in ("schema", "metadata_hash")}
        return typed(cls, own, where)


def unchanged(content: Any, where: str) -> dict[str, Any]:
    """The metadata of a file as they were written.

    Args:
        content: their JSON.
        where: the file, for the message.

    Raises:
        UserError: no JSON object, another schema, or fields that do not have the hash they say.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where} is not an episode file of this program (its metadata are not a table).")
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{where} has schema {content.get('schema')!r}, this version reads {SCHEMA!r}: simulate or "
            "record it again."
        )
    rest = {name: value for name, value in content.items() if name != "metadata_hash"}
    if content.get("metadata_hash") != _hash(rest):
        raise UserError(f"{where} is damaged or was edited: its metadata do not have the hash they say.")
    return content


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
