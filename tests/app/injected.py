"""A study whose names are all markup, and every parameter that a page takes from its address."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from dosing.data.store import read_episodes, write_episodes
from dosing.runs.files import read_json, read_table, write_json, write_table
from dosing.studies import Cohort, DataSource, Resources, compare
from dosing.studies.data import obtain_data
from dosing.studies.naming import CURVES, TABLE
from dosing.training.offline import TrainingSettings

ROOT = Path(__file__).resolve().parents[2]
HOST, MARK = "elsewhere.invalid", "INJECTED"
PAYLOAD = (
    f"![{MARK}](http://{HOST}/p.png) :green-badge[{MARK}] :red[{MARK}] [{MARK}](http://{HOST}/l) "
    f"http://{HOST}/t www.{HOST} {MARK}@{HOST} <b>{MARK}</b> <a href='http://{HOST}/h'>{MARK}</a> "
    f"<img src=http://{HOST}/i.png> "
    f":material/check: :heart: :streamlit: **{MARK}** `{MARK}` ${MARK}$ %{{x}}"
)
"""Whatever a text could do in markdown or in a figure's label."""
MOST_NUMBERED = 4
"""Largest number in the name of a parameter, such as ``rule4``."""


def parameters() -> list[str]:
    """Names that pages take from the address, read off their source."""
    found: set[str] = set()
    for path in sorted((ROOT / "app").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                found.update(_named(call))
    return sorted(found)


def _named(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func).split(".")[-1]
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "bind" in keywords:
        return _names([keywords["key"]])
    places = {"pick": 3, "linked": 0, "in_range": 1, "link_problem": 0, "asked_for": 0, "get_all": 0}
    if name in places and len(call.args) > places[name]:
        return _names([call.args[places[name]]])
    if ast.unparse(call.func) == "st.query_params.get":
        return _names(call.args[:1])
    return []


def _names(nodes: Sequence[ast.expr]) -> list[str]:
    """Constants, and every number in the place of an index; names that are passed on are skipped."""
    result = []
    for node in nodes:
        if isinstance(node, ast.Constant):
            result.append(str(node.value))
        elif isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "#" for part in node.values)  # type: ignore[misc]
            result += [text.replace("#", str(k)) for k in range(1, MOST_NUMBERED + 1)]
    return result


def pages() -> list[str]:
    """Addresses of all pages, read off ``main.py``."""
    text = (ROOT / "app" / "main.py").read_text(encoding="utf-8")
    return ["", *re.findall(r'url_path="(\w+)"', text)]


def make_study(study: Path) -> Path:
    """A study of two agents that learned from a file whose every name is :data:`PAYLOAD`."""
    plain = study.parent / "plain"
    obtain_data(DataSource("dosing/Treatment-v0", Cohort(3)), plain)
    visits = read_episodes(next((plain / "data").glob("*.parquet")))
    width = visits.obs.shape[1]
    meta = replace(
        visits.metadata,
        obs_names=tuple(f"{PAYLOAD} {k}" for k in range(width)),
        obs_units=(PAYLOAD,) * width,
        dose_name=PAYLOAD,
        policy=PAYLOAD,
    )
    file = study.parent / f":green-badge[{MARK}] www.{HOST}.parquet"
    write_episodes(replace(visits, metadata=meta), file)
    compare(
        study,
        ("fttpo", "iql"),
        file,
        seeds=(0, 1),
        training=TrainingSettings(steps=20),
        evaluation_patients=4,
        resources=Resources("cpu", 1),
    )
    table = read_json(study / TABLE)
    for row in table["rows"]:
        row |= {"name": f"{row['name']} {PAYLOAD}", "family": PAYLOAD, "data": row["data"]}
    write_json(study / TABLE, table)
    curves = read_table(study / CURVES)
    for name in ("name", "policy", "setting"):
        place = curves.column_names.index(name)
        curves = curves.set_column(place, name, pa.array([PAYLOAD] * len(curves)))
    write_table(study / CURVES, {name: curves.column(name) for name in curves.column_names})
    return study
