"""Which chunks are decoded together: those that rest on the same records, so that these are decoded once."""

from __future__ import annotations

from collections.abc import Sequence

from ciuic.store.chains import Record

MOST_TOGETHER = 16
"""Chunks of one group. Beyond it something is decoded twice rather than in one thread, or with more memory."""


def groups(records: Sequence[Record]) -> list[list[int]]:
    """Numbers of the records, each once: connected by what they share, in the order of each group's first."""
    parents = list(range(len(records)))
    sizes = [1] * len(records)
    owners: dict[int, int] = {}

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    for number, record in enumerate(records):
        stack = [record]
        while stack:
            node = stack.pop()
            owner = owners.get(id(node))
            if owner is None:
                owners[id(node)] = number
                stack += node.bases
                continue
            mine, theirs = root(number), root(owner)  # what is below the node has an owner already
            if mine != theirs and sizes[mine] + sizes[theirs] <= MOST_TOGETHER:
                parents[max(mine, theirs)] = min(mine, theirs)
                sizes[min(mine, theirs)] += sizes[max(mine, theirs)]
    result: dict[int, list[int]] = {}
    for number in range(len(records)):
        result.setdefault(root(number), []).append(number)
    return list(result.values())
