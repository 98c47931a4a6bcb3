"""Work on many items in a few threads, or in none where a thread costs more than it saves."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from ciuic.thread_pool import ThreadPool

MOST_THREADS = 8
WORTH_THREADS = 4 << 20
"""Bytes below which starting threads costs more than they save."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def threads_for(nbytes: int) -> int:
    """How many threads to use for so many bytes; 1 means that the calling thread does it all."""
    if nbytes < WORTH_THREADS:
        return 1
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, processors))


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int | None = None
) -> Iterator[Result]:
    """``work(item)`` for each, in order; ``items`` is walked by the calling thread.

    At most ``ahead`` items are begun and not yet taken (default: three a thread). After an error, or when the caller
    stops asking, nothing more is begun, and no thread is left when this has ended.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    most = 3 * threads if ahead is None else max(1, ahead)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPool(threads, "ciuic-restore")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.close()
