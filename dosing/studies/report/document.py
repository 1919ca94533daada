"""A report as sections of words, tables and figures, and the same sections as HTML and as markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from dosing import NOT_FOR_PATIENTS
from dosing.recommendation.printed import BANNER, document

STYLE = """
body { font-size: 8.6pt; line-height: 1.35; }
h1 { font-size: 15pt; } h2 { font-size: 11pt; margin: 4.5mm 0 1mm; break-after: avoid; }
table { font-size: 7.4pt; margin: 0 0 1mm; }
caption { text-align: left; font-weight: 600; font-size: 8pt; padding: 2mm 0 .6mm; break-after: avoid; }
thead { display: table-header-group; break-after: avoid; } tr { break-inside: avoid; }
th { border-bottom: .8pt solid #1f2328; vertical-align: bottom; } td, th { padding: .5mm 2.5mm .5mm 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; } td.number { white-space: nowrap; }
td.hash { word-break: break-all; min-width: 42mm; } td:first-child { min-width: 27mm; }
figure { margin: 2mm 0; break-inside: avoid; } figcaption { font-size: 7.4pt; color: #57606a; }
blockquote { margin: .8mm 0; padding: .4mm 0 .4mm 2.5mm; border-left: 2pt solid #1f2328;
  break-inside: avoid; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f8fa; border: .5pt solid #d0d7de;
  padding: 1.2mm 2mm; font: 7.4pt/1.35 ui-monospace, "DejaVu Sans Mono", monospace; margin: .8mm 0; }
ul { margin: .6mm 0; padding-left: 4mm; } li { margin: .3mm 0; }
@media (max-width: 640px) { .wide, figure { overflow-x: auto; } }
"""


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Quote:
    """A sentence that may be quoted as it stands."""

    text: str


@dataclass(frozen=True)
class Code:
    """Commands, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; a column in which no row has anything to say is left out.

    Attributes:
        caption: what it shows.
        head: of the columns.
        rows: as many cells each as there are columns; a dash for nothing.
        numbers: columns that are set as numbers.
        hashes: columns of long words that may be broken anywhere.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    hashes: frozenset[int] = frozenset()

    def columns(self) -> list[int]:
        """Columns in which some row says something."""
        return [k for k in range(len(self.head)) if any(row[k] not in ("", "-") for row in self.rows)]


@dataclass(frozen=True)
class Figure:
    """A drawing.

    Attributes:
        name: short, for the name of a file.
        svg: the whole picture.
        caption: what it shows, and how to read it.
    """

    name: str
    svg: str
    caption: str


Part = Words | Items | Quote | Code | Table | Figure


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: tuple[Part, ...]


def html(title: str, sections: Sequence[Section]) -> str:
    """The report as one page of HTML that prints on A4 and needs nothing but itself."""
    body = []
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        body += [_html(part) for part in section.parts]
    return document(title, body, STYLE)


def _html(part: Part) -> str:
    """One part; every text is escaped, figures are drawn here."""
    match part:
        case Words(text):
            return f"<p>{escape(text)}</p>"
        case Items(items):
            return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
        case Quote(text):
            return f"<blockquote>{escape(text)}</blockquote>"
        case Code(lines):
            return f"<pre>{escape(chr(10).join(lines))}</pre>"
        case Figure(_, svg, caption):
            picture = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
            return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
        case Table():
            return _html_table(part)


def _html_table(table: Table) -> str:
    kept = table.columns()

    def line(cells: Sequence[str], tag: str) -> str:
        looks = dict.fromkeys(table.numbers, ' class="number"')
        looks |= dict.fromkeys(table.hashes if tag == "td" else (), ' class="hash"')
        whole = (f"<{tag}{looks.get(k, '')}>{escape(cells[k])}</{tag}>" for k in kept)
        return f"<tr>{''.join(whole)}</tr>"

    body = "".join(line(row, "td") for row in table.rows)
    head = f"<thead>{line(table.head, 'th')}</thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table><caption>{escape(table.caption)}</caption>{head}</table></div>'


def markdown(title: str, sections: Sequence[Section], stem: str) -> tuple[str, dict[str, str]]:
    """The report as markdown, and its figures as files beside it by name.

    Args:
        title: of the report.
        sections: of it.
        stem: of the report's file, with which the names of the figures begin.
    """
    figures: dict[str, str] = {}
    lines = [f"# {_plain(title)}", f"**{_plain(BANNER)}**"]
    for section in sections:
        lines.append(f"## {_plain(section.title)}")
        for part in section.parts:
            if isinstance(part, Figure):
                name = f"{stem}-{_file_word(part.name)}.svg"
                figures[name] = part.svg
                lines.append(f"![{_plain(part.caption)}]({name})\n\n{_plain(part.caption)}")
            else:
                lines.append(_markdown(part))
    return "\n\n".join([*lines, f"**{_plain(NOT_FOR_PATIENTS)}**"]) + "\n", figures


def _markdown(part: Words | Items | Quote | Code | Table) -> str:
    match part:
        case Words(text):
            return _plain(text)
        case Items(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Quote(text):
            return f"> {_plain(text)}"
        case Code(lines):
            return "\n".join(["```", *lines, "```"])
        case Table(caption, head, rows, numbers, _):
            kept = part.columns()
            rule = ["--:" if k in numbers else ":--" for k in kept]
            body = [[_plain(row[k]) for k in kept] for row in (head, *rows)]
            table = [body[0], rule, *body[1:]]
            return "\n".join([f"{_plain(caption)}\n", *(f"| {' | '.join(cells)} |" for cells in table)])


def _file_word(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(sign if sign.isalnum() or sign in "-." else "-" for sign in name)


def _plain(text: str) -> str:
    """Text that markdown shows as it stands: no markup, no link."""
    for sign in ("\\", "|", "*", "`"):
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("](", "]\\(").replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("\n", " ")
