"""The house: floors, documented names, safe constructs, a clean repository, a README that tells the truth."""

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

ROOT = Path(__file__).resolve().parent.parent
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
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            of = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            found += [f"import {name}" for name in of if name.split(".")[0] in RUNS_DATA]
        elif isinstance(node, ast.Call):
            found += unsafe_in_call(node)
    return found


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
    assert findings(r"(?<![\w./])\.\./\w") == []


def test_no_package_index_but_pytorchs() -> None:
    public = re.escape("download.pytorch.org")
    options = rf"(?:index-url|find-links|TORCH_INDEX\s*\?)[= ]+\"?https?://(?!{public})"
    hosts = r"https?://[\w.-]*(?:pypi|pythonhosted|devpi|artifactory|nexus|mirror|npmjs)"
    assert findings(options) + findings(hosts) == []


# README

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@functools.cache
def readme_commands() -> list[str]:
    """Every line of code in the README, fenced or inline: no comments, continued lines joined."""
    text = readme()
    blocks = FENCE.findall(text) + INLINE.findall(FENCE.sub("", text))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines]


def test_readme_names_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(readme_commands())


def test_make_targets_in_the_readme_exist() -> None:
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    named = {name for line in readme_commands() for name in re.findall(r"\bmake ([a-z]+)", line)}
    assert named
    assert named <= targets


@functools.cache
def help_text(module: str, *words: str) -> str:
    result = run("-m", module, *words, "--help")
    assert result.returncode == 0, f"python -m {module} {' '.join(words)} --help: {result.stderr[-1000:]}"
    return result.stdout


@pytest.mark.long
def test_commands_and_flags_in_the_readme_exist() -> None:
    seen = 0
    for line in readme_commands():
        found = re.search(r"python -m (dosing|simulator)\b(.*)", line)
        if not found:
            continue
        seen += 1
        module, words = found[1], found[2].split()
        if not words or words[0].startswith("-"):
            shown = help_text(module)
        else:
            assert re.search(rf"\b{re.escape(words[0])}\b", help_text(module)), line
            shown = help_text(module, words[0])
            if len(words) > 1 and re.fullmatch(r"[a-z][a-z0-9_]*", words[1]):
                shown += help_text(module, *words[:2])
        for flag in (word.split("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{flag}\b", shown), f"{flag} in the README's '{line}' is unknown"
    assert seen


def test_files_linked_in_the_readme_exist() -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", readme())
    assert [link for link in links if not (ROOT / link).exists()] == []
