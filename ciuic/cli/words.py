"""How snapshots and refs are worded: the same in every command, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ciuic.cli import humane
from ciuic.cli.paint import Paint, printable

if TYPE_CHECKING:
    from ciuic.objects.snapshot import Snapshot
    from ciuic.repo import Repo

SHORT = 8
Labels = Mapping[str, "list[str]"]
Prunes = Mapping[str, "frozenset[str]"]


def short(name: str) -> str:
    """The part of an id that people look at."""
    return name[:SHORT]


def step_text(snapshot: Snapshot) -> str:
    """ "step 499", or nothing for a snapshot without a step."""
    return "" if snapshot.step is None else f"step {snapshot.step}"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """ "loss=2.31 accuracy=0.71", in the order in which they were given."""
    return " ".join(f"{printable(name)}={humane.number(value)}" for name, value in metrics.items())


def cost_text(cost: Mapping[str, float]) -> str:
    """ "call 3.1 ms, fence 0 ms, copy 0.24 s"."""
    return ", ".join(f"{printable(name)} {humane.seconds(seconds)}" for name, seconds in cost.items())


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


def painted_labels(paint: Paint, labels: list[str]) -> str:
    """ "(HEAD -> main, tag: baseline)"."""
    if not labels:
        return ""
    colors = {True: ("cyan",), False: ("green",)}
    return "(" + ", ".join(paint(label, *colors[label.startswith(("HEAD", "tag: "))]) for label in labels) + ")"


def pruned_text(pruned: frozenset[str]) -> str:
    """ "pruned", "optimizer pruned", or nothing."""
    if "*" in pruned:
        return "pruned"
    return f"{', '.join(sorted(pruned))} pruned" if pruned else ""


def snapshot_record(snapshot: Snapshot, labels: Labels, prunes: Prunes) -> dict[str, Any]:
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
    }
