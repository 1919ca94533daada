"""The policies of each agent side by side, where a comparison sets them so: from fat to thin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.studies.report.document import Table
from dosing.studies.report.study import Compared
from dosing.studies.report.svg import minus


def policies(study: Compared) -> Iterator[Table]:
    """What recommended and drawn doses of every policy brought, and how wide it is, data set by data set.

    Raises:
        UserError: the rows are not those of this version.
    """
    for data in dict.fromkeys(str(row.get("data")) for row in study.policies):
        here = [row for row in study.policies if row.get("data") == data]
        try:
            yield _brought(data, here)
            yield _wide(data, here)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"the policies side by side in the table of {study.path} are not of this version; give the "
                "compare command again."
            ) from error


def _brought(data: str, rows: list[Mapping[str, Any]]) -> Table:
    head = (
        "policy",
        "return, recommended",
        "return, drawn",
        "lost by drawing",
        "cost, recommended",
        "cost, drawn",
        "n",
    )
    body = tuple(
        (
            _title(row),
            *(_told(row[rule]["returns"]) for rule in ("recommended", "sampled")),
            _told(row["lost"]),
            *(_told(row[rule]["cost"]) for rule in ("recommended", "sampled")),
            f"{row['lost']['n']:,}",
        )
        for row in rows
    )
    method = " or ".join(dict.fromkeys(str(row["lost"]["method"]) for row in rows))
    caption = f"Policies of each agent side by side, {data}: returns without unit; 95 % intervals, {method}"
    return Table(caption, head, body, frozenset(range(1, 7)))


def _wide(data: str, rows: list[Mapping[str, Any]]) -> Table:
    head = (
        "policy",
        "half-width",
        "which",
        "outside the limits",
        "outside the sparse interval",
        "entropy, nats",
        "n visits",
    )
    names = ("outside_limits", "outside_interval", "entropy")
    body = tuple(
        (
            _title(row),
            _told(row["half_width"]),
            str(row["width_kind"]),
            *(_told(row[name]) for name in names),
            f"{row['half_width']['n']:,}" if row["half_width"] else "-",
        )
        for row in rows
    )
    caption = f"Widths of the same policies at recorded visits, {data}: half-width in the unit of the dose; "
    caption += "95 % intervals over the seeds"
    return Table(caption, head, body, frozenset({1, 3, 4, 5, 6}))


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['title']} ({row['family']})"


def _told(fields: Mapping[str, Any] | None) -> str:
    """Value and interval; a dash for none."""
    return "-" if fields is None else minus(str(Estimate(**fields)))
