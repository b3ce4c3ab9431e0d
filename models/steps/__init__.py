"""One training step of the optimiser, in several forms."""
