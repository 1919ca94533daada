"""What agents are built from: models of patients."""
