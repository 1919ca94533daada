"""The script for a GPU, tried on the processor."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.speed import gpu
from dosing.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--device", "cpu", "--agents", "bc", "iql", "--seeds", "1", "2", "--seconds", "0.01", "--long")


@pytest.mark.long
def test_it_runs_as_a_script_and_its_page_is_made_of_its_numbers(tmp_path: Path) -> None:
    command = ["bash", str(ROOT / "benchmarks/speed/gpu.sh"), *SHORT, "0.01", "--out", str(tmp_path)]
    environment = {"PY": sys.executable, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    result = json.loads((tmp_path / "gpu.json").read_text())
    rates = [gpu.Rate(**r) for r in result["rates"]]
    assert [(r.agent, r.seeds) for r in rates] == [("bc", 1), ("bc", 2), ("iql", 1), ("iql", 2)]
    assert all(r.updates > 0 and r.seconds >= 0.01 and not r.reason for r in rates)
    text = (tmp_path / "gpu.md").read_text()
    assert text == gpu.page(result)
    assert f"| bc | {rates[0].rate:,.0f} | {rates[1].rate:,.0f} |" in text
    assert "FtTPO with 10 seeds" in text


def test_what_would_begin_too_late_is_named(tmp_path: Path) -> None:
    gpu.main([*SHORT, "0", "--minutes", "0", "--out", str(tmp_path)])
    assert "| bc | no time was left | no time was left |" in (tmp_path / "gpu.md").read_text()


def test_an_agent_that_cannot_is_named_and_does_not_end_the_rest() -> None:
    rates = gpu.grid(["none such", "bc"], [1], torch.device("cpu"), 0.01, float("inf"))
    assert "there is no agent" in rates[0].reason
    assert rates[1].updates > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_a_sentence_says_so() -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.main([])
