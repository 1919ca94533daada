"""Temporary names of files that are written whole or not at all, and what killed writers left behind."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path


@functools.cache
def _host() -> str:
    """This machine and, in a container, its processes' own numbering."""
    namespace = 0
    with contextlib.suppress(OSError):
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    return hashlib.sha256(f"{socket.gethostname()} {namespace}".encode()).hexdigest()[:10]


def partial_path(path: Path) -> Path:
    """A name beside ``path`` that no other writer has, on any machine that shares the folder."""
    return path.with_name(f".{path.name[:150]}.{_host()}.{os.getpid()}.{secrets.token_hex(4)}.partial")


def clear_partials(folder: Path) -> None:
    """Remove what writers on this machine left in a folder when they were killed; others' files stay."""
    with contextlib.suppress(OSError):
        for path in list(folder.glob(f".*.{_host()}.*.partial*")):
            match = re.search(r"\.(\d+)\.[0-9a-f]{8}\.partial(\.rows)?$", path.name)
            if match and not _alive(int(match[1])):
                path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
