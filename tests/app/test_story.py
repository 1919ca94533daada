"""One story in a real Chromium: a patient, the support, a dose of one's own, an override, the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dosing import NOT_FOR_PATIENTS
from dosing.recommendation.audit_log import FILE, AuditLog
from tests.app.served import server, settle
from tests.app.test_browser import Watched, check_layout, go, visible_doses

pytestmark = pytest.mark.browser


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_from_a_patient_to_the_audit_log(
    browser: Any, full_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theme: str
) -> None:
    log = AuditLog(tmp_path / "log" / FILE)
    monkeypatch.setenv("DOSING_AUDIT", str(log.path))
    with server(full_study) as address:
        watched = Watched(browser, address, 1280, theme)
        page = watched.page
        page.goto(f"{address}/?patient=1&visit=5")
        settle(page, charts=2)
        assert "(exact support)" in page.inner_text("body")
        doses = visible_doses(page)

        go(page, "What if")
        page.get_by_text("Regimen 1", exact=True).wait_for(timeout=30_000)
        settle(page, charts=2)
        slider = page.get_by_role("slider").nth(1)  # the first one is the visit
        slider.focus()
        slider.press("ArrowRight")
        page.get_by_text("at every visit").first.wait_for(timeout=20_000)

        go(page, "Patient")
        page.get_by_role("button", name="Record the decision").wait_for(timeout=30_000)
        settle(page, charts=2)
        assert "patient=1&visit=5" in page.url
        assert visible_doses(page) == doses
        dose = doses[0]
        choices = page.get_by_test_id("stRadio")
        assert f"Accept {dose}" in choices.inner_text()
        choices.locator("input").first.focus()
        page.keyboard.press("ArrowRight")  # to another dose
        page.get_by_role("spinbutton").fill("0.01")
        page.get_by_label("Reason, in words").fill("as tried in the simulator")
        page.get_by_role("button", name="Record the decision").click()
        page.get_by_text(f"patient 1, visit 5: another dose, 0.010 instead of {dose}.").first.wait_for(
            timeout=20_000
        )
        check_layout(page, tmp_path / f"decided-{theme}")

        page.set_viewport_size({"width": 1280, "height": 900})
        go(page, "Audit")
        page.get_by_text("Chain verified.").wait_for(timeout=30_000)
        assert "1 of 1 decision (1 another dose, 0 rejected)" in page.inner_text("body")
        check_layout(page, tmp_path / f"audit-{theme}")
        records = log.verify().records
        assert [r.kind for r in records[:4]] == [
            "run loaded",
            "run loaded",
            "recommendation",
            "recommendation",
        ]
        assert (records[-1].kind, records[-1].content["dose"]) == ("decision", [0.01])
        about = records[records[-1].content["record"] - 1]
        assert f"{about.content['dose'][0]:.3f}".replace("-", "\N{MINUS SIGN}") == dose

        lines = log.path.read_text().splitlines(keepends=True)
        lines[2] = lines[2].replace('"status":"', '"status":"not ')
        log.path.write_text("".join(lines))
        page.set_viewport_size({"width": 1280, "height": 900})
        go(page, "Patient")
        page.get_by_text("NO DOSE IS SHOWN").wait_for(timeout=30_000)
        assert visible_doses(page) == []
        go(page, "Audit")
        page.get_by_text("CHAIN BROKEN at line 3:").wait_for(timeout=30_000)
        check_layout(page, tmp_path / f"broken-{theme}")
        assert log.path.read_text() == "".join(lines)

        log.path.unlink()  # moved aside: a new one begins
        log.head.unlink()
        page.set_viewport_size({"width": 1280, "height": 900})
        go(page, "Upload")
        file = page.locator("input[type=file]")
        file.wait_for(state="attached", timeout=30_000)
        names = ",".join(f"s{k + 1}" for k in range(8))
        file.set_input_files({"name": "x.csv", "mimeType": "text/csv", "buffer": f"{names},dob\n1".encode()})
        page.get_by_text("'dob'").wait_for(timeout=20_000)
        assert "Row 1 has 1 values, the header 9." in page.inner_text("body")
        content = f"{names}\n{','.join('0' * 8)}\n".encode()
        file.set_input_files({"name": "y.csv", "mimeType": "text/csv", "buffer": content})
        page.get_by_text("in the units shown").click()
        page.get_by_role("button", name="Download csv").wait_for(timeout=30_000)
        assert NOT_FOR_PATIENTS in page.inner_text("body")
        check_layout(page, tmp_path / f"upload-{theme}")
        watched.close()
