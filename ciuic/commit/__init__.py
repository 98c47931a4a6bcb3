"""From a state tree to a durable snapshot, in the numbered order. Knows no torch."""
