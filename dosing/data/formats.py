"""The four file formats behind ``dosing.data.store``, chosen by suffix or prefix.

pyarrow, h5py and minari are imported only when their format is used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dosing.data.archives import Hdf5Sink, MinariSink, read_hdf5, read_minari
from dosing.data.sinks import Arrays, Sink
from dosing.data.tables import CsvSink, ParquetSink, read_csv, read_parquet
from dosing.errors import UserError

MINARI = "minari:"
"""Prefix of a Minari data set id."""

SUFFIXES = (".parquet", ".csv", ".hdf5")

FAILURES = (OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, MemoryError)
"""What pyarrow and h5py raise on files that are not theirs or not whole (NotImplementedError included)."""


def open_sink(path: str | Path, metadata: dict[str, Any]) -> Sink:
    """Open the sink that the suffix or prefix of ``path`` names."""
    if str(path).startswith(MINARI):
        return MinariSink(str(path)[len(MINARI) :], metadata)
    sinks: dict[str, Callable[[Path, dict[str, Any]], Sink]]
    sinks = {".parquet": ParquetSink, ".csv": CsvSink, ".hdf5": Hdf5Sink}
    return sinks[_suffix(path)](Path(path), metadata)


def read_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and the metadata of a file or Minari data set."""
    if str(path).startswith(MINARI):
        return read_minari(str(path)[len(MINARI) :])
    readers = {".parquet": read_parquet, ".csv": read_csv, ".hdf5": read_hdf5}
    reader = readers[_suffix(path)]
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist or is not a file")
    try:
        return reader(Path(path))
    except UserError:
        raise
    except FAILURES as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not an episode file of this program ({reason})") from error


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: episodes are kept in {', '.join(SUFFIXES)} or {MINARI}namespace/name-v0")
    return suffix
