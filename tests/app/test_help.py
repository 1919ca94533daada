"""Every term of art in a heading, a number's name, a widget's label or a column's head is explained there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.widgets.glossary import GROUPS, explained
from tests.app.test_pages import plain

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(file.stem for file in (ROOT / "app" / "views").glob("[a-z]*.py"))
ART = {
    "return": "The sum of a patient's rewards",
    "seed": "One of several repetitions of the learning",
    "cost": "Counted harm",
    "critic": "own guess of how well",
    "law": "How likely the policy holds each dose",
    "mode": "The dose a policy holds most likely",
    "cvar": "The mean return of the patients who did worst",
    "half-width": "Half of the length of the interval",
    "ess": "How many recorded patients such a judgement really rests on",
    "ceiling": "What the best possible treatment would reach",
    "novelty": "How unlike all recorded visits this one is",
    "sparse": "Gives doses from one interval with exact ends",
    "gaussian": "The bell curve",
    "off-policy evaluation": "Judging a policy by recorded visits alone",
    "hard limits": "The lowest and highest dose that may ever be given",
    "deferrals": "There is a dose, but not as advice",
}
"""Words by which a person who is no expert stumbles, with the beginning of what explains them."""
OTHER_SEED = "Another one makes other patients."


def labels(node: Any) -> Iterator[tuple[str, str]]:
    """Labels below a node of the page, each with the help beside it; a link's page explains its own."""
    for child in getattr(node, "children", {}).values():
        yield from labels(child)
    proto = getattr(node, "proto", None)
    if node.type in ("title", "subheader"):
        yield node.value, proto.help
    elif node.type == "arrow_data_frame" and proto.columns:
        heads = json.loads(proto.columns)
        for name in node.value.columns:
            yield str(name), heads.get(str(name), {}).get("help") or ""
    elif node.type != "page_link" and hasattr(proto, "label") and hasattr(proto, "help"):
        options = [getattr(option, "content", option) for option in getattr(proto, "options", [])]
        yield (
            " | ".join([proto.label, *map(str, options)] if len(options) <= 12 else [proto.label]),
            proto.help,
        )


def opened(study: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("DOSING_STUDY", str(study))
    at = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=120).run()
    if name != "patient":
        at.switch_page(f"views/{name}.py").run()
    assert not at.exception
    return at


@pytest.mark.parametrize("name", PAGES)
def test_terms_of_art_in_labels_carry_their_help(
    full_study: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = [
        (plain(label), plain(told)) for label, told in labels(opened(full_study, name, monkeypatch).main)
    ]
    assert found, "a page has a title at least"
    bare = [
        f"{label!r} says {word!r} without help"
        for label, told in found
        for word, meaning in ART.items()
        if re.search(rf"(?<![\w-]){word}s?(?!\w)", label, re.IGNORECASE)
        and meaning not in told
        and told != OTHER_SEED
    ]
    assert bare == []


def test_the_labels_of_the_first_screen_and_of_the_comparison_are_seen(
    full_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = dict(labels(opened(full_study, "patient", monkeypatch).main))
    assert {"Recommended dose", "Visit"} <= set(patient)
    compared = list(labels(opened(full_study, "comparison", monkeypatch).main))
    assert any(label == "half-width" and told for label, told in compared) or any(
        "half-width" in label for label, _ in compared
    )


def test_a_label_is_explained_by_whole_words_and_each_term_once() -> None:
    told = str(explained("mean return minus that of the constant dose", "returns"))
    assert told.count("The sum of a patient") == 1
    assert "best single dose for everyone" in told
    assert explained("the lawn and the model of a returner") is None
    assert "bell curve" in str(explained("Gaussian"))
    words = [term.word for terms in GROUPS.values() for term in terms]
    assert len(words) == len(set(words))
    assert all(explained(term.said[0] if term.said else term.word) for t in GROUPS.values() for term in t)
