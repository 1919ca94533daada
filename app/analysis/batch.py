"""Answers to a table of states that somebody brings, and files of them to take away. No Streamlit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from dosing import NOT_FOR_PATIENTS
from dosing.data.earlier_visits import EarlierVisits
from dosing.recommendation.answers_table import answers_schema, answers_table
from dosing.recommendation.batch import read_current_doses, recommend_all
from dosing.recommendation.dose_context import DecidedStates, Evidence
from dosing.recommendation.explanations import FIRST_VISITS
from dosing.recommendation.reasons import STATUSES
from dosing.recommendation.records import Recommender
from dosing.types import Array


def answer(
    recommender: Recommender,
    states: Array,
    current: Array | None,
    source: str,
    evidence: Evidence,
    decided: DecidedStates,
    earlier: EarlierVisits | None = None,
) -> pa.Table:
    """Ask the guarded recommender about every row; the table is that of ``recommend --in``, rows from 1.

    Args:
        recommender: policy, rules and monitor.
        states: ``[M, O]``; a missing number is NaN and refuses its row.
        current: ``[M, A]`` doses given now, where they are needed.
        source: SHA-256 of the file that the rows came in.
        evidence: what following the policy was worth.
        decided: decisions in force on the policy.
        earlier: the visits before each row; None if every row is a state of its own.
    """
    result = recommend_all(recommender, states, current, earlier)
    looks_back = recommender.policy.looks_back
    note = FIRST_VISITS if looks_back and earlier is None else ""
    schema = answers_schema(recommender, source, evidence, note)
    exact = {bounded for _, bounded in result.kinds}
    words = {frozenset({True}): "exact", frozenset({False}): "central 99 %, not a support"}
    about = {"rows": "counted from 1", "support": words.get(frozenset(exact), "none")}
    schema = schema.with_metadata({**(schema.metadata or {}), **about})
    given = read_current_doses(recommender.rules, states, current, earlier)
    return answers_table(result, 1, schema, decided.of(states, given, earlier if looks_back else None))


def statuses(table: pa.Table) -> dict[str, int]:
    """How many rows have each status."""
    told = table.column("status").cast(pa.string()).to_pylist()
    return {status: told.count(status) for status in STATUSES}


def together(answers: Mapping[str, pa.Table]) -> pa.Table:
    """The answers of several agents below each other, with whose each is in the first column.

    What the answers of one agent rest on stands under its name in ``agents`` of the metadata.

    Args:
        answers: the table of every agent, by its name.
    """
    tables, told = [], {}
    for name, table in answers.items():
        told[name] = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        plain = table.replace_schema_metadata(None)
        column = pa.array([name] * table.num_rows).dictionary_encode()
        tables.append(plain.add_column(0, "agent", column))
    about = {"notice": NOT_FOR_PATIENTS, "agents": json.dumps(told)}
    return pa.concat_tables(tables).unify_dictionaries().replace_schema_metadata(about)


def side_by_side(answers: Mapping[str, pa.Table]) -> pd.DataFrame:
    """A line per row, with the dose and the status that each agent gives it."""
    first = next(iter(answers.values()))
    columns: dict[str, Any] = {"row": first.column("row").to_pandas()}
    for name, table in answers.items():
        columns[f"{name}: status"] = table.column("status").cast(pa.string()).to_pandas()
        for dose in (column for column in table.column_names if column.split("_")[0] == "dose"):
            if dose != "dose_distance":
                columns[f"{name}: {dose.replace('_', ' ')}"] = table.column(dose).to_pandas()
    return pd.DataFrame(columns)


def in_words(table: pa.Table) -> pd.DataFrame:
    """The answers as they are shown: reasons as words."""
    shown: pd.DataFrame = table.to_pandas()
    told = table.column("reasons").cast(pa.string()).to_pandas()
    shown["reasons"] = told.str.replace(" ", "; ").str.replace("_", " ")
    return shown


def as_parquet(table: pa.Table) -> bytes:
    """A parquet file; the notice is in its metadata."""
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def as_csv(table: pa.Table) -> bytes:
    """A CSV file; its first line, a comment, holds the notice and what the answers rest on."""
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    words = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    out = io.BytesIO()
    out.write(f"# dosing {json.dumps(about)}\n".encode())
    for name in words:
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.string()))
    pa_csv.write_csv(table, out)
    return out.getvalue()


def header(names: Sequence[str]) -> bytes:
    """A CSV file of a header alone."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(names)
    return out.getvalue().encode()
