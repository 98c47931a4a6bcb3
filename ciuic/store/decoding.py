"""Copies of chunks → raw bytes, verified, each decoded once while a bounded cache has it. For gc, which reads many."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any

from ciuic.codec import Codec, CodecError, InexactArithmetic, decode_into
from ciuic.errors import DamagedData, MissingObject, UnsupportedState
from ciuic.objects.ids import NO_ID, Kind, digest
from ciuic.store.copies import Copies, Row

CACHE_BYTES = 64 << 20


class LostBase(DamagedData):
    """The record itself is as it was written; something that it rests on is damaged or gone."""


class Decoder:
    """``damaged``: (pack, id) of records found damaged themselves, and not by way of a base."""

    def __init__(self, copies: Copies, cache_bytes: int = CACHE_BYTES) -> None:
        self.copies = copies
        self.damaged: set[tuple[str, bytes]] = set()
        self._cache: OrderedDict[bytes, Any] = OrderedDict()
        self._room = cache_bytes

    def intact(self, row: Row) -> bool:
        """Whether this very copy can be read, with what it rests on."""
        try:
            self.verify(row)
        except (DamagedData, MissingObject):
            return False
        return True

    def verify(self, row: Row) -> None:
        """Decode this very copy; LostBase or DamagedData, UnsupportedState where this machine cannot."""
        self._decode(row)

    def raw(self, row: Row) -> Any:
        """The raw bytes of a chunk, by this copy unless the cache has them; LostBase or DamagedData."""
        raw = self._cached(row.header.id)
        return self._decode(row) if raw is None else raw

    def _cached(self, id: bytes) -> Any:
        raw = self._cache.get(id)
        if raw is not None:
            self._cache.move_to_end(id)
        return raw

    def _keep(self, id: bytes, raw: Any) -> None:
        if id not in self._cache:
            self._cache[id] = raw
            self._room -= len(raw)
            while self._room < 0:
                self._room += len(self._cache.popitem(last=False)[1])

    def _decode(self, row: Row) -> Any:
        try:
            return self._decode_chain(row)
        except RecursionError:  # records made to rest on each other in a way that no writer does
            raise LostBase(f"{row.pack.path} at offset {row.offset}: it rests on too much to be read.") from None

    def _decode_chain(self, row: Row) -> Any:
        """From the bottom of the chain of first bases, or from what the cache has of it, upwards."""
        chain = [row]
        raw: Any = None
        with contextlib.suppress(DamagedData, MissingObject):  # the record above says what is wrong
            while chain[-1].header.base != NO_ID:
                first = self.copies.bases(chain[-1].header)[0]
                raw = self._cached(first)
                if raw is not None:
                    break
                chain.append(self.copies.find(first, Kind.CHUNK, chain[-1].header.depth))
        while len(chain) > 1:
            try:
                raw = self._decode_on(chain.pop(), raw)
            except (DamagedData, MissingObject):
                raw = None
        return self._decode_on(row, raw)

    def _decode_on(self, row: Row, first: Any) -> Any:
        """One record, verified. ``first``: the raw bytes of its first base, or None when they have to be looked for."""
        header, pack = row.header, row.pack
        where = pack.name, header.id
        if where in self.damaged:
            raise DamagedData(f"{pack.path} at offset {row.offset}: damaged.")
        try:
            if header.base == NO_ID:
                raw = pack.raw(row.offset, header.stored_length, header.id)
            else:
                said, stored = pack.stored(row.offset, header.stored_length)
                if said != header:
                    raise DamagedData(f"{pack.path} at offset {row.offset}: another object stands here.")
                raw = self._with_bases(row, stored, first)
        except LostBase:
            raise
        except DamagedData:
            self.damaged.add(where)
            raise
        if header.kind is Kind.CHUNK:
            self._keep(header.id, raw)
        return raw

    def _with_bases(self, row: Row, stored: Any, first: Any) -> memoryview:
        from ciuic.codec import rules  # numpy

        header = row.header
        where = f"{row.pack.path} at offset {row.offset}"
        try:
            ids = self.copies.bases(header)
            recipe = self.copies.recipe(header.base) if self.copies.has_recipe(header) else None
        except (DamagedData, MissingObject) as error:
            raise LostBase(f"{where}: {error}") from error
        bases = [self._base(row, ids[0]) if first is None else first, *(self._base(row, id) for id in ids[1:])]
        out = memoryview(bytearray(header.raw_length))
        try:
            if recipe is not None:
                rules.apply(recipe.rule, recipe.numbers, bases, out)
            elif len(bases[0]) != len(out):
                raise CodecError("a base of another length")
            else:
                out[:] = bases[0]
            if header.codec != Codec.DERIVED:
                decode_into(header.codec, stored, out, header.width)
            elif len(stored):
                raise CodecError("a derived chunk with stored bytes")
        except InexactArithmetic as error:  # of this machine's: gc must not take sound records for damaged ones
            raise UnsupportedState(f"{where}: {error}. Nothing was changed; run gc on another machine.") from error
        except CodecError as error:
            raise DamagedData(f"{where}: {error}.") from error
        if digest(out) != header.id:
            raise DamagedData(f"{where}: chunk {header.id.hex()[:12]} does not match its id.")
        return out.toreadonly()

    def _base(self, row: Row, id: bytes) -> Any:
        """A base's raw bytes, by the copy to take or by any other that serves."""
        raw = self._cached(id)
        if raw is not None:
            return raw
        depth = row.header.depth
        try:
            return self._decode(self.copies.find(id, Kind.CHUNK, depth))
        except (DamagedData, MissingObject):
            for other in self.copies.others(id, depth):
                with contextlib.suppress(DamagedData, MissingObject):
                    return self._decode(other)
        raise LostBase(
            f"{row.pack.path} at offset {row.offset}: chunk {row.header.id.hex()[:12]} rests on {id.hex()[:12]}, "
            "which cannot be read."
        )
