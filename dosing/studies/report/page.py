"""From a study folder to its report on disk."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from dosing import __version__
from dosing.errors import UserError
from dosing.runs.files import write_atomic
from dosing.studies import finetune_table
from dosing.studies.naming import TABLE
from dosing.studies.report.choice import selected
from dosing.studies.report.contents import compared
from dosing.studies.report.document import Section, Words, html, markdown
from dosing.studies.report.study import read_compared
from dosing.studies.report.trials import trials
from dosing.studies.selected import SELECTION

TRIALS_TABLE = Path(finetune_table.TRIALS) / finetune_table.TABLE
KINDS = (".html", ".htm", ".md")
"""Endings of a report's file."""


def is_study(path: Path) -> bool:
    """Whether a folder holds a finished comparison or selection, or trials."""
    return any((path / file).is_file() for file in (TABLE, SELECTION, TRIALS_TABLE))


def write_report(study: Path, out: Path, reference: str | None = None) -> list[Path]:
    """Write the report of a finished study; one as markdown has its figures as files beside it.

    Args:
        study: folder of ``compare``, ``demo``, ``select`` or ``finetune``.
        out: file that ends in ``.html`` or ``.md``.
        reference: run that the others are compared with; None is the estimated constant dose.

    Returns:
        The files written, the report first.

    Raises:
        UserError: no finished study, a damaged one, or a name that is none of its runs.
    """
    if out.suffix.lower() not in KINDS:
        raise UserError(f"--out of a study's report must end in .html or .md, got {out}.")
    if not is_study(study):
        raise UserError(
            f"{study} holds no finished comparison or selection and no trials "
            f"(no {TABLE}, no {SELECTION}, no {TRIALS_TABLE})."
        )
    sections: list[Section] = []
    if (study / TABLE).is_file():
        sections += compared(read_compared(study), reference)
    elif reference is not None:
        raise UserError("--reference is for comparisons; a selection compares with the constant dose.")
    if (study / SELECTION).is_file():
        sections += selected(study)
    if (study / TRIALS_TABLE).is_file():
        sections += trials(study)
    made = datetime.now(UTC).isoformat(timespec="minutes")
    sections.append(Section("About", (Words(f"Written by dosing {__version__}, {made}."),)))
    title = f"Report of the study {study.resolve().name}"
    if out.suffix.lower() != ".md":
        write_atomic(out, html(title, sections).encode())
        return [out]
    page, figures = markdown(title, sections, out.stem)
    for name, svg in figures.items():
        write_atomic(out.with_name(name), svg.encode())
    write_atomic(out, page.encode())
    return [out, *(out.with_name(name) for name in figures)]
