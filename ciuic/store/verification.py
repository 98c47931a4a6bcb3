"""How much of the packs a check reads, and which of them it reads first: those that were read longest ago.

``index/verified`` remembers it, best effort: a checksum, then a line for each pack, the one read longest ago first. It
may be lost or damaged at any time, and then everything counts as never read. The order is what counts; the times are
for people, and 0 where damage was found: what was read is not read again before all others, sound or not.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ciuic.amounts import SIZES, SPANS
from ciuic.errors import CiuicError
from ciuic.objects.ids import digest
from ciuic.store.store import Store

NAME = "verified"
MOST_BYTES = 1 << 28
LINE = re.compile(r"([0-9a-f]{64}) ([0-9]{1,11})")


@dataclass(frozen=True)
class Budget:
    """How much is to be read: a ``share`` of the packs' bytes (0 to 1), so many ``nbytes``, or what can be begun within
    so many ``seconds``; everything without any of them. At least one pack is read."""

    share: float | None = None
    nbytes: int | None = None
    seconds: float | None = None

    def bytes_of(self, total: int) -> int:
        """Of ``total`` bytes of packs."""
        if self.share is not None:
            return round(self.share * total)
        return total if self.nbytes is None else self.nbytes


EVERYTHING = Budget()


def parse_budget(text: str) -> Budget | None:
    """ "5%", "10GiB" or "10m"; None for anything else. An m is a minute: sizes end with a B."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(%|[A-Za-z]+)", text.strip())
    if match is None or not float(match[1]):
        return None
    number, unit = float(match[1]), match[2]
    if unit == "%":
        return Budget(share=number / 100) if number <= 100 else None
    if unit in SPANS:
        return Budget(seconds=number * SPANS[unit])
    return Budget(nbytes=max(1, int(number * SIZES[unit]))) if unit in SIZES else None


def budget_of(asked: bool | str | Budget) -> bool | Budget:
    """ValueError for text that is no budget."""
    if not isinstance(asked, str):
        return asked
    budget = parse_budget(asked)
    if budget is None:
        raise ValueError(f"{asked!r} is no amount to read: write 5%, 10GiB or 10m (minutes)")
    return budget


def last_verified(store: Store) -> dict[str, int]:
    """Pack → seconds since 1970 of the last time that all of it was read, if it was sound; the longest ago first."""
    return {name: at for name, at in _remembered(store).items() if at}


def longest_ago_first(store: Store) -> list[str]:
    """The packs that are there: those that were never read, then by when they were."""
    known = [name for name in _remembered(store) if name in store.present]
    return sorted(store.present - set(known)) + known


def remember(store: Store, packs: Iterable[str], damaged: Collection[str] = ()) -> bool:
    """These packs were read just now. False when it could not be written: a read-only repository, a full disk."""
    names = sorted(store.present.intersection(packs))
    times = {name: at for name, at in _remembered(store).items() if name in store.present}
    for name in names:
        times.pop(name, None)
    times |= {name: 0 if name in damaged else int(time.time()) for name in names}
    lines = "".join(f"{name} {at}\n" for name, at in times.items()).encode()
    temporary = store.join("tmp", f"{NAME}-{os.getpid()}-{os.urandom(6).hex()}")
    try:
        store.check_writable()
        store.fs.make_folder_if_missing(store.join("index"))
        store.fs.write_file(_path(store), digest(lines).hex().encode() + b"\n" + lines, temporary)
    except (CiuicError, OSError):
        return False
    return True


def _remembered(store: Store) -> dict[str, int]:
    try:
        checksum, _, lines = store.fs.read_file(_path(store), MOST_BYTES).partition(b"\n")
        if checksum.decode() != digest(lines).hex():
            return {}
        found = [LINE.fullmatch(line) for line in lines.decode().splitlines()]
    except (CiuicError, OSError, UnicodeDecodeError):
        return {}
    return {match[1]: int(match[2]) for match in found if match is not None}


def _path(store: Store) -> str:
    return store.join("index", NAME)
