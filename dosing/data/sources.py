"""Recorded visits from anywhere: our own stores, D4RL, Minari and OGBench, and tables by column names."""

from __future__ import annotations

from pathlib import Path

from dosing.data.columns import read_table_of
from dosing.data.d4rl import read_d4rl
from dosing.data.external import External
from dosing.data.formats import MINARI, OGBENCH, format_of, guarded, is_own
from dosing.data.minari_sets import read_minari_set
from dosing.data.ogbench import read_ogbench
from dosing.data.store import Episodes, read_episodes
from dosing.errors import UserError


def read_source(source: str | Path, external: External | None = None) -> Episodes:
    """Read recorded visits, made by this program or by any other.

    Args:
        source: file ending in .parquet, .csv, .hdf5 or .npz, folder of a data set in parts, or
            ``minari:namespace/name-v0``.
        external: what a file of another program does not say itself; our own say everything.

    Raises:
        UserError: the source is missing, damaged or of an unknown kind, what it says is wrong or not enough,
            or ``external`` would contradict our own file.
    """
    if is_own(source):
        if external is not None and external != External():
            raise UserError(
                f"{source} was made by this program and says itself where it comes from; leave out the "
                "environment, limits and columns."
            )
        return read_episodes(source)
    external = external or External()
    if str(source).startswith(MINARI):
        return read_minari_set(str(source)[len(MINARI) :], external)
    path = Path(source)
    if path.suffix.lower() == OGBENCH:
        read, layout = read_ogbench, "OGBench"
    else:
        read, layout = (read_d4rl, "D4RL") if format_of(path) == ".hdf5" else (read_table_of, "")
    if external.columns and layout:
        raise UserError(f"{path} has the names of the {layout} layout; columns are named for tables only.")
    return guarded(path, lambda: read(path, external))
