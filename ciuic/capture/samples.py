"""Strided samples of tensors in memory: how a change that moves no version counter is noticed."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy

Array: TypeAlias = "numpy.ndarray[Any, Any]"

MOST_SAMPLES = 3072
MOST_PER_TENSOR = 32
FEWEST_PER_TENSOR = 2
WORD = 8


class _Memory:
    """An array interface over memory that somebody else keeps alive."""

    def __init__(self, address: int, items: int, kind: str) -> None:
        self.__array_interface__ = {"data": (address, True), "shape": (items,), "typestr": kind, "version": 3}


def view(address: int, items: int, kind: str = "|u1") -> Array:
    """``items`` elements at ``address`` as an array. The caller keeps the memory alive."""
    return numpy.asarray(_Memory(address, items, kind))


class Samples:
    """Values at evenly spread places of several dense pieces of memory, read in one go.

    A place is a word of 8 bytes where the piece is aligned to that, a byte otherwise.
    """

    def __init__(self, addresses: list[int], sizes: list[int]) -> None:
        """``addresses`` and ``sizes`` (bytes, at least 8) of the pieces. The caller keeps them alive."""
        count = len(addresses)
        each = max(FEWEST_PER_TENSOR, min(MOST_PER_TENSOR, MOST_SAMPLES // max(count, 1)))
        starts = numpy.array(addresses, dtype=numpy.int64)
        lengths = numpy.array(sizes, dtype=numpy.int64)
        aligned = starts % WORD == 0
        self._width = numpy.where(aligned, WORD, 1)
        spread = numpy.arange(each, dtype=numpy.int64)[None, :] * (lengths // self._width - 1)[:, None]
        self._places = spread // (each - 1)
        self._row = numpy.zeros(count, dtype=numpy.int64)
        self._gathers: dict[bool, _Gather] = {}
        for words in (True, False):
            rows = numpy.flatnonzero(aligned == words)
            if len(rows):
                self._row[rows] = numpy.arange(len(rows))
                self._gathers[words] = _Gather(rows, starts[rows], self._places[rows], words)
        self.read()

    def read(self) -> None:
        """From now on the values of this moment count."""
        self._values = {words: gather.values() for words, gather in self._gathers.items()}

    def same(self, index: int, address: int) -> bool:
        """Whether the copy of piece ``index`` at ``address`` (aligned to 8) has the values that were read."""
        width = int(self._width[index])
        places = self._places[index]
        copy = view(address, int(places[-1]) + 1, "<u8" if width == WORD else "|u1")
        return bool((copy[places] == self._values[width == WORD][self._row[index]]).all())

    def changed(self) -> list[int]:
        """The pieces that have other values now where they lay: of all of them in one go."""
        found: list[int] = []
        for words, gather in self._gathers.items():
            found += gather.rows[(gather.values() != self._values[words]).any(axis=1)].tolist()
        return sorted(found)


class _Gather:
    """One indexed read over all pieces of an alignment: a call a piece would cost ten times as much.

    ``rows``: which pieces they are.
    """

    def __init__(self, rows: Array, starts: Array, places: Array, words: bool) -> None:
        width = WORD if words else 1
        first = int(starts.min())
        self.rows = rows
        self._index = places + ((starts - first) // width)[:, None]
        self._memory = view(first, int(self._index.max()) + 1, "<u8" if words else "|u1")

    def values(self) -> Array:
        values: Array = self._memory[self._index]
        return values
