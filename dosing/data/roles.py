"""Columns of a table by what they are for: numbers, identifiers, yes and no, order in time.

What a value is follows from its column's role alone, so "01" is an identifier and never the number 1. CSV and
parquet give the same answer, or the same refusal with row (from 1), column and value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dosing.data.sinks import need
from dosing.data.text_table import (
    MOST_COLUMNS,
    TextTable,
    as_numbers,
    decimal_comma,
    read_text_table,
)
from dosing.errors import UserError

WORDS = {
    "true": True,
    "false": False,
    "yes": True,
    "no": False,
    "1": True,
    "0": False,
    "1.0": True,
    "0.0": False,
}
"""Texts that say yes or no, in any case."""

EXACT = 2.0**53
"""Whole numbers up to here are exact in double precision."""


class Table(ABC):
    """Chosen columns of one file; every method refuses what is not of its role by a ``UserError``."""

    def __init__(self, source: str, names: Sequence[str], rows: int) -> None:
        """Keep where it comes from, which columns there are and how many rows."""
        self.source, self.names, self.rows = source, list(names), rows

    @abstractmethod
    def numbers(self, name: str) -> NDArray[Any]:
        """Numbers ``[M]`` of their own type."""

    @abstractmethod
    def texts(self, name: str) -> Any:
        """Identifiers as a pyarrow array of M texts."""

    @abstractmethod
    def flags(self, name: str) -> NDArray[Any]:
        """True and false, or numbers 0 and 1 ``[M]``."""

    @abstractmethod
    def order(self, name: str) -> NDArray[Any]:
        """Numbers that rise with time ``[M]``: visits, days or microseconds."""

    def identifiers(self, name: str) -> tuple[NDArray[np.int64], list[str]]:
        """Which identifier every row has ``[M]``, and all of them; two are one only if their texts are."""
        coded = self.texts(name).dictionary_encode()
        return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()

    def wrong(self, name: str, row: int, what: str) -> UserError:
        """The refusal of one value; ``row`` from 0."""
        return UserError(f"{self.source}: {name} of row {row + 1} {what}")

    def words_as_flags(self, name: str, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Texts as true and false ``[M]``."""
        words = {text: WORDS.get(text.strip().lower()) for text in set(texts)}
        if unknown := {text for text, value in words.items() if value is None}:
            row = next(k for k, text in enumerate(texts) if text in unknown)
            raise self.wrong(name, row, f"is {texts[row]!r}; it must be true or false, yes or no, 1 or 0.")
        return np.array([words[text] for text in texts], dtype=np.bool_)

    def times(self, name: str, texts: Sequence[str]) -> NDArray[np.int64]:
        """Dates, or times with their zone, as days or as microseconds ``[M]``."""
        pa = need("pyarrow", "this format")
        for kind, stored in ((pa.date32(), pa.int32()), (pa.timestamp("us", tz="UTC"), pa.int64())):
            try:
                times: NDArray[np.int64] = pa.array(texts, pa.string()).cast(kind).cast(stored).to_numpy()
                return times
            except pa.ArrowInvalid:
                continue
        raise UserError(
            f"{self.source}: {name} must be numbers, dates such as 2024-03-31, or times with their zone such "
            f"as 2024-03-31 08:30:00+01:00, all of one kind; row 1 has {texts[0]!r}."
        )


class CsvTable(Table):
    """Columns of a CSV file."""

    def __init__(self, path: Path, wanted: Sequence[str], numeric: Sequence[str]) -> None:
        """Read the wanted columns as text; those that are numbers tell the file's decimal mark.

        Raises:
            UserError: no CSV file, a wanted column is not there, one of its values is missing, or its commas
                may be decimal marks or marks between thousands.
        """
        names: list[str] = []

        def look(found: Sequence[str]) -> list[str]:
            names.extend(found)
            check_names(str(path), found, wanted)
            return []

        try:
            with path.open("rb") as file:
                self._table: TextTable = read_text_table(file, keep=set(wanted), head=look)
        except UserError as error:
            raise UserError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
        super().__init__(str(path), names, self._table.rows)
        for name, texts in self._table.columns.items():
            if "" in texts or any(not text.strip() for text in set(texts)):
                row = next(k for k, text in enumerate(texts) if not text.strip())
                raise self.wrong(name, row, "is empty.")
        try:
            columns = (self._table.columns[name] for name in numeric)
            self._comma = decimal_comma(self._table.separator, columns)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def numbers(self, name: str) -> NDArray[Any]:
        """See :class:`Table`."""
        texts = self._table.columns[name]
        values, faults = as_numbers(texts, self._comma)
        if faults:
            row, why = faults[0]
            more = f" {len(faults)} rows are like that." if len(faults) > 1 else ""
            raise UserError(f"{self.source}: {name} of row {row}: {why}{more}")
        return values

    def texts(self, name: str) -> Any:
        """See :class:`Table`."""
        return need("pyarrow", "CSV").array(self._table.columns[name], need("pyarrow", "CSV").string())

    def flags(self, name: str) -> NDArray[Any]:
        """See :class:`Table`."""
        return self.words_as_flags(name, self._table.columns[name])

    def order(self, name: str) -> NDArray[Any]:
        """See :class:`Table`."""
        values, faults = as_numbers(self._table.columns[name])
        return self.times(name, self._table.columns[name]) if faults else values


class ParquetTable(Table):
    """Columns of a parquet file."""

    def __init__(self, path: Path, wanted: Sequence[str]) -> None:
        """Read the wanted columns.

        Raises:
            UserError: a wanted column is not there, or one of its values is missing.
        """
        self._pa, self._compute = need("pyarrow", "parquet"), need("pyarrow.compute", "parquet")
        with need("pyarrow.parquet", "parquet").ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_names(str(path), names, wanted)
            super().__init__(str(path), names, file.metadata.num_rows)
            table = file.read(columns=list(wanted))
        self._columns = {}
        for name in wanted:
            column = table.column(name).combine_chunks()
            if column.null_count:
                raise self.wrong(
                    name, int(column.is_null().to_numpy(zero_copy_only=False).argmax()), "is empty."
                )
            while self._pa.types.is_dictionary(column.type):  # categories: the values they stand for
                column = column.cast(column.type.value_type)
            self._columns[name] = column

    def numbers(self, name: str) -> NDArray[Any]:
        """See :class:`Table`."""
        column, types = self._columns[name], self._pa.types
        if types.is_decimal(column.type):
            column = column.cast(self._pa.float64())
        if not (types.is_floating(column.type) or types.is_integer(column.type)):
            raise UserError(f"{self.source}: {name} must be numbers, it holds {column.type}.")
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return values

    def texts(self, name: str) -> Any:
        """See :class:`Table`."""
        column, types = self._columns[name], self._pa.types
        if types.is_floating(column.type):
            values = column.to_numpy(zero_copy_only=False).astype(np.float64)
            odd = ~((np.abs(values) <= EXACT) & (values == np.round(values)))
            if odd.any():
                row = int(odd.argmax())
                raise self.wrong(
                    name, row, f"is the number {values[row]!r}; identifiers must be texts or whole numbers."
                )
            column = column.cast(self._pa.int64())
        try:
            return column.cast(self._pa.large_string())
        except (self._pa.ArrowInvalid, self._pa.ArrowNotImplementedError):
            raise UserError(
                f"{self.source}: {name} must be texts or whole numbers, it holds {column.type}."
            ) from None

    def flags(self, name: str) -> NDArray[Any]:
        """See :class:`Table`."""
        column = self._columns[name]
        if _textual(self._pa, column.type):
            return self.words_as_flags(name, column.to_pylist())
        if self._pa.types.is_boolean(column.type):
            values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
            return values
        return self.numbers(name)

    def order(self, name: str) -> NDArray[Any]:
        """See :class:`Table`."""
        column, pa = self._columns[name], self._pa
        if _textual(pa, column.type):
            return self.times(name, column.to_pylist())
        if pa.types.is_date32(column.type):
            column = column.cast(pa.int32())
        elif pa.types.is_timestamp(column.type):
            if column.type.tz is None:
                raise UserError(
                    f"{self.source}: the times of {name} have no zone, so an hour may be missing or there "
                    "twice; declare their zone (UTC), or number the visits."
                )
            column = column.cast(pa.int64())
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise UserError(f"{self.source}: {name} must be numbers, dates or times, it holds {column.type}.")
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return values


def _textual(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_names(source: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a table that is too wide, or lacks a column or has it twice, before its rows are read."""
    if len(names) > MOST_COLUMNS:
        raise UserError(f"{source} has {len(names):,} columns; at most {MOST_COLUMNS:,} are read.")
    if absent := [name for name in wanted if name not in names]:
        shown = ", ".join(names[:TOLD_NAMES]) + (", ..." if len(names) > TOLD_NAMES else "")
        raise UserError(f"{source} has no column {', '.join(map(repr, absent))}; it has: {shown}.")
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise UserError(f"{source} has the column {twice[0]!r} twice.")


TOLD_NAMES = 50
"""Names of columns that are listed where one is looked for in vain."""
