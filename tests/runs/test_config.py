"""The typed configuration of a run: what it keeps, what its key is made of, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from dosing.data.dataset import Transform
from dosing.errors import UserError
from dosing.models.regularisation import Regularisation
from dosing.runs.config import (
    CIRCUMSTANCES,
    SCHEMA,
    DataReference,
    EnvironmentReference,
    RunConfig,
    TrialReference,
    hash_of,
)
from dosing.safety import DoseLimits
from dosing.types import Problem
from tests.support.samples import run_config

TRIAL = TrialReference("direct", (0, 1), {"visits": 10}, "iql", "f" * 64, "offline/iql")
FULL = run_config(
    agent_config={"hidden": [8, 8], "alpha": 0.1},
    training={"steps": 7},
    env=EnvironmentReference("dosing/Treatment-v0", {"steps": 24, "noise": 0.1}),
    regularisation=Regularisation(dropout=0.1, critics=3),
    obs_names=tuple("abcdefgh"),
    obs_units=("1",) * 8,
    dose_name="warfarin",
    trial=TRIAL,
    versions={"torch": "2", "scenario": None},
    device="cpu",
    threads=1,
    created="2026-01-01T00:00:00+00:00",
    data_file="data/visits.parquet",
)


def through_json(one: RunConfig, **changed: Any) -> RunConfig:
    return RunConfig.from_json(rehashed(json.loads(json.dumps(one.to_json() | changed))), "run/config.json")


def rehashed(content: dict[str, Any]) -> dict[str, Any]:
    """The same as if somebody had edited it and made its hash anew."""
    rest = {name: value for name, value in content.items() if name != "hash"}
    return rest | {"hash": hash_of(rest)}


@pytest.mark.parametrize("one", [run_config(), FULL], ids=["small", "full"])
def test_a_configuration_reads_back_as_it_was(one: RunConfig) -> None:
    assert through_json(one) == one
    assert through_json(one).key == one.key
    assert RunConfig.from_json(one.to_json(), "run/config.json") == one


OTHERS: dict[str, Any] = {
    "agent": "iql",
    "agent_config": {"alpha": 0.1 + 1e-16},
    "seeds": (1, 0),
    "transform": dataclasses.replace(FULL.transform, obs_mean=(1e-300,) + (0.0,) * 7),
    "problem": Problem(8, 1, 25),
    "limits": DoseLimits((-1.0,), (1.0,), "mg"),
    "data": dataclasses.replace(FULL.data, content_hash="1" * 64),
    "training": {"steps": 8},
    "env": None,
    "regularisation": Regularisation(dropout=0.2, critics=3),
    "obs_names": tuple("abcdefgi"),
    "obs_units": ("mg",) * 8,
    "dose_name": "other",
    "trial": dataclasses.replace(TRIAL, start_seeds=(0,)),
    "versions": {"torch": "3"},
    "device": "cuda",
    "threads": 2,
    "created": "later",
    "data_file": "elsewhere",
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RunConfig)])
def test_the_key_holds_what_decides_the_result_and_nothing_else(name: str) -> None:
    changed = dataclasses.replace(FULL, **{name: OTHERS[name]})
    assert (changed.key == FULL.key) == (name in CIRCUMSTANCES)


def test_where_the_offline_run_of_a_trial_lies_is_not_in_the_key() -> None:
    moved = dataclasses.replace(FULL, trial=dataclasses.replace(TRIAL, offline_run="elsewhere"))
    assert moved.key == FULL.key


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Path of every text and number in JSON."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, (*path, k))]
    if isinstance(value, list):
        return [leaf for k, v in enumerate(value) for leaf in leaves(v, (*path, k))]
    return [path]


def edited(path: tuple[Any, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    content: Any = json.loads(json.dumps(FULL.to_json()))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = change(place[path[-1]])
    return dict(content)


def other(value: Any) -> Any:
    if isinstance(value, str):
        return value + "x"
    return 9 if value is None else value * 9 + 1


def test_any_value_that_was_edited_is_refused() -> None:
    every = leaves(edited(("agent",), str))
    assert len(every) > 50
    for path in every:
        with pytest.raises(UserError) as error:
            RunConfig.from_json(edited(path, other), "run/config.json")
        assert str(error.value).startswith("run/config.json")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["low", "high"])
def test_limits_that_were_edited_and_hashed_anew_are_refused(end: str) -> None:
    with pytest.raises(UserError, match="dose limits"):
        RunConfig.from_json(rehashed(edited(("limits", end, 0), lambda x: 9 * x)), "run/config.json")


@pytest.mark.parametrize("wrong", [None, [], {}, "text", 1.5, True, {"a": 1}])
def test_any_field_of_another_type_is_refused(wrong: Any) -> None:
    for name in ("agent", "seeds", "problem", "transform", "limits", "data", "obs_names", "versions"):
        content = FULL.to_json()
        if type(wrong) is type(content[name]) or (wrong == [] and isinstance(content[name], tuple)):
            continue
        with pytest.raises(UserError, match=r"^run/config.json"):
            RunConfig.from_json(rehashed(content | {name: wrong}), "run/config.json")


@pytest.mark.parametrize("name", ["agent", "seeds", "limits", "data", "transform"])
def test_a_missing_field_is_refused(name: str) -> None:
    content = FULL.to_json()
    del content[name]
    with pytest.raises(UserError, match=name):
        RunConfig.from_json(rehashed(content), "run/config.json")


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UserError, match="'dose_cap', which this version does not know"):
        through_json(FULL, dose_cap=3.0)


@pytest.mark.parametrize("schema", [1, SCHEMA + 1, None, str(SCHEMA)])
def test_a_folder_of_another_schema_is_refused_in_one_sentence(schema: Any) -> None:
    with pytest.raises(UserError, match=f"has schema {schema}, this version reads {SCHEMA}") as error:
        RunConfig.from_json({"schema": schema, "agent": "x"}, "run/config.json")
    assert str(error.value).count(". ") == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"limits": DoseLimits((-1.0,), (9.0,))}, "dose limits"),
        ({"transform": Transform((0.0,) * 8, (1.0,) * 8, (-1.0,), (9.0,))}, "dose limits"),
        ({"problem": Problem(7, 1)}, "does not fit"),
        ({"problem": Problem(8, 2)}, "does not fit"),
        ({"obs_names": ("a",)}, "obs_names has 1 entries"),
        ({"seeds": ()}, "at least one seed"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run_config(**changed)


def test_data_is_referred_to_by_its_content() -> None:
    assert run_config().data == DataReference("visits", "0" * 64, visits=192, patients=8)


def test_a_shift_of_rewards_is_part_of_the_key_and_none_is_not_written() -> None:
    usual = run_config()
    assert "reward_shift" not in usual.to_json()["transform"]
    shifted = run_config(transform=dataclasses.replace(usual.transform, reward_shift=-1.0))
    assert shifted.key != usual.key
    assert RunConfig.from_json(json.loads(json.dumps(shifted.to_json())), "x").transform.reward_shift == -1.0
