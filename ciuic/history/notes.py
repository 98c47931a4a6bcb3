"""Notes on snapshots, written after the fact. Ids never change, so notes live in a log of their own.

A record's ``new`` is the snapshot; its action is one of

note <key> <part>/<parts> <JSON string>     a part of a note's text; the note is there when all of its parts are
drop <key>                                  the note is taken back

A note keeps no snapshot alive, and stays when its snapshot is collected.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from ciuic.errors import InvalidNote
from ciuic.objects.ids import short
from ciuic.store.reflog import LogRecord
from ciuic.store.refs import NOTES
from ciuic.store.store import Store

TEXT_LIMIT = 4096
"""Bytes of UTF-8 in a note."""
PART_BYTES = 210
"""Of a part's JSON string: with the rest of the longest record it fits into 512."""
PART = r'note (?P<key>[0-9a-f]{16}) (?P<part>[0-9]{1,3})/(?P<parts>[0-9]{1,3}) (?P<text>".*")'
DROP = r"drop (?P<key>[0-9a-f]{16})"


@dataclass(frozen=True)
class Note:
    """``text`` as it was given. ``time`` (UTC) and ``actor`` (user@host:pid): when and by whom. ``key``: its name."""

    key: str
    text: str
    time: datetime
    actor: str


def add(store: Store, snapshot_id: str, text: str) -> Note:
    """Write a note: durable on return; on any error there is none. InvalidNote. Under the shared lock."""
    key = os.urandom(8).hex()
    parts = [*_parts(checked(text))]
    for number, part in enumerate(parts):  # each synced by itself: only a log's last slot may be torn
        record = store.refs.set(NOTES, snapshot_id, f"note {key} {number + 1}/{len(parts)} {part}")
    return Note(key, text, record.time, record.actor)


def drop(store: Store, snapshot_id: str, key: str) -> None:
    """Take a note back: durable on return. InvalidNote when there is none of this key. Under the shared lock."""
    if all(note.key != key for note in listing(store).get(snapshot_id, ())):
        raise InvalidNote(f"{short(snapshot_id)} has no note {key}. `ciuic note {short(snapshot_id)}` lists its notes.")
    store.refs.set(NOTES, snapshot_id, f"drop {key}")


def listing(store: Store) -> dict[str, tuple[Note, ...]]:
    """Hex id → the notes on each snapshot that has any, oldest first. DamagedRef. Under the shared lock."""
    return assembled(store.refs.log(NOTES).read())


def assembled(records: list[LogRecord]) -> dict[str, tuple[Note, ...]]:
    """The notes that a log's records make; parts of a note that was not finished, and unknown actions, make none."""
    found: dict[tuple[str, str], dict[int, tuple[int, str]]] = {}
    notes: dict[str, dict[str, Note]] = {}
    for record in records:
        dropped = re.fullmatch(DROP, record.action)
        if dropped:
            notes.get(record.new, {}).pop(dropped["key"], None)
        match = re.fullmatch(PART, record.action)
        text = _unquoted(match["text"]) if match else None
        if match is None or text is None:
            continue
        key, parts = match["key"], int(match["parts"])
        pieces = found.setdefault((record.new, key), {})
        pieces.setdefault(int(match["part"]), (parts, text))
        if pieces.keys() == set(range(1, parts + 1)) and {count for count, _ in pieces.values()} == {parts}:
            whole = "".join(piece for _, (_, piece) in sorted(pieces.items()))
            notes.setdefault(record.new, {})[key] = Note(key, whole, record.time, record.actor)
            del found[record.new, key]
    return {snapshot: tuple(each.values()) for snapshot, each in notes.items() if each}


def checked(text: str) -> str:
    """``text`` itself when it can be a note; InvalidNote otherwise."""
    if not isinstance(text, str) or not text.strip():
        raise InvalidNote("A note is a text, and not an empty one. Say what is worth remembering.")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidNote("A note is Unicode text, and this one has half a character. Write it as UTF-8.") from None
    if size > TEXT_LIMIT:
        raise InvalidNote(
            f"The note has {size} bytes, and one has at most {TEXT_LIMIT}. Write several, or put the text into a file "
            "and note its name."
        )
    return text


def _parts(text: str) -> Iterator[str]:
    """JSON strings of at most PART_BYTES that make the text together."""
    piece, room = "", PART_BYTES
    for character in text:
        size = len(_quoted(character).encode()) - len('""')
        if size > room - len('""'):
            yield _quoted(piece)
            piece, room = "", PART_BYTES
        piece += character
        room -= size
    yield _quoted(piece)


def _quoted(text: str) -> str:
    import json  # here, so that `ciuic log` pays for it only where there are notes

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a log's field has no control characters


def _unquoted(text: str) -> str | None:
    import json

    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None
