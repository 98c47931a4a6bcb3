"""How to take a chunk apart, judged by the bytes of a few thousand of its elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ciuic.codec.arithmetic import can_be_exact
from ciuic.codec.transforms import BALANCED, NONE, ROTATED, SCALED, ZIGZAG, Elements, elements_of, exactly, transformed

RAW, ZSTD, CONSTANT, SPLIT = 0, 1, 2, 3
ELEMENTS = 1024
"""Elements of a sample: the entropy of a byte is then known to about 0.03 of its 8 bits."""
PLANE_WORTH_IT = 0.9
"""What a plane has to leave at most: those between this and 0.97 would save 1 % of a training's state, and cost a sixth
of the time to encode it."""
ROTATED_WIDTH = 2
"""The only width to try it for: it saves 3 % of bf16 weights, 1 % of fp32 ones, and doubles the time to decode them."""
ROTATION_GAINS = 0.005
"""Share of the raw bytes that rotating has to save."""
SKEWED = 0.35
"""Share of its bits that a plane may have for ``SPLIT``; above, Huffman codes are as small and as fast."""
MOSTLY = 0.82
"""Share of the elements that have one value, for codes of one bit."""
HALF = 0.5
"""Share of the elements that have one of three neighbouring values, for codes of two bits."""
PAIRED = 0.45
"""Share of its bits that a plane may have for codes of four bits: zstandard codes two elements at once, in half the
time, and finds no matches in them that are not worth looking for."""
NEARLY = 0.95
"""Share of the elements that have one of 15 neighbouring values, for codes of four bits."""
COMMON = 0.75
"""Share of the elements that have one value, from which on two in a byte are coded with a loss: no code is shorter
than a bit."""
ZIGZAG_GAINS = 0.004
"""Share of what is left that zigzag has to save beside BALANCED, which takes half the time."""
FEW = 16 << 10
"""Bytes of a rest that are coded without a look at them."""
HEADER = 32
CODED_PLANE = 0.004
"""Share of the raw bytes that coding one plane more has to save."""
FADING = 0.5
"""The least factor that is tried: an average that keeps less of what it was is better off alone."""
TINY = np.float32(1e-30)
LOG2_E = 1.4426950408889634


class Group(NamedTuple):
    """``size`` bytes of every element, from byte ``place`` on. ``bits`` and ``centre`` are those of SPLIT."""

    place: int
    size: int
    method: int
    bits: int = 0
    centre: int = 0


class Plan(NamedTuple):
    """``ratio``: stored to raw bytes, as far as the sample says. ``factor``: of SCALED."""

    transform: int
    groups: tuple[Group, ...]
    ratio: float
    factor: float = 0.0

    @property
    def cost(self) -> float:
        """For choosing among plans: what is left, and the time that coding takes."""
        coded = sum(group.method in (ZSTD, SPLIT) for group in self.groups)
        return self.ratio * (1 + ZIGZAG_GAINS * (self.transform == ZIGZAG)) + CODED_PLANE * coded


def _terms() -> Elements:
    """c·log2(c) by count c, less what a value that occurs has of the bias of a sample's entropy (Miller, Madow)."""
    counts = np.arange(1, 2 * ELEMENTS + 1)
    return np.concatenate([[0.0], counts * np.log2(counts) - LOG2_E / 2])


_TERMS = _terms()


def either(raw: Any, base: Any, width: int) -> tuple[float, Plan]:
    """What is left of the bytes alone and as they are, about; the plan as a difference to ``base``."""
    sample, before = _sample(elements_of(raw, width)), _sample(elements_of(base, width))
    tried = [(ZIGZAG, 0.0), (BALANCED, 0.0)]
    factor = _fading(sample, before)
    if factor and can_be_exact():
        tried.append((SCALED, factor))
    differences = []
    for transform, factor in tried:
        with exactly(transform):
            differences.append(transformed(transform, sample, before, factor))
    counts = _Counts([sample, *differences])
    plans = [
        _difference(counts, number, z, len(raw), transform)._replace(factor=factor)
        for number, ((transform, factor), z) in enumerate(zip(tried, differences, strict=True), 1)
    ]
    if len(plans[0].groups) == 1:  # elements that are split as a whole, or kept: what is left over is not cut in two
        del plans[1]
    return counts.ratio(0), min(plans, key=lambda plan: plan.cost)


def _fading(sample: Elements, before: Elements) -> float:
    """By how much single-precision floats have faded at least, as averages of squares do from step to step; 0 where
    they have not, or are no such thing."""
    if sample.itemsize != 4 or not len(sample):
        return 0.0
    now, then = sample.view(np.float32), before.view(np.float32)
    normal = then > TINY
    if np.count_nonzero(normal) < len(then) // 2:
        return 0.0
    with np.errstate(all="ignore"):
        least = float(np.fmin.reduce(now[normal] / then[normal]))
    return least if FADING < least < 1 else 0.0


def alone(raw: Any, width: int) -> Plan:
    """Without a base: as they are, or rotated."""
    sample = _sample(elements_of(raw, width))
    if width != ROTATED_WIDTH:
        return _plan(_Counts([sample]), 0, NONE, len(raw))
    counts = _Counts([sample, transformed(ROTATED, sample, None)])
    rotate = counts.ratio(1) < counts.ratio(0) - ROTATION_GAINS
    return _plan(counts, int(rotate), ROTATED if rotate else NONE, len(raw))


def difference(raw: Any, base: Any, width: int) -> Plan:
    """As a difference to a guess, which has no side."""
    z = transformed(ZIGZAG, _sample(elements_of(raw, width)), _sample(elements_of(base, width)))
    return _difference(_Counts([z]), 0, z, len(raw), ZIGZAG)


def rest(x: Elements) -> Plan:
    """For what a split left over."""
    if x.nbytes < FEW:
        return Plan(NONE, (Group(0, x.itemsize, ZSTD),), 1.0)
    return _plan(_Counts([_sample(x)]), 0, NONE, x.nbytes)


def _difference(counts: _Counts, number: int, z: Elements, length: int, transform: int) -> Plan:
    plan = _plan(counts, number, transform, length)
    if z.itemsize == 1 or not len(z) or plan.groups[0].method == CONSTANT:
        return plan
    for bits, codes in ((1, 1), (2, 3)):
        if np.count_nonzero(z < codes) >= MOSTLY * len(z):
            return plan._replace(groups=(Group(0, z.itemsize, SPLIT, bits, 0),))
    return plan


def _sample(x: Elements) -> Elements:
    """Some of ``x``, from all over."""
    step = len(x) // ELEMENTS | 1  # odd: in step with no row length that is a power of two
    return np.ascontiguousarray(x[::step])


class _Counts:
    """How often each byte has each value, in samples of one length and dtype."""

    def __init__(self, samples: Sequence[Elements]) -> None:
        self.width = samples[0].itemsize
        self.count = len(samples[0])
        columns = len(samples) * self.width
        index = np.empty((self.count, columns), np.intp)
        for number, sample in enumerate(samples):
            part = index[:, number * self.width : (number + 1) * self.width]
            np.copyto(part, sample.view(np.uint8).reshape(self.count, self.width))
        index += np.arange(0, 256 * columns, 256)
        self.counts = np.bincount(index.ravel(), minlength=256 * columns).reshape(columns, 256)
        count = max(self.count, 1)
        entropy = np.log2(count) - (_TERMS.take(self.counts).sum(1) + LOG2_E / 2) / count
        self.ratios = [min(each / 8, 1.0) for each in entropy.tolist()] if self.count else [1.0] * columns

    def ratio(self, number: int) -> float:
        own = self.ratios[number * self.width : (number + 1) * self.width]
        return sum(each if each <= PLANE_WORTH_IT else 1.0 for each in own) / self.width

    def group(self, number: int, place: int) -> Group:
        column = number * self.width + place
        ratio = self.ratios[column]
        if ratio > PAIRED:
            return Group(place, 1, RAW if ratio > PLANE_WORTH_IT else ZSTD)
        counts = self.counts[column]
        mode = int(counts.argmax())
        if counts[mode] == self.count:
            return Group(place, 1, CONSTANT, 1, mode)
        low, share = _window(counts, 15)
        if share >= NEARLY * self.count and counts[mode] < COMMON * self.count:
            return Group(place, 1, SPLIT, 4, low)
        if counts[mode] >= MOSTLY * self.count:
            return Group(place, 1, SPLIT, 1, mode)
        if ratio > SKEWED:
            return Group(place, 1, ZSTD)
        low, share = _window(counts, 3)
        if share >= HALF * self.count:
            return Group(place, 1, SPLIT, 2, low)
        return Group(place, 1, ZSTD)


def _window(counts: Elements, length: int) -> tuple[int, int]:
    """The first of so many neighbouring values, 0 following 255, which the most elements have, and how many."""
    sums = np.cumsum(np.concatenate([[0], counts, counts[: length - 1]]))
    shares = sums[length:] - sums[:-length]
    low = int(shares.argmax())
    return low, int(shares[low])


def _plan(counts: _Counts, number: int, transform: int, length: int) -> Plan:
    width = counts.width
    groups = _merged([counts.group(number, place) for place in range(width)])
    body = length - length % width
    return Plan(transform, groups, (counts.ratio(number) * body + length - body + HEADER) / max(length, 1))


def _merged(bytes_: list[Group]) -> tuple[Group, ...]:
    """Neighbours that are kept alike become one group, which begins at a multiple of its size."""
    groups: list[Group] = []
    place = 0
    while place < len(bytes_):
        size, method = 1, bytes_[place].method
        while (
            method in (RAW, CONSTANT)
            and place % (2 * size) == 0
            and [each.method for each in bytes_[place : place + 2 * size]] == [method] * (2 * size)
        ):
            size *= 2
        centre = sum(each.centre << 8 * byte for byte, each in enumerate(bytes_[place : place + size]))
        groups.append(Group(place, size, method, bytes_[place].bits, centre))
        place += size
    return tuple(groups)
