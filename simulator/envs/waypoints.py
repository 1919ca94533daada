"""A controller that walks a point through a maze: on shortest paths to cells drawn at random, with noise.

As data are made for mazes by D4RL (Fu et al. 2020, arXiv 2004.07219) and OGBench (Park et al. 2025, arXiv
2410.20092): a planner on the cells of the maze names the middle of the next cell, a proportional-derivative
rule steers there, and noise is added to its action. It walks about whatever goal the task has; what reaches
the goal has to be put together from pieces. An ant needs a policy that walks, which nothing here has.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
import numpy as np
from numpy.random import Generator

from dosing.errors import UserError
from dosing.types import Array

GAIN, DAMPING = 10.0, 1.0
"""Of the steering rule, as in Minari's scripts for D4RL's point mazes."""
ARRIVED = 0.2
"""How near the middle of a cell counts as there, in cells."""

Cell = tuple[int, int]


class Grid:
    """The cells of a maze of Gymnasium-Robotics or OGBench.

    Args:
        task: the environment.

    Raises:
        UserError: it is no maze through which a point moves.
    """

    def __init__(self, task: gymnasium.Env[Any, Any]) -> None:
        env: Any = task.unwrapped
        moves = task.action_space.shape == (2,)
        if moves and hasattr(env, "maze"):
            cells, self._cell = env.maze.maze_map, env.maze.cell_xy_to_rowcol
            self._middle, self.size = env.maze.cell_rowcol_to_xy, float(env.maze.maze_size_scaling)
        elif moves and hasattr(env, "maze_map"):
            cells, self._cell, self._middle = env.maze_map, env.xy_to_ij, env.ij_to_xy
            self.size = float(np.subtract(env.ij_to_xy((0, 1)), env.ij_to_xy((0, 0)))[0])
        else:
            name = task.spec.id if task.spec else env
            raise UserError(
                f"{name} is no maze through which a point moves, such as PointMaze_UMaze-v3: an ant or a "
                "hand needs a policy of its own; its data come from a file (D4RL, Minari, OGBench)."
            )
        self.free = [(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell != 1]

    def cell(self, position: Array) -> Cell:
        """The cell of a position ``[2]``."""
        i, j = self._cell(position)
        return int(i), int(j)

    def middle(self, cell: Cell) -> Array:
        """The position ``[2]`` of the middle of a cell."""
        return np.asarray(self._middle(np.array(cell)), dtype=np.float64)

    def steps_to(self, target: Cell) -> dict[Cell, int]:
        """Cells on the shortest path to ``target``, from every free cell that leads there (breadth first)."""
        free, result, queue = set(self.free), {target: 0}, deque([target])
        while queue:
            i, j = queue.popleft()
            for near in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if near in free and near not in result:
                    result[near] = result[i, j] + 1
                    queue.append(near)
        return result


class Walker:
    """The controller.

    Args:
        grid: the maze.
        noise: standard deviation of the noise on each action, before it is held in [-1, 1].
        rng: targets and noise.
    """

    def __init__(self, grid: Grid, noise: float, rng: Generator) -> None:
        self.grid, self.noise, self.rng = grid, noise, rng
        self.begin()

    def begin(self) -> None:
        """Draw a new target."""
        self._target = self.grid.free[int(self.rng.integers(len(self.grid.free)))]
        self._steps = self.grid.steps_to(self._target)

    def act(self, position: Array, velocity: Array) -> Array:
        """The action ``[2]`` at a position and velocity ``[2]``."""
        if self._away(position, self._target) < ARRIVED:
            self.begin()
        cell = self.grid.cell(position)
        i, j = cell
        near = [c for c in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)) if c in self._steps]
        if cell in self._steps:
            near.append(cell)
        aim = self.grid.middle(min(near, key=lambda c: self._steps[c]) if near else cell)
        wanted = np.clip(GAIN * (aim - position) - DAMPING * velocity, -1.0, 1.0)
        return np.clip(wanted + self.noise * self.rng.standard_normal(2), -1.0, 1.0)

    def _away(self, position: Array, cell: Cell) -> float:
        return float(np.linalg.norm(self.grid.middle(cell) - position)) / self.grid.size
