"""Recommendations for a table of states, as columns of a parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dosing import NOT_FOR_PATIENTS

if TYPE_CHECKING:
    import pyarrow as pa

    from dosing.recommendation.dose_context import Evidence
    from dosing.recommendation.records import Answers, Recommender


def columns_of_numbers(piece: pa.RecordBatch, names: Sequence[str]) -> Any:
    """Columns as float64 ``[M, len(names)]``; NaN where a number is missing."""
    import numpy as np

    columns = (piece.column(name).to_numpy(zero_copy_only=False) for name in names)
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def answers_schema(recommender: Recommender, source: str, evidence: Evidence, note: str = "") -> pa.Schema:
    """Columns of the answers to a table, with what they rest on.

    Args:
        recommender: policy, rules and monitor.
        source: SHA-256 of the table's file.
        evidence: what following the policy was worth.
        note: what the policy was not told; empty if nothing.
    """
    import pyarrow as pa

    from dosing.recommendation.dose_context import verdict_words

    about = {
        "notice": NOT_FOR_PATIENTS,
        "input": source,
        "unit": recommender.rules.limits.unit,
        "limits": json.dumps([recommender.rules.limits.low, recommender.rules.limits.high]),
        "provenance": json.dumps(dict(recommender.provenance)),
        "monitor": str(recommender.monitor) if recommender.monitor else recommender.note,
        "verdict": verdict_words(evidence),
    } | ({"note": note} if note else {})
    word = pa.dictionary(pa.int32(), pa.string())
    fields = [("row", pa.int64()), ("status", word)]
    fields += [(name, pa.float64()) for name, _ in _quantities(recommender.rules.limits.n_act)]
    fields += [("mass_outside", pa.float64()), ("reasons", word)]
    fields += [("distance", pa.float64()), ("nearest_distance", pa.float64())]
    fields += [("dose_distance", pa.float64()), ("verdict", word), ("decision", word)]
    return pa.schema(fields, metadata=about)


def _quantities(width: int) -> Iterator[tuple[str, tuple[str, int]]]:
    """Column, and where its numbers are in ``Answers``, of everything with one number per dose dimension."""
    from dosing.recommendation.patient_table import by_dimension

    names = {"dose": "dose", "proposed": "proposed", "support_low": "low", "support_high": "high"}
    names |= {name: name for name in ("recorded_low", "recorded_high", "spread")}
    for name, attribute in names.items():
        for dimension, column in enumerate(by_dimension(name, width)):
            yield column, (attribute, dimension)


def answers_table(result: Answers, first: int, schema: pa.Schema, decided: Any) -> pa.Table:
    """Answers as a table; NaN becomes null.

    Args:
        result: the answers.
        first: number of their first row.
        schema: as :func:`answers_schema` gives it.
        decided: ``[M]`` sentence of the decision in force on each row, None where there is none.
    """
    import numpy as np
    import pyarrow as pa

    from dosing.recommendation.reasons import STATUSES, reason_names

    codes, place = np.unique(result.codes, return_inverse=True)
    reasons = pa.array([" ".join(reason_names(int(code))) for code in codes])
    near = result.distance if result.distance.shape[1] else np.full((len(codes[place]), 1), np.nan)
    columns: dict[str, Any] = {
        "row": np.arange(first, first + len(result.codes)),
        "status": pa.DictionaryArray.from_arrays(result.status.astype(np.int32), pa.array(STATUSES)),
        "mass_outside": result.mass_outside,
        "reasons": pa.DictionaryArray.from_arrays(place.astype(np.int32), reasons),
        "distance": near[:, -1],
        "nearest_distance": near[:, 0],
        "dose_distance": result.dose_distance,
        "verdict": pa.DictionaryArray.from_arrays(
            np.zeros(len(result.codes), np.int32), [schema.metadata[b"verdict"].decode()]
        ),
        "decision": pa.array(decided, pa.string()).dictionary_encode(),
    }
    for column, (attribute, dimension) in _quantities(result.dose.shape[1]):
        columns[column] = getattr(result, attribute)[:, dimension]
    arrays = [
        pa.array(np.ascontiguousarray(columns[f.name]), from_pandas=True)
        if isinstance(columns[f.name], np.ndarray)
        else columns[f.name]
        for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
