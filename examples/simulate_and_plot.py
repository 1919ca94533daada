"""Simulate 200 patients under one constant dose, and plot what they go through.

    python examples/simulate_and_plot.py [--out FOLDER]

Writes ``simulated.html``, a page that needs nothing but itself.
"""

import argparse
from pathlib import Path

import gymnasium
import numpy as np
import plotly.express as px

import simulator

PATIENTS, VISITS, DOSE = 200, 24, 0.45

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder [%(default)s]")
out = parser.parse_args().out
out.mkdir(parents=True, exist_ok=True)

# Importing the simulator registered its environments; this one takes and gives rows of all patients at once.
assert "dosing/Treatment-v0" in simulator.ENV_IDS
env = gymnasium.make_vec("dosing/Treatment-v0", num_envs=PATIENTS)
states = [env.reset(seed=0)[0]]  # [patient, entry]
returns = np.zeros(PATIENTS)
for _ in range(VISITS):
    state, reward, _, _, _ = env.step(np.full((PATIENTS, 1), DOSE))
    states.append(state)
    returns += reward

figure = px.line(
    np.mean(states, axis=1),  # [visit, entry]
    title=f"Simulated patients under the constant dose {DOSE}, mean of {PATIENTS}",
    labels={"index": "visit", "value": "state (no unit)", "variable": "entry"},
)
figure.write_html(out / "simulated.html")
half = 1.96 * returns.std(ddof=1) / PATIENTS**0.5
print(f"return over {VISITS} visits: {returns.mean():.2f} +- {half:.2f} (95 % interval, {PATIENTS} patients)")
print(f"picture: {out / 'simulated.html'}")
