"""Load a finished run and ask its guarded recommender for a dose.

    python examples/load_and_recommend.py [--out FOLDER] [--run RUN]

Without ``--run`` a short one is trained first. The answer is never a bare number: it says whether the dose is
ok, limited, deferred or refused, and why.
"""

import argparse
from pathlib import Path

import agents
from dosing.recommendation.recommender import recommend
from dosing.studies import AgentSetup, TrainingSettings, load, train

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder [%(default)s]")
parser.add_argument("--run", type=Path, help="run folder that the commands train or compare printed")
chosen = parser.parse_args()

if chosen.run is None:
    study = chosen.out / "load_and_recommend"
    setup = AgentSetup("fttpo", agents.find("fttpo").config_class()(hidden=(64, 64)))
    short = TrainingSettings(steps=200)
    run = train(study, setup, "dosing/Treatment-v0", seeds=(0, 1), training=short).path
else:
    run = chosen.run

recommender = load(run)
for state in ([0.1, -0.3, 0.5, 0.0, 0.2, -0.1, 0.4, 0.0], [50.0] * 8, [0.1, float("nan")]):
    answer = recommend(recommender, state)
    dose = "no dose" if answer.dose is None else f"dose {answer.dose[0]:.3f} {answer.unit}"
    print(f"{answer.status}: {dose}")
    for reason in answer.reasons:
        print(f"    {reason}")
print(answer.notice)
