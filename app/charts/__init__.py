"""Plotly figures from tables and arrays; no Streamlit in here."""
