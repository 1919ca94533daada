"""One patient of the S2008 form by an adaptive solver: scalar, written from the published equations."""

from __future__ import annotations

from math import tanh

import numpy as np
from scipy.integrate import solve_ivp

F, KE1, KE2, FCNS, HEB = 0.9, 0.0005, 339.0, 1.0, 0.6


def derived(p: dict[str, float]) -> dict[str, float]:
    """What the basal steady state fixes."""
    d = {"m2": 2.5 * p["m4"], "m30": HEB * p["m1"] / (1 - HEB), "Gpb": p["Gb"] * p["Vg"]}
    d["Ipb"] = p["Ib"] * p["Vi"]
    d["Ilb"] = d["m2"] * d["Ipb"] / (p["m1"] + d["m30"])
    d["kp1"] = p["EGPb"] + p["kp2"] * d["Gpb"] + p["kp3"] * p["Ib"]
    d["Gtb"] = (FCNS - p["EGPb"] + p["k1"] * d["Gpb"]) / p["k2"]
    d["Vm0"] = (p["EGPb"] - FCNS) * (p["Km0"] + d["Gtb"]) / d["Gtb"]
    d["u2ss"] = (d["m2"] + p["m4"]) * d["Ipb"] - p["m1"] * d["Ilb"]
    d["isc1"] = d["u2ss"] / (p["kd"] + p["ka1"])
    d["isc2"] = p["kd"] * d["isc1"] / p["ka2"]
    d["basal_U_per_h"] = d["u2ss"] * p["BW"] / 100
    return d


def derivative(x: np.ndarray, p: dict[str, float], meal: float, stomach: float, u: float) -> list[float]:
    """dx/dt of x1..x13; ``meal`` d in mg/min, ``stomach`` Dbar in mg, ``u`` in pmol/kg/min."""
    x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13 = x
    kgut = p["kmax"]
    if stomach > 0:
        aa, cc = 5 / (2 * stomach * (1 - p["b"])), 5 / (2 * stomach * p["dd"])
        bend = tanh(aa * (x1 + x2 - p["b"] * stomach)) - tanh(cc * (x1 + x2 - p["dd"] * stomach)) + 2
        kgut = p["kmin"] + (p["kmax"] - p["kmin"]) / 2 * bend
    egp = max(p["kp1"] - p["kp2"] * x4 - p["kp3"] * x9, 0)
    appears = F * p["kabs"] * x3 / p["BW"]
    renal = KE1 * (x4 - KE2) if x4 > KE2 else 0.0
    used = (p["Vm0"] + p["Vmx"] * x7) * x5 / (p["Km0"] + x5)
    insulin = x6 / p["Vi"]
    dx = [
        -p["kmax"] * x1 + meal,
        p["kmax"] * x1 - kgut * x2,
        kgut * x2 - p["kabs"] * x3,
        egp + appears - FCNS - renal - p["k1"] * x4 + p["k2"] * x5,
        -used + p["k1"] * x4 - p["k2"] * x5,
        -(p["m2"] + p["m4"]) * x6 + p["m1"] * x10 + p["ka1"] * x11 + p["ka2"] * x12,
        p["p2u"] * (insulin - p["Ib"] - x7),
        -p["ki"] * (x8 - insulin),
        -p["ki"] * (x9 - x8),
        -(p["m1"] + p["m30"]) * x10 + p["m2"] * x6,
        u - (p["ka1"] + p["kd"]) * x11,
        p["kd"] * x11 - p["ka2"] * x12,
        -p["ksc"] * (x13 - x4),
    ]
    return [0.0 if i in (3, 4, 5, 9, 10, 11, 12) and x[i] < 0 else dx[i] for i in range(13)]


def glucose(
    parameters: dict[str, float], minutes: int, meals: dict[int, float], units_per_min: list[float]
) -> np.ndarray:
    """Plasma and sensor-site glucose, mg/dL, at minutes 0 to ``minutes``: [minutes + 1, 2].

    Args:
        parameters: the published ones, by symbol.
        minutes: length of the run.
        meals: grams of carbohydrate by the minute at which eating begins.
        units_per_min: insulin in U/min of each minute.
    """
    p = parameters | derived(parameters)
    x = np.array([0, 0, 0, p["Gpb"], p["Gtb"], p["Ipb"], 0, p["Ib"], p["Ib"], p["Ilb"], p["isc1"], p["isc2"]])
    x = np.append(x, p["Gpb"])
    plate = was = held = eaten = 0.0
    out = [(x[3] / p["Vg"], x[12] / p["Vg"])]
    for minute in range(minutes):
        plate += meals.get(minute, 0.0)
        bite = min(5.0, plate)
        plate -= bite
        if bite > 0 and was <= 0:
            held, eaten = x[0] + x[1], 0.0
        eaten, was = eaten + bite, bite
        given = (p, 1000 * bite, held + 1000 * eaten, units_per_min[minute] * 6000 / p["BW"])
        step = solve_ivp(lambda _, y, g=given: derivative(y, *g), (0, 1), x, "DOP853", rtol=1e-8, atol=1e-9)
        x = step.y[:, -1]
        out.append((x[3] / p["Vg"], x[12] / p["Vg"]))
    return np.array(out)
