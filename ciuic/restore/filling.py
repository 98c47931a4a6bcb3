"""The second pass of a restore: chunks decoded straight to where they belong, in threads, verified there."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from ciuic.errors import CiuicError
from ciuic.objects.state_tree import Target
from ciuic.restore.grouping import groups
from ciuic.restore.holding import looked_up
from ciuic.restore.threads import in_order, threads_for
from ciuic.store.chains import Record, decode_records

if TYPE_CHECKING:
    from ciuic.restore.stored_chunks import StoredChunks

TASK_BYTES = 2 << 20
MEMORY = 96 << 20
"""Bytes that decoding may take beside the live memory, roughly."""
PER_CHUNK = 4
"""Chunk lengths that one thread needs to decode a chunk with a base: intermediates, stored bytes, planes."""


class Place(NamedTuple):
    """Bytes ``[low, high)`` of chunk ``number`` go to a target."""

    target: Target
    source: StoredChunks
    number: int
    low: int
    high: int

    @property
    def position(self) -> int:
        """Of the first byte in the source."""
        return self.number * self.source.chunk_size + self.low

    @property
    def memory(self) -> Any:
        """Where the bytes belong; None where they are handed over."""
        if self.target.memory is None:
            return None
        start = self.position - self.target.start
        return self.target.memory[start : start + self.high - self.low]

    @property
    def whole(self) -> bool:
        return self.high - self.low == self.source.length(self.number)


@dataclass
class Request:
    """A chunk, and everywhere it goes."""

    record: Record
    places: list[Place]
    direct: Place | None = None
    handed: list[tuple[Place, memoryview]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.direct = next((each for each in self.places if each.whole and each.target.memory is not None), None)

    def out(self) -> Any:
        """Where to decode to: the memory of a place that takes all of the chunk, or new memory."""
        return memoryview(bytearray(self.record.header.raw_length)) if self.direct is None else self.direct.memory

    def spread(self, raw: Any) -> None:
        """Copy the chunk, decoded by ``out``, to its other places, and keep what is to be handed over."""
        for place in self.places:
            if place is self.direct:
                continue
            memory, piece = place.memory, memoryview(raw)[place.low : place.high]
            if memory is None:
                self.handed.append((place, piece))
            else:
                memory[:] = piece

    def hand_over(self) -> None:
        """In the calling thread, since torch's modes are a thread's own."""
        for place, piece in self.handed:
            assert place.target.take is not None, "a target has memory, or takes"
            place.target.take(place.position, piece)
        self.handed = []

    def repair(self) -> None:
        """By the store's own reading, which tries every copy. DamagedData names the tensor and the chunk."""
        first = self.places[0]
        raw = memoryview(first.source.read_anew(first.number))
        if self.direct is not None:
            self.direct.memory[:] = raw
        self.spread(raw)


@dataclass
class Task:
    """Groups of requests that one thread decodes; ``failed``: those that it could not."""

    groups: list[list[Request]]
    failed: list[Request] = field(default_factory=list)

    def run(self) -> Task:
        for group in self.groups:
            outs = [request.out() for request in group]
            try:
                decode_records([request.record for request in group], outs, check=False)
            except CiuicError:
                self.failed += group
                continue
            for request, out in zip(group, outs, strict=True):
                request.spread(out)
        return self

    def settle(self) -> None:
        for request in self.failed:
            request.repair()
        for group in self.groups:
            for request in group:
                request.hand_over()


def fill(targets: Iterable[Target]) -> None:
    """Bring the bytes of stored sources to their targets, chunks that rest on the same records together.

    DamagedData when a chunk can be had from no copy; what has been filled by then stays so.
    """
    places: dict[bytes, list[Place]] = {}
    for target in targets:
        for place in _places(target):
            places.setdefault(place.source.chunks[place.number], []).append(place)
    held, others = [], []
    nbytes = most = 0
    for each in places.values():
        first = each[0]
        nbytes += first.source.length(first.number)
        most = max(most, first.source.length(first.number))
        record = first.source.record(first.number)
        if record is None:
            others.append(each)
        else:
            held.append(_request(record, each))
    threads = min(threads_for(nbytes), max(1, MEMORY // (PER_CHUNK * max(most, 1))))
    ahead = min(3 * threads, MEMORY // max(most, TASK_BYTES))
    with contextlib.ExitStack() as stack:
        if others:  # they are looked up now, so no sweep may come between
            stack.enter_context(others[0][0].source.store.shared())
        tasks = itertools.chain(_tasks(held), _tasks_looked_up(others))
        for task in in_order(Task.run, tasks, threads=threads, ahead=ahead):
            task.settle()


def _places(target: Target) -> Iterator[Place]:
    source: StoredChunks = target.source  # type: ignore[assignment]  # stored sources are all that is restored
    stop = source.nbytes if target.memory is None else target.start + len(target.memory)
    size = source.chunk_size
    for index in range(target.start // size, -(-stop // size)):
        base = index * size
        yield Place(target, source, index, max(target.start, base) - base, min(stop, base + size) - base)


def _request(record: Record, places: list[Place]) -> Request:
    for place in places:
        place.source.check_length(place.number, record.header.raw_length)
    return Request(record, places)


def _tasks(requests: list[Request]) -> Iterator[Task]:
    """In file order, as far as groups allow."""
    requests.sort(key=lambda request: (request.record.pack.name, request.record.offset))
    task: list[list[Request]] = []
    nbytes = 0
    for numbers in groups([request.record for request in requests]):
        group = [requests[number] for number in numbers]
        length = sum(request.record.header.raw_length for request in group)
        if task and nbytes + length > TASK_BYTES:
            yield Task(task)
            task, nbytes = [], 0
        task.append(group)
        nbytes += length
    if task:
        yield Task(task)


def _tasks_looked_up(others: list[list[Place]]) -> Iterator[Task]:
    """Of chunks whose packs are not held open. By and by, so that few packs are open at a time."""
    wanted = {places[0].source.chunks[places[0].number]: places for places in others}
    for batch in looked_up([(places[0].source, places[0].number) for places in others]):
        yield from _tasks([_request(record, wanted[source.chunks[index]]) for source, index, record in batch])
