"""Files that bear the names of our packages: what is ours is used, or one sentence names the other file."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import dosing
from dosing.cli import packages
from dosing.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TRAP = "raise RuntimeError('a file of the working folder was imported')\n"


def run(
    folder: Path, *words: str, path: tuple[Path, ...] = (ROOT,), safe: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run this Python in a folder with a search path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *(["-P"] if safe else []), *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("words", [("dosing", "agents"), ("simulator", "list")], ids=" ".join)
@pytest.mark.parametrize("safe", [False, True])
def test_no_module_of_the_working_folder_is_imported(
    tmp_path: Path, words: tuple[str, str], safe: bool
) -> None:
    for name in {"dosing", "simulator", "agents", "app"} - {words[0]}:
        (tmp_path / f"{name}.py").write_text(TRAP, encoding="utf-8")
    result = run(tmp_path, "-m", *words, safe=safe)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("name", packages.PACKAGES)
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_file_found_before_ours_is_named_in_one_sentence(
    tmp_path: Path, name: str, as_folder: bool
) -> None:
    other = tmp_path / name / "__init__.py" if as_folder else tmp_path / f"{name}.py"
    other.parent.mkdir(exist_ok=True)
    other.write_text(TRAP, encoding="utf-8")
    result = run(tmp_path, "-m", "dosing", "agents", path=(tmp_path, ROOT))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert str(other) in result.stderr
    assert str(ROOT / name / "__init__.py") in result.stderr


def installation(folder: Path, name: str, listed: dict[str, int]) -> None:
    """The record of an installed project: its files with their sizes."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    lines = [f"{file},sha256=x,{size}\n" for file, size in listed.items()]
    (info / "RECORD").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("over", [False, True])
def test_a_package_installed_over_ours_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    for name in ("dosing", *packages.PACKAGES):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("1234567", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    installation(tmp_path, "dosing", {"agents/__init__.py": 99 if over else 7})
    installation(tmp_path, "openai_agents", {"agents/__init__.py": 7})
    monkeypatch.setattr(dosing, "__file__", str(tmp_path / "dosing" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    if over:
        with pytest.raises(UserError, match=r"openai_agents 1\.2, which was installed over"):
            packages.check_packages()
    else:
        packages.check_packages()


def test_a_package_that_is_gone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dosing").mkdir()
    monkeypatch.setattr(dosing, "__file__", str(tmp_path / "dosing" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    for name in packages.PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(UserError, match="'simulator' is missing"):
        packages.check_packages()
