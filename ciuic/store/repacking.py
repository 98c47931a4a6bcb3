"""Which packs gc rewrites, and copying what lives in them into new ones: every record decoded and verified."""

from __future__ import annotations

import contextlib

from ciuic.errors import DamagedData, MissingObject
from ciuic.objects.ids import NO_ID, Kind
from ciuic.store.copies import Row, readable
from ciuic.store.decoding import Decoder
from ciuic.store.marking import Marks
from ciuic.store.pack_format import FooterRow
from ciuic.store.pack_session import PackSession

REPACK_BELOW = 0.5
"""A pack of which a smaller share lives is rewritten."""
MOST_WASTE = 0.10
"""When so much of what lives is dead weight in packs that live on, the sparsest are rewritten until half is left."""
SMALL_PACK = 8 << 20
MANY_SMALL_PACKS = 32


def candidates(
    marks: Marks,
    *,
    thorough: bool = False,
    without: frozenset[str] | set[str] = frozenset(),
    spare: float = MOST_WASTE,
) -> list[str]:
    """Packs to be rewritten: sparse ones, small ones where there are many; ``thorough``: all with anything to gain.

    ``without``: packs that have just been written. ``spare``: the share of what lives that may be dead weight.
    """
    partly: list[tuple[float, int, int, str]] = []
    small: list[str] = []
    chosen: list[str] = []
    gone: set[str] = set()
    alive = waste = 0
    for name in sorted(marks.store.present - without):
        pack = readable(marks.store, name)
        if pack is None:
            continue
        live = sum(row.header.stored_length for row in marks.live_rows(pack))
        dead = sum(row.header.stored_length for row in pack.rows) - live
        alive += live
        if not live:
            gone.add(name)
            continue
        if live < REPACK_BELOW * (live + dead) or (thorough and dead):
            chosen.append(name)
            continue
        waste += dead
        partly.append((dead / live, dead, live, name))
        if pack.length < SMALL_PACK:
            small.append(name)
    if waste > spare * alive:
        for _, dead, _, name in sorted(partly, reverse=True):
            if waste <= spare / 2 * alive:
                break
            waste -= dead
            chosen.append(name)
    if len(small) >= (2 if thorough else MANY_SMALL_PACKS):
        chosen += [name for name in small if name not in set(chosen)]
    going = set(chosen) | gone
    leaning = {name: leans_on(marks, name) for _, dead, _, name in partly if dead and name not in going}
    while more := [name for name, packs in leaning.items() if name not in going and not going.isdisjoint(packs)]:
        going.update(more)
        chosen += more
    return chosen


def leans_on(marks: Marks, name: str) -> set[str]:
    """Other packs with dead records on which dead records of this pack rest.

    While a pack stays, so does what its dead records rest on: a commit may rely on whatever a footer lists.
    """
    packs: set[str] = set()
    pack = readable(marks.store, name)
    if pack is None:
        return packs
    copies = marks.copies
    for row in marks.dead(pack):
        header = row.header
        if header.base == NO_ID or header.kind is not Kind.CHUNK:
            continue
        with contextlib.suppress(DamagedData, MissingObject):
            below = copies.below(header)
            if copies.has_recipe(header):
                below.append(copies.find(header.base, Kind.RECIPE))
            packs.update(each.pack.name for each in below if not marks.level(each) and each.pack.name != name)
    return packs


def without_support(marks: Marks, dead: set[str]) -> set[str]:
    """The packs of ``dead`` that may go: those on which dead records of the other packs rest stay for now."""
    going = set(dead)
    staying = sorted(marks.store.present - going)
    while staying:
        kept = leans_on(marks, staying.pop()) & going
        going -= kept
        staying += sorted(kept)
    return going


def copy_live(marks: Marks, names: list[str], session: PackSession, decoder: Decoder) -> dict[str, list[FooterRow]]:
    """Copy what lives in the packs, as it is stored, into new ones; durable on return. ``decoder.damaged`` has what
    was not copied. A record that is intact itself is copied though its base is lost: reading it says so, as before.
    """
    _verify(marks, names, decoder)
    for name in names:  # opened one after the other: there may be more packs than descriptors
        pack = marks.store.pack(name)
        for row in marks.live(pack):
            where = name, row.header.id
            marks.between()
            try:
                if row.header.base == NO_ID:
                    pack.raw(row.offset, row.header.stored_length, row.header.id)
                header, stored = pack.stored(row.offset, row.header.stored_length)
            except DamagedData:
                decoder.damaged.add(where)
            if where not in decoder.damaged and header.id not in session:
                session.copy(header, stored)
    return session.publish()


def _verify(marks: Marks, names: list[str], decoder: Decoder) -> None:
    """Decode what has a base, family by family: so each chunk of a chain is decoded once, and not once a link."""
    order: list[tuple[bytes, int, str, int]] = []
    for name in names:
        for row in marks.live(marks.store.pack(name)):
            header = row.header
            marks.between()
            if header.base != NO_ID:
                try:
                    order.append((marks.copies.root(header), header.depth, name, row.number))
                except (DamagedData, MissingObject):
                    continue
    for _, _, name, number in sorted(order):
        marks.between()
        with contextlib.suppress(DamagedData):  # ``decoder.damaged`` has it, or one below it
            decoder.verify(Row(marks.store.pack(name), number))
