"""Data sets of OGBench: one compressed numpy file (.npz) of flat arrays, trajectory after trajectory.

Park, Frans, Eysenbach, Levine 2025, arXiv 2410.20092. ``observations``, ``actions`` and ``terminals``, which
is 1 at the last row of a trajectory: that row is no visit, its observation is the next one of the row before.
There are no rewards, since there is no task: those of the environment's one task are computed
from ``qpos`` and ``button_states`` as ``ogbench.relabel_utils`` does. Where the task is solved bootstrapping
stops, although the trajectory goes on: the visits after it are an episode of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dosing.data.checks import flags, same_length
from dosing.data.external import External, Rows, assemble
from dosing.data.metadata import DatasetMetadata
from dosing.data.store import Episodes
from dosing.errors import UserError

NEEDED = ("observations", "actions", "terminals")
STATES = ("qpos", "qvel", "button_states")
"""What rewards are computed from, as far as it is there."""


def read_ogbench(path: Path, external: External) -> Episodes:
    """Read a data set.

    Args:
        path: the file.
        external: its environment, which has one task (``singletask``).

    Raises:
        UserError: an array is missing, no environment with a task is named, or the rows are not what they
            should be.
        ValueError: it is no such file.
    """
    source = str(path)
    arrays = _arrays(path)
    if missing := [name for name in NEEDED if name not in arrays]:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; the layout of OGBench has the arrays {', '.join(NEEDED)}."
        )
    if external.relabel is None:
        raise UserError(
            f"{path} has no rewards, they are those of a task: name its environment, such as --env "
            "pointmaze-medium-singletask-v0."
        )
    rows = same_length(source, arrays)
    last = flags(source, "terminals", arrays["terminals"])
    last[-1] = True
    visit = ~last
    if not visit.any():
        raise UserError(f"{path} has no visit: every row ends a trajectory.")
    states = {name: values[visit] for name, values in arrays.items() if name in STATES}
    if not states:
        raise UserError(f"{path} lacks qpos, from which the rewards of a task are computed.")
    reward, solved = external.relabel(states)
    content = Rows(
        obs=arrays["observations"][visit],
        act=arrays["actions"][visit],
        reward=reward,
        terminated=solved,
        ends=np.r_[last[1:], True][visit],
        next_obs=arrays["observations"][np.r_[False, visit[:-1]]],
    )
    about = DatasetMetadata(source={"layout": "OGBench", "file": path.name, "rows": rows})
    return assemble(source, content, about, external)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file that are used here."""
    try:
        with path.open("rb") as file:
            content = np.load(file)
            if not hasattr(content, "files"):
                raise ValueError("one array without a name")
            with content:
                return {name: content[name] for name in (*NEEDED, *STATES) if name in content.files}
    except (BadZipFile, EOFError) as error:
        raise ValueError(str(error) or "no archive") from error
