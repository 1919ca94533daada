"""The dashboard on a study of a clinical scenario: every page opens, with its units and its limits."""

from pathlib import Path

import numpy as np
import pytest

import agents
from dosing.recommendation.audit_log import AuditLog
from dosing.runs.folder import find_runs
from dosing.studies import Cohort, DataSource, Resources, TrainingSettings, comparison
from dosing.studies.data import episodes_of
from simulator.cohorts.generate import simulate
from simulator.cohorts.replay import go_on, replay
from tests.app.figures import specs
from tests.app.test_pages import open_app, unfolded, words  # noqa: F401
from tests.app.test_what_if import minus

PAGES = sorted(p.stem for p in (Path(__file__).parents[2] / "app/views").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def clinical_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents on warfarin, barely trained."""
    study = tmp_path_factory.mktemp("clinical")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dosing.studies.references.SEARCH_PATIENTS", 20)
        patch.setattr("dosing.studies.launch.os.cpu_count", lambda: 1)
        comparison.compare(
            study,
            agents.DEMO,
            DataSource("dosing/Warfarin-v0", Cohort(60)),
            seeds=(0, 1),
            training=TrainingSettings(steps=60),
            evaluation_patients=8,
            resources=Resources("cpu"),
        )
    return study


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(open_app, clinical_study: Path, page: str) -> None:  # noqa: F811
    at = open_app(clinical_study, f"views/{page}.py")
    assert not at.error


def test_the_page_of_doses_names_the_step_limit_and_the_unit(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/patient.py")
    assert "mg/day" in words(at)


@pytest.mark.long
def test_where_nobody_is_matched_a_recorded_patient_goes_on(open_app, clinical_study: Path) -> None:  # noqa: F811
    link = {
        "patient": "5",
        "visit": "41",
        "choices": "4",
        "rule3": "as recorded",
        "rule4": "dose per visit",
        "doses4": "3 2",
    }
    at = open_app(clinical_study, "views/what_if.py", **link)
    assert not at.error
    said = words(at).replace("**", "")
    assert "One recorded patient goes on" in said
    assert "dosing/Warfarin-v0 has no latent mean" in said
    episodes = episodes_of(find_runs(clinical_study)[0])
    rows = np.flatnonzero(episodes.episode == 5)
    row = int(rows[40])
    for doses in (episodes.act_requested[row : rows[-1] + 1, 0].tolist(), [3.0, 2.0]):
        on = go_on(episodes, row, lambda obs, visit, d=doses: np.full((1, 1, 1), d[min(visit, len(d) - 1)]))
        assert f"Return from here on: {minus(f'{on.reward.sum():.2f}')}" in said
        inside = int(((on.target >= 2.0) & (on.target <= 3.0)).sum())
        share = f"{100 * inside / len(on.reward):.0f}\N{NO-BREAK SPACE}%"
        assert f"Time in range (last INR): {share} of {len(on.reward)} visits" in said
    assert "Answers of the recommender on the way:" in said
    kinds = [r.kind for r in AuditLog(clinical_study / "audit.jsonl").verify().records]
    assert "batch" in kinds
    (chart,) = specs(at)
    assert "shaded: target 2 to 3" in chart
    at = open_app(clinical_study, "views/what_if.py", **link, drawn="side by side")
    assert len(specs(at)) == 4


@pytest.mark.long
def test_typed_numbers_and_doses_beyond_the_limits_do_not_go_on(open_app, clinical_study: Path) -> None:  # noqa: F811
    link = {"state_from": "typed numbers", "numbers": "2.4 2.2 1 5 5 70 0.9 1"}
    at = open_app(clinical_study, "views/what_if.py", **link)
    assert "Choose a recorded visit" in words(at)
    assert not specs(at)
    link = {"choices": "1", "rule1": "dose per visit", "doses1": "20"}
    at = open_app(clinical_study, "views/what_if.py", **link)
    assert "dose 1 must lie within the hard limits" in words(at)
    assert "mg/day" in words(at)


@pytest.mark.long
def test_patients_are_grouped_by_age_and_genotype(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/cohort.py")
    traits = at.selectbox(key="trait").options
    assert {"age (year)", "VKORC1 A alleles", "clearance (L/h)", "EC50 (mg/L)"} <= set(traits)


@pytest.mark.long
def test_a_cohort_is_simulated_under_the_scenarios_own_policies(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/data.py", visits="simulated now", env="dosing/Warfarin-v0")
    assert not at.error
    assert "nomogram" in at.selectbox(key="behaviour").options
    assert "realism" not in [box.key for box in at.selectbox]


def test_the_clinics_rules_stand_beside_the_agents_on_record(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/patient.py", patient="5", visit="40")
    said = words(at)
    assert "For reference: how a clinic would dose" in said
    episodes = episodes_of(find_runs(clinical_study)[0])
    asked = replay(episodes, 5)[5].clinic
    assert set(asked) == {"nomogram:0", "gage-nomogram:0", "gage:0"}
    log = AuditLog(clinical_study / "audit.jsonl").verify()
    for rule, doses in asked.items():
        name = "clinic: " + rule.removesuffix(":0")
        assert f"{name}: :small[a clinic's own rule, no agent]" in said.replace("**", "")
        (record,) = (
            r.content
            for r in log.records
            if r.content.get("provenance", {}).get("agent") == name and r.content["visit"] == 40
        )
        assert record["patient"] == "5"
        assert record["proposed"][0] == pytest.approx(doses[39, 0])
        assert record["status"] in ("ok", "limited", "deferred")
        given = f"{record['dose'][0]:.2f} mg/day"
        if record["status"] == "deferred":
            assert f"Dose the rule would give: {given}" in said
        else:
            assert ("Dose by this rule", given) in {(metric.label, metric.value) for metric in at.metric}


@pytest.mark.long
def test_a_rule_is_not_decided_on_and_typed_numbers_ask_none(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/patient.py", patient="5", visit="40")
    for box in at.selectbox:
        assert not any("clinic" in str(option) for option in box.options)
    link = {"state_from": "typed numbers", "numbers": "2.4 2.2 1 5 5 70 0.9 1"}
    at = open_app(clinical_study, "views/patient.py", **link)
    assert len([e for e in at.markdown if "-background[" in str(e.value)]) == len(agents.DEMO)
    assert "For reference" not in words(at)


def test_a_synthetic_study_has_no_rules_and_no_range(open_app, full_study: Path) -> None:  # noqa: F811
    said = words(unfolded(open_app(full_study, "views/patient.py"), "episode_fold"))
    assert "Recorded visits" in said
    assert "For reference" not in said
    assert "Time in range" not in said


@pytest.mark.long
def test_the_course_tells_time_in_range_and_events(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = unfolded(open_app(clinical_study, "views/patient.py", patient="5"), "episode_fold")
    episodes = episodes_of(find_runs(clinical_study)[0])
    one = replay(episodes, 5)[5]
    assert one.target is not None
    inside = int(((one.target >= 2.0) & (one.target <= 3.0)).sum())
    share = f"{100 * inside / len(one.target):.0f}\N{NO-BREAK SPACE}%"
    said = words(at).replace("**", "")
    assert f"Time in range (last INR): {share} of {len(one.target)} visits" in said
    assert f"{inside} within 2 to 3" in said
    for name, flags in one.events.items():
        assert (f"{name.replace('_', ' ')} at {flags.sum()} visit" in said) == bool(flags.any())


@pytest.mark.long
def test_options_are_those_that_the_scenario_describes(open_app, clinical_study: Path) -> None:  # noqa: F811
    link = {"visits": "simulated now", "env": "dosing/Warfarin-v0", "behaviour": "nomogram", "patients": "7"}
    at = open_app(
        clinical_study, "views/data.py", **link, option_monitoring="daily", option_hide_genotype="yes"
    )
    assert not at.error
    assert at.selectbox(key="option_monitoring").options == ["clinic", "daily"]
    assert at.selectbox(key="option_variability").options == ["full", "none"]
    assert at.selectbox(key="option_hide_genotype").options == ["no", "yes"]
    made = simulate(
        "dosing/Warfarin-v0", patients=7, policy="nomogram", monitoring="daily", hide_genotype=True
    )
    assert at.code[0].value == made.content_hash()
    columns = at.dataframe[0].value.columns
    assert {"dose given (mg/day)", "day of therapy (day)", "last INR"} <= set(columns)
    said = words(at)
    assert "Time in range (last INR)" in said
    at = open_app(clinical_study, "views/data.py", visits="simulated now", env="dosing/Insulin-v0")
    keys = [box.key for box in at.selectbox]
    assert {"option_meals", "option_sensor"} <= set(keys)
    assert not {"monitoring", "realism"} & set(keys)
