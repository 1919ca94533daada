"""The ceilings that stand beside results are those the simulator computes."""

import pytest

from simulator.bounds.published import measured
from simulator.bounds.table import ceilings
from simulator.cohorts.generate import simulate


@pytest.mark.parametrize("variant", ["simenv3", "corrected"])
def test_order_and_scope(variant: str) -> None:
    result = measured("dosing/Treatment-v0", {"variant": variant})
    assert [row.value for row in result] == sorted((row.value for row in result), reverse=True)
    assert result[0].policy == "clairvoyant"
    for change in ({"steps": 12}, {"noise": 0.1}, {"history": 2}, {"realism": 2}):
        assert measured("dosing/Treatment-v0", {"variant": variant} | change) == ()
    assert measured("dosing/LiI-v0", {}) == ()


def test_the_default_variant_is_the_corrected_one() -> None:
    assert measured("dosing/Treatment-v0", {}) == measured("dosing/Treatment-v0", {"variant": "corrected"})


def test_options_as_a_recorded_cohort_has_them() -> None:
    options = simulate("dosing/Treatment-v0", patients=1, variant="simenv3").metadata.env_options
    assert measured("dosing/Treatment-v0", options) == measured("dosing/Treatment-v0", {"variant": "simenv3"})
    assert measured("dosing/Treatment-v0", options) != ()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["simenv3", "corrected"])
def test_computed_again_on_300_of_the_patients(variant: str) -> None:
    again = {
        row.policy: row
        for row in ceilings("dosing/Treatment-v0", patients=300, variant=variant, cohort="evaluation")
    }
    kept = {row.policy: row for row in measured("dosing/Treatment-v0", {"variant": variant})}
    for policy in ("clairvoyant", "myopic, true mean"):
        error = 3.0 * again[policy].standard_error + kept[policy].half_width
        assert abs(again[policy].value - kept[policy].value) < error
