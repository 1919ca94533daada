"""The set-up takes the right torch wheel: decided from pip's own reports, with and without a GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What pip 26.3 reported for torch 2.13.0 on Linux, x86_64, Python 3.11; first what both builds depend on.
COMMON = [
    "filelock",
    "typing-extensions>=4.10.0",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
    'optree>=0.13.0; extra == "optree"',
    'opt-einsum>=3.3; extra == "opt-einsum"',
    'pyyaml; extra == "pyyaml"',
]
CUDA = [
    'cuda-toolkit[cublas,cudart,cufft,cufile,cupti,curand,cusolver]==13.0.3; platform_system == "Linux"',
    'cuda-bindings<14,>=13.0.3; platform_system == "Linux" and python_version < "3.15"',
    'nvidia-cudnn-cu13==9.20.0.48; platform_system == "Linux"',
    'nvidia-cusparselt-cu13==0.8.1; platform_system == "Linux"',
    'nvidia-nccl-cu13==2.29.7; platform_system == "Linux"',
    'nvidia-nvshmem-cu13==3.4.5; platform_system == "Linux"',
    'triton==3.7.1; platform_system == "Linux" and python_version < "3.15"',
]


def report(version: str, requires: list[str]) -> dict[str, Any]:
    """A pip report with torch in it."""
    return {"install": [{"metadata": {"name": "torch", "version": version, "requires_dist": requires}}]}


CPU_REPORT = report("2.13.0+cpu", COMMON)
CUDA_REPORT = report("2.13.0", COMMON + CUDA)
NOTHING_TO_DO: dict[str, Any] = {"install": []}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The set-up script as a module, its calls of pip recorded in ``installed`` instead of made."""
    pytest.importorskip("pip", reason="an environment made by uv has no pip, and does not use this script")
    spec = importlib.util.spec_from_file_location("install_torch", ROOT / ".ci" / "install_torch.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    module.installed = []
    monkeypatch.setattr(module, "pip_install", lambda *options, check=True: module.installed.append(options))
    return module


linux = pytest.mark.skipif(sys.platform != "linux", reason="the markers in the recorded reports name Linux")


@linux
@pytest.mark.parametrize(
    ("pip_report", "gpu", "expected"),
    [
        (CPU_REPORT, False, "default"),
        (CPU_REPORT, True, "default"),
        (CUDA_REPORT, False, "cpu-index"),
        (CUDA_REPORT, True, "default"),
        (NOTHING_TO_DO, False, "present"),
        (NOTHING_TO_DO, True, "present"),
    ],
)
def test_wheel_follows_from_report_and_gpu(
    setup: Any, pip_report: dict[str, Any], gpu: bool, expected: str
) -> None:
    assert setup.choose(pip_report, gpu=gpu) == expected


@pytest.mark.parametrize(
    "requirement",
    [
        'nvidia-nccl-cu13==2.29.7; platform_system == "Elsewhere"',
        'triton==3.7.1; python_version < "3.11"',
        'nvidia-cudnn-cu13==9.20.0.48; extra == "cuda"',
    ],
)
def test_a_requirement_whose_marker_does_not_hold_is_no_cuda(setup: Any, requirement: str) -> None:
    assert not setup.is_cuda_build({"requires_dist": [*COMMON, requirement]})


def test_one_cuda_requirement_is_enough_and_none_is_none(setup: Any) -> None:
    assert setup.is_cuda_build({"requires_dist": [*COMMON, "nvidia-cublas-cu12"]})
    assert not setup.is_cuda_build({})


def run(setup: Any, monkeypatch: pytest.MonkeyPatch, *, default: Any, indexed: Any, gpu: bool) -> list[Any]:
    """Run the script with recorded answers of the default and of the CPU index; return what it installed."""
    monkeypatch.setattr(setup, "has_gpu", lambda: gpu)
    monkeypatch.setattr(setup, "ask", lambda *options, check=True: indexed if options else default)
    setup.main()
    return list(setup.installed)


@linux
def test_without_gpu_the_cpu_index_serves(
    setup: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = run(setup, monkeypatch, default=CUDA_REPORT, indexed=CPU_REPORT, gpu=False)
    assert [options[:2] for options in installed] == [("--index-url", "https://download.pytorch.org/whl/cpu")]
    assert "no GPU here" in capsys.readouterr().out


@linux
def test_torch_index_overrides_the_cpu_index(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_INDEX", "https://wheels.example.org/cpu")
    installed = run(setup, monkeypatch, default=CUDA_REPORT, indexed=CPU_REPORT, gpu=False)
    assert installed[0][:2] == ("--index-url", "https://wheels.example.org/cpu")


@linux
@pytest.mark.parametrize("indexed", [None, CUDA_REPORT], ids=["unreachable", "serves a CUDA build"])
def test_fallback_to_the_default_index_is_said(
    setup: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], indexed: Any
) -> None:
    assert run(setup, monkeypatch, default=CUDA_REPORT, indexed=indexed, gpu=False) == [()]
    assert "taking the default wheel instead" in capsys.readouterr().out


@linux
@pytest.mark.parametrize(
    ("pip_report", "gpu"), [(CPU_REPORT, False), (CPU_REPORT, True), (CUDA_REPORT, True)]
)
def test_otherwise_the_default_wheel_is_taken_without_asking_the_index(
    setup: Any, monkeypatch: pytest.MonkeyPatch, pip_report: dict[str, Any], gpu: bool
) -> None:
    assert run(setup, monkeypatch, default=pip_report, indexed=None, gpu=gpu) == [()]


def test_nothing_is_installed_twice(setup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(setup, monkeypatch, default=NOTHING_TO_DO, indexed=None, gpu=False) == []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'GPU 0: Example (UUID: GPU-0)'", True),
        ("echo 'No devices were found'", False),
        ("echo 'GPU 0: Example'; exit 9", False),
    ],
)
def test_a_gpu_counts_only_if_nvidia_smi_works(
    setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, expected: bool
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert setup.has_gpu() is expected


def test_no_nvidia_smi_no_gpu(setup: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not setup.has_gpu()


def test_constraints_pin_everything_and_nothing_machine_specific() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "make lock" in lines[0]
    assert any(line.split(";")[0].strip() == "torch==2.13.0" for line in pins)
    for line in pins:
        name, exact, version = line.split(";")[0].strip().partition("==")
        assert exact, f"not an exact pin: {line}"
        assert "+" not in version, f"local version tag: {line}"
        assert not name.startswith(("nvidia-", "cuda-", "triton")), f"left to torch itself: {line}"
