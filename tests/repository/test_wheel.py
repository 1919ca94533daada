"""What is installed from the wheel works without the checkout: both commands, the dashboard, its settings."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app.served import FLAGS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dosing", "simulator", "agents", "app")

pytestmark = pytest.mark.long


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that is not the checkout, without its paths."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STREAMLIT"))}
    return subprocess.run(
        command, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from copies of the product's files with the tools that are installed here."""
    pytest.importorskip("pip", reason="an environment made by uv has no pip to build a wheel with")
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    built = run([*command, "--no-build-isolation", "--wheel-dir", "dist", "."], source)
    assert built.returncode == 0, built.stderr
    (result,) = (source / "dist").glob("dosing-*.whl")
    return result


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an empty environment in which the wheel was installed.

    Its dependencies are those of the environment that runs the tests. They are reached by a path file, whose
    folders are searched last and in which no other path file counts: an editable installation there, which
    would lead back to the checkout, is not seen.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    programs = Path(sysconfig.get_path("scripts", "venv", {"base": str(home)}))
    library = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    paths = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (library / "dependencies.pth").write_text("\n".join(paths), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet"]
    done = run([*command, "--no-deps", "--no-index", str(wheel)], home)
    assert done.returncode == 0, done.stderr
    where = run([str(programs / "python"), "-c", "import dosing; print(dosing.__file__)"], home)
    assert where.stdout.strip() == str(library / "dosing" / "__init__.py"), where.stderr
    return programs


def test_the_wheel_holds_types_settings_and_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{name}/py.typed" for name in PACKAGES} <= names
    assert {"app/.streamlit/config.toml", "app/icon.svg"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    outside = {name.split("/")[0] for name in names} - set(PACKAGES)
    assert [name for name in outside if not name.endswith(".dist-info")] == []


def test_the_agents_are_listed(installed: Path, tmp_path: Path) -> None:
    result = run([str(installed / "dosing"), "agents"], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "fttpo" in result.stdout


def test_patients_are_simulated(installed: Path, tmp_path: Path) -> None:
    words = ["run", "dosing/Treatment-v0", "--patients", "3", "--out", "visits.parquet"]
    result = run([str(installed / "dosing-simulator"), *words], tmp_path)
    assert result.returncode == 0, result.stderr
    assert "72 visits of 3 patients" in result.stdout
    assert (tmp_path / "visits.parquet").is_file()


def test_a_module_of_the_working_folder_is_not_imported(installed: Path, tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / f"{name}.py").write_text("raise RuntimeError\n", encoding="utf-8")
    for words in (["dosing", "--help"], ["dosing", "agents"], ["dosing-simulator", "list"]):
        result = run([str(installed / words[0]), *words[1:]], tmp_path)
        assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def address(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard as a user of the wheel starts it, where everything asks for usage statistics."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / ".streamlit").mkdir()
    settings = "[browser]\ngatherUsageStats = true\n[client]\ntoolbarMode = 'developer'\n"
    (folder / ".streamlit" / "config.toml").write_text(settings, encoding="utf-8")
    (folder / "study").mkdir()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    asked = {"HOME": str(folder), "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [str(installed / "dosing"), "app", "--out", "study", "--port", str(port)],
            cwd=folder,
            env=kept | asked,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log").read_text()
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=2).close()
                break
            time.sleep(0.25)
        yield f"http://localhost:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(timeout=20)


def first_messages(address: str) -> Iterator[Any]:
    """What the server tells a browser that has just opened the page."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect

    ask = BackMsg()
    ask.rerun_script.query_string = ""
    stream = address.replace("http", "ws") + "/_stcore/stream"
    with connect(stream, subprotocols=["streamlit"], max_size=None) as socket_:  # type: ignore[list-item]
        socket_.send(ask.SerializeToString())
        while True:
            message = ForwardMsg()
            message.ParseFromString(socket_.recv(timeout=60))
            yield message


def test_usage_statistics_are_off_and_the_settings_are_ours(address: str) -> None:
    new = next(message for message in first_messages(address) if message.HasField("new_session"))
    assert new.new_session.config.gather_usage_stats is False
    assert new.new_session.config.toolbar_mode == new.new_session.config.ToolbarMode.Value("MINIMAL")
    assert new.new_session.custom_theme.light.primary_color == "#0072B2"


@pytest.mark.browser
def test_no_request_leaves(address: str, chromium: str) -> None:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text("This command simulates patients").wait_for(timeout=60_000)
        page.wait_for_timeout(1_000)  # statistics are sent after the first run
        browser.close()
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
