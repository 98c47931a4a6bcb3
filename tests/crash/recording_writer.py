"""The writer process, of which every file effect is recorded too: the real one on another file system."""

from __future__ import annotations

from pathlib import Path

PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from ciuic.testing.recording import EffectLog, RecordingFileSystem
from ciuic.writer import counting, service, storing

class Recorded(RecordingFileSystem, counting.CountingFileSystem):
    def __init__(self, progress, temporary):
        counting.CountingFileSystem.__init__(self, progress, temporary)
        self.log = EffectLog({log!r}, {folder!r})

storing.CountingFileSystem = Recorded
service.main()
"""
ROOT = Path(__file__).parent.parent.parent


def make(file: Path, log: str, folder: str) -> str:
    """Write the program; its path."""
    file.write_text(PROGRAM.format(root=str(ROOT), log=log, folder=folder))
    return str(file)
