"""That the packages of this product are its own: their names are common words, and others use them too."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import dosing
from dosing.errors import UserError

PACKAGES = ("simulator", "agents", "app")
"""What is installed beside ``dosing``."""

SEPARATE = "install dosing in an environment of its own, and keep other files of that name off PYTHONPATH"


def check_packages() -> None:
    """Check, before anything is imported from them, that every package is the one beside ``dosing``.

    Raises:
        UserError: Python finds another file first, none at all, or one that another project installed over
            ours; the message names that file.
    """
    home = Path(dosing.__file__).resolve().parents[1]
    for name in PACKAGES:
        own = home / name / "__init__.py"
        spec = importlib.util.find_spec(name)
        found = spec and spec.origin
        if not found:
            raise UserError(f"the package {name!r} is missing: {own} is not there; install dosing again.")
        if Path(found).resolve() != own:
            raise UserError(
                f"Python takes {found} for dosing's package {name!r}, which is {own}: {SEPARATE}."
            )
        if other := _installed_over(own, f"{name}/__init__.py"):
            raise UserError(f"{own} is that of {other}, which was installed over dosing's: {SEPARATE}.")


def _installed_over(own: Path, entry: str) -> str | None:
    """The other project whose installation holds this file as it is now, if dosing's own record does not."""
    try:
        record = importlib.metadata.distribution("dosing").read_text("RECORD") or ""
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return None
    line = next((line for line in record.splitlines() if line.startswith(f"{entry},")), None)
    if line is None or line.endswith(f",{own.stat().st_size}"):  # an editable installation lists no such file
        return None
    for installed in importlib.metadata.distributions(path=[str(own.parents[1])]):
        other = installed.metadata["Name"]
        if other != "dosing" and any(file.as_posix() == entry for file in installed.files or ()):
            return f"{other} {installed.version}"
    return None
