"""What truncated tails do to the actor's gradient: bias and variance against the width of the support.

    python benchmarks/experiments/gradient.py [--draws 256] [--out FOLDER]

One state, everything known. The expected reward of a dose a is a hill of height 1 at 0.4 (standard deviation
0.3) less harm that sets in steeply at 1.2, up to 4. Recorded doses are standard normal, so the policy that
trades reward against staying near them at temperature tau is known: p(a) is proportional to
exp(-a^2/2 + r(a)/tau), with slope psi(a) = -a + r'(a)/tau of its log-density. It stands for a proposal that
was learned without error. The actor has mean 0 and has to find out which way to move. Its loss is the reverse
KL divergence E[ln pi(a) - ln p(a)], a ~ pi; the gradient with respect to its mean is -E[psi(a)], and is
estimated from draws in two ways:

    pathwise: -psi(a)         score function: (ln pi(a) - ln p(a) - b) d ln pi(a)/d mean,  b its mean

The fat actor is normal with standard deviation 0.5. What truncation changes is asked of the same law cut at
+- k standard deviations, and of q-Gaussians with the same standard deviation. Expectations are integrals,
nothing is simulated. The bias is exactly (probability removed) x (mean slope removed - mean slope
kept); see the page.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from benchmarks.report import table
from dosing import NOT_FOR_PATIENTS, __version__
from dosing.runs.files import write_atomic, write_json
from dosing.studies.report.svg import COLOURS, DASHES, GREY, sheet, stroke, text
from dosing.types import Array

RESULTS = Path(__file__).resolve().parents[1] / "results"
HILL, WIDE, HARM, STEEP, GRAVE = 0.4, 0.3, 1.2, 0.08, 4.0
"""Best dose and width of the hill; where harm sets in, over which width, and how much it costs."""
SPREAD = 0.5
"""Standard deviation of every actor but the truncated ones."""
CUTS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0)
INDICES = (-3.0, -1.0, 0.0, 0.25, 0.5, 0.75, 0.9)
TEMPERATURES = (0.1, 0.5, 2.0)
FAR, POINTS = 9.0, 400_000
"""How far a normal law is followed, in standard deviations, and points of an integral."""
PANEL, TALL, MARGIN = 300, 240, 46


@dataclass(frozen=True)
class Law:
    """An actor's law around its mean.

    Attributes:
        name: of it.
        half: half-width of the support, in standard deviations of the fat actor; infinite without an end.
        at: points of the integral, distances from the mean ``[N]``.
        weight: probability around each of them ``[N]``.
        log: log-density there ``[N]``.
        score: its derivative with respect to the mean ``[N]``.
        smooth: whether the density vanishes at the ends, so that they add nothing to a gradient.
        informative: whether the score has a variance.
    """

    name: str
    half: float
    at: Array
    weight: Array
    log: Array
    score: Array
    smooth: bool = True
    informative: bool = True


@dataclass(frozen=True)
class Line:
    """One law at one temperature: the gradient of the loss with respect to the mean.

    Attributes:
        name: of the law.
        half: see :class:`Law`.
        temperature: of the target.
        removed: probability of the fat actor outside the support.
        gradient: exact one.
        bias: gradient minus the fat actor's.
        pathwise: standard deviation of one draw's estimate.
        score: the same of the score function's; infinite where it has none.
        score_bias: what the score function's estimate adds to the bias.
    """

    name: str
    half: float
    temperature: float
    removed: float
    gradient: float
    bias: float
    pathwise: float
    score: float
    score_bias: float

    def error(self, draws: int, way: str) -> float:
        """Root mean squared error of the mean of some draws, against the fat actor's gradient."""
        bias, spread = self.bias, self.pathwise
        if way == "score":
            bias, spread = bias + self.score_bias, self.score
        return math.hypot(bias, spread / math.sqrt(draws))


def reward(dose: Array) -> Array:
    """Expected reward of a dose."""
    hill = np.exp(-0.5 * ((dose - HILL) / WIDE) ** 2)
    harm = torch.special.ndtr(torch.from_numpy((dose - HARM) / STEEP)).numpy()
    return np.asarray(hill - GRAVE * harm)


def slope(dose: Array, temperature: float) -> Array:
    """Derivative of the target's log-density, psi."""
    hill = -(dose - HILL) / WIDE**2 * np.exp(-0.5 * ((dose - HILL) / WIDE) ** 2)
    harm = GRAVE * np.exp(-0.5 * ((dose - HARM) / STEEP) ** 2) / (STEEP * math.sqrt(2.0 * math.pi))
    return np.asarray(-dose + (hill - harm) / temperature)


def truncated(cut: float) -> Law:
    """The fat actor cut at ``cut`` standard deviations; infinite for the fat actor itself."""
    end = min(cut, FAR)
    z, step = _midpoints(end)
    density = np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)
    kept = math.erf(end / math.sqrt(2.0))
    whole = math.isinf(cut)
    name = "normal" if whole else f"normal, cut at {cut:g}"
    log = np.log(density / kept / SPREAD)
    return Law(name, cut, SPREAD * z, density * step / kept, log, z / SPREAD, smooth=whole)


def q_gaussian(q: float) -> Law:
    """The q-Gaussian (q < 1) with the fat actor's standard deviation."""
    power = 1.0 / (1.0 - q)
    # with u = z/R_q the density is proportional to (1 - u^2)^power, of variance 1/(2 power + 3)
    half = math.sqrt(2.0 * power + 3.0) * SPREAD
    # tanh-sinh: u = tanh(sinh(t) pi/2), which resolves the ends
    t, step = _midpoints(4.5)
    u, inside = np.tanh(np.sinh(t) * math.pi / 2.0), np.cosh(np.sinh(t) * math.pi / 2.0) ** -2.0
    constant = math.gamma(power + 1.5) / (math.sqrt(math.pi) * math.gamma(power + 1.0))
    log = math.log(constant / half) + power * np.log(inside)
    weight = constant * inside ** (power + 1.0) * np.cosh(t) * math.pi / 2.0 * step
    score = 2.0 * power * u / inside / half
    return Law(f"q = {q:g}", half / SPREAD, half * u, weight, log, score, informative=power > 1.0)


def _midpoints(end: float) -> tuple[Array, float]:
    step = 2.0 * end / POINTS
    points: Array = -end + step * (np.arange(POINTS, dtype=np.float64) + 0.5)
    return points, step


def measure(law: Law, temperature: float) -> Line:
    """Gradient, bias and spread of one law."""
    psi = slope(law.at, temperature)
    gradient = -float(law.weight @ psi)
    fat = truncated(math.inf)
    wanted = -float(fat.weight @ slope(fat.at, temperature))
    spread = math.sqrt(float(law.weight @ psi**2) - gradient**2)
    loss = law.log - (reward(law.at) / temperature - 0.5 * law.at**2)
    estimate = (loss - float(law.weight @ loss)) * law.score
    mean = float(law.weight @ estimate)
    deviation = math.sqrt(float(law.weight @ estimate**2) - mean**2) if law.informative else math.inf
    removed = math.erfc(law.half / math.sqrt(2.0))
    return Line(
        law.name, law.half, temperature, removed, gradient, gradient - wanted, spread, deviation,
        0.0 if law.smooth else mean - gradient,
    )  # fmt: skip


def picture(lines: list[Line], draws: int) -> str:
    """Root mean squared error against the half-width, a panel per temperature."""
    width, height = MARGIN + len(TEMPERATURES) * PANEL, TALL + 3 * MARGIN
    parts = sheet(width, height)
    low, high = -2.0, 2.0
    for number, temperature in enumerate(TEMPERATURES):
        left, top = MARGIN + number * PANEL, MARGIN
        across, up = PANEL - 24, TALL

        def x_of(half: float, left: float = left, across: float = across) -> float:
            return left + across * min(half, 4.5) / 4.5

        def y_of(error: float, top: float = top, up: float = up) -> float:
            return top + up * (high - min(high, max(low, math.log10(error)))) / (high - low)

        parts.append(text(left, top - 10, f"temperature {temperature:g}", size=12))
        for power in range(int(low), int(high) + 1):
            y = y_of(10.0**power)
            parts.append(stroke(left, y, left + across, y, "#ddd"))
            if not number:
                parts.append(text(left - 6, y + 4, f"{10.0**power:g}", anchor="end", fill=GREY))
        for half in range(5):
            parts.append(text(x_of(half), top + up + 16, str(half), anchor="middle", fill=GREY))
        mine = [line for line in lines if line.temperature == temperature]
        cut = [line for line in mine if line.name.startswith("normal, cut")]
        for colour, dash, way in zip(COLOURS, DASHES, ("pathwise", "score"), strict=False):
            points = " ".join(f"{x_of(c.half):.1f},{y_of(c.error(draws, way)):.1f}" for c in cut)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/>'
            )
            for line in (line for line in mine if line.name.startswith("q =")):
                error = line.error(draws, way)
                if math.isfinite(error):
                    parts.append(
                        f'<circle cx="{x_of(line.half):.1f}" cy="{y_of(error):.1f}" r="4" fill="{colour}"/>'
                    )
        (fat,) = (line for line in mine if line.name == "normal")
        parts.append(
            stroke(left, y_of(fat.error(draws, "pathwise")), left + across,
                   y_of(fat.error(draws, "pathwise")), GREY, dash="2 2")
        )  # fmt: skip
    foot = MARGIN + TALL + 34
    parts += [
        text(MARGIN, foot, "Across: half-width of the support, in sd of the fat actor.", fill=GREY),
        text(MARGIN, foot + 16, f"Up: root mean squared error of the mean of {draws} draws.", fill=GREY),
        text(MARGIN, foot + 32, "Solid blue: pathwise. Dashed orange: score function. Lines: the normal law "
             "cut. Dots: q-Gaussians. Dotted grey: the fat actor, pathwise.", fill=GREY),
        text(MARGIN, foot + 48, NOT_FOR_PATIENTS, fill=GREY),
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def number(x: float) -> str:
    """Three digits; what has no variance says so."""
    return "infinite" if math.isinf(x) else f"{x:.3g}"


def page(lines: list[Line], draws: int) -> str:
    """Every law at every temperature."""
    head = (
        "actor's law",
        "half-width / sd of the fat actor",
        "probability removed",
        "gradient",
        "bias",
        "sd of a draw, pathwise",
        f"error of {draws} draws",
        "sd of a draw, score function",
        "its own bias",
        f"error of {draws} draws",
    )
    parts = [
        "# What truncated tails do to the actor's gradient",
        f"Made by `python benchmarks/experiments/gradient.py --draws {draws}`, dosing {__version__}; "
        "integrals, no draws. The bandit, and the two estimates, are in the script's first lines.",
        "![error against half-width](gradient.svg)",
    ]
    for temperature in TEMPERATURES:
        rows = [
            [
                line.name,
                number(line.half),
                f"{100 * line.removed:.2g} %",
                *map(number, (line.gradient, line.bias, line.pathwise, line.error(draws, "pathwise"))),
                number(line.score),
                number(line.score_bias),
                number(line.error(draws, "score")),
            ]
            for line in lines
            if line.temperature == temperature
        ]
        parts += [f"## Temperature {temperature:g}", table(head, rows)]
    parts.append(NOT_FOR_PATIENTS)
    return "\n\n".join(parts) + "\n"


def measured() -> list[Line]:
    """All laws at all temperatures."""
    laws = [truncated(math.inf), *map(truncated, CUTS), *map(q_gaussian, INDICES)]
    return [measure(law, temperature) for temperature in TEMPERATURES for law in laws]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=256, help="of a batch [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = measured()
    kept = [{k: None if v == math.inf else v for k, v in asdict(x).items()} for x in lines]
    write_json(arguments.out / "gradient.json", {"draws": arguments.draws, "lines": kept})
    for suffix, words in (("md", page(lines, arguments.draws)), ("svg", picture(lines, arguments.draws))):
        write_atomic(arguments.out / f"gradient.{suffix}", words.encode())
    print(page(lines, arguments.draws))


if __name__ == "__main__":
    main()
