"""What is selected goes along: over every page, with every link, and never against one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parents[2]
PAGES = re.findall(r'"(views/\w+\.py)"', (ROOT / "app" / "main.py").read_text())
STATE = ("views/patient.py", "views/dose_response.py")
"""Pages that ask for a state: quick ones of them."""


@pytest.fixture
def app(full_study: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("DOSING_STUDY", str(full_study))
    return AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)


def go(app: AppTest, page: str, **link: str) -> AppTest:
    """Follow a link to a page; that of the navigation names nothing."""
    app.query_params.clear()
    app.query_params.update(link)
    app.switch_page(page).run()
    assert not app.exception
    return app


def shown(app: AppTest) -> tuple[int, int]:
    return app.selectbox(key="patient").value, app.slider(key="visit").value


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_what_a_link_selected_is_in_the_address_of_every_page(app: AppTest, page: str) -> None:
    first = STATE[page == STATE[0]]
    assert shown(go(app, first, patient="2", visit="6")) == (2, 6)
    go(app, page)
    assert app.query_params == {"patient": "2", "visit": "6"}
    assert shown(go(app, first)) == (2, 6)


@pytest.mark.long
def test_a_choice_is_in_the_address_and_goes_along(app: AppTest) -> None:
    go(app, STATE[0], patient="2", visit="6")
    app.selectbox(key="patient").set_value(1).run()
    app.slider(key="visit").set_value(9).run()
    assert app.query_params == {"patient": "1", "visit": "9"}
    assert shown(go(app, STATE[1])) == (1, 9)
    app.selectbox(key="patient").set_value(0).run()  # what no link would have to name
    assert shown(go(app, STATE[0])) == (0, 9)


@pytest.mark.long
def test_a_link_replaces_the_whole_selection(app: AppTest) -> None:
    go(app, STATE[0], patient="2", visit="6")
    go(app, STATE[1], visit="3")
    assert shown(app) == (0, 3)
    numbers = " ".join("0" * 8)
    go(app, STATE[0], state_from="typed numbers", numbers=numbers)
    assert app.text_input(key="numbers").value == numbers
    go(app, STATE[1])
    assert (app.query_params["state_from"], app.text_input(key="numbers").value) == ("typed numbers", numbers)
    assert "patient" not in app.query_params


@pytest.mark.long
def test_another_visitor_starts_with_the_first_patient(app: AppTest, full_study: Path) -> None:
    go(app, STATE[0], patient="2", visit="6")
    other = AppTest.from_file(str(ROOT / "app" / "main.py"), default_timeout=60)
    assert shown(go(other, STATE[0])) == (0, 1)


@pytest.mark.long
def test_a_link_to_what_is_not_there_says_so(app: AppTest) -> None:
    go(app, STATE[0], patient="99", visit="6")
    assert shown(app) == (0, 6)
    assert any("patient '99'" in warning.value for warning in app.warning)
    app.selectbox(key="patient").set_value(1).run()
    assert not any("asks for" in warning.value for warning in app.warning)
