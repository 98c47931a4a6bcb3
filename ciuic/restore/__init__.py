"""From a stored snapshot back to a state tree, lazily and verified. Knows no torch."""
