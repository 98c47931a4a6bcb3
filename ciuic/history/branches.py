"""Branches, tags and HEAD: made, deleted, moved and remembered. Every change is durable on return."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ciuic.errors import RefConflict, RefError, RefExists, UnknownRef
from ciuic.store.reflog import NOTHING, SYMBOLIC
from ciuic.store.refs import HEAD, HEADS, TAGS, check_name
from ciuic.store.store import Store


@dataclass(frozen=True)
class ReflogEntry:
    """One change of a ref: ``ref@{index}`` names ``new``. Values: hex ids, "ref:refs/heads/…" for HEAD, or None."""

    index: int
    time: datetime
    old: str | None
    new: str | None
    actor: str
    action: str


def create(store: Store, prefix: str, name: str, snapshot_id: str, source: str) -> None:
    """Make a branch (``prefix`` HEADS) or a tag (TAGS); RefExists, InvalidRefName."""
    what = _what(prefix)
    try:
        store.move_ref(prefix + check_name(name), snapshot_id, f"{what}: created from {source}", expected=NOTHING)
    except RefConflict:
        raise RefExists(f"The {what} {name!r} exists. Delete it first, or choose another name.") from None


def delete(store: Store, prefix: str, name: str) -> None:
    """Append a tombstone; the log keeps what the ref reached until it expires. UnknownRef; RefError: HEAD's branch."""
    old = store.refs.value(prefix + name)
    if old is None:
        raise UnknownRef(f"There is no {_what(prefix)} {name!r}. `ciuic {_what(prefix)}` lists them.")
    if prefix == HEADS and name == store.refs.head().branch:
        raise RefError(f"HEAD is on {name!r}, so the next run resumes there. Check out another branch first.")
    store.move_ref(prefix + name, NOTHING, f"delete {name}", expected=old)


def move_head(store: Store, branch: str | None, snapshot_id: str, said: str) -> None:
    """Attach HEAD to ``branch``, or detach it at the snapshot."""
    value = f"{SYMBOLIC}{HEADS}{branch}" if branch else snapshot_id
    if store.refs.value(HEAD) != value:
        store.move_ref(HEAD, value, f"checkout: moving to {said}")


def reset(store: Store, branch: str | None, target: str, said: str, *, dry_run: bool) -> str | None:
    """Move ``branch`` (None: a detached HEAD) to the snapshot ``target``; returns the old tip. UnknownRef."""
    full = HEADS + branch if branch else HEAD
    old = store.refs.value(full)
    if old is None and branch is not None and branch != store.refs.head().branch:
        raise UnknownRef(f"There is no branch {branch!r}. `ciuic branch` lists them.")
    if not dry_run and old != target:
        store.move_ref(full, target, f"reset: moving to {said}", expected=old or NOTHING)
    return old


def reflog(store: Store, ref: str) -> list[ReflogEntry]:
    """The changes of HEAD, of a branch (a deleted one too) or of a tag, newest first; UnknownRef."""
    full_names = [ref] if ref == HEAD or ref.startswith((HEADS, TAGS)) else [HEADS + ref, TAGS + ref]
    for name in full_names:
        records = store.refs.records(name)
        if records:
            return [
                ReflogEntry(number, record.time, _value(record.old), _value(record.new), record.actor, record.action)
                for number, record in enumerate(reversed(records))
            ]
    if ref == HEAD:
        return []
    raise UnknownRef(f"There is no branch or tag {ref!r}, and there was none. `ciuic branch` lists them.")


def _what(prefix: str) -> str:
    return "branch" if prefix == HEADS else "tag"


def _value(value: str) -> str | None:
    return None if value == NOTHING else value
