"""A drug in two compartments, as a scenario of your own: `--scenario examples/two_compartment.py`.

A dose a day is infused into the blood (central), from where it spreads into tissue (peripheral) and is
eliminated (Rowland and Tozer, Clinical Pharmacokinetics, 4th ed. 2011, ch. 19). Patients differ in clearance.
"""

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from scipy.linalg import expm

from simulator.cohorts.generate import simulate

CENTRAL, PERIPHERAL, EXCHANGE, HOURS = 10.0, 20.0, 4.0, 24.0  # L, L, L/h, h
LOW, HIGH, TOXIC, DOSE = 5.0, 10.0, 15.0, 1500.0  # mg/L, mg/L, mg/L, mg/day


class TwoCompartment(gymnasium.Env):
    """Concentrations after every day of an infusion; 5 to 10 mg/L is right, above 15 mg/L toxic."""

    observation_space = Box(0.0, 500.0, (2,), np.float32)
    action_space = Box(0.0, DOSE, (1,), np.float32)
    card = {  # noqa: RUF012
        "title": "Infusion of a drug with two compartments",
        "version": "1",
        "observations": [
            {"name": name, "unit": "mg/L", "low": 0.0, "high": 500.0} for name in ("central", "peripheral")
        ],
        "dose": {"name": "infusion", "unit": "mg/day", "safe_default": "no infusion (0)"},
        "cost": f"1 for a day that ends above {TOXIC:g} mg/L in the central compartment",
        "limits_of_the_model": "linear, one clearance per patient, no effect of the drug",
    }

    def reset(self, *, seed=None, options=None):
        """A new patient without the drug."""
        super().reset(seed=seed)
        clearance = 4.0 * np.exp(0.3 * self.np_random.normal())  # L/h
        rates = np.array([[-clearance - EXCHANGE, EXCHANGE], [EXCHANGE, -EXCHANGE]])
        self.flow = rates / np.array([[CENTRAL], [PERIPHERAL]])  # 1/h
        self.kept = expm(self.flow * HOURS)
        self.state = np.zeros(2)  # mg/L
        return self.state.astype(np.float32), {}

    def step(self, action):
        """One day: dc/dt = flow c + (rate / volume, 0), solved exactly."""
        given = np.array([float(action[0]) / HOURS / CENTRAL, 0.0])  # mg/L/h
        steady = -np.linalg.solve(self.flow, given)
        self.state = np.maximum(steady + self.kept @ (self.state - steady), 0.0)
        level = self.state[0]
        reward = -max(LOW - level, level - HIGH, 0.0)
        return self.state.astype(np.float32), reward, False, False, {"cost": float(level > TOXIC)}


gymnasium.register("example/TwoCompartment-v0", entry_point=TwoCompartment, max_episode_steps=14)

if __name__ == "__main__":  # one dose for everyone; the first lines say how to learn a better one
    for dose in (480, 720, 960):
        visits = simulate("example/TwoCompartment-v0", patients=50, policy=f"constant:{dose}")
        print(f"{dose} mg/day: mean reward {visits.reward.mean():.2f}, toxic days {visits.cost.mean():.1%}")
