"""Tensors that are the cast of another one in the same snapshot: bf16 weights beside their fp32 masters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ciuic.codec import CodecError, rules
from ciuic.commit.leaves import Leaf, Path

NARROW = {"bfloat16": "float32", "float16": "float32", "float32": "float64"}
"""dtype → the one that it may be cast from, of twice the width."""
SMALLEST_BYTES = 1024
"""A smaller tensor is not worth a recipe."""
SAMPLE_BYTES = 512
SAMPLES = 4
MOST_CANDIDATES = 64
"""Wide tensors of one shape that are looked at for a narrow one: mostly the next, as both come in one order."""


def find_masters(leaves: Iterable[Leaf]) -> Mapping[Path, Leaf]:
    """Path of a narrow tensor → the wide one that it seems to be the cast of, judged by samples."""
    leaves = list(leaves)
    wide: dict[tuple[str, tuple[int, ...]], list[Leaf]] = {}
    for leaf in leaves:
        if leaf.dtype in NARROW.values() and leaf.part not in ("first moment", "second moment"):
            wide.setdefault((leaf.dtype, leaf.shape), []).append(leaf)
    masters: dict[Path, Leaf] = {}
    for leaf in leaves:
        if leaf.dtype in NARROW and leaf.source.nbytes >= SMALLEST_BYTES:
            candidates = wide.get((NARROW[leaf.dtype], leaf.shape), [])
            for number, other in enumerate(candidates[:MOST_CANDIDATES]):
                if all(_is_cast(leaf, other, start) for start in _sample_starts(leaf)):
                    masters[leaf.path] = other
                    candidates[:] = candidates[number + 1 :] + candidates[: number + 1]
                    break
    return masters


def _sample_starts(leaf: Leaf) -> list[int]:
    span = leaf.source.nbytes - SAMPLE_BYTES
    return [span * number // (SAMPLES - 1) // 16 * 16 for number in range(SAMPLES)]


def _is_cast(leaf: Leaf, master: Leaf, start: int) -> bool:
    stop = start + SAMPLE_BYTES
    return bool(leaf.source.read(start, stop) == cast_of(leaf, master, master.source.read(2 * start, 2 * stop)))


def cast_numbers(leaf: Leaf, master: Leaf) -> dict[str, Any]:
    """What the rule ``cast`` needs. A chunk begins where a chunk of its master does."""
    return {"from": master.dtype, "to": leaf.dtype, "skip": 0}


def cast_of(leaf: Leaf, master: Leaf, raw: Any) -> bytearray | None:
    """``raw``, bytes of the master, in the narrow dtype; None where the rule refuses."""
    out = bytearray(len(raw) // 2)
    try:
        rules.apply("cast", cast_numbers(leaf, master), [raw], out)
    except CodecError:
        return None
    return out
