"""How snapshots and refs are worded: the same in every command, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ciuic.cli import humane
from ciuic.cli.paint import Paint, printable
from ciuic.objects.ids import short

if TYPE_CHECKING:
    from ciuic.history.notes import Note
    from ciuic.objects.snapshot import Snapshot, Storage
    from ciuic.repo import Repo

Labels = Mapping[str, "list[str]"]
Prunes = Mapping[str, "frozenset[str]"]
Notes = Mapping[str, "tuple[Note, ...]"]


def step_text(snapshot: Snapshot) -> str:
    """ "step 499", or nothing for a snapshot without a step."""
    return "" if snapshot.step is None else f"step {snapshot.step}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """ "loss=2.31 accuracy=0.71", in the order in which they were given."""
    return " ".join(f"{printable(name)}={humane.number(value)}" for name, value in metrics.items())


def cost_text(cost: Mapping[str, float]) -> list[str]:
    """ "call 3.1 ms", "fence 0 ms", "copy 0.24 s"."""
    return [f"{printable(name)} {humane.seconds(seconds)}" for name, seconds in cost.items()]


def by_kind(storage: Storage) -> dict[str, tuple[int, int]]:
    """Kind → (raw, stored), summed over the parts."""
    total: dict[str, tuple[int, int]] = {}
    for kinds in storage.values():
        for kind, (raw, stored) in kinds.items():
            before = total.get(kind, (0, 0))
            total[kind] = before[0] + raw, before[1] + stored
    return total


def shares(sizes: Mapping[str, int]) -> list[str]:
    """ "delta 61 %", "planes 30 %", … of their sum, the largest first."""
    whole = sum(sizes.values())
    largest_first = sorted(sizes.items(), key=lambda item: -item[1])
    return [f"{printable(name)} {humane.share(size / whole)}" for name, size in largest_first if size]


def storage_text(storage: Storage) -> list[str]:
    """ "34.1 % of 129 MiB: delta 61 %", "planes 30 %", …; empty for a snapshot that does not say."""
    kinds = by_kind(storage)
    raw, stored = (sum(pair[place] for pair in kinds.values()) for place in (0, 1))
    if not raw:
        return []
    first, *others = shares({kind: size for kind, (size, _) in kinds.items()})
    return [f"{humane.percent(stored / raw)} of {humane.size(raw)}: {first}", *others]


def storage_record(storage: Storage) -> dict[str, Any]:
    """Part → kind → sizes, as a JSON object."""
    return {part: sizes_record(kinds) for part, kinds in storage.items()}


def sizes_record(sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Name → raw and stored bytes, as a JSON object."""
    return {name: {"raw_bytes": raw, "stored_bytes": stored} for name, (raw, stored) in sizes.items()}


def first_line(message: str) -> str:
    """The subject of a message, safe to print."""
    return printable(message.split("\n", 1)[0].strip())


def snapshot_text(paint: Paint, snapshot: Snapshot) -> str:
    """ "3f2a91c0 (step 499)"."""
    step = step_text(snapshot)
    return paint(short(snapshot.id), "yellow") + (f" ({step})" if step else "")


def labels_by_snapshot(repo: Repo) -> dict[str, list[str]]:
    """What points where: "HEAD -> main", "lr-sweep", "tag: baseline" by snapshot id, HEAD first."""
    labels: dict[str, list[str]] = {}
    head = repo.head()
    if head.branch is None and head.snapshot is not None:
        labels.setdefault(head.snapshot, []).append("HEAD")
    branches = sorted(repo.branches().items(), key=lambda item: (item[0] != head.branch, item[0]))
    for name, snapshot in branches:
        labels.setdefault(snapshot, []).append(f"HEAD -> {name}" if name == head.branch else name)
    for name, snapshot in sorted(repo.tags().items()):
        labels.setdefault(snapshot, []).append(f"tag: {name}")
    return labels


def verification_text(never: int, packs: int, oldest: datetime | None, now: datetime) -> str:
    """ "Every pack has been read whole, the least recent 3 days ago", "2 of 7 packs have not been …"."""
    # The disk's clock may be a moment ahead of this process's.
    age = "" if oldest is None else humane.age(min(oldest, now), now)
    when = "" if oldest is None else f", the {'least recent of the others' if never else 'least recent'} {age}"
    if not never:
        return f"Every pack has been read whole{when}"
    if never == packs:
        return "No pack has been read whole so far" if packs > 1 else "The pack has not been read whole so far"
    return f"{never} of {packs} packs {'has' if never == 1 else 'have'} not been read whole so far{when}"


def painted_labels(paint: Paint, labels: list[str]) -> str:
    """ "(HEAD -> main, tag: baseline)"."""
    if not labels:
        return ""
    colors = {True: ("cyan",), False: ("green",)}
    painted = (paint(printable(label), *colors[label.startswith(("HEAD", "tag: "))]) for label in labels)
    return f"({', '.join(painted)})"


def pruned_text(pruned: frozenset[str]) -> str:
    """ "pruned", "optimizer pruned", or nothing."""
    if "*" in pruned:
        return "pruned"
    return f"{printable(', '.join(sorted(pruned)))} pruned" if pruned else ""


def notes_text(notes: tuple[Note, ...]) -> str:
    """ "note: lr too high", "2 notes: the newest one", or nothing."""
    if not notes:
        return ""
    return f"{'note' if len(notes) == 1 else f'{len(notes)} notes'}: {first_line(notes[-1].text)}"


def note_record(number: int, note: Note) -> dict[str, Any]:
    """A note as a JSON object."""
    return {"number": number, "key": note.key, "text": note.text, "time": note.time, "actor": note.actor}


def snapshot_record(snapshot: Snapshot, labels: Labels, prunes: Prunes, notes: Notes) -> dict[str, Any]:
    """A snapshot as a JSON object."""
    return {
        "id": snapshot.id,
        "step": snapshot.step,
        "epoch": snapshot.epoch,
        "timestamp": snapshot.timestamp,
        "message": snapshot.message,
        "metrics": snapshot.metrics,
        "config": snapshot.config,
        "parents": snapshot.parents,
        "tree": snapshot.tree,
        "contains": snapshot.contains,
        "raw_bytes": snapshot.raw_bytes,
        "added_bytes": snapshot.added_bytes,
        "cost": snapshot.cost,
        "refs": labels.get(snapshot.id, []),
        "pruned": prunes.get(snapshot.id, frozenset()),
        "notes": [note_record(number, note) for number, note in enumerate(notes.get(snapshot.id, ()), 1)],
    }
