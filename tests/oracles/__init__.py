"""Slow reference losses, one module per agent: loops over the published equations, no code of the agents."""
