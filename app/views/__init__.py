"""The pages: layout and words; figures come from ``app.charts``, numbers from ``dosing``."""
