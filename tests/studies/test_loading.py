"""From a run folder to a recommendation: every file is read once, and only checked ones are used."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from dosing.data.dataset import Transform
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.policy import DosePolicy
from dosing.runs.config import hash_of
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import CARD, CONFIG, DONE, RunFolder
from dosing.studies import AgentSetup, TrainingSettings, load, recommend, scenarios, train
from dosing.studies.scenarios import factory_for, factory_of
from tests.support.samples import PROBLEM, cohort, long_for_most, small, stack

OPENED: list[str] = []
LISTENING = [False]


def listen(event: str, arguments: tuple[Any, ...]) -> None:
    if LISTENING[0] and event == "open" and isinstance(arguments[0], str):
        OPENED.append(Path(arguments[0]).name)


sys.addaudithook(listen)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("study")
    data = folder / "visits.parquet"
    write_episodes(cohort(), data)
    return train(
        folder, AgentSetup("bc", small("bc")), data, seeds=(0, 1), training=TrainingSettings(steps=3)
    )


def test_one_answer_reads_the_configuration_and_the_hashes_once(run: RunFolder) -> None:
    OPENED.clear()
    LISTENING[0] = True
    try:
        result = recommend(RunFolder(run.path), cohort().obs[0].tolist())
    finally:
        LISTENING[0] = False
    assert result.dose is not None
    counts = Counter(OPENED)
    assert (counts[CONFIG], counts[DONE]) == (1, 1)


EDITS = ("limits", "transform", "card")


@pytest.mark.parametrize(
    "places", [c for n in (1, 2, 3) for c in itertools.combinations(EDITS, n)], ids="+".join
)
def test_edited_limits_are_refused_with_every_hash_made_anew(
    places: tuple[str, ...], run: RunFolder, tmp_path: Path
) -> None:
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "copy")))
    content, card = read_json(copy.path / CONFIG), read_json(copy.path / CARD)
    if "limits" in places:
        content["limits"]["high"] = [9.0]
    if "transform" in places:
        content["transform"]["act_high"] = [9.0]
    if "card" in places:
        card["dose"]["hard_high"] = [9.0]
    rest = {name: value for name, value in content.items() if name != "hash"}
    write_json(copy.path / CONFIG, rest | {"hash": hash_of(rest)})
    write_json(copy.path / CARD, card)
    copy.finish()
    with pytest.raises(UserError, match="dose limits"):
        load(copy)


def test_visits_of_another_version_of_the_scenario_are_refused_by_name(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "version_of", lambda *_: "99")
    words = r"of version .* of dosing/Treatment-v0, here is version 99"
    with pytest.raises(UserError, match=words):
        factory_of(run)
    with pytest.raises(UserError, match=words):
        factory_for(cohort().metadata)


def test_visits_with_other_limits_than_the_scenarios_are_not_trained_on() -> None:
    card = json.loads(json.dumps(cohort().metadata.card).replace('"hard_high": [1.0]', '"hard_high": [9.0]'))
    edited = replace(cohort().metadata, card=card, action_high=(9.0,))
    with pytest.raises(UserError, match=r"state dose limits of \[-1.0\] to \[9.0\]"):
        factory_for(edited)


@pytest.mark.parametrize("name", long_for_most(agents.AGENTS))
def test_weights_that_are_loaded_need_not_be_drawn_first(name: str) -> None:
    """A stack built without weights is, once it has another's, that one: the same doses, the same update."""
    other = agents.build(name, small(name), PROBLEM, (0, 1), fresh=False)
    drawn = stack(name)
    other.load_state_dict(drawn.state_dict())
    for key, value in drawn.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    transform = Transform.fit(cohort())
    states = np.broadcast_to(cohort().obs[:5], (2, 5, 8))
    mine, theirs = (DosePolicy(agent, transform) for agent in (other, drawn))
    np.testing.assert_array_equal(mine.recommended(states), theirs.recommended(states))
    assert mine.dose_set(states).kind == theirs.dose_set(states).kind


def test_a_stack_without_weights_draws_none() -> None:
    weights = agents.build("bc", small("bc"), PROBLEM, (0, 1), fresh=False).state_dict()
    layers = [value for key, value in weights.items() if key.endswith("weight")]
    assert layers
    assert not any(value.any() for value in layers)
    assert any(value.any() for value in stack("bc").state_dict().values())
