"""Values in sentences and labels: the one place where a text of a link, a file or a person is made harmless.

Streamlit reads what it shows as markdown, Plotly its labels as a few HTML tags. A value that was put into
either could fetch a picture from another host, draw a green badge or become a link. So sentences are made of
a template, which is written in the source, and of values, which :func:`sentence` escapes; labels of figures
pass :func:`label`. No Streamlit in here.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable
from html import escape
from typing import Any

JOINER = "\N{WORD JOINER}"
"""Has no width and breaks no line. What Streamlit replaces after it has read the markdown (addresses, mail,
icons and emoji by name) no backslash stops: a letter between stops it."""


class Markdown(str):
    """Markdown in which every value was escaped; whatever is no such text is a value."""

    __slots__ = ()


def escaped(value: object) -> Markdown:
    """A value as markdown that shows it letter by letter: no link, no picture, no badge, no heading.

    Line ends and characters without a shape of their own, such as those that turn the direction of writing,
    become spaces. :class:`Markdown` is returned as it is.
    """
    if isinstance(value, Markdown):
        return value
    text = _plain(value)
    text = re.sub(r"[\\`*_{}\[\]<>#|~$&!]", r"\\\g<0>", text)
    text = re.sub(r":(?=\S)", f":{JOINER}", text)  # :green-badge[...], :heart:, :material/icon:, http://
    text = re.sub(r"(?i)\b(www)\.", rf"\1{JOINER}.", text)
    text = text.replace("@", f"{JOINER}@")
    text = re.sub(r"^([-+=])(?=\s|\1|$)", r"\\\1", text)  # a list, a rule, a heading
    return Markdown(re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text))


def code(value: object) -> Markdown:
    """A value in the letters of code, where nothing is markup: paths, names of files and of columns."""
    text = _plain(value).strip() or " "
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    room = " " if "`" in (text[0], text[-1]) else ""
    return Markdown(f"{fence}{room}{text}{room}{fence}")


def sentence(template: str, *values: object) -> Markdown:
    """A sentence with values in it, as ``template.format(*values)``; every value is escaped.

    Args:
        template: markdown, written out in the source.
        *values: of any kind; :class:`Markdown` goes in as it is.
    """
    return Markdown(_Escaping().format(template, *values))


def in_sentences(reasons: Iterable[str]) -> str:
    """Reasons one after another, each with a capital first."""
    return " ".join(reason[:1].upper() + reason[1:] for reason in reasons)


def joined(separator: str, parts: Iterable[object]) -> Markdown:
    """Values one after another, each escaped."""
    return Markdown(separator.join(map(escaped, parts)))


def bullets(lines: Iterable[object]) -> Markdown:
    """Values as a list, each escaped."""
    return Markdown("\n".join(f"- {escaped(line)}" for line in lines))


def label(value: object) -> str:
    """A value as a label of a figure shows it letter by letter: no tag, and no field of a hover text."""
    return escape(_plain(value), quote=False).replace("%{", "&#37;{")


def _plain(value: object) -> str:
    """The value's text in one line, without characters that have no shape of their own."""
    return "".join(
        " " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") else c for c in str(value)
    )


class _Escaping(string.Formatter):
    """``str.format`` with every value escaped."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        """One value in its format, escaped."""
        return (
            value if isinstance(value, Markdown) and not format_spec else escaped(format(value, format_spec))
        )
