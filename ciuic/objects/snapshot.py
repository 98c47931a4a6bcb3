"""Snapshots: one saved moment of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from ciuic.objects.encoding import EncodingError, Repeated, decode, encode
from ciuic.objects.ids import ID_LENGTH, short
from ciuic.objects.plain import from_encodable, to_encodable
from ciuic.objects.state_tree import Plain

MOST_SIZE = 1 << 63
MOST_COSTS = 32
MOST_PARTS = MOST_KINDS = 32
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
COMPONENTS = ("model", "optimizer", "scheduler", "scaler", "extra", "gradients", "rng", "data")
COSTS = ("call", "fence", "copy", "encode", "check", "write")
PARTS = ("weights", "first moment", "second moment", "other")
KINDS = ("identical", "derived", "predicted", "delta", "planes", "zstd", "raw")

Storage = dict[str, dict[str, tuple[int, int]]]


@dataclass(frozen=True, repr=False)
class Snapshot:
    """One saved moment: what ``commit`` returns and ``log`` lists.

    ``id``: 64 hex digits. ``tree``: component name → hex id of its tree. ``contains``: the completeness list, finer
    than the components ("rng.torch"). ``raw_bytes``: bytes of tensors and values by component, before dedup and coding.
    ``added_bytes``: stored bytes that this commit added for chunks and trees. ``versions``: of what wrote it.
    ``cost``: what taking it cost, in seconds, each where it was measured: "call" (the training thread, inside commit),
    "fence" (an optimizer step waited for the copy), "copy", "encode" (hash, look up, encode: processor time),
    "check" (decompressing what was coded and comparing it: processor time), "write" (append and sync).
    ``storage``: how this commit stored its chunks: part (PARTS) → kind (KINDS) → (raw bytes, stored bytes). "identical"
    is what the repository had already: 0 stored; recipes count for their chunks. Empty in snapshots from before it was
    counted.
    """

    id: str
    step: int | None
    epoch: int | None
    timestamp: datetime
    message: str
    metrics: dict[str, float]
    config: dict[str, Plain]
    parents: tuple[str, ...]
    tree: dict[str, str]
    contains: tuple[str, ...]
    raw_bytes: dict[str, int]
    added_bytes: int
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    storage: Storage = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def named(self) -> str:
        """As messages name it: "3f2a91c0 (step 499)"."""
        return short(self.id) + ("" if self.step is None else f" (step {self.step})")

    def __repr__(self) -> str:
        return f"Snapshot(step={self.step}, timestamp={self.timestamp:%Y-%m-%dT%H:%M:%S}Z)"


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The canonical bytes of everything but the id, which is their hash."""
    return encode(
        {
            "step": snapshot.step,
            "epoch": snapshot.epoch,
            "time": (snapshot.timestamp - EPOCH) // timedelta(microseconds=1),
            "message": snapshot.message,
            "metrics": snapshot.metrics,
            "config": to_encodable(snapshot.config, "config"),
            "parents": [bytes.fromhex(parent) for parent in snapshot.parents],
            "components": {name: bytes.fromhex(tree) for name, tree in snapshot.tree.items()},
            "contains": list(snapshot.contains),
            "raw_bytes": snapshot.raw_bytes,
            "added_bytes": snapshot.added_bytes,
            "versions": snapshot.versions,
            "cost": snapshot.cost,
            "storage": snapshot.storage,
        }
    )


_repeated: Repeated = {}  # versions, configuration and sizes are the same in snapshot after snapshot


def decode_snapshot(data: bytes, id: bytes) -> Snapshot:
    """The snapshot of canonical bytes; EncodingError for anything else."""
    value = decode(data, _repeated)
    try:
        return _snapshot(value, id)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EncodingError(f"not a snapshot: {error}") from error


def _snapshot(value: dict[str, Any], id: bytes) -> Snapshot:
    config = from_encodable(value["config"])
    cost = value.get("cost", {})  # the first snapshots did not say what they cost
    _check("ids", bytes, [*value["parents"], *value["components"].values()])
    _check("texts", str, [value["message"], *value["contains"], *value["versions"].values()])
    _check("sizes", int, [*value["raw_bytes"].values(), value["added_bytes"], value["time"]])
    if not all(0 <= size < MOST_SIZE for size in (*value["raw_bytes"].values(), value["added_bytes"])):
        raise ValueError("sizes are counted in bytes")
    _check("step and epoch", int, [number for number in (value["step"], value["epoch"]) if number is not None])
    _check("metrics and costs", float, [*value["metrics"].values(), *cost.values()])
    _check("config", dict, [config])
    if len(cost) > MOST_COSTS or not all(0 <= seconds < math.inf for seconds in cost.values()):
        raise ValueError("costs are a few, and seconds")
    return Snapshot(
        id=id.hex(),
        step=value["step"],
        epoch=value["epoch"],
        timestamp=EPOCH + timedelta(microseconds=value["time"]),
        message=value["message"],
        metrics=dict(value["metrics"]),
        config=config,
        parents=tuple(parent.hex() for parent in value["parents"]),
        tree={name: value["components"][name].hex() for name in _in_order(value["components"], COMPONENTS)},
        contains=tuple(value["contains"]),
        raw_bytes={name: value["raw_bytes"][name] for name in _in_order(value["raw_bytes"], COMPONENTS)},
        added_bytes=value["added_bytes"],
        versions=dict(value["versions"]),
        cost={name: cost[name] for name in _in_order(cost, COSTS)},
        storage=_storage(value.get("storage", {})),  # so did they say nothing of this
    )


def _storage(parts: dict[str, dict[str, list[int]]]) -> Storage:
    if len(parts) > MOST_PARTS:
        raise ValueError("storage is of a few parts")
    return {part: _pairs(parts[part]) for part in _in_order(parts, PARTS)}


def _pairs(kinds: dict[str, list[int]]) -> dict[str, tuple[int, int]]:
    if len(kinds) > MOST_KINDS:
        raise ValueError("storage is of a few kinds")
    pairs = {}
    for kind, pair in kinds.items():  # `ciuic log` comes here a thousand times
        raw, stored = pair
        if type(pair) is not list or type(raw) is not int or type(stored) is not int:
            raise ValueError("storage is counted in bytes")
        if not 0 <= raw < MOST_SIZE > stored >= 0:
            raise ValueError("storage is counted in bytes")
        pairs[kind] = raw, stored
    return pairs


def _check(what: str, kind: type, values: Iterable[Any]) -> None:
    for value in values:
        if type(value) is not kind or (isinstance(value, bytes) and len(value) != ID_LENGTH):
            raise ValueError(f"{what} of the wrong type")


def _in_order(names: dict[str, Any], expected: tuple[str, ...]) -> list[str]:
    """Names in the order in which people expect them, then the others; CBOR sorts them by length."""
    return [
        *(name for name in expected if name in names),
        *(name for name in names if name not in expected),
    ]
