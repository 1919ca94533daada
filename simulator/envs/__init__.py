"""The scenarios: one file per disease model."""
