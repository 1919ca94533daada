"""Every number that an agent reports along its training has a name in words."""

from __future__ import annotations

import pytest

import agents
from app.analysis.measures import LOSSES, MEASURES, measure_words
from dosing.training.sampler import Sampler
from tests.support.samples import dataset, stack


@pytest.mark.parametrize("name", agents.AGENTS)
def test_the_tables_know_every_measure_of_every_agent(name: str) -> None:
    agent = stack(name, (0,))
    sampler = Sampler(dataset(), agent, 8)
    reported = {key for step in (0, 1) for key in agent.update(sampler(step))}
    assert reported
    losses = {key.removeprefix("loss/") for key in reported if key.startswith("loss/")}
    assert losses <= set(LOSSES)
    assert {key for key in reported if not key.startswith("loss/")} <= set(MEASURES)


def test_no_name_of_the_code_is_shown() -> None:
    known = [*(f"loss/{name}" for name in LOSSES), *MEASURES, "new/thing_here"]
    assert not [text for text in map(measure_words, known) if "_" in text or "/" in text]
    assert measure_words("loss/critic") == "loss of the critic, the learned value of doses (no unit)"
    assert measure_words("weight/zero_share") == "recorded doses with weight 0 (share)"
