"""Run folders to tables, cached by path and time of change."""
