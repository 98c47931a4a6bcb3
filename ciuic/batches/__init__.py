"""A loader's batches from any position on: what was drawn before is passed over, and the next batch is the next one."""

from ciuic.batches.loops import Loops

__all__ = ["Loops"]
