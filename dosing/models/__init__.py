"""What agents are built from: networks, critics, policy heads, losses, priors and optimisers."""
