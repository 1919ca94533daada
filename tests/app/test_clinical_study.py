"""The dashboard on a study of a clinical scenario: every page opens, with its units and its limits."""

from pathlib import Path

import pytest

import agents
from dosing.studies import Cohort, DataSource, Resources, TrainingSettings, comparison
from tests.app.test_pages import open_app, words  # noqa: F401

PAGES = sorted(p.stem for p in (Path(__file__).parents[2] / "app/views").glob("[a-z]*.py"))


@pytest.fixture(scope="module")
def clinical_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two agents on warfarin, barely trained."""
    study = tmp_path_factory.mktemp("clinical")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dosing.studies.comparison_table.SEARCH_PATIENTS", 20)
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


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens(open_app, clinical_study: Path, page: str) -> None:  # noqa: F811
    at = open_app(clinical_study, f"views/{page}.py")
    assert not at.error


def test_the_page_of_doses_names_the_step_limit_and_the_unit(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/patient.py")
    assert "mg/day" in words(at)


def test_who_cannot_be_matched_is_said_and_nothing_is_rolled_forward(open_app, clinical_study: Path) -> None:  # noqa: F811
    said = words(open_app(clinical_study, "views/what_if.py"))
    assert "Nothing can be rolled forward here: dosing/Warfarin-v0 has no latent mean" in said


def test_patients_are_grouped_by_age_and_genotype(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/cohort.py")
    traits = at.selectbox(key="trait").options
    assert {"age (year)", "VKORC1 A alleles", "clearance (L/h)", "EC50 (mg/L)"} <= set(traits)


def test_a_cohort_is_simulated_under_the_scenarios_own_policies(open_app, clinical_study: Path) -> None:  # noqa: F811
    at = open_app(clinical_study, "views/data.py", visits="simulated now", env="dosing/Warfarin-v0")
    assert not at.error
    assert "nomogram" in at.selectbox(key="behaviour").options
    assert "realism" not in [box.key for box in at.selectbox]
