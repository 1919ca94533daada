"""Learning that goes on from live treatment: the trial, its methods, its patients and when it stops."""
