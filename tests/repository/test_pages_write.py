"""How pages write and where their doses come from, read off the source: no page can do it another way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITER = ROOT / "app" / "widgets" / "write.py"
PAGES = sorted(p for room in ("views", "widgets") for p in (ROOT / "app" / room).glob("*.py") if p != WRITER)
APP = sorted((ROOT / "app").rglob("*.py"))

SENTENCES = {
    "markdown",
    "caption",
    "info",
    "warning",
    "error",
    "success",
    "badge",
    "metric",
    "table",
    "write",
}
SENTENCES |= {
    "title",
    "header",
    "subheader",
    "text",
    "toast",
    "latex",
    "html",
    "exception",
    "help",
    "spinner",
}
"""Functions of Streamlit that show what they are given; all but a few read it as markdown."""
LABELLED = {"radio", "checkbox", "toggle", "button", "download_button", "form_submit_button", "number_input"}
LABELLED |= {"text_input", "text_area", "slider", "select_slider", "selectbox", "multiselect", "expander"}
LABELLED |= {"segmented_control", "pills", "file_uploader", "page_link", "link_button", "popover", "status"}
"""Widgets, whose label is markdown."""
SAFE = {"sentence", "escaped", "code", "bullets", "joined", "meaning", "explained"}
DATA = {"write.table", "write.record", "write.columns"}
"""What escapes the data that it is given."""
WORDS = {"label", "help", "body", "caption", "captions"}


def is_constant(node: ast.expr) -> bool:
    """A text that stands in the source: written out, or by the name of a constant."""
    return (isinstance(node, ast.Constant) and isinstance(node.value, str)) or (
        isinstance(node, ast.Name) and node.id.isupper()
    )


def is_safe(node: ast.expr) -> bool:
    """A constant, or what :mod:`app.text` made."""
    return is_constant(node) or (isinstance(node, ast.Call) and ast.unparse(node.func) in SAFE)


def unsafe(tree: ast.AST) -> Iterator[str]:
    """What could show a value as markdown."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {id(call.func) for call in calls}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in called:
            writes = ast.unparse(node.value) == "write"
            if writes or (ast.unparse(node.value) == "st" and node.attr in SENTENCES | LABELLED):
                yield f"{ast.unparse(node)} by another name"
    for call in calls:
        yield from unsafe_call(call, ast.unparse(call.func))


def unsafe_call(call: ast.Call, name: str) -> Iterator[str]:
    """What is wrong with one call."""
    first = next(iter(call.args), None)
    shows = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name == "Markdown" and not (first is not None and is_constant(first)):
        yield "Markdown of a value"
    elif name == "sentence" or (name.startswith("write.") and name not in DATA):
        template = call.args[1] if name == "write.nothing_yet" and len(call.args) > 1 else first
        if template is None or not is_constant(template):
            yield f"{name}: the template is not written out"
    elif name != "write.table" and shows in SENTENCES and first is not None and not is_constant(first):
        yield f"{name} of a value"
    elif shows in LABELLED:
        told = [first] if first is not None and shows != "page_link" else []
        told += [k.value for k in call.keywords if k.arg in WORDS]
        if not all(map(is_safe, told)):
            yield f"{name} with a value in its label"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_writes_templates_and_escaped_values(path: Path) -> None:
    assert list(unsafe(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_check_of_pages_finds_what_it_is_for() -> None:
    code = """
st.warning(f"no {name}"); place.caption(words); st.markdown("a" + name); left.selectbox(label, options)
st.radio("x", options, help=f"{name}"); write.info(f"{name}"); sentence(template, name); Markdown(name)
say = st.error if bad else write.info
st.title("x"); st.radio(sentence("{}", name), options); write.info("{}", name); st.page_link("x", label="y")
"""
    assert len(list(unsafe(ast.parse(code)))) == 10


def test_sentences_are_made_in_two_modules_alone() -> None:
    """``Markdown`` says that every value in it was escaped; who makes one has to have done so."""
    makers = {
        path.relative_to(ROOT).as_posix()
        for path in APP
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Markdown"
    }
    assert makers == {"app/text.py", "app/theme.py", "app/views/about.py"}  # the last two: of constants


DOSES = {"recommended", "sampled", "consult", "central", "following", "policy_of"}
"""What gives a policy's doses without the recommender."""
ASKING = {
    "ask": {"app/widgets/audit.py"},
    "ask_rules": {"app/widgets/clinic_rules.py"},
    "stated": {"app/analysis/clinic.py"},
    "recommend": {"app/readers/asked.py", "app/analysis/clinic.py"},
    "recommendation": {"app/analysis/recommendations.py"},
    "recommend_all": {
        "app/analysis/recommendations.py",
        "app/analysis/batch.py",
        "app/analysis/model_card.py",
        "app/analysis/patients.py",
    },
}
"""Who may ask the recommender: what asks for a page records what it hears; a card and the
order of the patients show shares, no dose."""


def test_no_page_gets_a_dose_past_the_recommender_or_the_log() -> None:
    past, asking = [], []
    for path in APP:
        place = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if place != "app/analysis/clinic.py":  # what a clinic's rules ask for, before any limit
            raw = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
            past += [f"{place}: clinic" for node in raw if node.attr == "clinic"]
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            name = ast.unparse(call.func).split(".")[-1]
            if name in DOSES:
                past.append(f"{place}: {name}")
            if name in ASKING and place not in ASKING[name]:
                asking.append(f"{place}: {name}")
    assert past == []
    assert asking == []
