"""Which codec suits a chunk, judged by the entropy of the bytes of a few thousand of its elements."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ciuic.codec import planes
from ciuic.codec.planes import CONSTANT, NONE, RAW, ROTATED, ZIGZAG, ZSTD

ELEMENTS = 2048
"""Elements of a sample: the entropy of a byte is then known to about 0.03 of its 8 bits."""
PLANE_WORTH_IT = 0.965
OVERHEAD = 0.004
HALF_LOG2_E = 0.7213475204444817


class Plan(NamedTuple):
    """How to code a chunk. ``ratio``: stored to raw bytes, as far as the sample says."""

    transform: int
    methods: tuple[int, ...]
    ratio: float


_XLOG2X = np.zeros(ELEMENTS * 2 + 1)
_XLOG2X[1:] = np.arange(1, ELEMENTS * 2 + 1) * np.log2(np.arange(1, ELEMENTS * 2 + 1))


def choose(
    raw: memoryview, width: int, base: memoryview | None, most_ratio: float, clearly: float
) -> tuple[Plan | None, Plan]:
    """The plan of a delta, if one is worth it, and the better one of a chunk alone."""
    elements = _sampled(raw, width)
    candidates = [elements, planes.rotated(elements)] if width > 1 else [elements]
    if base is not None:
        candidates.append(planes.zigzag(elements - _sampled(base, width)))
    transforms = (NONE, ROTATED)[: 1 + (width > 1)]
    plans = _plans(candidates, (*transforms, ZIGZAG), len(raw))
    alone = min(plans[: len(transforms)], key=lambda plan: plan.ratio)
    if base is None:
        return None, alone
    delta = plans[-1]
    worth = delta.ratio <= most_ratio and delta.ratio <= clearly * alone.ratio
    return (delta if worth else None), alone


def residual(raw: memoryview, guess: memoryview, width: int) -> Plan:
    elements = _sampled(raw, width)
    return _plans([planes.zigzag(elements - _sampled(guess, width))], (ZIGZAG,), len(raw))[0]


def _sampled(view: memoryview, width: int) -> Any:
    elements = planes.elements_of(view, width)
    step = len(elements) // ELEMENTS | 1  # odd: in step with no row length that is a power of two
    return elements[::step]


def _plans(samples: list[Any], transforms: tuple[int, ...], length: int) -> list[Plan]:
    count, width = len(samples[0]), samples[0].itemsize
    columns = len(samples) * width
    if count == 0:
        return [Plan(transform, (RAW,) * width, 1.0) for transform in transforms[: len(samples)]]
    index = np.empty((count, columns), np.intp)
    for number, sample in enumerate(samples):
        part = index[:, number * width : (number + 1) * width]
        np.copyto(part, np.ascontiguousarray(sample).view(np.uint8).reshape(count, width))
    index += np.arange(0, 256 * columns, 256)
    counts = np.bincount(index.ravel(), minlength=256 * columns).reshape(columns, 256)
    entropy = np.log2(count) - _XLOG2X[counts].sum(1) / count
    entropy += (np.count_nonzero(counts, 1) - 1) * (HALF_LOG2_E / count)  # a sample shows too little of it
    ratios = (entropy / 8 + OVERHEAD).tolist()
    plans = []
    for number in range(len(samples)):
        own = ratios[number * width : (number + 1) * width]
        methods = tuple(CONSTANT if ratio <= OVERHEAD else ZSTD if ratio <= PLANE_WORTH_IT else RAW for ratio in own)
        kept = sum(min(ratio, 1.0) if method != RAW else 1.0 for ratio, method in zip(own, methods, strict=True))
        body = count_bytes(length, width)
        plans.append(Plan(transforms[number], methods, (kept / width * body + length - body + 16) / length))
    return plans


def count_bytes(length: int, width: int) -> int:
    return length - length % width
