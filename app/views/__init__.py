"""The pages: layout and words; figures come from ``app.charts.base``, numbers from ``dosing``."""
