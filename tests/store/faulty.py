"""The public kit's failing file system, by the short name that these tests use."""

from ciuic.testing.faulty import EFFECTS, READS
from ciuic.testing.faulty import FaultyFileSystem as Faulty

__all__ = ["EFFECTS", "READS", "Faulty"]
