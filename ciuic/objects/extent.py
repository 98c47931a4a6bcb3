"""How large the tree of one component may be. A writer refuses what a reader would refuse, and before it is stored.

Trees may hold each other, and tensors name a chunk, many times over: so a few kilobytes can stand for more than any
machine has room for. What is counted here is what a reader has in memory for each leaf, however little is stored.
"""

from __future__ import annotations

from typing import Any

MOST_LEAVES = 1_000_000
"""Tensors, values and containers, each time that a path leads to it. The largest models have some 200,000."""
MOST_CHUNKS = 1 << 24
"""16 TiB in chunks of the usual size."""
MOST_ITEMS = 1 << 24
"""Of plain values: numbers, texts, containers."""
MOST_VALUE_BYTES = 1 << 30
"""Of long plain values, encoded."""
MOST_TEXT = 1 << 28
"""Characters of all paths."""


class Extent:
    """Adds up one component; ``problem`` says what has become too large, "" for nothing."""

    def __init__(self) -> None:
        self.problem = ""
        self._leaves = self._chunks = self._items = self._bytes = self._text = 0

    def leaf(self, path_length: int, *, chunks: int = 0) -> bool:
        """Count a tensor or a container; False when it is too much."""
        self._leaves += 1
        self._chunks += chunks
        self._text += path_length
        return self._within()

    def value(self, path_length: int, value: Any, nbytes: int = 0) -> bool:
        """Count a plain value, whose encoding is ``nbytes`` long where that is known; False when it is too much."""
        self._leaves += 1
        self._text += path_length
        self._bytes += nbytes
        self._items += 1 if type(value) not in (list, tuple, dict) else items_of(value, MOST_ITEMS)
        return self._within()

    def _within(self) -> bool:
        if self._leaves > MOST_LEAVES:
            self.problem = f"more than {MOST_LEAVES} tensors and values in one component"
        elif self._chunks > MOST_CHUNKS:
            self.problem = f"more than {MOST_CHUNKS} chunks in one component"
        elif self._items > MOST_ITEMS or self._bytes > MOST_VALUE_BYTES:
            self.problem = f"plain values of more than {MOST_ITEMS} items or {MOST_VALUE_BYTES >> 30} GiB"
        elif self._text > MOST_TEXT:
            self.problem = f"paths of more than {MOST_TEXT} characters together"
        return not self.problem


def items_of(value: Any, most: int) -> int:
    """How many items a plain value has, itself included; no more than a little above ``most`` are looked at."""
    count = 0
    stack = [value]
    while stack and count <= most:
        each = stack.pop()
        count += 1
        if isinstance(each, dict):
            stack.extend(each.values())
        elif isinstance(each, (list, tuple)):
            stack.extend(each)
    return count
