"""Faults that reach a page or the audit log: each by its number in the catalogue of faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.text import escaped, label
from app.widgets.decision_form import PROBLEM
from dosing.errors import UserError
from dosing.recommendation.audit_log import FILE, AuditLog, shown
from dosing.recommendation.decisions import decisions_on, record_decision
from dosing.recommendation.standing import Evidence, Standing, verdict_words
