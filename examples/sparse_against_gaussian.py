"""One method twice, with a sparse and with a Gaussian policy: what each could ever give.

    python examples/sparse_against_gaussian.py [--out FOLDER] [--steps 2000]

The preset trains FtTPO on 50 simulated patients with everything alike but the distribution of its policy.
Small networks and few updates make this an example and no result.
"""

import argparse
from pathlib import Path

from dosing.studies import Grid, TrainingSettings, compare

if __name__ == "__main__":  # the runs go in processes of their own, which read this file again
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder [%(default)s]")
    parser.add_argument("--steps", type=int, default=100, help="gradient updates [%(default)s]")
    chosen = parser.parse_args()

    comparison = compare(
        chosen.out / "sparse_against_gaussian",
        Grid(("fttpo",), {"fttpo.hidden": [(64, 64)]}, preset="sparse-vs-gaussian"),
        "dosing/Treatment-v0",
        seeds=range(2),
        training=TrainingSettings(steps=chosen.steps),
        evaluation_patients=100,
    )
    for row in comparison.rows:
        if row.mass_outside_limits is not None:
            print(f"{row.name}: {row.mass_outside_limits:.2g} of the probability lies outside the limits")
    print(comparison)
