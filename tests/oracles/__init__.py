"""Slow reference losses, one module per agent: loops over the papers' equations, written without the agents' code."""
