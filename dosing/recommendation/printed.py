"""A page of HTML that prints on A4 and needs nothing but itself: its style, and the notice at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from dosing import NOT_FOR_PATIENTS

BANNER = f"Simulation, not for patients. {NOT_FOR_PATIENTS}"

STYLE = """
@page { size: A4; margin: 7mm 11mm; }
* { box-sizing: border-box; }
html { color-scheme: light; }
body { font: 8pt/1.28 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #1f2328; background: #fff;
  max-width: 186mm; margin: 4mm auto; padding: 0 2mm; }
@media print { body { margin: 0; max-width: none; padding: 0; } }
h1 { font-size: 13pt; margin: 1.8mm 0 .3mm; }
h2 { font-size: 9.5pt; margin: 2.2mm 0 .8mm; }
h3 { font-size: 9.5pt; margin: 0; }
.dose { white-space: nowrap; }
p { margin: .6mm 0; }
.banner { border: 1.5pt solid #b35900; background: #fff4e5; font-weight: 700; font-size: 6.8pt;
  padding: .6mm 2mm; }
.state { display: flex; flex-wrap: wrap; gap: .5mm 5mm; margin: 0; }
.state div { min-width: 27mm; }
dt { display: inline; color: #57606a; } dd { display: inline; margin: 0; font-weight: 600; }
.agents { display: grid; grid-template-columns: repeat(auto-fit, minmax(86mm, 1fr)); gap: 2.5mm; }
article { border: .75pt solid #767676; padding: 1.5mm 2.5mm; break-inside: avoid; }
.status { display: inline-block; border: 1pt solid; padding: .1mm 1.5mm; font-weight: 700; margin: .6mm 0; }
.deferred, .refused { color: #a40e26; }
.good, .caution, .decision { border-left: 2.5pt solid; padding-left: 1.5mm; font-weight: 600; }
.good { color: #00614a; } .caution { color: #8f3e00; } .decision { color: #1f2328; }
.dose { font-size: 14pt; font-weight: 700; line-height: 1.2; }
.lines { margin: .6mm 0 0; padding-left: 3.4mm; font-size: 7.4pt; line-height: 1.22; }
.reason { font-weight: 600; }
svg { display: block; width: 100%; height: auto; margin-top: 1mm; }
table { border-collapse: collapse; width: 100%; font-size: 6.8pt; }
th, td { text-align: left; padding: .15mm 2.5mm .15mm 0; border-bottom: .5pt solid #d0d7de; }
td { vertical-align: top; }
.hash { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 6.2pt; overflow-wrap: anywhere; }
.small { color: #57606a; font-size: 7pt; font-weight: 400; }
@media (max-width: 640px) { .agents { grid-template-columns: 1fr; } .wide { overflow-x: auto; } }
"""


def document(title: str, parts: Sequence[str], style: str = "") -> str:
    """A whole page of HTML that prints on A4: title, parts, and the notice above and below them.

    Args:
        title: text of the heading.
        parts: HTML, in which every text is escaped.
        style: rules that come after :data:`STYLE`.
    """
    guard = "default-src 'none'; style-src 'unsafe-inline'"
    banner = f'<p class="banner">{escape(BANNER)}</p>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{guard}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="description" content="{escape(NOT_FOR_PATIENTS)}">'
        f"<title>{escape(title)}, not for patients</title><style>{STYLE}{style}</style></head>\n<body>\n"
        + "\n".join([banner, f"<h1>{escape(title)}</h1>", *parts, banner])
        + "\n</body></html>\n"
    )
