"""The four file formats behind ``dosing.data.store``, chosen by suffix or prefix.

pyarrow, h5py and minari are imported only when their format is used.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dosing.data.archives import (
    Hdf5Sink,
    MinariSink,
    own_hdf5,
    own_minari,
    read_hdf5,
    read_minari,
)
from dosing.data.sinks import Arrays, Sink
from dosing.data.tables import CsvSink, ParquetSink, own_csv, own_parquet, read_csv, read_parquet
from dosing.errors import UserError

MINARI = "minari:"
"""Prefix of a Minari data set id."""

SUFFIXES = {".parquet": ".parquet", ".pq": ".parquet", ".csv": ".csv", ".hdf5": ".hdf5", ".h5": ".hdf5"}
"""Format by the end of a file's name, in any case."""

OGBENCH = ".npz"
"""End of the names of OGBench's files, which are read and never written."""

PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst")
"""Ends of the names of compressed files."""

Found = TypeVar("Found")

FAILURES = (OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, MemoryError)
"""What pyarrow and h5py raise on files that are not theirs or not whole (NotImplementedError included)."""


def open_sink(path: str | Path, metadata: dict[str, Any]) -> Sink:
    """Open the sink that the suffix or prefix of ``path`` names."""
    if str(path).startswith(MINARI):
        return MinariSink(str(path)[len(MINARI) :], metadata)
    sinks: dict[str, Callable[[Path, dict[str, Any]], Sink]]
    sinks = {".parquet": ParquetSink, ".csv": CsvSink, ".hdf5": Hdf5Sink}
    return sinks[format_of(path)](Path(path), metadata)


def read_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Return all arrays and the metadata of a file or Minari data set."""
    if str(path).startswith(MINARI):
        return read_minari(str(path)[len(MINARI) :])
    readers = {".parquet": read_parquet, ".csv": read_csv, ".hdf5": read_hdf5}
    reader = readers[format_of(path)]
    return guarded(path, lambda: reader(Path(path)))


def is_own(path: str | Path) -> bool:
    """Whether this program made a file, a Minari data set or a folder, which no other program makes."""
    if Path(path).is_dir():
        return True
    if str(path).startswith(MINARI):
        return own_minari(str(path)[len(MINARI) :])
    if Path(path).suffix.lower() == OGBENCH:
        return False
    marks = {".parquet": own_parquet, ".csv": own_csv, ".hdf5": own_hdf5}
    mark = marks[format_of(path)]
    return guarded(path, lambda: mark(Path(path)))


def guarded(path: str | Path, read: Callable[[], Found]) -> Found:
    """Return what ``read`` finds in a file; whatever is wrong with the file becomes one sentence."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist or is not a file")
    try:
        return read()
    except UserError:
        raise
    except FAILURES as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UserError(f"{path} is truncated or not an episode file ({reason})") from error


def format_of(path: str | Path) -> str:
    """The format of a file, by the end of its name: one of the values of :data:`SUFFIXES`.

    Raises:
        UserError: an unknown one.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        packed = " It is compressed: unpack it first." if suffix in PACKED else ""
        raise UserError(
            f"{path}: episodes are kept in {', '.join(dict.fromkeys(SUFFIXES.values()))} or "
            f"{MINARI}namespace/name-v0.{packed}"
        )
    return SUFFIXES[suffix]
