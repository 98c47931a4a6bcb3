"""The plans of a tensor's chunks: one is made from samples, and kept for the chunks that look like it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ciuic.codec import choice
from ciuic.codec.choice import Plan
from ciuic.codec.transforms import elements_of

KEPT_FOR = 16
"""Chunks, before a plan is made anew."""
GLANCE = 64
"""Elements that are looked at to see whether a chunk is of another kind than the one before."""
OFF = 0.02
"""Share of the raw bytes by which a plan may be wrong about what it leaves."""


class _Kept(NamedTuple):
    looks: tuple[int, int]
    ratio: float
    plan: Plan


class Plans:
    """Of one tensor, or of chunks that have nothing in common when it is made for a single one. Threads may share it:
    a plan fits any chunk, if not as well."""

    def __init__(self) -> None:
        self._kept: dict[bool, _Kept] = {}
        self._left = 0

    def either(self, raw: Any, base: Any, width: int) -> tuple[float, Plan]:
        """As ``choice.either``."""
        kept = self._usable(raw, base, width)
        if kept is None:
            ratio, plan = choice.either(raw, base, width)
            kept = self._keep(True, _Kept(_looks(raw, base, width), ratio, plan))
        return kept.ratio, kept.plan

    def alone(self, raw: Any, width: int) -> Plan:
        """As ``choice.alone``."""
        kept = self._usable(raw, None, width)
        if kept is None:
            kept = self._keep(False, _Kept(_looks(raw, None, width), 1.0, choice.alone(raw, width)))
        return kept.plan

    def turned_out(self, plan: Plan, ratio: float) -> None:
        """What ``plan`` left in the end: one that was wrong is forgotten."""
        if abs(ratio - plan.ratio) > OFF:
            self._kept.clear()

    def _usable(self, raw: Any, base: Any, width: int) -> _Kept | None:
        kept = self._kept.get(base is not None)
        self._left -= 1
        return kept if kept is not None and self._left > 0 and kept.looks == _looks(raw, base, width) else None

    def _keep(self, based: bool, kept: _Kept) -> _Kept:
        self._left = KEPT_FOR
        self._kept[based] = kept
        return kept


def _looks(raw: Any, base: Any, width: int) -> tuple[int, int]:
    """How many neighbours are equal, and how many elements are the base's, in eighths."""
    x = elements_of(raw, width)
    step = len(x) // GLANCE | 1
    glance = x[::step]
    repeated = np.count_nonzero(glance[1:] == glance[:-1])
    same = 0 if base is None else np.count_nonzero(glance == elements_of(base, width)[::step])
    return 8 * repeated // GLANCE, 8 * same // GLANCE
