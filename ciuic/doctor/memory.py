"""Memory for the copies that wait to be written, against what host, control groups and limits leave."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from ciuic.capture.memory import available_bytes
from ciuic.doctor.findings import Finding, note, ok, problem
from ciuic.objects.snapshot import Snapshot

SLOTS = 2
SPARE_BYTES = 256 << 20
FEW_DESCRIPTORS = 1024


def look(newest: Snapshot | None, root: Path) -> Iterator[Finding]:
    yield _slots(newest, root)
    yield from _shared_memory(newest, root)
    yield from _limits(newest)


def _size(snapshot: Snapshot | None) -> int:
    return sum(snapshot.raw_bytes.values()) if snapshot is not None else 0


def _slots(newest: Snapshot | None, root: Path) -> Finding:
    """A slot is as large as the state."""
    free, size = available_bytes(root / "proc", root / "sys/fs/cgroup"), _size(newest)
    if free is None:
        return ok("memory", "not known here")
    if not size:
        return ok("memory", "{free_bytes} free; there is no snapshot yet to tell what a copy takes", free_bytes=free)
    fit = max(0, free - SPARE_BYTES) // size
    facts = {"free_bytes": free, "slot_bytes": size, "slots": fit}
    if not fit:
        return problem(
            "memory",
            "{free_bytes} free beside what runs now, and the copy of a snapshot takes {slot_bytes}",
            "Unless your run is among what runs now, it will wait for every snapshot until it is written: give the "
            "machine, or the control group, more memory.",
            **facts,
        )
    if fit < SLOTS:
        return note(
            "memory",
            "{free_bytes} free beside what runs now: room for one copy of {slot_bytes}, and two are better",
            "With one, a snapshot waits until the one before is written.",
            **facts,
        )
    return ok("memory", "{free_bytes} free; the copy of a snapshot takes {slot_bytes}, and two are made", **facts)


def _shared_memory(newest: Snapshot | None, root: Path) -> Iterator[Finding]:
    """/dev/shm matters only where copies cannot be in memory without a name."""
    if hasattr(os, "memfd_create"):
        return
    folder = root / "dev/shm"
    if folder.is_dir():
        status = os.statvfs(folder)
        size = status.f_blocks * status.f_frsize
        if size < SLOTS * _size(newest):
            yield problem(
                "/dev/shm",
                "{size_bytes}, and two copies of a snapshot take {slots_bytes}",
                "Give the container more: `--shm-size`.",
                size_bytes=size,
                slots_bytes=SLOTS * _size(newest),
            )


def _limits(newest: Snapshot | None) -> Iterator[Finding]:
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY and largest < max(_size(newest), 512 << 20):
        yield problem(
            "limits",
            "no file, and no copy of a snapshot, may be larger than {limit_bytes}",
            "`ulimit -f unlimited` before the run.",
            limit_bytes=largest,
        )
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < FEW_DESCRIPTORS:
        yield note("limits", "a process may open {files} files", "`ulimit -n 4096` before the run.", files=files)
