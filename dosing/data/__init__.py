"""Datasets: reading, writing, sampling. Importing this package imports nothing heavy."""
