import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dosing.data.external import External
from dosing.data.metadata import DatasetMetadata, _hash
from dosing.data.sources import read_source
from dosing.data.store import Episodes, EpisodeWriter, concatenate, read_episodes, write_episodes
from dosing.errors import UserError
from dosing.safety import DoseLimits
from simulator.cohorts.generate import simulate

FILES = ["cohort.parquet", "cohort.csv", "cohort.hdf5"]


def episodes(
    lengths: tuple[int, ...] = (3, 1, 4), n_obs: int = 2, n_act: int = 1, first: int = 5
) -> Episodes:
    """Random episodes with every kind of value that can occur."""
    m = sum(lengths)
    rng = np.random.default_rng(m + first)
    obs = rng.standard_normal((m, n_obs)).astype(np.float32)
    obs[0, 0] = np.float32(1e-42)  # a denormal
    obs[-1, -1] = np.float32(-3.4e38)
    log_prob = rng.standard_normal(m).astype(np.float32)
    log_prob[::2] = np.nan
    log_prob[1] = -np.inf
    step = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
    last = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    return Episodes(
        obs=obs,
        act=rng.uniform(-1, 1, (m, n_act)).astype(np.float32),
        act_requested=rng.uniform(-2, 2, (m, n_act)).astype(np.float32),
        limited_by=rng.integers(0, 3, m).astype(np.int8),
        reward=rng.standard_normal(m).astype(np.float32),
        next_obs=rng.standard_normal((m, n_obs)).astype(np.float32),
        terminated=last & (step % 2 == 0),
        truncated=last & (step % 2 == 1),
        cost=rng.integers(0, 2, m).astype(np.float32),
        behaviour_log_prob=log_prob,
        episode=np.repeat(np.arange(first, first + len(lengths)), lengths),
        step=step,
        metadata=DatasetMetadata(
            seed=3, obs_names=tuple(f"s{i}, of {n_obs}" for i in range(n_obs)), dose_unit="µg → ok"
        ),
    )


def same(a: Episodes, b: Episodes) -> None:
    for (name, left), right in zip(a.arrays().items(), b.arrays().values(), strict=True):
        assert left.dtype == right.dtype, name
        assert left.shape == right.shape, name
        np.testing.assert_array_equal(left.view(np.uint8), right.view(np.uint8), err_msg=name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("n_obs", "n_act"), [(1, 1), (8, 1), (3, 2)])
def test_every_format_gives_back_exactly_what_went_in(
    tmp_path: Path, name: str, n_obs: int, n_act: int
) -> None:
    data = episodes(n_obs=n_obs, n_act=n_act)
    stored = write_episodes(data, tmp_path / name)
    back = read_episodes(tmp_path / name)
    same(data, back)
    assert back.metadata == stored
    assert stored.content_hash == data.content_hash()
    assert stored.seed == 3
    assert stored.rows == len(data)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("env_id", "policy"), [("dosing/Warfarin-v0", "uniform"), ("dosing/Insulin-v0", "constant:9")]
)
def test_minari_gives_back_drugs_with_units(
    env_id: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Visits of both drugs, with episodes that end early, their card, and the environment made anew."""
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = simulate(env_id, patients=6, policy=policy, seed=1)
    stored = write_episodes(data, "minari:dosing/drug-v0")
    back = read_episodes("minari:dosing/drug-v0")
    same(data, back)
    assert back.metadata == stored
    assert back.metadata.card["dose"]["unit"] == data.metadata.dose_unit != "1"
    loaded = minari.load_dataset("dosing/drug-v0")
    assert (loaded.total_episodes, loaded.total_steps) == (6, len(data))
    lengths = np.unique(data.episode, return_counts=True)[1]
    assert [len(episode.rewards) for episode in loaded.iterate_episodes()] == lengths.tolist()
    assert data.terminated.any() == (lengths.min() < lengths.max())
    env = loaded.recover_environment()
    seen, _ = env.reset(seed=1)
    np.testing.assert_array_equal(seen, data.obs[0])
    np.testing.assert_array_equal(env.step(data.act[0])[0], data.next_obs[0])


def test_minari_gives_back_exactly_what_went_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = episodes()
    with pytest.raises(UserError, match="next_obs are not its next obs"):
        write_episodes(data, "minari:dosing/small-v0")
    assert minari.list_local_datasets() == {}
    inner = np.flatnonzero(np.diff(data.episode) == 0)
    data.next_obs[inner] = data.obs[inner + 1]
    write_episodes(data, "minari:dosing/small-v0")
    assert "dosing/small-v0" in minari.list_local_datasets()
    loaded = minari.load_dataset("dosing/small-v0")
    assert (loaded.total_episodes, loaded.total_steps) == (3, 8)
    episode = loaded[0]
    np.testing.assert_array_equal(episode.actions, data.act[:3])
    np.testing.assert_array_equal(episode.observations[:-1], data.obs[:3])
    back = read_episodes("minari:dosing/small-v0")
    same(data, back)
    assert back.metadata.content_hash == data.content_hash()
    with pytest.raises(UserError, match="already exists"):
        write_episodes(data, "minari:dosing/small-v0")
    for wrong in ("minari:nonamespace-v0", "minari:dosing/noversion", "minari:"):
        with pytest.raises(UserError, match="not a Minari id"):
            write_episodes(data, wrong)
    with pytest.raises(UserError, match="no local Minari"):
        read_episodes("minari:dosing/absent-v0")


def test_the_hdf5_layout_is_that_of_d4rl(tmp_path: Path) -> None:
    data = episodes()
    write_episodes(data, tmp_path / "x.hdf5")
    with h5py.File(tmp_path / "x.hdf5") as file:
        np.testing.assert_array_equal(file["observations"], data.obs)
        np.testing.assert_array_equal(file["actions"], data.act)
        np.testing.assert_array_equal(file["rewards"], data.reward)
        np.testing.assert_array_equal(file["next_observations"], data.next_obs)
        np.testing.assert_array_equal(file["terminals"], data.terminated)
        np.testing.assert_array_equal(file["timeouts"], data.truncated)


def test_tables_show_both_doses_and_the_rule_by_name(tmp_path: Path) -> None:
    write_episodes(episodes(), tmp_path / "x.csv")
    lines = (tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# dosing {")
    assert {"dose_requested", "dose_delivered", "limited_by"} <= set(lines[1].replace('"', "").split(","))
    assert any("high limit" in line for line in lines[2:])
    write_episodes(episodes(), tmp_path / "x.parquet")
    assert {"dose_requested", "dose_delivered"} <= set(pq.read_schema(tmp_path / "x.parquet").names)


@pytest.mark.parametrize("name", FILES)
def test_pieces_make_the_same_file_as_the_whole(tmp_path: Path, name: str) -> None:
    first, second = episodes((3, 2)), episodes((4, 1), first=7)
    with EpisodeWriter(tmp_path / name, first.metadata) as writer:
        writer.write(first)
        writer.write(second)
    whole = concatenate([first, second], first.metadata)
    back = read_episodes(tmp_path / name)
    same(whole, back)
    assert back.metadata == whole.metadata


def test_the_hash_sees_every_array_and_every_shape() -> None:
    data = episodes()
    seen = {data.content_hash()}
    for name, array in data.arrays().items():
        changed = array.copy()
        changed.reshape(-1).view(np.uint8)[0] ^= 1
        seen.add(Episodes(**{**data.arrays(), name: changed}).content_hash())
    assert len(seen) == 1 + len(data.arrays())
    wide = {**data.arrays(), "act": data.act.repeat(2, 1), "act_requested": data.act_requested.repeat(2, 1)}
    assert Episodes(**wide).content_hash() not in seen


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    data = episodes()
    path = tmp_path / "x.hdf5"
    write_episodes(data, path)
    with h5py.File(path, "a") as file:
        file["rewards"][2] += 1
    with pytest.raises(UserError, match="damaged or was edited"):
        read_episodes(path)
    csv = tmp_path / "x.csv"
    write_episodes(data, csv)
    csv.write_text(csv.read_text(encoding="utf-8").replace("low limit", "high limit"), encoding="utf-8")
    with pytest.raises(UserError, match="damaged or was edited"):
        read_episodes(csv)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    write_episodes(episodes((400, 300)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=name):
        read_episodes(path)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    data = episodes((40, 30))
    write_episodes(data, path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            same(data, read_episodes(path))
        except UserError:
            refused += 1
    assert refused > 3  # HDF5 is mostly padding when it holds so little


@pytest.mark.parametrize("name", FILES)
def test_foreign_files_are_one_clear_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is something else\n")
    with pytest.raises(UserError, match=name):
        read_episodes(path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="another program"):
        read_episodes(tmp_path / "other.parquet")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["observations"] = np.zeros((3, 2))
    with pytest.raises(UserError, match="another program"):
        read_episodes(tmp_path / "other.hdf5")


def test_another_schema_and_a_missing_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    write_episodes(episodes(), path)
    with h5py.File(path, "a") as file:
        metadata: dict[str, Any] = json.loads(file["metadata/dosing"][()])
        del file["metadata/dosing"]
        file["metadata/dosing"] = json.dumps({**metadata, "schema": "dosing-episodes/99"})
    with pytest.raises(UserError, match="dosing-episodes/99"):
        read_episodes(path)
    with h5py.File(path, "a") as file:
        del file["rewards"]
    with pytest.raises(UserError, match=r"x\.hdf5"):
        read_episodes(path)


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("a file, not a folder")
    for path, message in (
        (tmp_path / "x.txt", "episodes are kept in"),
        (tmp_path / "nowhere" / "x.csv", "does not exist"),
        (tmp_path / "plain" / "x.csv", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            write_episodes(episodes(), path)
    for path in (tmp_path / "absent.parquet", tmp_path):
        with pytest.raises(UserError):
            read_episodes(path)


@pytest.mark.parametrize("name", FILES)
def test_a_failed_write_keeps_the_file_that_was_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_episodes(episodes(), path)
    before = path.read_bytes()

    def fail_half_way() -> None:
        with EpisodeWriter(path, episodes().metadata) as writer:
            writer.write(episodes())
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_half_way()
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="no rows"):
        EpisodeWriter(path, DatasetMetadata()).close()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == before


def test_wrong_arrays_are_refused() -> None:
    good = episodes().arrays()
    for name, bad in (
        ("obs", good["obs"].astype(np.float64)),
        ("reward", good["reward"][:-1]),
        ("act", good["act"][:, 0]),
        ("next_obs", good["next_obs"][:, :1]),
    ):
        with pytest.raises(UserError):
            Episodes(**{**good, name: bad})


def limited(**changed: Any) -> DatasetMetadata:
    fields: dict[str, Any] = {
        "action_low": (-1.0,),
        "action_high": (1.0,),
        "card": {"dose": {"hard_low": [-1.0], "hard_high": [1.0]}},
    }
    return DatasetMetadata(**fields | changed)


def raw(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Edit the metadata of an HDF5 file."""
    with h5py.File(path, "a") as file:
        metadata = change(json.loads(file["metadata/dosing"][()]))
        del file["metadata/dosing"]
        file["metadata/dosing"] = json.dumps(metadata)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(DatasetMetadata)])
def test_any_edited_field_of_the_metadata_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "x.hdf5"
    write_episodes(dataclasses.replace(episodes(), metadata=limited()), path)
    raw(path, lambda metadata: metadata | {field: [9.0] if "action" in field else "edited"})
    with pytest.raises(UserError, match="damaged or was edited"):
        read_episodes(path)


@pytest.mark.parametrize("name", FILES)
def test_an_edited_limit_is_refused_in_every_format(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_episodes(dataclasses.replace(episodes(), metadata=limited(card={})), path)
    content = path.read_bytes()
    edited = content.replace(b'"action_high": [1.0]', b'"action_high": [9.0]')
    if edited == content:  # parquet keeps it as it is as well, but beside its length
        pytest.fail("the limit is not to be found in the file")
    path.write_bytes(edited)
    with pytest.raises(UserError, match="damaged or was edited"):
        read_episodes(path)


def test_limits_that_are_not_those_of_the_card_are_refused_whatever_the_hash(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not those of the scenario's card"):
        limited(action_high=(9.0,))
    path = tmp_path / "x.hdf5"
    write_episodes(dataclasses.replace(episodes(), metadata=limited()), path)

    def edit(metadata: dict[str, Any]) -> dict[str, Any]:
        rest = {k: v for k, v in metadata.items() if k != "metadata_hash"} | {"action_high": [9.0]}
        return rest | {"metadata_hash": _hash(rest)}

    raw(path, edit)
    with pytest.raises(UserError, match="not those of the scenario's card"):
        read_episodes(path)


@pytest.mark.parametrize(
    "wrong", [{"seed": "3"}, {"obs_names": "s1"}, {"action_low": ["low"]}, {"card": []}, {"new_field": 1}]
)
def test_metadata_of_another_type_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "x.hdf5"
    write_episodes(episodes(), path)

    def edit(metadata: dict[str, Any]) -> dict[str, Any]:
        rest = {k: v for k, v in metadata.items() if k != "metadata_hash"} | wrong
        return rest | {"metadata_hash": _hash(rest)}

    raw(path, edit)
    with pytest.raises(UserError, match=next(iter(wrong))):
        read_episodes(path)


def test_a_file_that_lost_what_it_said_is_not_taken_for_another_programs(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    write_episodes(episodes(), path)
    with h5py.File(path, "a") as file:
        del file["metadata/dosing"]
    with pytest.raises(UserError, match="lost what it said about itself"):
        read_source(path, External(limits=DoseLimits((-9.0,), (9.0,))))
