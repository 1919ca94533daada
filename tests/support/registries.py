"""The registries of environments as they were, after a test that adds to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium

from simulator import envs
from simulator.envs import registered


@contextmanager
def own_registries() -> Iterator[None]:
    """Forget what is registered, loaded or trusted inside, where nothing is trusted at first."""
    registries: list[dict[Any, Any]] = [
        gymnasium.registry,
        envs.SCENARIOS,
        envs.PACKAGED,
        registered._FILES,  # type: ignore[list-item]
    ]
    kept = [dict(registry) for registry in registries]
    trusted = os.environ.pop(registered.TRUSTED, None)
    try:
        yield
    finally:
        for registry, content in zip(registries, kept, strict=True):
            registry.clear()
            registry.update(content)
        os.environ.pop(registered.TRUSTED, None)
        if trusted is not None:
            os.environ[registered.TRUSTED] = trusted
