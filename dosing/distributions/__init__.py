"""Probability laws for doses. Import the law from its own module."""
