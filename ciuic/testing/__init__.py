"""What tests of a store need: its effects recorded, the disk rebuilt as a power cut may leave it, and its invariants.

For the tests of whoever builds on ciuic, as for ciuic's own. Nothing here needs torch.
"""

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
    "LOSSES", "Broken", "Contents", "Disk", "Effect", "EffectLog", "Image", "Promised", "RecordingFileSystem",
    "bytes_state", "check_invariants", "commit", "contents", "read_contents", "read_log", "recording", "refs_of",
]  # fmt: skip
