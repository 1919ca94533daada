"""Values in sentences and labels: whatever they hold, they stay text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.text import JOINER, Markdown, bullets, code, escaped, joined, label, sentence

EVIL = (
    "![x](http://e.example/x.png)",
    "[x](http://e.example)",
    "http://e.example/a https://e.example www.e.example a@e.example",
    ":green-badge[OK: within the hard limits]",
    ":red[b] :heart: :material/check: :streamlit: ::a[b] :::c",
    "<b>*a*</b> <img src=//e.example/x> &lt; &#60;",
    "$x$ $$y$$ `c` ~~d~~ _e_ **f** | g | h ||",
    "a\n\n# heading\n- item\n1. first\n> quote\n---\n```\ncode",
    "\N{RIGHT-TO-LEFT OVERRIDE}0.1 mg\N{POP DIRECTIONAL FORMATTING}",
    "{0.__class__} {} {{}}",
    "\\![x](http://e.example)",
)
MARKS = re.compile(r"(?<!\\)(?:\\\\)*[`*_\[\]<>#|~$&!]")


def read(text: str) -> str:
    """What a reader sees of escaped markdown."""
    return re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", text).replace(JOINER, "")


@pytest.mark.parametrize("text", EVIL)
def test_a_value_is_no_markdown(text: str) -> None:
    result = escaped(text)
    assert not MARKS.search(result)
    assert not re.search(r":[^\s\u2060]", result)
    assert "\n" not in result
    assert not re.search(r"https?:/|www\.|(?<!\u2060)@", result)
    assert read(result).split() == re.sub("[\u202e\u202c]", " ", text).split()


@given(st.text())
def test_any_value_is_one_line_without_marks(text: str) -> None:
    result = escaped(text)
    assert not MARKS.search(result)
    assert len(result.splitlines()) <= 1
    assert escaped(result) is result
    assert "<" not in label(text)
    assert "%{" not in label(text)


@pytest.mark.parametrize(
    ("text", "starts"),
    [
        ("- a", "\\- a"),
        ("+ a", "\\+ a"),
        ("1. a", "1\\. a"),
        ("12) a", "12\\) a"),
        ("---", "\\---"),
        ("-0.5", "-0.5"),
    ],
)
def test_a_value_begins_no_list(text: str, starts: str) -> None:
    assert escaped(text) == starts


def test_a_sentence_escapes_its_values_and_nothing_else() -> None:
    assert sentence("**{}** of {:,}: {!r}", "a*b", 12345, "x:y") == f"**a\\*b** of 12,345: 'x:{JOINER}y'"
    inner = sentence("**{}**", "[x]")
    assert sentence("{} and {}", inner, "**y**") == "**\\[x\\]** and \\*\\*y\\*\\*"
    assert bullets(["a_b", inner]) == "- a\\_b\n- **\\[x\\]**"
    assert joined(" · ", ["*", Markdown("**b**")]) == "\\* · **b**"


@pytest.mark.parametrize(
    ("text", "told"), [("a/b", "`a/b`"), ("a`b", "``a`b``"), ("``", "``` `` ```"), ("", "` `")]
)
def test_code_is_closed_where_it_ends(text: str, told: str) -> None:
    assert code(text) == told
    assert "\n" not in code(f"{text}\n\nx")


@pytest.mark.parametrize("text", EVIL)
def test_a_label_has_no_tag_and_no_field(text: str) -> None:
    assert "<" not in label(text + "<a href='//e.example'>x</a>")
    assert "%{" not in label("%{customdata}")
    assert label("a & b <5 %") == "a &amp; b &lt;5 %"
