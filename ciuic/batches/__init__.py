"""A loader's batches from any position on: what was drawn before is passed over, and the next batch is the next one."""

from ciuic.batches.loop import Loop
from ciuic.batches.position import Position, stored_position

__all__ = ["Loop", "Position", "stored_position"]
