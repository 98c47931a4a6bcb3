"""A state tree's bytes → one slot of shared memory, fenced before the next optimizer step."""
