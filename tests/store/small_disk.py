"""Real file systems of a few MiB, mounted where this machine lets us."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("tmpfs", "ext4")
SHUTDOWN = 0x8004587D
WITHOUT_A_LAST_WORD = struct.pack("I", 2)
"""Nothing that was not synced gets to the disk, the journal's end neither: as when the power fails."""


class SmallDisk:
    """``folder``: where it is mounted."""

    def __init__(self, kind: str, place: Path, mib: int) -> None:
        self.kind, self.folder, self.image, self.mib = kind, place / "disk", place / "image", mib
        self.folder.mkdir()

    def make(self) -> None:
        """Skips the test, with the reason, where it cannot be had."""
        if os.geteuid() != 0:
            pytest.skip("mounting needs root; test_file_size_limit shows a full disk without")
        if self.kind != "tmpfs":
            if shutil.which(f"mkfs.{self.kind}") is None:
                pytest.skip(f"there is no mkfs.{self.kind}")
            with open(self.image, "wb") as file:
                file.truncate(self.mib << 20)
            subprocess.run([f"mkfs.{self.kind}", "-q", str(self.image)], check=True, capture_output=True)
        mounted = self.mount()
        if mounted.returncode:
            pytest.skip(f"cannot mount {self.kind} here: {mounted.stderr.decode().strip()}")

    def mount(self) -> subprocess.CompletedProcess[bytes]:
        what = ["-o", f"size={self.mib}m", "tmpfs"] if self.kind == "tmpfs" else ["-o", "loop", str(self.image)]
        return subprocess.run(["mount", "-t", self.kind, *what, str(self.folder)], capture_output=True, check=False)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)

    def cut_the_power(self) -> None:
        """Every call fails from now on; ``unmount`` and ``mount`` show what the disk has."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, WITHOUT_A_LAST_WORD)
        except OSError as error:
            pytest.skip(f"{self.kind} cannot be shut down here: {error}")
        finally:
            os.close(descriptor)

    def fill(self) -> Path:
        """A file that takes all the room there is; delete it to have some again."""
        filler = self.folder / "filler"
        for size in (1 << 16, 1 << 10, 1):
            with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
                while file.write(bytes(size)) == size:
                    pass
        return filler


@contextlib.contextmanager
def mounted(kind: str, place: Path, mib: int) -> Iterator[SmallDisk]:
    disk = SmallDisk(kind, place, mib)
    disk.make()
    try:
        yield disk
    finally:
        disk.unmount()
