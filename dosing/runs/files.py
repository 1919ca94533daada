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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
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


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns as parquet, atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def read_table(path: Path) -> pa.Table:
    """Read a parquet table.

    Raises:
        UserError: the file is missing, truncated or of another format.
    """
    try:
        with pq.ParquetFile(path) as file:  # this one file; pq.read_table would also take a folder of them
            return file.read()
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is truncated or not a parquet file ({error}).") from error
