"""How quick the dashboard is: ``python benchmarks/dashboard.py [--study STUDY] [--page-runs N]``.

Measured in Chromium, which has to be on the PATH, against the product's own server, and written to
``results/dashboard.json`` and ``dashboard.md``. Times are those of the clock, so the machine has to be quiet.
Without ``--study`` it makes a study of its own: the demo's agents with five seeds, trained briefly, as what a
page costs does not depend on how well an agent was trained.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from playwright.sync_api import sync_playwright

from benchmarks.machine import describe
from benchmarks.report import table
from tests.app.served import FLAGS, Server, answering, serving
from tests.conftest import find_chromium

RESULTS = Path(__file__).with_name("results")
NUMBER = '[data-testid="stMetricValue"]'
PICTURE = ".js-plotly-plot .main-svg .xtick"
RESTED = '[data-testid="stApp"][data-test-script-state="notRunning"]'
PATIENCE = 600_000
"""Milliseconds until a page counts as lost."""
MOVE = 60_000
"""Milliseconds until a slider's picture counts as never drawn."""
PATIENTS, VISITS = 12, 20
"""Of the study, among whom the sessions click."""


@dataclass(frozen=True)
class Figure:
    """One measured number beside what it may be.

    Attributes:
        what: was measured.
        unit: of it.
        value: the number.
        target: the most it may be.
        n: how many measurements are behind it.
    """

    what: str
    unit: str
    value: float
    target: float
    n: int


def make_study(folder: Path) -> Path:
    """A study as the demo leaves it, of the same agents, widths and seeds, trained briefly."""
    import agents
    from dosing.studies import Cohort, DataSource, Grid, Resources, TrainingSettings, comparison

    comparison.compare(
        folder,
        [Grid((name,), preset=preset) for name, preset in agents.DEMO_PATIENTS.items()],
        DataSource("dosing/Treatment-v0", Cohort(50, options={"variant": "corrected"})),
        training=TrainingSettings(steps=100),
        evaluation_patients=50,
        resources=Resources("cpu"),
    )
    return folder


BARE = """
import plotly.graph_objects as go
import streamlit as st

st.title("Nothing")
dose = st.slider("dose", 0.0, 1.0, step=0.01)
st.metric("number", dose)
st.plotly_chart(go.Figure(go.Scatter(x=[0, 1], y=[0, dose])), key="line")
"""
"""A page of Streamlit that has a number, a slider and a line of two points, and nothing else."""


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Server]:
    """What Streamlit and Plotly cost by themselves: :data:`BARE`, served."""
    script = folder / "bare.py"
    script.write_text(BARE, encoding="utf-8")
    options = ("--server.headless=true", "--browser.gatherUsageStats=false")
    with answering(
        [sys.executable, "-m", "streamlit", "run", str(script), *options], "--server.port"
    ) as server:
        yield server


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A Chromium with an empty cache."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        yield browser
        browser.close()


def window(browser: Any) -> Any:
    """A new person's window."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    return page


def opened(browser: Any, address: str) -> Any:
    """A new person's window on a page, drawn to the end."""
    page = window(browser)
    page.goto(address)
    page.wait_for_selector(RESTED)
    page.wait_for_selector(PICTURE, state="attached")
    return page


SEEN = f"""() => {{
    window.seen = {{}};
    const watch = new MutationObserver(() => {{
        for (const selector of {json.dumps([NUMBER, PICTURE])})
            if (!(selector in window.seen) && document.querySelector(selector))
                window.seen[selector] = performance.now();
    }});
    watch.observe(document, {{childList: true, subtree: true}});
}}"""
"""Notes when number and picture first stand in the page, in milliseconds after the browser asked for it."""


def cold(server: Server, times: int) -> list[Figure]:
    """A browser that was never here, a server that was: until the number and the picture are there."""
    seen: dict[str, list[float]] = {NUMBER: [], PICTURE: []}
    with chromium() as browser:
        opened(browser, server.address).context.close()
    for _ in range(times):
        with chromium() as browser:
            page = window(browser)
            page.add_init_script(f"({SEEN})()")
            page.goto(server.address)
            page.wait_for_selector(PICTURE, state="attached")
            for selector, moment in page.evaluate("window.seen").items():
                seen[selector].append(moment / 1e3)
    what = "cold browser, warm server"
    return [
        Figure(f"{what}: number", "s", statistics.median(seen[NUMBER]), 1.5, times),
        Figure(f"{what}: picture", "s", statistics.median(seen[PICTURE]), 2.5, times),
    ]


DRAWN = """() => {
    window.drawn = [];
    new MutationObserver(changes => {
        if (changes.some(change => change.target.closest?.('.js-plotly-plot')))
            window.drawn.push(performance.now());
    }).observe(document.body, {childList: true, subtree: true});
    document.addEventListener('keydown', () => {
        window.moved = performance.now();
        window.drawn = [];
    }, true);
}"""
"""Notes the time of a key and of every change within a picture after it: Streamlit makes each one anew."""


def slider(server: Server, moves: int, link: str = "/what_if") -> list[Figure]:
    """A dose moved by the keyboard, a step at a time: until the picture shows it."""
    taken, busy = [], []
    with chromium() as browser:
        page = opened(browser, server.address + link)
        handle = page.get_by_role("slider", name=re.compile("dose", re.IGNORECASE)).first
        handle.focus()
        handle.press("ArrowRight")
        page.wait_for_selector(RESTED)
        page.wait_for_timeout(2_000)
        page.evaluate(DRAWN)
        for move in range(moves):
            before = used(server)
            handle.press("ArrowRight" if move % 40 < 20 else "ArrowLeft")
            page.wait_for_function("() => window.drawn.length > 0", timeout=MOVE)
            page.wait_for_timeout(700)  # nothing more comes: a person looks before the next step
            page.wait_for_selector(RESTED)
            taken.append(page.evaluate("Math.max(...window.drawn) - window.moved"))
            busy.append(1e3 * (used(server) - before))
    late = float(np.quantile(taken, 0.95))
    return [
        Figure("What if, slider to picture: median", "ms", statistics.median(taken), 250, moves),
        Figure("What if, slider to picture: 95th percentile", "ms", late, 300, moves),
        Figure("What if, server's processor time of a move", "ms", statistics.median(busy), 150, moves),
    ]


async def crowd(server: Server, sessions: int, seconds: float, pause: float) -> list[Figure]:
    """Sessions side by side, each clicking every so often, until the page has run to its end."""
    from playwright.async_api import async_playwright

    taken: list[float] = []
    errors: list[str] = []
    ways = (("Next",), ("Next",), ("One state", "What if"), ("Results", "Comparison"), ("Patient",))

    together = asyncio.Barrier(sessions)

    async def session(browser: Any, number: int) -> None:
        page = await (await browser.new_context(viewport={"width": 1440, "height": 900})).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        await page.goto(f"{server.address}/?patient={number % PATIENTS}&visit=1")
        await page.wait_for_selector(RESTED)
        visit = 1
        await together.wait()  # opened, all of them
        until = time.perf_counter() + seconds
        await asyncio.sleep(pause * number / sessions)
        for *sections, last in itertools.cycle(ways):
            if time.perf_counter() > until:
                break
            for section in sections:
                await page.get_by_role("button", name=section).click()
            role: Literal["menuitem", "button", "link"] = "menuitem" if sections else "link"
            role = "button" if last == "Next" else role
            visit += last == "Next"
            seen = (
                page.get_by_text(f"visit {visit} of")
                if last == "Next"
                else page.get_by_role("heading", name=last)
            )
            began = time.perf_counter()
            await page.get_by_role(role, name=last).first.click()
            await seen.first.wait_for()
            await page.wait_for_selector(RESTED)
            taken.append(time.perf_counter() - began)
            errors.extend(await page.locator('[data-testid="stException"]').all_inner_texts())
            await asyncio.sleep(pause)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        await asyncio.gather(*(session(browser, number) for number in range(sessions)))
        await browser.close()
    what = f"{sessions} sessions, a click every {pause:g} s each for {seconds:g} s"
    return [
        Figure(f"{what}: errors", "", len(errors), 0, len(taken)),
        Figure(f"{what}: median page", "s", statistics.median(taken), 2.0, len(taken)),
    ]


def memory(server: Server, runs: int, every: int = 200) -> tuple[list[Figure], list[tuple[int, float]]]:
    """Page runs over the server's own socket, as the browser asks for them: what it holds in the end.

    Every ``every`` runs a new session begins, as when another person comes. Returns the memory along the way
    too, as (runs, MB).
    """
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect
    from websockets.typing import Origin, Subprotocol

    url, spoken = server.address.replace("http", "ws") + "/_stcore/stream", [Subprotocol("streamlit")]
    held = [(0, resident(server))]
    done, errors = 0, 0
    while done < runs:
        with connect(url, subprotocols=spoken, max_size=None, origin=Origin(server.address)) as socket:
            for _ in range(min(every, runs - done)):
                patient, visit = done // VISITS % PATIENTS, 1 + done % VISITS
                ask = BackMsg()
                ask.rerun_script.query_string = f"patient={patient}&visit={visit}"
                ask.rerun_script.page_name = "" if done % 4 else "what_if"
                socket.send(ask.SerializeToString())
                while True:
                    said = ForwardMsg.FromString(socket.recv(timeout=PATIENCE / 1e3))
                    errors += said.delta.new_element.WhichOneof("type") == "exception"
                    if said.WhichOneof("type") == "script_finished":
                        break
                done += 1
        held.append((done, resident(server)))
    what = f"server's memory after {runs:,} page runs"
    return [
        Figure(what, "MB", held[-1][1], 800, runs),
        Figure("page runs that failed", "", errors, 0, runs),
    ], held


def used(server: Server) -> float:
    """Seconds of processor time of the server's processes."""
    ticks = sum(int(fields[11]) + int(fields[12]) for fields in _stat(server))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(server: Server) -> float:
    """Memory of the server's processes in MB."""
    return sum(int(fields[21]) for fields in _stat(server)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _stat(server: Server) -> list[list[str]]:
    """What the system says of each process, from its state on."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            fields = file.read_text(encoding="utf-8").rpartition(")")[2].split()
            if int(fields[2]) == server.group:
                found.append(fields)
    return found


def page(result: dict[str, Any]) -> str:
    """The table as a page of markdown."""
    lines = [
        [
            f["what"],
            f"{f['value']:.3g} {f['unit']}",
            f"{result['bare'][f['what']]:.3g} {f['unit']}" if f["what"] in result["bare"] else "",
            f"{f['target']:g} {f['unit']}",
            f"{f['n']:,}",
            "yes" if f["value"] <= f["target"] else "no",
        ]
        for f in result["figures"]
    ]
    along = ", ".join(f"{runs:,}: {held:.0f}" for runs, held in result["memory"])
    first, last = result["load"]
    parts = [
        "# The dashboard's speed",
        f"Made by `{result['command']}`, {result['date']}, on: {result['machine']}. Load average {first:.1f} "
        f"before and {last:.1f} after: on a busy machine the times of the clock say nothing.",
        table(("what", "measured", "a bare page", "target", "n", "met"), lines),
        f"Study: {result['study']}. The window is 1440 x 900 pixels. A bare page is one of "
        "Streamlit's with a number, a slider and a line of two points, and nothing of ours. The sessions "
        "side by side are open before they click: the next visit, twice, What if, Comparison, Patient. "
        "Memory of the server in MB along the page "
        "runs, three of four of Patient and one of What if, a new session every 200: "
        f"{along or 'not measured'}.",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="study folder to show [one made for this]")
    parser.add_argument(
        "--page-runs", type=int, default=10_000, help="for the memory; 0 for none [%(default)s]"
    )
    parser.add_argument("--loads", type=int, default=10, help="cold starts of the browser [%(default)s]")
    parser.add_argument("--moves", type=int, default=60, help="of the slider [%(default)s]")
    parser.add_argument("--sessions", type=int, default=8, help="side by side [%(default)s]")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which they click [%(default)s]")
    parser.add_argument(
        "--pause", type=float, default=5.0, help="seconds between a page and the next [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results [%(default)s]")
    arguments = parser.parse_args()
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        if arguments.study is None:
            make_study(study)
        else:
            shutil.copytree(arguments.study, study)  # what is asked goes into an audit log of its own
        with bare(Path(folder)) as server:
            alone = cold(server, arguments.loads) + slider(server, arguments.moves, link="")
            print("a bare page:", *alone, sep="\n", flush=True)
        with serving(study) as server:
            figures = cold(server, arguments.loads)
            print(*figures, sep="\n", flush=True)
            figures += slider(server, arguments.moves)
            print(*figures[2:], sep="\n", flush=True)
            figures += asyncio.run(crowd(server, arguments.sessions, arguments.seconds, arguments.pause))
            print(*figures[5:], sep="\n", flush=True)
            held: list[tuple[int, float]] = []
            if arguments.page_runs:
                more, held = memory(server, arguments.page_runs)
                figures += more
    load.append(os.getloadavg()[0])
    command = "python benchmarks/dashboard.py"
    result = {
        "command": " ".join([command, *("STUDY" if w == str(arguments.study) else w for w in sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe(),
        "load": load,
        "study": "of its own, the demo's agents with five seeds" if arguments.study is None else "given",
        "bare": {figure.what: figure.value for figure in alone},
        "figures": [asdict(figure) for figure in figures],
        "memory": held,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "dashboard.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "dashboard.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
