"""Damaged and edited files: a few mutations of the benchmark's ten thousand, and that it would notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import faults
from dosing.data import metadata


@pytest.mark.long
def test_no_mutated_file_is_read_with_other_content(tmp_path: Path) -> None:
    counts = faults.damaged_files(tmp_path, 240, seed=3)
    assert faults.violations(counts) == 0, counts
    assert sum(one["refused"] for one in counts.values()) > 180


@pytest.mark.long
def test_a_reader_that_trusts_metadata_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = faults.simulate("dosing/Treatment-v0", patients=2)
    subject = faults.data_subjects(tmp_path, episodes)[1]
    monkeypatch.setattr(metadata, "_hash", lambda content: "the same for all")
    subject.path.unlink()
    faults.write_episodes(episodes, subject.path)
    counts = faults.count(subject, 300, np.random.default_rng(0))
    assert counts["changed"] > 0


def test_a_mutation_differs_from_the_file() -> None:
    rng = np.random.default_rng(0)
    for content in (b"", b"7", b"a text with 12 digits 3"):
        assert all(faults.mutate(content, rng) != content for _ in range(200))
