"""Every error that ciuic raises on purpose, drawn as one tree.

A class has a stable ``kind`` (user code and ``--json`` match on it) and an ``exit_code`` (the command line ends with
it). Both are append-only. A message says what happened and ends with what to do next.

    CiuicError
    ├── RepositoryError
    │   ├── NotARepository        ├── RepositoryExists      ├── UnsupportedFormat     └── InvalidConfig
    ├── RevisionError
    │   ├── UnknownRevision       ├── AmbiguousRevision     ├── UnknownPath           └── BisectError
    ├── RefError
    │   ├── InvalidRefName        ├── RefExists             ├── UnknownRef            ├── RefConflict
    │   └── StillNamed
    ├── DamageError
    │   ├── DamagedData           ├── DamagedRef            └── MissingObject
    ├── StateError
    │   ├── UnsupportedState      ├── StateMismatch         ├── RestoreInterrupted    └── PositionError
    ├── StorageError
    │   ├── ReadOnlyStorage       ├── StorageFull           └── NetworkStorage
    ├── Pruned
    ├── LockTimeout
    ├── ClockDisagrees
    ├── InvalidImport
    │   └── UnsafePath
    ├── InvalidNote
    ├── DemoFailed
    ├── SupervisorError
    │   ├── CommandFailed         └── ResumeDiffers
    ├── MonitoringError
    │   └── MissingPackage
    └── BackgroundError
        ├── TornSnapshot          ├── SnapshotSkipped       ├── SnapshotTimeout       ├── WriterFailed
        └── NoTraining
"""

from __future__ import annotations

from collections.abc import Sequence


class CiuicError(Exception):
    """The root: ``except ciuic.CiuicError`` catches whatever ciuic raises on purpose."""

    kind = "error"
    exit_code = 1


class RepositoryError(CiuicError):
    kind = "repository"
    exit_code = 10


class NotARepository(RepositoryError):
    kind = "not-a-repository"
    exit_code = 11


class RepositoryExists(RepositoryError):
    kind = "repository-exists"
    exit_code = 12


class UnsupportedFormat(RepositoryError):
    kind = "unsupported-format"
    exit_code = 13


class InvalidConfig(RepositoryError):
    kind = "invalid-config"
    exit_code = 14


class RevisionError(CiuicError):
    kind = "revision"
    exit_code = 20


class UnknownRevision(RevisionError):
    kind = "unknown-revision"
    exit_code = 21


class AmbiguousRevision(RevisionError):
    """``candidates`` lists what the revision could mean."""

    kind = "ambiguous-revision"
    exit_code = 22

    def __init__(self, message: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class UnknownPath(RevisionError):
    """The snapshot exists; the path inside it does not."""

    kind = "unknown-path"
    exit_code = 23


class BisectError(RevisionError):
    """A search for the first bad snapshot cannot go on like this. The answers so far are kept."""

    kind = "bisect"
    exit_code = 24


class RefError(CiuicError):
    kind = "ref"
    exit_code = 30


class InvalidRefName(RefError):
    kind = "invalid-ref-name"
    exit_code = 31


class RefExists(RefError):
    kind = "ref-exists"
    exit_code = 32


class UnknownRef(RefError):
    kind = "unknown-ref"
    exit_code = 33


class RefConflict(RefError):
    """A compare-and-append lost the race: the ref is not where the caller last saw it. Nothing was changed."""

    kind = "ref-conflict"
    exit_code = 34


class StillNamed(RefError):
    """HEAD, a branch or a tag points to what was to be given up. Nothing was changed."""

    kind = "still-named"
    exit_code = 35


class DamageError(CiuicError):
    """``chunk``: the id of the one that cannot be read, where it is one. ``intact``: the hex id of the newest intact
    snapshot to go back to, where one was looked for and found."""

    chunk: bytes | None = None
    intact: str | None = None
    kind = "damage"
    exit_code = 40


class DamagedData(DamageError):
    """Stored bytes do not match their checksum or their id. No such byte is ever returned."""

    kind = "damaged-data"
    exit_code = 41


class DamagedRef(DamageError):
    kind = "damaged-ref"
    exit_code = 42


class MissingObject(DamageError):
    kind = "missing-object"
    exit_code = 43


class StateError(CiuicError):
    kind = "state"
    exit_code = 50


class UnsupportedState(StateError):
    """A value that cannot be stored, named by its path."""

    kind = "unsupported-state"
    exit_code = 51


class StateMismatch(StateError):
    """The snapshot and the live objects differ; ``problems`` has a line for each key. Nothing was changed."""

    kind = "state-mismatch"
    exit_code = 52

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class RestoreInterrupted(StateError):
    """The second pass of a restore failed: the live objects are a mixture of old and restored state."""

    kind = "restore-interrupted"
    exit_code = 53


class PositionError(StateError):
    """The loader cannot be brought to the position in the data that a snapshot names, or has no batch to give."""

    kind = "position"
    exit_code = 54


class StorageError(CiuicError):
    """The operating system refused a file effect. What was durable before still is."""

    kind = "storage"
    exit_code = 60


class ReadOnlyStorage(StorageError):
    kind = "read-only-storage"
    exit_code = 61


class StorageFull(StorageError):
    kind = "storage-full"
    exit_code = 62


class NetworkStorage(StorageError):
    """Writing to a network file system, which is refused unless it is allowed. Nothing was changed; reading works."""

    kind = "network-storage"
    exit_code = 63


class Pruned(CiuicError):
    """What was asked for was given up by ``prune``; it is gone, and nothing is damaged."""

    kind = "pruned"
    exit_code = 70


class LockTimeout(CiuicError):
    kind = "lock-timeout"
    exit_code = 71


class ClockDisagrees(CiuicError):
    """The clock and the newest log record are further apart than the expiry of the logs: gc will not judge ages."""

    kind = "clock-disagrees"
    exit_code = 72


class InvalidImport(CiuicError):
    kind = "invalid-import"
    exit_code = 80


class UnsafePath(InvalidImport):
    """A file to import names a path outside its own folder."""

    kind = "unsafe-path"
    exit_code = 81


class InvalidNote(CiuicError):
    """A text that cannot be a note. Nothing was written."""

    kind = "invalid-note"
    exit_code = 73


class DemoFailed(CiuicError):
    kind = "demo-failed"
    exit_code = 90


class MonitoringError(CiuicError):
    """Figures cannot be exported like this. Training and snapshots go on."""

    kind = "monitoring"
    exit_code = 91


class MissingPackage(MonitoringError):
    """An optional package is needed and not installed."""

    kind = "missing-package"
    exit_code = 92


class BackgroundError(CiuicError):
    """A snapshot taken with ``wait=False`` did not come about. Training goes on; earlier snapshots are as they were."""

    kind = "background"
    exit_code = 100


class TornSnapshot(BackgroundError):
    """State changed while it was being copied, outside an optimizer's step; the copy was dropped."""

    kind = "torn-snapshot"
    exit_code = 101


class SnapshotSkipped(BackgroundError):
    """Every slot was in use, and the caller would rather skip than wait."""

    kind = "snapshot-skipped"
    exit_code = 102


class SnapshotTimeout(BackgroundError):
    """What was waited for did not end in time; it may still."""

    kind = "snapshot-timeout"
    exit_code = 103


class WriterFailed(BackgroundError):
    """The writer process died, or had to be killed, again and again over the same snapshot."""

    kind = "writer-failed"
    exit_code = 104


class NoTraining(BackgroundError):
    """Nobody trains on the repository who could be asked for a snapshot."""

    kind = "no-training"
    exit_code = 105


class SupervisorError(CiuicError):
    """Something about a command that was run on somebody's behalf."""

    kind = "supervisor"
    exit_code = 110


class CommandFailed(SupervisorError):
    """It failed by itself, so nothing can be said about the rest."""

    kind = "command-failed"
    exit_code = 111


class ResumeDiffers(SupervisorError):
    """An interrupted and resumed run does not end with the bits of an uninterrupted one."""

    kind = "resume-differs"
    exit_code = 112
