"""Training loops, samplers and replay, compiled updates."""
