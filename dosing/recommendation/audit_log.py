"""The audit log: what was shown and what was decided, one JSON object per line, chained by hashes.

Every line holds ``number`` (from 1), ``time`` (UTC), ``kind``, ``content``, ``previous`` (SHA-256 of the line
before, without its end of line; zeros before the first) and last ``hash`` (SHA-256 of the line as it would
read without it). A changed line betrays itself, and so do lines that were deleted, moved or put in between.
Beside the log stands its head, ``<log>.head``: number and hash of the last line, so that a log that was cut
at the end of a line is noticed too. This finds accidents and naive edits; whoever can write both files and
knows this format can forge them. Keep the last hash elsewhere to notice that as well.

A line is on the disk (fsync) before :meth:`AuditLog.append` returns: write to the log first, show then. A
lock on the log orders the lines of concurrent processes and threads. A broken log is never repaired, and
never continued: a process checks every line before it adds its first one, and again whenever the file is not
as it left it (0.05 ms for a line of 1 kB); else it checks the last line and the head.

No patient identifiers belong in here; see :func:`shown` for what is kept of a recommendation.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from dosing.errors import UserError
from dosing.safety import dose_text

FILE = "audit.jsonl"
"""Name of the log in a study folder, where no other is chosen."""
VARIABLE = "DOSING_AUDIT"
"""Environment variable that chooses the log."""
NONE = "0" * 64
"""What stands for the hash of the line before the first."""

Kind = Literal["run loaded", "recommendation", "refusal", "batch", "decision"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DECISIONS = ("decision", "override")
"""Kinds of a decision: as it is filed, and as it was filed in logs of earlier versions."""


def log_of(study: Path, chosen: Path | None = None) -> AuditLog:
    """The log to write: the chosen file, else that of ``DOSING_AUDIT``, else ``audit.jsonl`` of the study."""
    return AuditLog(chosen or Path(os.environ.get(VARIABLE) or study / FILE))


@dataclass(frozen=True)
class Record:
    """One line of the log, with the hash of the whole line."""

    number: int
    time: str
    kind: str
    content: dict[str, Any]
    line_hash: str


@dataclass(frozen=True)
class Verified:
    """The result of checking the whole log.

    Attributes:
        records: the sound lines, from the first on.
        last_hash: hash of the last sound line.
        broken: number of the first broken line; None if the log is whole.
        problem: what is wrong there; empty if the log is whole.
        head: whether the log's head was there to tell lines cut off at the end.
    """

    records: tuple[Record, ...]
    last_hash: str
    broken: int | None = None
    problem: str = ""
    head: bool = True


@dataclass(frozen=True)
class AuditLog:
    """An append-only log by its path; see the module for the format."""

    path: Path

    @property
    def head(self) -> Path:
        """The file beside the log that holds number and hash of its last line."""
        return self.path.with_name(f"{self.path.name}.head")

    def append(self, kind: Kind, content: Mapping[str, Any]) -> Record:
        """Add a line; it is on the disk when this returns.

        Args:
            kind: what happened.
            content: JSON-able; NaN and infinity are refused.

        Raises:
            UserError: the file cannot be written, or the log is broken: nothing was added then.
        """
        with self._locked() as file:
            return self._append(file, kind, content)

    def check(self) -> None:
        """Check that the log can be continued: every line, unless it is as this process left it.

        Raises:
            UserError: it cannot be written, or is broken.
        """
        with self._locked() as file:
            self._whole(file)

    def verify(self) -> Verified:
        """Check every line, the chain and the end of the log.

        Raises:
            UserError: the log is missing or cannot be read.
        """
        with self._open() as file:
            return _check(file.read().splitlines(keepends=True), self._read_head())

    def sentence(self, result: Verified) -> str:
        """The result of a check, in one sentence."""
        if result.broken is not None:
            return (
                f"the audit log {self.path} is broken at line {result.broken}: {result.problem}; the "
                f"{len(result.records)} line(s) before are sound. It is kept as it is, and nothing is added: "
                f"restore it, or move it and its head {self.head.name} aside, and a new one begins."
            )
        count = f"{len(result.records):,} record{'s' if len(result.records) != 1 else ''}"
        end = (
            ""
            if result.head
            else "; its head is missing, so that lines cut off at the end would not be noticed"
        )
        return f"{self.path} is whole: {count}, last hash {result.last_hash}{end}"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The open log, held against every other process and thread."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise UserError(f"cannot write the audit log {self.path}: {error.strerror or error}.") from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        """The log as it can be read; no line is added meanwhile."""
        try:
            with self.path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                yield file
        except FileNotFoundError as error:
            raise UserError(f"there is no audit log {self.path}.") from error
        except OSError as error:
            raise UserError(f"cannot read the audit log {self.path}: {error.strerror or error}.") from error

    def _append(self, file: int, kind: Kind, content: Mapping[str, Any]) -> Record:
        size = os.fstat(file).st_size
        number, previous = self._whole(file)
        before = stamp_of(file)
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        body = {"number": number + 1, "time": time, "kind": kind, "content": content, "previous": previous}
        try:
            plain = _dump(body)
        except (TypeError, ValueError) as error:
            raise UserError(f"the audit log keeps plain JSON: {error}.") from error
        line = _dump(body | {"hash": _sha256(plain)})
        try:
            if os.write(file, line + b"\n") != len(line) + 1:
                raise OSError(28, "No space left on device")
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)  # the line was never whole: nobody was told that it is there
            raise
        self._write_head(number + 1, _sha256(line), new=size == 0)
        _LEFT[self.path] = stamp_of(file)
        if kind not in DECISIONS and DECIDED.get(self.path, (None,))[0] == before:
            DECIDED[self.path] = (_LEFT[self.path], DECIDED[self.path][1])
        return _record(line)

    def _whole(self, file: int) -> tuple[int, str]:
        """Number and hash of the last line of the open log, of which no line is broken.

        Raises:
            UserError: the log is broken.
        """
        if _LEFT.get(self.path) == stamp_of(file):
            with contextlib.suppress(UserError):  # what is wrong is found again below, with its line
                return self._end(file, os.fstat(file).st_size)
        self._verified(file)
        return self._end(file, os.fstat(file).st_size)

    def _verified(self, file: int) -> Verified:
        """The open log, every line checked.

        Raises:
            UserError: the log is broken.
        """
        with open(file, "rb", closefd=False) as whole:
            whole.seek(0)
            result = _check(whole.read().splitlines(keepends=True), self._read_head())
        if result.broken is not None:
            raise UserError(self.sentence(result))
        _LEFT[self.path] = stamp_of(file)
        return result

    def _end(self, file: int, size: int) -> tuple[int, str]:
        """Number and hash of the last line of the open log.

        Raises:
            UserError: it is no sound line, or not the one that the head names.
        """
        last, start = b"", size
        while start > 0 and b"\n" not in last[:-1]:
            step = min(start, 1 << 16)
            start -= step
            last = os.pread(file, step, start) + last
        lines = last.splitlines(keepends=True)
        try:
            line = _sound(lines[-1]) if lines else None
        except UserError as error:
            raise UserError(
                f"the audit log {self.path} ends in a broken line: {error}; move it aside."
            ) from None
        number, hash_ = (line["number"], _sha256(lines[-1][:-1])) if line else (0, NONE)
        head = self._read_head() or (0, NONE)
        if head[0] not in (number - 1, number) or (head[0] == number and head[1] != hash_):
            raise UserError(
                f"the audit log {self.path} ends at line {number}, which is not where its head "
                f"{self.head.name} says that it ends; move both files aside."
            )
        return number, hash_

    def _write_head(self, number: int, hash_: str, *, new: bool) -> None:
        """Overwrite the head, always of the same length, so that it is never half of two."""
        file = os.open(self.head, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, f"{number:020d} {hash_}\n".encode(), 0)
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _read_head(self) -> tuple[int, str] | None:
        """Number and hash of the line that was last when the head was written; None without a head."""
        try:
            number, hash_ = self.head.read_text(encoding="ascii").split()
            return int(number), hash_
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"the audit log's head {self.head} cannot be read; it is damaged.") from error


_LEFT: dict[Path, tuple[int, ...]] = {}
"""By log, the stamp of the file when this process last wrote it or found it whole."""
DECIDED: dict[Path, tuple[tuple[int, ...], tuple[Any, ...]]] = {}
"""By log, the decisions in it, and the stamp of the file that they are known to be all of."""


def stamp_of(file: int) -> tuple[int, ...]:
    """What tells whether an open file was replaced, changed or added to."""
    result = os.fstat(file)
    return result.st_dev, result.st_ino, result.st_size, result.st_mtime_ns


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _record(line: bytes) -> Record:
    fields = json.loads(line)
    return Record(
        fields["number"], fields["time"], fields["kind"], fields["content"], _sha256(line.removesuffix(b"\n"))
    )


def _sound(line: bytes) -> dict[str, Any]:
    """Read one line and check it against its own hash.

    Raises:
        UserError: what is wrong with it.
    """
    if not line.endswith(b"\n"):
        raise UserError("it is cut off, without an end of line")
    try:
        fields = json.loads(line)
        own = fields.pop("hash")
        sound = own == _sha256(_dump(fields)) and line == _dump(fields | {"hash": own}) + b"\n"
        well_formed = isinstance(fields["number"], int) and isinstance(fields["content"], dict)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError("it is no record") from None
    if not sound or not well_formed:
        raise UserError("it was changed")
    return dict(fields)


def _check(lines: Sequence[bytes], head: tuple[int, str] | None) -> Verified:
    """Check the lines in order, then the end against the head."""
    records: list[Record] = []
    hashes = [NONE]

    def result(broken: int | None = None, problem: str = "") -> Verified:
        sound = records if broken is None else records[: broken - 1]
        return Verified(tuple(sound), hashes[len(sound)], broken, problem, head is not None)

    for number, line in enumerate(lines, 1):
        try:
            fields = _sound(line)
        except UserError as error:
            return result(number, str(error))
        if fields["number"] != number or fields["previous"] != hashes[-1]:
            problem = f"it is record {fields['number']}, which does not follow the line before it"
            return result(number, f"{problem}: lines were deleted, moved or put in between")
        records.append(_record(line))
        hashes.append(records[-1].line_hash)
    if head is None:
        return result()
    # A crash between the line and the head leaves the head one line behind, and no further.
    if head[0] > len(lines):
        cut = f"the log ends before it, but its head names line {head[0]}: lines were cut off at the end"
        return result(len(lines) + 1, cut)
    if head[0] < len(lines) - 1 or hashes[head[0]] != head[1]:
        other = f"its head names another line {head[0]}: lines were replaced or appended by another hand"
        return result(min(head[0] + 1, len(lines)), other)
    return result()


# What is recorded


def state_hash(state: Sequence[Any]) -> str:
    """SHA-256 of a state's numbers, followed by what else was told, see :func:`seen`.

    Of few possible states it hides nothing from who can try them all.
    """
    return _sha256(json.dumps([str(x) for x in state]).encode())


def seen(asked: Mapping[str, Any]) -> list[Any]:
    """All numbers that a recommendation in JSON rests on: state, current dose, visits it looked back at."""
    earlier = asked.get("earlier") or ()
    visits = (x for visit in earlier for x in ("visit", *visit["state"], *visit["dose"], visit["reward"]))
    return [*asked["state"], *(asked.get("current") or ()), *visits]


def batch_content(asked: Sequence[Any], said: Any, statuses: Mapping[str, int]) -> dict[str, Any]:
    """Content of the record of many answers at once, without their provenance: hashes and counts.

    Args:
        asked: arrays of what was asked about.
        said: the array of doses.
        statuses: how many answers had each status.
    """
    return {
        "input": _sha256(b"".join(array.tobytes() for array in asked)),
        "output": _sha256(said.tobytes()),
        "rows": sum(statuses.values()),
        "statuses": dict(statuses),
    }


def shown(
    result: Mapping[str, Any],
    states: Literal["numbers", "hash"] = "numbers",
    visit: tuple[str, int] | None = None,
) -> tuple[Kind, dict[str, Any]]:
    """Kind and content of the record of a recommendation or refusal.

    Args:
        result: ``Recommendation.to_json()``.
        states: keep the numbers of the state, and of visits before it that the policy looked back at, as is
            right for simulated patients, or only their hash.
        visit: patient and visit (from 1) of the recorded data that the state is of; None for typed numbers.
    """
    basic = ("status", "codes", "dose", "proposed", "unit", "limits", "distance", "spread", "provenance")
    content = {name: result[name] for name in basic}
    names = ["state", "current", "step"]
    if result.get("earlier") is not None:
        content["earlier_visits"] = len(result["earlier"])
        names.append("earlier")
    if states == "numbers":
        content |= {name: result[name] for name in names}
    else:
        content["state_hash"] = state_hash(seen(result))
    if visit is not None:
        content |= {"patient": visit[0], "visit": visit[1]}
    return ("refusal" if result["status"] == "refused" else "recommendation"), content


def what(record: Record) -> str:
    """What a record says, in a few words on one line."""
    content = record.content
    if record.kind in DECISIONS:
        dose = "" if content["dose"] is None else f" {_words(content)}"
        words = "".join(c if c.isprintable() else " " for c in content["reason"])
        reason = f": {words}" if words else ""
        earlier = f", replaces record {content['replaces']}" if content.get("replaces") else ""
        return f"{content['action']}{dose} on record {content['record']}{earlier}{reason}"
    if record.kind == "batch":
        counts = ", ".join(f"{count} {status}" for status, count in content["statuses"].items() if count)
        return f"{content['rows']} rows: {counts}"
    if record.kind in ("recommendation", "refusal"):
        dose = "" if content["dose"] is None else f" {_words(content)}"
        return " ".join([f"{content['status']}{dose}", *content["codes"]])
    return str(content.get("agent", ""))


def _words(content: dict[str, Any]) -> str:
    """The dose of a record; within its limits, where it names them."""
    dose = content["dose"]
    low, high = content.get("limits") or ([-math.inf] * len(dose), [math.inf] * len(dose))
    return ", ".join(dose_text(x, lo, hi) for x, lo, hi in zip(dose, low, high, strict=True))
