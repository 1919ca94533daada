"""Fixtures of the faults that reach a page: the dashboard's own small study."""

from tests.app.conftest import full_study

__all__ = ["full_study"]
