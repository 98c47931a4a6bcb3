"""Revisions: the words with which people name a snapshot, or something inside one.

main  v1.0  HEAD  3fa91c         a branch, a tag, where the next run resumes, an id's first digits (at least 4)
main~2  main^                    ancestors
main@{1}  @{2 hours ago}         where a branch was
step:499  step:<=500             the newest snapshot of the current branch with that step
best:loss  best:-accuracy        the lowest (with "-" the highest) metric on the current branch
main@step:499  main@best:loss    the same on another branch
REV:model/layers.0.weight        something inside
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ciuic.amounts import parse_span
from ciuic.errors import AmbiguousRevision, DamagedData, UnknownRevision
from ciuic.history.graph import first_parents
from ciuic.objects.ids import Kind, short
from ciuic.objects.snapshot import Snapshot
from ciuic.store.object_reader import read_snapshot
from ciuic.store.reflog import NOTHING, SYMBOLIC, LogRecord
from ciuic.store.refs import HEAD, HEADS, TAGS
from ciuic.store.store import Store

# Patterns as text: `re` compiles and keeps one when it is first used, and `ciuic log` uses none.
SELECTOR = r"(?:(?P<ref>[^~^:]+)@)?(?P<what>step|best):(?P<value>[^~^:@]+)"
NAME = r"(?P<name>(?:(?!@\{)[^~^:])*)"
SUFFIX = r"~(?P<generations>[0-9]*)|\^(?P<parent>[0-9]*)|@\{(?P<when>[^}]*)\}"
HEX = r"[0-9a-f]{4,64}"
AGO = r"(?P<count>[0-9]{1,9}|an?)\s*(?P<unit>second|sec|minute|min|hour|day|week|month|year)s?(\s+ago)?"
UNIT_S = {
    "second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86400, "week": 604800,
    "month": 30 * 86400, "year": 365 * 86400,
}  # fmt: skip
MOST_CANDIDATES = 10
MOST_DIGITS = 18


@dataclass(frozen=True)
class Resolved:
    """A revision's snapshot. ``branch`` when the revision was just a branch's name; ``path`` after the colon."""

    snapshot: Snapshot
    branch: str | None = None
    path: str | None = None


def resolve(store: Store, revision: str) -> Resolved:
    """The snapshot that ``revision`` names. UnknownRevision or AmbiguousRevision say what there is instead.

    Under the shared lock.
    """
    if not isinstance(revision, str):
        raise UnknownRevision(
            f"{revision!r} is no revision. Give a string or a Snapshot; `ciuic log --all` lists them."
        )
    return _Resolver(store, revision.strip()).resolve()


def resolve_whole(store: Store, revision: str | Snapshot) -> Resolved:
    """``resolve`` for what takes a whole snapshot: a path behind a colon is UnknownRevision."""
    resolved = resolve(store, revision.id if isinstance(revision, Snapshot) else revision)
    if resolved.path is not None:
        raise UnknownRevision(
            f"{revision!r} names a part of a snapshot, as `ciuic ls` and `ciuic cat` take it, and `ciuic diff --path`. "
            f"Leave out {':' + resolved.path!r} here."
        )
    return resolved


class _Resolver:
    def __init__(self, store: Store, revision: str) -> None:
        self.store = store
        self.revision = revision

    def resolve(self) -> Resolved:
        text = self.revision
        selector = re.match(SELECTOR, text)
        branch = None
        if selector:
            snapshot = self.select(selector)
            rest = text[selector.end() :]
        else:
            match = re.match(NAME, text)
            name = match["name"] if match else ""
            rest = text[len(name) :]
            when = re.match(SUFFIX, rest)
            if when and when["when"] is not None:
                snapshot = self.at(name, when["when"])
                rest = rest[when.end() :]
            else:
                snapshot, branch = self.named(name)
        while (suffix := re.match(SUFFIX, rest)) is not None:
            if suffix["when"] is not None:
                raise self.unknown("@{…} follows a branch's name")
            snapshot, branch = self.ancestor(snapshot, suffix), None
            rest = rest[suffix.end() :]
        if not rest:
            return Resolved(snapshot, branch)
        if not rest.startswith(":"):
            raise self.unknown(f"{rest!r} is no part of a revision")
        return Resolved(snapshot, branch, rest[1:])

    def unknown(self, reason: str) -> UnknownRevision:
        reason += "" if reason.endswith("?") else "."
        return UnknownRevision(f"{self.revision!r} names no snapshot: {reason} `ciuic log --all` lists them.")

    def integer(self, digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            raise self.unknown("a number with that many digits counts nothing here")
        return int(digits)

    def read(self, id: str) -> Snapshot:
        return read_snapshot(self.store, bytes.fromhex(id))

    # Names

    def ref_name(self, name: str) -> str | None:
        """The full name of a branch or tag that is there."""
        for full in (HEADS + name, TAGS + name, name if name.startswith((HEADS, TAGS)) else ""):
            if full and self.store.refs.value(full) is not None:
                return full
        return None

    def named(self, name: str) -> tuple[Snapshot, str | None]:
        if name in ("HEAD", "@"):
            head = self.store.refs.head()
            if head.snapshot is None:
                raise self.unknown("the repository has no snapshot on this branch yet")
            return self.read(head.snapshot), None
        full = self.ref_name(name) if name else None
        if full is not None:
            value = self.store.refs.value(full)
            return self.read(str(value)), full[len(HEADS) :] if full.startswith(HEADS) else None
        return self.by_prefix(name), None

    def by_prefix(self, text: str) -> Snapshot:
        if not re.fullmatch(HEX, text):
            raise self.unknown(self.instead_of(text))
        prefix, odd = bytes.fromhex(text[: len(text) // 2 * 2]), text[-1] if len(text) % 2 else ""
        found = [id for id in self.store.index.ids_with_prefix(prefix, odd, 100_000) if self.is_snapshot(id)]
        if found:
            buried = self.store.refs.buried()
            found = [id for id in found if id.hex() not in buried]
        if not found:
            raise self.unknown("no branch, no tag and no snapshot id starts like this")
        if len(found) > 1:
            snapshots = sorted((self.read(id.hex()) for id in found), key=lambda each: each.timestamp, reverse=True)
            lines = [f"{each.id[: len(text) + 8]}  {each!r}" for each in snapshots[:MOST_CANDIDATES]]
            raise AmbiguousRevision(
                f"{self.revision!r} could be {len(found)} snapshots; give more digits:\n  " + "\n  ".join(lines),
                [each.id for each in snapshots],
            )
        return self.read(found[0].hex())

    def is_snapshot(self, id: bytes) -> bool:
        place = self.store.place(id)
        if place is None:
            return False
        try:
            row = self.store.pack(place.pack).by_id.get(id)
        except (DamagedData, FileNotFoundError):
            return False
        return row is not None and row.header.kind is Kind.SNAPSHOT

    def instead_of(self, name: str) -> str:
        """What may have been meant, in words."""
        if ".." in name:
            return f"there are no ranges; `ciuic diff {name.replace('...', '..').replace('..', ' ')}` compares two"
        if re.fullmatch("[0-9a-f]{1,3}", name):
            return "the beginning of an id needs four digits"
        names = [*self.store.refs.listing(HEADS), *self.store.refs.listing(TAGS)]
        if not names:
            return "the repository has no snapshot yet"
        import difflib

        near = ["HEAD"] if name.upper() == "HEAD" else difflib.get_close_matches(name, names, n=3)
        return f"did you mean {' or '.join(near)}?" if near else f"no branch or tag is called that; {there(names[:8])}"

    # Suffixes

    def ancestor(self, snapshot: Snapshot, suffix: re.Match[str]) -> Snapshot:
        if suffix["generations"] is None:
            number = self.integer(suffix["parent"] or "1")
            if number == 0:
                return snapshot
            if number > len(snapshot.parents):
                raise self.unknown(f"{short(snapshot.id)} has no parent {number}")
            return self.read(snapshot.parents[number - 1])
        wanted = self.integer(suffix["generations"] or "1")
        count = 0
        for count, each in enumerate(first_parents(self.store, snapshot.id)):
            if count == wanted:
                return each
        raise self.unknown(f"that one has only {count} before it")

    # The reflog

    def at(self, name: str, when: str) -> Snapshot:
        """``name@{when}``; without a name the current branch."""
        head = self.store.refs.head()
        full = HEAD if name == "HEAD" or (not name and head.branch is None) else None
        full = full or (self.ref_name(name) or HEADS + name if name else f"{HEADS}{head.branch}")
        records = self.store.refs.records(full)
        if not records:
            raise self.unknown(f"there is no branch or tag {name or head.branch!r}")
        record = records[-1 - self.index_of(records, when)]
        value = self.at_record(full, record)
        if value is None:
            raise self.unknown(f"{full} pointed to nothing then")
        return self.read(value)

    def index_of(self, records: list[LogRecord], when: str) -> int:
        """How many records before the newest."""
        if re.fullmatch(r"[0-9]+", when):
            index = self.integer(when)
            if index >= len(records):
                raise self.unknown(f"its log has only {len(records)} records")
            return index
        moment_ns = parse_moment(when)
        if moment_ns is None:
            raise self.unknown(f"{when!r} is neither a number nor a time such as '2 hours ago' or '2026-01-31 12:00'")
        for index, record in enumerate(reversed(records)):
            if record.time_ns <= moment_ns:
                return index
        raise self.unknown(f"its log begins only at {records[0].time:%Y-%m-%d %H:%M:%S} UTC")

    def at_record(self, full: str, record: LogRecord) -> str | None:
        if not record.new.startswith(SYMBOLIC):
            return None if record.new == NOTHING else record.new
        branch = self.store.refs.records(record.new[len(SYMBOLIC) :])
        before = [each.new for each in branch if each.time_ns <= record.time_ns] or [each.new for each in branch[:1]]
        return before[-1] if before and before[-1] != NOTHING else None

    # Selectors

    def select(self, selector: re.Match[str]) -> Snapshot:
        tip, _ = self.named(selector["ref"] or "HEAD")
        line = first_parents(self.store, tip.id)
        value = selector["value"].strip()
        return self.by_step(line, value) if selector["what"] == "step" else self.best(line, value)

    def by_step(self, line: Iterator[Snapshot], value: str) -> Snapshot:
        at_most = value.startswith("<=")
        digits = value[2:] if at_most else value
        if not re.fullmatch(r"-?[0-9]+", digits):
            raise self.unknown("write step:499 or step:<=500")
        wanted = self.integer(digits)
        steps: dict[int, Snapshot] = {}
        for snapshot in line:
            if snapshot.step == wanted:
                return snapshot
            if snapshot.step is not None:
                steps.setdefault(snapshot.step, snapshot)
        below = max((step for step in steps if step < wanted), default=None)
        above = min((step for step in steps if step > wanted), default=None)
        if at_most and below is not None:
            return steps[below]
        neighbours = " and ".join(f"step:{step}" for step in (below, above) if step is not None)
        raise self.unknown(f"the nearest is {neighbours}" if neighbours else "no snapshot has a step")

    def best(self, line: Iterator[Snapshot], value: str) -> Snapshot:
        name, highest = value.removeprefix("-"), value.startswith("-")
        better: Callable[[float, float], bool] = float.__gt__ if highest else float.__lt__
        winner: Snapshot | None = None
        seen: set[str] = set()
        for snapshot in line:
            seen |= set(snapshot.metrics)
            metric = snapshot.metrics.get(name)
            if metric is None or math.isnan(metric):
                continue
            if winner is None or better(metric, winner.metrics[name]):
                winner = snapshot
        if winner is None:
            raise self.unknown(f"no snapshot has the metric {name!r}; {there(sorted(seen))}")
        return winner


def there(names: Sequence[str]) -> str:
    """What there is instead, in words."""
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}"


def parse_age(text: str) -> timedelta | None:
    """ "2 hours", "2 hours ago", "30d", "yesterday", "now" → how long before now; None for anything else."""
    text = text.strip().lower()
    words = {"now": timedelta(0), "today": timedelta(0), "yesterday": timedelta(days=1)}
    if text in words:
        return words[text]
    span = parse_span(text)
    if span is not None:
        return timedelta(seconds=span)
    match = re.fullmatch(AGO, text)
    if not match:
        return None
    count = 1 if match["count"] in ("a", "an") else int(match["count"])
    try:
        return timedelta(seconds=count * UNIT_S[match["unit"]])
    except OverflowError:
        return None


def parse_moment(text: str) -> int | None:
    """An age or an ISO date (local time unless it says otherwise) → ns since 1970; None for anything else."""
    age = parse_age(text)
    if age is not None:
        return time.time_ns() - int(age.total_seconds()) * 10**9
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return int(moment.astimezone(timezone.utc).timestamp() * 1e9)
    except (ValueError, OverflowError):
        return None
