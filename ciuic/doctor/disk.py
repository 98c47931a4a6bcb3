"""Room for the next snapshots, and whether the file system keeps what locks and syncs promise."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from ciuic.doctor.findings import Finding, note, ok, problem
from ciuic.errors import CiuicError, ReadOnlyStorage
from ciuic.objects.snapshot import Snapshot
from ciuic.store.network import VARIABLE, mount_of
from ciuic.store.store import Store

FEW_SNAPSHOTS = 20
FEW_FILES = 1000


def look(store: Store, recent: list[Snapshot]) -> Iterator[Finding]:
    yield _room(store, recent)
    status = os.statvfs(store.path)
    if status.f_files and status.f_favail < FEW_FILES:
        yield problem("files", "{left} more files fit on the disk", "Free inodes there.", left=status.f_favail)
    yield _file_system(store)
    yield _locks(store)


def _room(store: Store, recent: list[Snapshot]) -> Finding:
    status = os.statvfs(store.path)
    free = status.f_bavail * status.f_frsize
    added = [snapshot.added_bytes for snapshot in recent if snapshot.added_bytes]
    if not added:
        return ok("disk", "{free_bytes} free; there is no snapshot yet to tell what one takes", free_bytes=free)
    forecast = max(added)
    facts = {"free_bytes": free, "forecast_bytes": forecast, "snapshots": free // forecast}
    if free < forecast:
        return problem(
            "disk",
            "{free_bytes} free, and the next snapshot takes up to {forecast_bytes}",
            "Free some space: `ciuic gc --dry-run` shows what the repository can give back.",
            **facts,
        )
    if free < FEW_SNAPSHOTS * forecast:
        return note(
            "disk",
            "{free_bytes} free, room for {snapshots} more snapshots of up to {forecast_bytes}",
            "Free some space in time: `ciuic gc --dry-run` shows what the repository can give back.",
            **facts,
        )
    return ok("disk", "{free_bytes} free; the next snapshot takes up to {forecast_bytes}", **facts)


def _file_system(store: Store) -> Finding:
    mount = mount_of(store.fs.mountinfo(), os.path.realpath(store.path))
    if mount is None:
        return ok("file system", "not known here")
    facts = {"kind": mount.kind, "point": mount.point, "source": mount.source}
    if os.statvfs(store.path).f_flag & os.ST_RDONLY:
        text = "{kind} at {point}, mounted read-only"
        return problem("file system", text, "Nothing can be saved: mount it writable.", **facts)
    if mount.shared:
        try:
            store.check_writable()
        except CiuicError:
            return problem(
                "file system",
                "{kind} at {point}, from {source}: a network file system, where locks may not hold between hosts",
                "Snapshots are refused there. Keep the repository on a local disk; or, where only one host writes, set "
                f"`allow_network = true` in its config.toml, or {VARIABLE}=allow.",
                **facts,
            )
        text = "{kind} at {point}, from {source}: a network file system, and writing there is allowed"
        return note("file system", text, "Make sure that only one host writes at a time, gc included.", **facts)
    if mount.kind in ("tmpfs", "ramfs"):
        text = "{kind} at {point}: the repository is in memory, and gone with the machine"
        return note("file system", text, "Keep it on a disk, or copy it.", **facts)
    if mount.kind in ("overlay", "aufs"):
        text = "{kind} at {point}: the container's own layer, which is removed with it"
        return note("file system", text, "Mount a volume, and keep the repository there.", **facts)
    if mount.kind.startswith("fuse"):
        text = "{kind} at {point}, of which it is not known whether other hosts share it"
        return note("file system", text, "If they do, make sure that only one writes.", **facts)
    return ok("file system", "{kind} at {point}", **facts)


def _locks(store: Store) -> Finding:
    """Two descriptors of one file must not both have its exclusive lock."""
    path = store.join("tmp", f"doctor-{os.getpid()}-{os.urandom(6).hex()}")
    descriptors: list[int] = []
    try:
        descriptors.append(store.fs.create(path))
        descriptors.append(store.fs.open(path, write=True))
        fcntl.flock(descriptors[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(descriptors[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok("locks", "work here")
        reason = "two processes would both get the same lock"
    except ReadOnlyStorage as error:
        return problem("locks", "cannot be tried: {reason}", "Make the repository writable.", reason=str(error))
    except (CiuicError, OSError) as error:
        reason = str(error)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(CiuicError, OSError):
            store.fs.remove_if_there(path)
    return problem("locks", "do not work here: {reason}", "Keep the repository on another file system.", reason=reason)
