"""Shared rules of the test run: one thread per worker, optional parts skipped with a reason, never in CI.

``DOSING_REQUIRE=browser,mujoco`` (a comma-separated list of markers) turns every skip of a test that carries
one of these markers into a failure: where everything should be there, a skipped test is a broken set-up.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Generator

# Before numpy or torch load: several test workers share the cores, and results are compared bit by bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# Time limits per example fail on a busy machine; hypothesis takes its own "ci" profile, without one, in CI.
settings.register_profile("dosing", deadline=None)
if not os.environ.get("CI"):
    settings.load_profile("dosing")

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    """Path of a Chromium executable, or None."""
    return next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


@functools.cache
def slurm_answers() -> bool:
    """Whether there is a Slurm cluster here."""
    if shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo", "--noheader"], capture_output=True, timeout=60).returncode == 0


def missing(marker: str) -> str | None:
    """The sentence that says why tests with this marker cannot run here; None if they can."""
    if marker == "browser":
        if importlib.util.find_spec("playwright") is None:
            return "needs the Python package playwright (extra: dev)"
        if find_chromium() is None:
            return "needs a Chromium executable on the PATH (Debian: apt install chromium)"
    if marker == "slurm" and importlib.util.find_spec("submitit") is None:
        return "needs the Python package submitit (extra: cluster)"
    if marker == "slurm" and not slurm_answers():
        return "needs a Slurm cluster (as root on Debian: .ci/slurm COMMAND)"
    if marker in ("mujoco", "minari") and importlib.util.find_spec(marker) is None:
        return f"needs the Python package {marker} (extra: {marker})"
    if marker == "mazes" and not all(map(importlib.util.find_spec, ("gymnasium_robotics", "ogbench"))):
        return "needs the Python packages gymnasium-robotics and ogbench (extra: mazes)"
    return None


def required() -> set[str]:
    """The markers whose tests may not be skipped in this run."""
    return {name.strip() for name in os.environ.get("DOSING_REQUIRE", "").split(",") if name.strip()}


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelt requirement: it would require nothing."""
    known = {line.split(":")[0] for line in config.getini("markers")}
    if unknown := required() - known:
        raise pytest.UsageError(f"DOSING_REQUIRE names unknown markers: {', '.join(sorted(unknown))}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine cannot run."""
    for mark in item.iter_markers():
        reason = missing(mark.name)
        if reason:
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of a required test into a failure."""
    report = yield
    demanded = required() & {mark.name for mark in item.iter_markers()}
    if report.skipped and demanded and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.longrepr = f"{', '.join(sorted(demanded))} is required here (DOSING_REQUIRE), but: {reason}"
    return report


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium executable; for tests marked ``browser``."""
    path = find_chromium()
    assert path is not None, "a test that asks for chromium has to be marked browser"
    return path
