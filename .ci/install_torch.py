"""Install the torch wheel that fits this machine: no CUDA packages where there is no GPU.

Run by the virtual environment's own Python; needs nothing but pip. The rule:

1. Ask pip which wheel it would take (``--dry-run --report``: only metadata is read). A CPU build is installed
   as it is.
2. A CUDA build is installed as it is where ``nvidia-smi`` lists a GPU.
3. Otherwise the CPU build comes from the index named by TORCH_INDEX (default: PyTorch's public CPU index). If
   that index cannot serve one, the default wheel is taken, and a sentence says so.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pip._vendor.packaging.requirements import Requirement

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")

Report = dict[str, Any]


def torch_metadata(report: Report) -> dict[str, Any] | None:
    """Metadata of the torch wheel in a pip report; None if pip would install none (it is there already)."""
    for item in report["install"]:
        if item["metadata"]["name"].lower() == "torch":
            return dict(item["metadata"])
    return None


def is_cuda_build(metadata: dict[str, Any]) -> bool:
    """Whether the wheel would bring CUDA packages onto this machine (markers are evaluated for it)."""
    for line in metadata.get("requires_dist") or []:
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name.lower().startswith(CUDA_PREFIXES):
            return True
    return False


def choose(report: Report, *, gpu: bool) -> str:
    """Decide from pip's report: "present", "default" (the wheel pip would take) or "cpu-index"."""
    metadata = torch_metadata(report)
    if metadata is None:
        return "present"
    return "cpu-index" if is_cuda_build(metadata) and not gpu else "default"


def has_gpu() -> bool:
    """Whether a working nvidia-smi lists at least one GPU."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        found = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "GPU" in found.stdout


def pip_install(*options: str, check: bool = True) -> bool:
    """Run ``pip install torch`` under the constraints; return whether it succeeded."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    # The dependencies of torch follow with the project itself, from the default index and under the same
    # constraints: PyTorch's index carries other versions of them.
    command += ["--no-deps", "--constraint", str(CONSTRAINTS), *options, "torch"]
    return subprocess.run(command, check=check, stderr=None if check else subprocess.DEVNULL).returncode == 0


def ask(*options: str, check: bool = True) -> Report | None:
    """Return pip's report of what it would install, or None if it finds nothing (with ``check=False``)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        if not pip_install("--dry-run", "--report", str(path), *options, check=check):
            return None
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        return report


def main() -> None:
    """Choose and install."""
    report = ask()
    assert report is not None  # pip's failure has already been raised
    gpu = has_gpu()
    choice = choose(report, gpu=gpu)
    metadata = torch_metadata(report)
    if metadata is None:
        print("    torch is already there.", flush=True)
        return
    if choice == "default":
        build = "CUDA" if is_cuda_build(metadata) else "CPU"
        note = " although there is a GPU: pip's index offers no other" if gpu and build == "CPU" else ""
        print(f"    torch {metadata['version']}: {build} build{note}.", flush=True)
        pip_install()
        return
    index = os.environ.get("TORCH_INDEX") or CPU_INDEX
    # Few retries: a closed network should not keep a reader waiting before the fallback.
    from_index = ("--index-url", index, "--retries", "1")
    offered = ask(*from_index, "--timeout", "15", check=False)
    offered_metadata = torch_metadata(offered) if offered is not None else None
    if offered_metadata is not None and not is_cuda_build(offered_metadata):
        print(f"    torch {offered_metadata['version']}: no GPU here, CPU build from {index}.", flush=True)
        pip_install(*from_index)
        return
    print(
        f"    No CPU build of torch to be had from {index}: taking the default wheel instead, which brings"
        " several GB of CUDA packages; set TORCH_INDEX to an index that has the CPU build to avoid that.",
        flush=True,
    )
    pip_install()


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"torch was not installed: pip ended with exit status {error.returncode}, its message is above."
        )
