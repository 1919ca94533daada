"""The guarded way from a trained policy to a dose that a person sees, and the record of it."""
