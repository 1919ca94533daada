"""Files that are written whole or not at all: JSON, safetensors, parquet, and their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dosing.data.formats import FAILURES
from dosing.data.partial import partial_path
from dosing.errors import UserError


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name in the same folder, fsync, rename, fsync folder.

    Raises:
        UserError: the folder cannot be written or the disk is full; the previous file is untouched.
    """
    temporary = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    write_atomic(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_bytes(path: Path) -> bytes:
    """Read a whole file.

    Raises:
        UserError: the file is missing or unreadable.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file is missing, unreadable or not a JSON object.
    """
    return json_of(read_bytes(path), path)


def json_of(text: bytes, path: Path) -> dict[str, Any]:
    """The JSON object of a file whose content is at hand.

    Raises:
        UserError: it is not a JSON object.
    """
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); the file is damaged.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold a JSON object, found a {type(content).__name__}.")
    return content


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write named tensors as safetensors, atomically."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_atomic(path, save_tensors(plain, metadata))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read a safetensors file and its metadata.

    Raises:
        UserError: the file is missing, truncated or of another format.
    """
    try:
        tensors = load_tensors(path.read_bytes())
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}).") from error
    return tensors, dict(metadata)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without its tensors.

    Raises:
        UserError: the file is missing, truncated or of another format.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is missing, truncated or not a safetensors file ({error}).") from error


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write named tensors as :func:`write_tensors` does, with a hash of all of them in the same file."""
    write_tensors(path, tensors, metadata | {_HASH: _hash_of_tensors(tensors, metadata)})


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what :func:`write_checkpoint` wrote.

    Raises:
        UserError: the file is missing, truncated, or not as it was written; what to delete is named.
    """
    remedy = f"delete {path} and give the same command: the work begins anew"
    try:
        tensors, metadata = read_tensors(path)
    except UserError as error:
        raise UserError(f"{error} To go on, {remedy}.") from error
    recorded = metadata.pop(_HASH, None)
    if recorded != _hash_of_tensors(tensors, metadata):
        raise UserError(f"{path} was damaged or edited since it was written; {remedy}.")
    return tensors, metadata


_HASH = "sha256"


def _hash_of_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of names, types, shapes and content, whatever the order in the file."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns as parquet, atomically, with a hash of their content."""
    table = pa.table(dict(columns))
    buffer = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({_HASH: _hash_of_table(table)}), buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def _hash_of_table(table: pa.Table) -> str:
    """SHA-256 of names, types and values."""
    digest = hashlib.sha256()
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        digest.update(f"{field.name} {field.type} {len(column)} {column.null_count}".encode())
        values = column.to_numpy(zero_copy_only=False)
        words = values.dtype == object
        digest.update(json.dumps(column.to_pylist(), default=repr).encode() if words else values.tobytes())
    return digest.hexdigest()


def read_table(path: Path) -> pa.Table:
    """Read a parquet table.

    Raises:
        UserError: the file is missing, truncated, of another format, or not as it was written.
    """
    try:
        with pq.ParquetFile(path) as file:  # this one file; pq.read_table would also take a folder of them
            table = file.read()
            recorded = (table.schema.metadata or {}).get(_HASH.encode(), b"").decode(errors="replace")
            if recorded != _hash_of_table(table):
                raise UserError(f"{path} was damaged, edited or written by another program; it is not used.")
            return table
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (pa.ArrowException, *FAILURES) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not a parquet file ({reason}).") from error
