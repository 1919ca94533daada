"""Groups of simulated patients: recorded, evaluated, and matched to a state."""
