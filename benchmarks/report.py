"""The benchmark's numbers as one page of markdown tables."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

COMMAND = "python benchmarks/speed/training.py --references FOLDER"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median (smallest to largest)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def spelled(options: argparse.Namespace, *names: str) -> str:
    """Options as one types them; those without a value are left out."""
    said = []
    for name in names:
        value = getattr(options, name)
        words = value if isinstance(value, list | tuple) else [value]
        if value is True:
            words = []
        elif value is None or value is False or value in ([], ""):
            continue
        said.append(" ".join([f"--{name.replace('_', '-')}", *map(str, words)]))
    return " ".join(said)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    rule = [":--"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def partner(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Our row of the same task, with which a row is compared; None if it was not measured."""
    for other in rows:
        if other["task"] == row["task"] and not other["title"]:
            return other if other["rates"] else None
    return None


def ratios(ours: Mapping[str, Any], other: Mapping[str, Any], name: str) -> list[float]:
    """Our rate over the other's, round by round."""
    return [a / b for a, b in zip(ours["rates"][name], other["rates"][name], strict=True)]


def comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Throughput beside the references."""
    head = (
        "learner",
        "widths and settings",
        "updates per CPU-second",
        "with sampling",
        "ours / this",
        "with sampling",
        "2 threads, per CPU-second",
        "2 threads, per second",
        "ours / this",
    )
    lines = []
    for row in rows:
        label = f"{row['task']}: {row['title'] or 'ours'}"
        if row["absent"]:
            lines.append([label, f"absent: {row['absent']}", *[""] * 7])
            continue
        ours = partner(row, rows)
        versus = ours if ours is not row else None
        cells = [_rate(row, "update"), _rate(row, "sampled")]
        cells += [_ratio(versus, row, "update"), _ratio(versus, row, "sampled")]
        cells += [_rate(row, "two threads"), _rate(row, "two threads", "wall_rates")]
        cells.append(_ratio(versus, row, "two threads"))
        lines.append([label, row["about"]["settings"], *cells])
    return table(head, lines)


def _rate(row: Mapping[str, Any], name: str, clock: str = "rates") -> str:
    values = row[clock].get(name)
    return spread(values, 1 if statistics.median(values) >= 10.0 else 3) if values else ""


def _ratio(ours: Mapping[str, Any] | None, other: Mapping[str, Any], name: str) -> str:
    if ours is None or name not in ours["rates"] or name not in other["rates"]:
        return ""
    return spread(ratios(ours, other, name), 2)


def costs(result: Mapping[str, Any]) -> str:
    """What an update of ours costs and what eats it."""
    head = (
        "learner",
        "settings",
        "seeds",
        "ms per update",
        "useful MFLOP",
        "executed MFLOP",
        "GFLOP/s, useful",
        "share of best float32",
        "tensor calls",
        "matmul",
        "other kernels",
        "optimiser, targets",
        "rest",
        "peak MiB",
        "of it torch",
    )
    lines = []
    for row in result["rows"]:
        if row["cost"]:
            label = f"{row['task']}: {row['title'] or 'ours'}"
            cells = [label, row["about"]["settings"], "1"]
            lines.append(cells + _cost(row["cost"], result))
        stacked = [s for s in result["stacks"] if s["task"] == row["task"]]
        if row["title"]:
            continue
        for stack in stacked:
            cells = [f"{stack['task']}: ours", stack["settings"], str(stack["seeds"])]
            lines.append(cells + _cost(stack["cost"], result))
    return table(head, lines)


def _cost(cost: Mapping[str, Any], result: Mapping[str, Any]) -> list[str]:
    """Time, FLOPs, rate, calls, shares and memory; the executed FLOPs rate it if the useful are unknown."""
    useful, executed = cost.get("useful"), cost.get("flops")
    cells = [f"{1e3 * cost['seconds']:.2f}", *(f"{1e-6 * x:.1f}" if x else "" for x in (useful, executed))]
    rate = (useful or executed or 0.0) / cost["seconds"] * 1e-9
    cells += [f"{rate:.1f}", f"{rate / result['best_float32']:.0%}"] if rate else ["", ""]
    return [*cells, *_eaten(cost), f"{cost['peak']:.0f}", f"{cost['import']:.0f}"]


def _eaten(cost: Mapping[str, Any]) -> list[str]:
    """Calls, and the shares of the processor time."""
    if "calls" not in cost:
        return [""] * 5
    parts = ("matmul", "elementwise", "optimiser", "rest")
    return [f"{cost['calls']:.0f}", *(f"{cost[name] / cost['total']:.0%}" for name in parts)]


def products(result: Mapping[str, Any]) -> str:
    """Matrix products by kind."""
    head = ("product", "size", "GFLOP/s of one core", "relative error")
    lines = [
        [p["kind"], f"{p['count']} x {p['n']}^3", f"{p['rate']:.0f}", f"{p['error']:.1e}"]
        for p in result["products"]
    ]
    return table(head, lines)


def pairs(result: Mapping[str, Any]) -> str:
    """Two processes against one."""
    head = ("agent", "gain by the clock", "gain by processor time", "share of a core each process got")
    lines = [
        [p["agent"], spread(p["gain"], 2), spread(p["gain_cpu"], 2), f"{statistics.median(p['share']):.0%}"]
        for p in result["pairs"]
    ]
    return table(head, lines)


def product(result: Mapping[str, Any]) -> str:
    """The product around training: its commands, evaluation, and a whole treatment study."""
    head = ("what", "seconds", "processor seconds", "target")
    lines = [
        [m["what"], f"{m['wall']:.2f}", f"{m['cpu']:.2f}", f"{m['target']:g} s"] for m in result["product"]
    ]
    return table(head, lines)


def _rounds(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often rows were measured: the number, or the least and the most."""
    counts = {len(row["rates"]["update"]) for row in rows if row["rates"]}
    return " to ".join(str(n) for n in sorted({min(counts), max(counts)})) if counts else "no"


def render(result: Mapping[str, Any]) -> str:
    """The whole page."""
    first, last = result["load"]
    parts = [
        "# Training speed",
        f"Made by `{COMMAND}`, {result['date']}, on: {result['machine']}. Load average {first:.1f} before "
        "and "
        f"{last:.1f} after. {_rounds(result['rows'])} rounds, {result['seconds']:g} s each measurement. Best "
        "float32 "
        f"matrix product of one core: {result['best_float32']:.0f} GFLOP/s.",
        "Work: batch 256 (Decision Transformer: 64 windows of 20 visits), observation 17, action 6, 100,000 "
        "random transitions, one seed. Medians over rounds (smallest to largest); a ratio above 1 means "
        "ours is faster.",
        "## Beside the references",
        comparison(result["rows"]),
        "## What an update costs",
        "Sampling included, one thread. Useful products are those the method's equations need. Calls are "
        "what torch's profiler records in `aten`. The last columns share out the processor time without "
        "sampling; the rest is Python, autograd's bookkeeping and dispatch.",
        costs(result),
        "## Two single-thread processes against one",
        pairs(result),
        "## Matrix products of this machine",
        products(result),
    ]
    if result["product"]:
        parts += ["## Around training", product(result)]
    return "\n\n".join(parts) + "\n"
