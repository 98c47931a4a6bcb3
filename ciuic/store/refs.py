"""Refs: branches, tags and HEAD by name, each a ref log, and the logs of prunes and of notes."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ciuic.errors import DamagedRef, InvalidRefName, StorageError
from ciuic.store.fs import FileSystem
from ciuic.store.prunes import PRUNES as PRUNES
from ciuic.store.prunes import WHOLE as WHOLE
from ciuic.store.prunes import Prunes, prune_action
from ciuic.store.reflog import NOTHING, SYMBOLIC, LogRecord, RefLog

HEADS, TAGS, HEAD, NOTES = "refs/heads/", "refs/tags/", "HEAD", "notes"
RESERVED = {"HEAD", "step", "best", "-"}
NAME_LIMIT = 100
FORBIDDEN = r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-./]|[./]$|\.lock(/|$)|/\.|^@$"


@dataclass(frozen=True)
class Head:
    """Where the next run resumes: on ``branch``, or detached (None). ``snapshot``: the hex id there, if any."""

    branch: str | None
    snapshot: str | None


def fits_limit(name: str, room: int = 0) -> bool:
    """Whether ``name`` and ``room`` more bytes are short enough for a record and for a file's name."""
    try:
        return len(name.encode()) <= NAME_LIMIT - room and len(quote(name)) <= 2 * NAME_LIMIT - room
    except UnicodeEncodeError:
        return False


def file_name(name: str) -> str:
    """The file of a branch's or tag's log: flat, so that no name can be a folder of another one."""
    return quote(name, safe="@+=,")


def is_stray(file: str) -> bool:
    """Whether a file in a folder of logs is none."""
    name = unquote(file, errors="surrogateescape")
    return not is_name(name) or file_name(name) != file


def is_name(name: str) -> bool:
    """Whether there may be a branch or a tag of this name."""
    try:
        return check_name(name) == name
    except InvalidRefName:
        return False


def check_name(name: str) -> str:
    """``name`` itself when it may name a branch or a tag; InvalidRefName otherwise."""
    if not name or re.search(FORBIDDEN, name) or name != name.strip() or not fits_limit(name):
        raise InvalidRefName(
            f"{name!r} cannot name a branch or a tag. Use letters, digits, '.', '_', '-' and '/', "
            "without '..' and not starting with '-' or '.'."
        )
    if name.split("@")[0] in RESERVED or name in RESERVED:
        raise InvalidRefName(f"{name!r} is a reserved word in revisions. Choose another name.")
    return name


def _actor() -> str:
    import getpass  # here, so that reading refs does not pay for it
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def _may_exist(full: str) -> bool:
    """A short name that no ref can have leads to no file: people type anything, and a damaged HEAD says anything."""
    names = (is_name(full[len(each) :]) for each in (HEADS, TAGS) if full.startswith(each))
    return next(names, full in (HEAD, PRUNES, NOTES))


class Refs:
    """Reads need no lock but a shared one for consistency; every change needs the shared lock, taken before."""

    def __init__(self, fs: FileSystem, root: str, tmp: str) -> None:
        self.fs = fs
        self.root = root
        self.tmp = tmp
        self._suspect: dict[str, LogRecord | None] = {}
        self.named: set[tuple[int, int]] = set()
        self.before_change: Callable[[], None] = lambda: None
        self._prunes = Prunes()

    def log(self, name: str) -> RefLog:
        """The log behind a full name: "HEAD", "prunes", "notes", "refs/heads/…", "refs/tags/…"."""
        for prefix in (HEADS, TAGS):
            if name.startswith(prefix):
                path = os.path.join(self.root, prefix, file_name(name[len(prefix) :]))
                return RefLog(self.fs, path, name, self.tmp, self.named)
        return RefLog(self.fs, os.path.join(self.root, name), name, self.tmp, self.named)

    def names(self) -> Iterator[str]:
        """Full names of every log that exists, deleted branches included, prunes and notes not."""
        yield HEAD
        for prefix in (HEADS, TAGS):
            for name in sorted(self.fs.list_folder(os.path.join(self.root, prefix))):
                if not is_stray(name):
                    yield prefix + unquote(name)

    def check_folders(self) -> None:
        """DamagedRef when a folder of logs is missing, or holds what is no log: gc must not take it for no refs."""
        for prefix in (HEADS, TAGS):
            folder = os.path.join(self.root, prefix.rstrip("/"))
            if not os.path.isdir(folder):
                raise DamagedRef(f"{folder} is missing, and what its refs held is unknown. Restore it from a copy.")
            stray = sorted(filter(is_stray, self.fs.list_folder(folder)))
            if stray:
                raise DamagedRef(f"{folder}: {stray[0]!r} is not the file of a log. Move it away.")

    def records(self, name: str) -> list[LogRecord]:
        """All records of a log, oldest first; none when there is no log, and for what names none."""
        return self.log(name).read() if _may_exist(name) else []

    def value(self, name: str) -> str | None:
        """The hex id (or symbolic value) of a ref now; None when there is none."""
        record = self.log(name).last() if _may_exist(name) else None
        return None if record is None or record.new == NOTHING else record.new

    def listing(self, prefix: str) -> dict[str, str]:
        """Short name → hex id of every live ref under ``prefix``."""
        found = {}
        for name in self.names():
            if name.startswith(prefix):
                value = self.value(name)
                if value is not None:
                    found[name[len(prefix) :]] = value
        return found

    def head(self) -> Head:
        value = self.value(HEAD)
        if value is None:
            return Head("main", self.value(HEADS + "main"))
        if value.startswith(SYMBOLIC):
            branch = value[len(SYMBOLIC + HEADS) :]
            return Head(branch, self.value(HEADS + branch))
        return Head(None, value)

    # Changes

    def set(self, name: str, new: str, action: str, *, expected: str | None = None) -> LogRecord:
        """Move a ref: durable on return. ``expected``: None for whatever it is, "-" for nothing, else a value."""
        self.before_change()
        if name in self._suspect:
            raise StorageError(
                f"{name}: a write of its log failed before, and so did writing it anew. Check the disk, then try again."
            )
        log = self.log(name)
        try:
            return log.append(expected, new, _actor(), action)
        except StorageError:
            if log.unsure:
                self._suspect[name] = log.failed
            raise

    @property
    def suspect(self) -> bool:
        """A sync of a log failed in this process: it must be rewritten before anything is appended."""
        return bool(self._suspect)

    def doubt(self, name: str) -> None:
        """Another process may have failed to sync this log, and died: it is rewritten with all its records."""
        if self.log(name).read():
            self._suspect.setdefault(name, None)

    def rewrite_suspects(self) -> None:
        """Under the exclusive lock: rewrite what a failed sync left in doubt, without the failed record."""
        for name, failed in sorted(self._suspect.items()):
            log = self.log(name)
            records = log.read()
            if records and records[-1] == failed:
                records.pop()
            if records:
                log.rewrite(records)
            else:
                log.remove()
            del self._suspect[name]

    # Prunes

    def prune(self, snapshot: str, component: str | None) -> None:
        """Record that a snapshot's trees, or one component's, are given up. Durable on return."""
        self.set(PRUNES, snapshot, prune_action(component or WHOLE))

    def prunes(self) -> dict[str, frozenset[str]]:
        """Hex id → components given up ("*": all of them)."""
        return dict(self._prunes_now().pruned)

    def buried(self) -> frozenset[str]:
        """Hex ids that nothing may name or follow any more: gc has collected them, though a pack has the object."""
        return frozenset(self._prunes_now().buried)

    def _prunes_now(self) -> Prunes:
        self._prunes = found = self._prunes.now(self.log(PRUNES))
        return found

    def add_prunes(self, added: Sequence[tuple[str, str]]) -> None:
        """Append (snapshot, action) records, all of them or none, in one write. Only under the exclusive lock.

        A power cut may keep any part of an append of several slots: so the log is written anew, and renamed.
        """
        if not added:
            return
        self.before_change()
        if PRUNES in self._suspect:
            raise StorageError(f"{PRUNES}: a write of this log failed before. Check the disk, then try again.")
        log = self.log(PRUNES)
        records = log.read()
        actor, now = _actor(), time.time_ns()
        for snapshot, action in added:
            sequence, old = (records[-1].sequence + 1, records[-1].new) if records else (0, NOTHING)
            records.append(LogRecord(sequence, now, old, snapshot, actor, action))
        log.rewrite(records)
