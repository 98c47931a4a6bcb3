"""Live objects ↔ state tree. The room that knows torch; it knows no storage."""
