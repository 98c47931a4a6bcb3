"""What tests of a store need: a disk that fails, effects that are recorded, power cuts rebuilt from them, invariants.

For the tests of whoever builds on ciuic, as for ciuic's own. Nothing here needs torch. ``ciuic.testing.strategies``
needs hypothesis, and is imported by itself.
"""

from ciuic.testing.faulty import EFFECTS, READS, FaultyFileSystem
from ciuic.testing.invariants import (
    Broken,
    Contents,
    Promised,
    bytes_state,
    check_invariants,
    commit,
    contents,
    read_contents,
    refs_of,
)
from ciuic.testing.power_cut import LOSSES, Disk, Image
from ciuic.testing.recording import Effect, EffectLog, RecordingFileSystem, read_log, recording

__all__ = [
    "EFFECTS", "LOSSES", "READS", "Broken", "Contents", "Disk", "Effect", "EffectLog", "FaultyFileSystem", "Image",
    "Promised", "RecordingFileSystem",
    "bytes_state", "check_invariants", "commit", "contents", "read_contents", "read_log", "recording", "refs_of",
]  # fmt: skip
