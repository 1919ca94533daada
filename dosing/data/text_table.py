"""CSV files as people, spreadsheets and other programs write them, read in one place.

Values stay text until their column's role is known. Read are: commas, semicolons, tabs or bars between
values, a first line ``sep=;``, UTF-8 with or without its mark, quotes, and decimal commas where commas do not
separate values and cannot be marks between thousands. Everything else is refused, with all that is wrong at
once.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dosing.data.sinks import need
from dosing.errors import UserError

SEPARATORS = (",", ";", "\t", "|")
MOST_COLUMNS = 10_000
"""Widest table that is read."""
TOLD = 50
"""Problems told one by one; further ones are counted."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE | re.ASCII)
_COMMA = re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?|[+-]?inf|nan", re.IGNORECASE | re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
_OTHER_KINDS = {
    b"\xff\xfe": "in UTF-16; save it as UTF-8",
    b"\xfe\xff": "in UTF-16; save it as UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PK": "a workbook or a zip archive; save its sheet as CSV (UTF-8)",
}
"""First bytes of files that are taken for CSV files, and what to do about them."""

Fault = tuple[int, str]
"""A row, from 1, and what is wrong there."""


class Refused(UserError):
    """A file is not used; ``problems`` holds everything that is wrong with it."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep the problems; the first :data:`TOLD` of them make the sentence."""
        self.problems = tuple(problems)
        more = len(problems) - TOLD
        super().__init__(" ".join([*problems[:TOLD], *([f"And {more:,} more."] if more > 0 else [])]))


@dataclass(frozen=True)
class TextTable:
    """A CSV file that could be read.

    Attributes:
        columns: the ``rows`` texts of every column that was kept, by its name.
        rows: number of them, without the header.
        separator: what stands between values.
    """

    columns: Mapping[str, list[str]]
    rows: int
    separator: str


def read_text_table(
    stream: BinaryIO,
    *,
    keep: Collection[str] | None = None,
    most_columns: int = MOST_COLUMNS,
    most_rows: int | None = None,
    head: Callable[[Sequence[str]], list[str]] = lambda names: [],
) -> TextTable:
    """Read a header line and as many values in every further one; rows count from 1, without the header.

    Args:
        stream: the file's bytes, from their start, in a stream that can seek.
        keep: names of the columns to keep; all by default.
        most_columns: a wider file is refused before its rows are read.
        most_rows: of a longer file, this many rows and one more are read.
        head: what is wrong with the names, beyond names that are empty or there twice.

    Raises:
        Refused: no CSV file, or its lines do not fit its header; everything at once.
    """
    opening = stream.read(2)
    stream.seek(0)
    if opening in _OTHER_KINDS:
        raise Refused([f"The file is {_OTHER_KINDS[opening]}."])
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    try:
        return _table(_without_null(text), keep, most_columns, most_rows, head)
    except UnicodeDecodeError:
        stream.seek(0)
        raise _undecodable(stream) from None
    except csv.Error as error:
        raise Refused([f"The file is no CSV file: {error}."]) from None
    finally:
        text.detach()


def _table(
    lines: Iterator[str],
    keep: Collection[str] | None,
    most_columns: int,
    most_rows: int | None,
    head: Callable[[Sequence[str]], list[str]],
) -> TextTable:
    first = next(lines, "")
    hint = re.fullmatch(r'"?sep=(.)"?[;,\t ]*\r?\n?', first, re.IGNORECASE)
    separator = hint[1] if hint else _separator(first)
    reader = csv.reader(lines if hint else _chained(first, lines), delimiter=separator, strict=True)
    names = [name.strip() for name in next(reader, [])]
    if not names:
        raise Refused(["The file is empty."])
    if len(names) > most_columns:
        raise Refused([f"The file has {len(names):,} columns; at most {most_columns:,} are read."])
    problems = [*head(names), *_name_problems(names)]
    places = [k for k, name in enumerate(names) if keep is None or name in keep]
    columns, rows, further = _rows(reader, len(names), places, most_rows)
    problems += further
    if not rows:
        problems.append("The file has no rows.")
    if most_rows is not None and rows > most_rows:
        problems.append(f"The file has more than {most_rows:,} rows, the most that are answered at once.")
    if problems:
        raise Refused(problems)
    return TextTable({names[k]: column for k, column in zip(places, columns, strict=True)}, rows, separator)


def _rows(
    reader: Iterator[list[str]], width: int, places: Sequence[int], most: int | None
) -> tuple[list[list[str]], int, list[str]]:
    """The columns at these places, the number of rows, and what is wrong with rows of another width."""
    columns: list[list[str]] = [[] for _ in places]
    problems: list[str] = []
    rows = empty = 0
    for values in reader:
        if not values:  # counted when a line follows that is not empty
            empty += 1
            continue
        problems += [f"Row {rows + k} has 0 values, the header {width}." for k in range(1, empty + 1)]
        rows, empty = rows + empty + 1, 0
        if len(values) != width:
            what = ": are there decimal commas?" if len(values) > width else "."
            problems.append(f"Row {rows} has {len(values)} values, the header {width}{what}")
        elif not problems:
            for column, place in zip(columns, places, strict=True):
                column.append(values[place])
        if most is not None and rows > most:
            break
    return columns, rows, problems


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _without_null(text: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        if "\0" in line:
            raise Refused([f"Line {number} holds a null character: this is no CSV file."])
        yield line


def _undecodable(lines: BinaryIO) -> Refused:
    """Which line is not UTF-8."""
    for number, line in enumerate(lines, 1):
        try:
            line.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            byte = line.removeprefix(b"\xef\xbb\xbf")[error.start]
            return Refused([f"Line {number} holds byte {byte:#04x}: not UTF-8; save it as UTF-8."])
    return Refused(["The file is not UTF-8. Save it as UTF-8."])


def _separator(header: str) -> str:
    """What stands between the names of a header line."""
    parts = {}
    for separator in SEPARATORS:
        try:
            parts[separator] = len(next(csv.reader([header], delimiter=separator, strict=True), []))
        except csv.Error:  # a quote that another separator may explain
            parts[separator] = 0
    able = [separator for separator, count in parts.items() if count > 1]
    if len(able) > 1:
        shown = " and ".join(map(repr, able))
        raise Refused([f"Line 1: {shown} stand between names; write sep={able[0]} on a line before it."])
    return able[0] if able else ","


def _name_problems(names: Sequence[str]) -> list[str]:
    problems = []
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        problems.append(f"These columns are there twice: {', '.join(map(repr, twice))}.")
    if empty := [str(place) for place, name in enumerate(names, 1) if not name]:
        problems.append(f"Column {', '.join(empty)} has no name.")
    return problems


# Texts as numbers


def decimal_comma(separator: str, columns: Iterable[Sequence[str]]) -> bool:
    """Whether commas in these columns of numbers are decimal marks.

    A file has one decimal mark. Between values that commas separate it is a point; otherwise commas are
    decimal marks where at least one of them cannot stand between thousands.

    Args:
        separator: of the file.
        columns: its columns of numbers.

    Raises:
        Refused: there are commas, and each might stand between thousands.
    """
    if separator == ",":
        return False
    with_comma = [text.strip() for column in columns for text in column if "," in text]
    with_comma = [text for text in with_comma if _COMMA.fullmatch(text) or _THOUSANDS.fullmatch(text)]
    if with_comma and all(map(_THOUSANDS.fullmatch, with_comma)):
        raise Refused(
            [
                f"{with_comma[0]!r} may have a decimal comma or a mark between thousands; write decimal "
                "points, and no marks between thousands."
            ]
        )
    return bool(with_comma)


def as_numbers(texts: Sequence[str], comma: bool = False) -> tuple[NDArray[np.float64], list[Fault]]:
    """Read texts as numbers ``[M]``, NaN where one is empty, with the rows that hold none.

    Args:
        texts: M of them.
        comma: whether the decimal mark is a comma.
    """
    pa = need("pyarrow", "CSV")
    if not comma:
        try:  # all at once where every text is a plain number
            values: NDArray[np.float64] = pa.array(texts, pa.string()).cast(pa.float64()).to_numpy()
            return values, []
        except pa.ArrowInvalid:
            pass
    values, faults = np.full(len(texts), np.nan), []
    pattern = _COMMA if comma else _NUMBER
    for row, text in enumerate(texts):
        word = text.strip()
        if not word:
            continue
        if pattern.fullmatch(word):
            values[row] = float(word.replace(",", "."))
        else:
            faults.append((row + 1, _why(word, comma)))
    return values, faults


def _why(word: str, comma: bool) -> str:
    """Why a text is no number."""
    shown = repr(word[:40])
    if comma and _NUMBER.fullmatch(word):
        return f"{shown} has a decimal point where other numbers of the file have a decimal comma."
    if re.fullmatch(r"[+-]?\d+,\d+", word):
        return f"{shown} has a comma; write a decimal point, and no marks between thousands."
    if re.fullmatch(r"[<>]=?\s*[\d.,]+", word):
        return f"{shown} is a bound, not a number."
    return f"{shown} is no number."
