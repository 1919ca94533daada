"""What can be reached at all: optimal, trained and published returns."""
