"""A data set in parts: a folder of parquet files, and a manifest of which they are and what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dosing.data.formats import guarded
from dosing.data.metadata import DatasetMetadata
from dosing.data.sinks import load_json, need
from dosing.data.tables import KEY
from dosing.errors import UserError
from dosing.typed_json import typed

MANIFEST = "manifest.json"
SCHEMA = "dosing-parts/1"
"""Version of the manifest; readers refuse any other."""


@dataclass(frozen=True)
class Part:
    """One parquet file of a data set in parts; whole patients, in order."""

    name: str
    """Name of the file in the folder."""
    first_patient: int
    patients: int
    rows: int
    groups: tuple[int, ...]
    """Rows of each row group; every group holds whole patients."""
    size: int
    """Bytes of the file."""
    content_hash: str
    """SHA-256 of its visits, see ``dosing.data.store.ContentHash``."""


@dataclass(frozen=True)
class Manifest:
    """What a data set in parts says about itself."""

    metadata: DatasetMetadata
    """Of all visits; the content hash is one over those of the parts, in their order."""
    parts: tuple[Part, ...]
    """In order of patient."""

    @classmethod
    def of(cls, metadata: DatasetMetadata, parts: Sequence[Part], widths: tuple[int, int]) -> Manifest:
        """Complete the metadata of the whole by its parts.

        Args:
            metadata: of the whole, without rows, widths and content hash.
            parts: in order of patient.
            widths: numbers per observation and per dose.
        """
        complete = replace(
            metadata,
            rows=sum(part.rows for part in parts),
            n_obs=widths[0],
            n_act=widths[1],
            content_hash=hash_of_parts(parts),
        )
        return cls(complete, tuple(parts))

    def to_json(self) -> dict[str, Any]:
        """Plain fields with the schema, and the hash of all of them."""
        parts = [asdict(part) for part in self.parts]
        content = {"schema": SCHEMA, "metadata": self.metadata.to_json(), "parts": parts}
        return content | {"hash": _hash(content)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> Manifest:
        """Inverse of :meth:`to_json`.

        Args:
            content: the JSON object.
            where: the file, for messages.

        Raises:
            UserError: another schema, a hash that is not that of the fields, or fields of another type.
        """
        if content.get("schema") != SCHEMA:
            raise UserError(
                f"{where} has schema {content.get('schema')!r}, this version reads {SCHEMA!r}: simulate anew."
            )
        rest = {name: value for name, value in content.items() if name != "hash"}
        if content.get("hash") != _hash(rest):
            raise UserError(f"{where} was edited: its fields do not have its hash; simulate again.")
        metadata = {k: v for k, v in rest["metadata"].items()}
        parts = tuple(typed(Part, part, f"{where}: parts[{k}]") for k, part in enumerate(rest["parts"]))
        result = cls(DatasetMetadata.from_json(metadata, where), parts)
        if result.metadata.content_hash != hash_of_parts(parts):
            raise UserError(f"{where} contradicts itself: its content hash is not that of its parts.")
        return result


def hash_of_parts(parts: Sequence[Part]) -> str:
    """SHA-256 over the rows and content hashes of parts in order: what all of them together hold."""
    lines = [SCHEMA, *(f"{part.rows} {part.content_hash}" for part in parts)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_parts(source: str | Path) -> bool:
    """Whether a source is a folder, which only a data set in parts is."""
    return Path(source).is_dir()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a data set in parts, every part being there with the size and content hash it states.

    The visits themselves are checked when they are read.

    Raises:
        UserError: there is no manifest or it was edited, or a part is missing or another one; it is named.
    """
    folder = Path(folder)
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(
            f"{folder} is no data set in parts, or its parts are not all written: it has no {MANIFEST}. "
            "The same simulate command goes on."
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); simulate again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} should hold a JSON object; simulate again.")
    manifest = Manifest.from_json(content, str(file))
    for part in manifest.parts:
        check_part(folder, part)
    return manifest


def check_part(folder: Path, part: Part) -> None:
    """Refuse a part that is not the file that the manifest states, as far as its size and footer tell.

    Raises:
        UserError: it is missing, or another one.
    """
    file = folder / part.name
    if not file.is_file():
        raise UserError(f"{folder} lacks its part {part.name}: the same simulate command writes it again.")
    if file.stat().st_size != part.size or part_of(file)[0] != part:
        raise changed(file)


def changed(file: Path) -> UserError:
    """What to say of a part whose visits are not those of the manifest."""
    return UserError(
        f"{file} is not the part that {MANIFEST} states: it was changed or damaged. Delete it and give the "
        "same simulate command."
    )


def part_of(file: Path) -> tuple[Part, DatasetMetadata]:
    """What a part says about itself in its footer.

    Raises:
        UserError: the file is missing, damaged or of another program.
    """
    return guarded(file, lambda: _part_of(file))


def _part_of(file: Path) -> tuple[Part, DatasetMetadata]:
    with need("pyarrow.parquet", "parquet").ParquetFile(file) as opened:
        footer = opened.metadata
        groups = tuple(footer.row_group(k).num_rows for k in range(footer.num_row_groups))
        stored = (footer.metadata or {}).get(KEY)
    if stored is None:
        raise UserError(f"{file} is a parquet file of another program.")
    metadata = DatasetMetadata.from_json(load_json(stored, file), str(file))
    first, patients, hash_ = metadata.first_patient, metadata.patients or 0, metadata.content_hash
    part = Part(file.name, first, patients, metadata.rows, groups, file.stat().st_size, hash_)
    return part, metadata


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
