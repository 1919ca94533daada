"""Reachable ceilings: the best memoryless and the best recurrent policy, trained through the simulator.

The expected reward is differentiable in the doses and a state is its mean plus noise that does not depend
on the doses, so a policy can be trained by back-propagation through whole episodes, every episode with
patients never seen before. This is no learning from data: it needs the equations themselves, and so bounds
what any learner can reach.

torch is an optional package here and is imported only when a policy is trained.
"""

import importlib
from typing import Any

import numpy as np

from dosing.errors import UserError
from simulator.bounds.expected_reward import Float, Patients, known_patients
from simulator.environment import CohortEnv
from simulator.progress import progress_bar

TRAINING_SEED_OFFSET = 1_000_003
"""Training patients come from another seed than the patients of the table."""


class TrainedPolicy:
    """A policy network: memoryless (a function of the observation) or recurrent (a GRU over visits)."""

    def __init__(self, torch: Any, recurrent: bool, low: float, high: float, hidden: int, seed: int) -> None:
        """Build the network for one observation of eight states; ``torch`` is the imported package."""
        nn = torch.nn
        self.torch, self.recurrent, self.hidden = torch, recurrent, hidden
        self.middle, self.reach = (low + high) / 2, (high - low) / 2
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.cell = nn.GRUCell(9, hidden) if recurrent else None
            width = hidden if recurrent else 8
            self.head = nn.Sequential(
                nn.Linear(width, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, 1),
            )

    def parameters(self) -> list[Any]:
        """Return all trainable tensors."""
        return [*self.head.parameters(), *(self.cell.parameters() if self.cell is not None else ())]

    def start(self, n: int) -> Any:
        """Return the memory of ``n`` patients before their first visit."""
        return (self.torch.zeros(n, self.hidden), self.torch.zeros(n, 1))

    def act(self, obs: Any, memory: Any) -> tuple[Any, Any]:
        """Return the doses [n] for observations [n, 8] and the memory after this visit."""
        hidden, last = memory
        if self.cell is not None:
            hidden = self.cell(self.torch.cat([obs, last], dim=1), hidden)
        out = self.torch.tanh(self.head(hidden if self.cell is not None else obs))
        dose = self.middle + self.reach * out
        return dose[:, 0], (hidden, dose)


def train(
    env_id: str,
    *,
    recurrent: bool,
    policy: Any = None,
    seed: int = 0,
    iterations: int = 1500,
    batch: int = 1024,
    hidden: int = 64,
    learning_rate: float = 3e-3,
    gamma: float = 1.0,
    progress: bool = False,
    **options: Any,
) -> Any:
    """Train one policy by Adam with a cosine schedule on fresh patients in every iteration.

    ``policy`` is one to train in place of the network: an object with ``torch``, and with ``parameters``,
    ``start`` and ``act`` as those of :class:`TrainedPolicy`.

    Raises:
        UserError: If torch is not installed, or for wrong options.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise UserError(
            "the memoryless and recurrent ceilings are trained with torch, which is not installed"
        ) from None
    seed += TRAINING_SEED_OFFSET
    options.pop("first_patient", None)  # the training patients are chosen here
    patients = known_patients(env_id, batch, seed, **options)
    if policy is None:
        policy = TrainedPolicy(torch, recurrent, patients.low, patients.high, hidden, seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    dice = torch.Generator().manual_seed(seed)
    with progress_bar(progress, total=iterations, desc="recurrent" if recurrent else "memoryless") as bar:
        for i in range(iterations):
            env = CohortEnv(env_id, num_envs=batch, first_patient=i * batch, **options)
            patients = known_patients(env_id, batch, seed, first_patient=i * batch, **options)
            env.reset(seed=seed)
            factors = torch.from_numpy(env.visits.core.factors())
            loss = -_episode(torch, policy, patients, factors, dice, gamma).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
            optimiser.step()
            schedule.step()
            bar.update()
    return policy


def _episode(
    torch: Any, policy: TrainedPolicy, patients: Patients, factors: Any, dice: Any, gamma: float
) -> Any:
    """Return the expected return [n] of one episode as a differentiable tensor."""
    n, steps = patients.n, patients.visits
    mean = torch.from_numpy(patients.mean.T.astype(np.float32))
    spread = torch.from_numpy(patients.spread.astype(np.float32))
    felt = torch.from_numpy(patients.sensitivity.astype(np.float32))
    push = torch.tensor([1.0] * 4 + [-1.0] * 4)
    normals = torch.randn(steps, n, factors.shape[2], generator=dice)
    noise = torch.einsum("nij,tnj->tni", factors.expand(n, -1, -1), normals)
    memory, total, seen = policy.start(n), torch.zeros(n), mean
    for t in range(steps):
        dose, memory = policy.act(seen + noise[t], memory)
        after = torch.tanh(mean + push * (felt * dose)[:, None])
        seen = mean if patients.lag else after
        total = total + gamma**t * _reward(torch, patients.cubic, seen, dose, spread)
        mean = after
    return total


def _reward(torch: Any, cubic: bool, mean: Any, dose: Any, spread: Any) -> Any:
    """The formula of ``simulator.bounds.expected_reward.expected_reward`` with the patients first."""
    m = mean.unbind(dim=1)
    if cubic:
        q = [(x**3 + 1.5 * x) / 8 for x in m]
        return q[0] + q[1] + 2 * (q[4] + q[5]) + m[2] + m[3] + (m[6] + m[7]) / 2
    toxic = torch.exp((m[0] + m[4]) / 2 + spread)
    gain = 2 * (m[1] + m[2] + m[5] + m[6] + 0.5)
    return (gain - toxic * dose) * dose + m[3] + m[7]


def doses_of(policy: TrainedPolicy, env_id: str, n: int, seed: int, **options: Any) -> Float:
    """Return the doses [T, n] that a trained policy gives in the environment itself."""
    torch = policy.torch
    env = CohortEnv(env_id, num_envs=n, **options)
    obs, _ = env.reset(seed=seed)
    memory, doses = policy.start(n), []
    with torch.no_grad():
        for _ in range(env.visits.options.steps):
            dose, memory = policy.act(torch.from_numpy(obs), memory)
            doses.append(dose.numpy().astype(np.float64))
            obs, *_ = env.step(dose.numpy()[:, None])
    return np.array(doses)
