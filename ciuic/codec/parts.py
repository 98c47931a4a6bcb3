"""Elements taken apart into integers of some of their bytes, and put together again, transformed on the way.

A block at a time: what a block becomes on the way stays in the second-level cache, so that memory is read and written
once. In smaller blocks a call would cost more than its work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ciuic.codec.transforms import NONE, Elements, exactly, restore, scratch, transformed

BLOCK_BYTES = 256 << 10

Part = tuple[int, int]
"""First byte, counted from the least significant, and number of bytes: a power of two, and a divisor of the first."""


class _Step(NamedTuple):
    """Narrow ``source`` to its lower or its upper half. ``source`` and ``out``: parts."""

    source: Part
    upper: bool
    out: Part


def take_apart(
    x: Elements, base: Elements | None, transform: int, factor: float, targets: Mapping[Part, Elements]
) -> None:
    """Fill each target with its part of every transformed element, as integers. No two targets share a byte."""
    width = x.itemsize
    whole = targets.get((0, width))
    steps = _steps(targets, (0, width)) if whole is None else []
    block = BLOCK_BYTES // width
    kept = {step.out: scratch(f"part {step.out}", block, step.out[1]) for step in steps if step.out not in targets}
    shifted = {step.source[1]: scratch(f"shifted {step.source[1]}", block, step.source[1]) for step in steps}
    with exactly(transform):
        for start in range(0, len(x), block):
            stop = min(start + block, len(x))
            length = stop - start
            before = None if base is None else base[start:stop]
            into = scratch("elements", length, width) if whole is None else whole[start:stop]
            z = transformed(transform, x[start:stop], before, factor, into)
            if whole is not None:
                if z is not into:
                    np.copyto(into, z)
                continue
            parts = {(0, width): z}
            for source, upper, part in steps:
                wide = parts[source]
                out = targets[part][start:stop] if part in targets else kept[part][:length]
                if upper:
                    # narrowing is four times as fast as a strided copy
                    wide = np.right_shift(wide, wide.dtype.type(8 * part[1]), out=shifted[source[1]][:length])
                np.copyto(out, wide, casting="unsafe")
                parts[part] = out


def _steps(targets: Mapping[Part, Elements], whole: Part) -> list[_Step]:
    place, size = whole
    steps: list[_Step] = []
    for upper, first in ((False, place), (True, place + size // 2)):
        half = first, size // 2
        if half in targets:
            steps.append(_Step(whole, upper, half))
        elif any(first <= start < first + size // 2 for start, _ in targets):
            steps += [_Step(whole, upper, half), *_steps(targets, half)]
    return steps


def put_together(values: Mapping[Part, Elements], transform: int, factor: float, out: Elements) -> None:
    """The opposite: each part an array, or one integer for all elements. ``out`` holds the base, if there is one."""
    width = out.itemsize
    lowest, *others = sorted(values)
    block = BLOCK_BYTES // width
    with exactly(transform):
        for start in range(0, len(out), block):
            x = out[start : start + block]
            z = x if transform == NONE else scratch("elements", len(x), width)
            np.copyto(z, _some(values[lowest], start, len(x)))  # widened: all other bytes are zero
            for place, size in others:
                value = values[place, size]
                if value.shape or value:
                    np.copyto(z.view(f"<u{size}")[place // size :: width // size], _some(value, start, len(x)))
            if transform != NONE:
                restore(transform, z, x, factor)


def _some(value: Elements, start: int, length: int) -> Elements:
    return value[start : start + length] if value.shape else value
