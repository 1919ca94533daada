"""Policies on new patients: roll-outs, outcomes, reference rules and their statistics."""
