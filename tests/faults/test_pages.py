"""Faults that reach a page or the audit log: each by its number in the catalogue of faults."""

from __future__ import annotations
