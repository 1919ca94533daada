"""The house: floors, documented names, safe constructs, a clean repository."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("dosing", "simulator", "agents", "app")
SOURCES = sorted(path for name in PRODUCT for path in (ROOT / name).rglob("*.py"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with the arguments in the repository's root."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@functools.cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@functools.cache
def tracked() -> dict[str, str]:
    """Every tracked text file by its path."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("the tracked files are known only in a git checkout")
    texts = {}
    for name in filter(None, listing.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes():
            texts[name] = path.read_text(encoding="utf-8")
    return texts


def findings(pattern: str) -> list[str]:
    """Lines of the tracked text files in which the pattern is found."""
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in tracked().items()
        for number, line in enumerate(text.splitlines(), 1)
        if expression.search(line)
    ]


# Floors


def test_import_contract() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = run("-c", code, "--no-cache", "--no-logo")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", result.stdout), result.stdout


def test_every_module_of_the_core_stands_in_the_contract() -> None:
    contract = project()["tool"]["importlinter"]["contracts"][0]
    listed = set(re.findall(r"dosing\.\w+", " ".join(contract["layers"])))
    present = {
        f"dosing.{path.stem}"
        for path in (ROOT / "dosing").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert present - {"dosing.__init__"} <= listed


def test_every_package_is_listed_for_installation() -> None:
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES}
    assert packages == set(project()["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(
    ("arguments", "forbidden"),
    [
        (("-m", "dosing", "--help"), {"torch", "pandas", "streamlit", "plotly"}),
        (("-m", "dosing", "agents"), {"torch", "streamlit"}),
        (("-m", "simulator", "--help"), {"torch", "pandas", "streamlit", "plotly"}),
        (("-m", "simulator", "list"), {"torch", "pandas", "streamlit", "plotly"}),
        (
            ("-c", "import simulator, simulator.envs, dosing.safety"),
            {"torch", "pandas", "streamlit", "plotly"},
        ),
        (("-c", "import dosing, dosing.data, dosing.distributions, agents, app"), {"torch", "streamlit"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...], forbidden: set[str]) -> None:
    result = run("-X", "importtime", *arguments)
    assert result.returncode == 0, result.stderr[-2000:]
    imported = set(re.findall(r"\|\s+([\w.]+)$", result.stderr, flags=re.MULTILINE))
    assert "encodings" in imported, "the import log could not be read"
    assert not imported & forbidden


WHOLE = """
import sys
from dosing.recommendation.recommender import recommend
from dosing.studies import AgentSetup, Cohort, DataSource, TrainingSettings, evaluate, train
from dosing.studies.loading import recommender_of

source, short = DataSource("dosing/Treatment-v0", Cohort(6)), TrainingSettings(steps=2)
for agent in ("iql", "fttpo"):
    run = train(sys.argv[1], AgentSetup(agent), source, seeds=(0, 1), training=short, device="cpu")
    assert evaluate(run, 4).rows
    assert recommend(recommender_of(run), [0.0] * 8).status
"""


@pytest.mark.long
def test_from_visits_to_a_dose_no_compiler_and_no_statistics_are_imported(tmp_path: Path) -> None:
    """Each takes longer to import than all that a short command does."""
    result = run("-X", "importtime", "-c", WHOLE, str(tmp_path))
    assert result.returncode == 0, result.stderr[-2000:]
    imported = set(re.findall(r"\|\s+([\w.]+)$", result.stderr, flags=re.MULTILINE))
    assert "torch" in imported
    assert not imported & {"torch._dynamo", "torch._inductor", "sympy", "scipy.stats"}


# Code


def public_names(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public classes, functions and methods, however deep in classes, with their dotted names."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from public_names(node.body, prefix)
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {ast.unparse(item).split(".")[-1] for item in node.decorator_list}
        if node.name.startswith("_") or decorators & {"overload", "override", "setter", "deleter"}:
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public_names(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_name_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named: list[tuple[str, Any]] = [("the module", tree), *public_names(tree.body)]
    assert [name for name, node in named if not (ast.get_docstring(node) or "").strip()] == []


RUNS_DATA = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "os.system", "torch.load", "torch.save"}
RISKY_OPTIONS = {"shell", "unsafe_allow_html", "allow_pickle", "trust_remote_code"}


def unsafe_in_call(call: ast.Call) -> Iterator[str]:
    """What is unsafe in one call: the function itself, or an option that is not plainly False."""
    called = ast.unparse(call.func)
    if called in RUNS_TEXT or called.endswith((".read_pickle", ".to_pickle")):
        yield called
    for keyword in call.keywords:
        is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in RISKY_OPTIONS and not is_false:
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def unsafe_constructs(tree: ast.AST) -> list[str]:
    """Constructs that run code from data or from a shell line, or let data into the page as markup."""
    result: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            of = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            result += [f"import {name}" for name in of if name.split(".")[0] in RUNS_DATA]
        elif isinstance(node, ast.Call):
            result += unsafe_in_call(node)
    return result


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_unsafe_construct(path: Path) -> None:
    assert unsafe_constructs(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_check_for_unsafe_constructs_finds_them() -> None:
    code = """
import pickle
from joblib import load
eval("1"); torch.load("f"); model.eval(); re.compile("x")
subprocess.run("ls", shell=True); np.load("f", allow_pickle=False); st.markdown("x", unsafe_allow_html=flag)
"""
    expected = [
        "import pickle",
        "import joblib",
        "eval",
        "torch.load",
        "shell=True",
        "unsafe_allow_html=flag",
    ]
    assert sorted(unsafe_constructs(ast.parse(code))) == sorted(expected)


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert [str(path.relative_to(ROOT)) for path in SOURCES if drawers & {path.stem, path.parent.name}] == []


# Repository


def test_no_path_of_one_machine() -> None:
    assert findings(r"(?<![\w.~/-])/(?:home|root|tmp|Users|work|mnt|opt|srv|private)/\w") == []


def test_nothing_points_outside_the_repository() -> None:
    # links of the documentation are followed, each from its page, by test_readme
    pages = [line for line in findings(r"(?<![\w./])\.\./\w") if not re.match(r"docs/[\w/-]+\.md:", line)]
    assert pages == []


def test_no_package_index_but_pytorchs() -> None:
    public = re.escape("download.pytorch.org")
    options = rf"(?:index-url|find-links|TORCH_INDEX\s*\?)[= ]+\"?https?://(?!{public})"
    hosts = r"https?://[\w.-]*(?:pypi|pythonhosted|devpi|artifactory|nexus|mirror|npmjs)"
    assert findings(options) + findings(hosts) == []
