"""Off-policy evaluation: what a policy would return, estimated from recorded patients without a simulator.

``dosing.ope.selection.evaluate_policies`` is the one call; the other modules are its parts.

Axes: N recorded patients, T visits, M recorded visits of all patients, S stacked seeds of one policy, R
bootstrap replicates, F features of a state, D of a state and a dose. Doses are on the [-1, 1] axis of the
hard limits, densities per unit of that axis, rewards and returns in the data's own unit.
"""
