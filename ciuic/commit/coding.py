"""One chunk, or the three chunks of an Adam step, from raw bytes to a record's bytes. Runs in the commit's threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ciuic.codec import (
    CHUNK_WORTH_IT,
    Codec,
    CodecError,
    Encoded,
    decode_into,
    encode,
    encode_object,
    encode_residual,
    rules,
)
from ciuic.commit.adam_steps import AdamStep, Numbers
from ciuic.commit.bases import PREDICTED_DEPTH, Base, Bases
from ciuic.commit.casts import cast_numbers, cast_of
from ciuic.commit.leaves import Leaf, Path
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.recipe import Recipe, encode_recipe
from ciuic.store.pack_session import PackSession
from ciuic.store.store import Store

if TYPE_CHECKING:
    from ciuic.codec.plans import Plans

GOOD_GUESS = 0.3
"""Share of the raw bytes that a residual may take before another codec is tried too."""
MOST_MISSES = 2
"""A rule that has failed so many chunks of a parameter is not tried for the rest."""
TRIAL_BYTES = 64 << 10


@dataclass(frozen=True)
class Piece:
    """A chunk to be: bytes ``[start, stop)`` of a leaf, its chunk number ``index``."""

    leaf_number: int
    leaf: Leaf
    index: int
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def read(self) -> Any:
        raw = self.leaf.source.read(self.start, self.stop)
        # A private copy of live memory: another thread may write to it between the hash and the write.
        return raw if self.leaf.source.stable else bytes(raw)


@dataclass
class Chunk:
    """``stored`` is None for a chunk that the repository has. ``bases``: the chunks that it rests on; ``base``: what
    its header names, one of these or the id of ``recipe``. ``seconds``: processor time, without ``check_s``."""

    piece: Piece
    id: bytes
    codec: int = Codec.RAW
    stored: Any = None
    bases: tuple[bytes, ...] = ()
    base: bytes = NO_ID
    recipe: bytes | None = None
    seconds: float = 0.0
    check_s: float = 0.0

    def encoded(self, encoded: Encoded, base: bytes = NO_ID) -> None:
        self.codec, self.stored = encoded.codec, encoded.stored
        self.check_s += encoded.check_s
        if encoded.codec == Codec.DELTA:
            self.base, self.bases = base, (base,)

    def made_by(self, recipe: Recipe, encoded: Encoded) -> None:
        self.codec, self.stored = encoded.codec, encoded.stored
        self.check_s += encoded.check_s
        self.recipe = encode_recipe(recipe)
        self.base, self.bases = object_id(Kind.RECIPE, self.recipe), recipe.bases


class Coder:
    """Chooses and applies codecs, for the chunks of one commit. Used by several threads."""

    def __init__(self, store: Store, session: PackSession, bases: Bases) -> None:
        self.store = store
        self.session = session
        self.bases = bases
        self.full_check = store.config.full_check
        self.planes = "deltas" in store.features
        self._plans: dict[Path, Plans] = {}
        self._scratch = threading.local()

    def chunk(self, piece: Piece) -> Chunk:
        """A chunk with the parent's in its place as a base, or none."""
        clock = _Clock()
        raw = piece.read()
        chunk = Chunk(piece, digest(raw))
        if not self._known(chunk.id):
            self._encode(chunk, raw, self.bases.of(piece.leaf, piece.index, piece.start, piece.stop))
        return clock.stop(chunk)

    def alone(self, piece: Piece) -> Chunk:
        """A chunk that rests on nothing."""
        clock = _Clock()
        raw = piece.read()
        chunk = Chunk(piece, digest(raw))
        self._encode(chunk, raw, None)
        return clock.stop(chunk)

    def cast(self, piece: Piece, master: Leaf, ids: Sequence[bytes]) -> Chunk:
        """A chunk that may be the cast of its master's chunks ``ids``."""
        clock = _Clock()
        raw = piece.read()
        chunk = Chunk(piece, digest(raw))
        if not self._known(chunk.id):
            wide = master.source.read(2 * piece.start, 2 * piece.stop)
            if raw == cast_of(piece.leaf, master, wide) and (master.source.stable or self._same(wide, ids)):
                recipe = Recipe("cast", tuple(ids), cast_numbers(piece.leaf, master))
                chunk.made_by(recipe, Encoded(Codec.DERIVED, b"", 0.0))
            else:
                self._encode(chunk, raw, self.bases.of(piece.leaf, piece.index, piece.start, piece.stop))
        return clock.stop(chunk)

    def _same(self, wide: Any, ids: Sequence[bytes]) -> bool:
        """Live memory is still what was stored."""
        view, size = memoryview(wide), self.store.config.chunk_size
        return all(digest(view[number * size : (number + 1) * size]) == id for number, id in enumerate(ids))

    def step(self, step: AdamStep, weight: Piece, first: Piece, second: Piece) -> list[Chunk]:
        """The chunks of a parameter that took one step: moments first, since the weights' guess rests on them."""
        clock = _Clock()
        raws = [piece.read() for piece in (first, second, weight)]
        chunks = [Chunk(piece, digest(raw)) for piece, raw in zip((first, second, weight), raws, strict=True)]
        m1, v1, w1 = raws
        m0, v0, w0 = (self._earlier(piece) for piece in (first, second, weight))
        m, v, w = chunks
        if not self._known(m.id):
            self._encode(m, m1, None)
        if not self._known(v.id):
            ids = self._earlier_id(second), self._earlier_id(first), m.id
            self._predict(step, "second", "adamw.second_moment", v, v1, [v0, m0, m1], ids)
        if not self._known(w.id):
            ids = self._earlier_id(weight), m.id, v.id
            self._predict(step, "weight", "adamw.weight", w, w1, [w0, m1, v1], ids)
        clock.stop(w, m.check_s + v.check_s + w.check_s)
        return chunks

    def _earlier(self, piece: Piece) -> Any:
        before = self.bases.leaf(piece.leaf)
        assert before is not None and before.source is not None, "a step is one from bytes in memory"
        return before.source.read(piece.start, piece.stop)

    def _earlier_id(self, piece: Piece) -> bytes:
        before = self.bases.leaf(piece.leaf)
        assert before is not None, "a step is one from a parent"
        return before.chunks[piece.index]

    def _predict(
        self, step: AdamStep, what: str, rule: str, chunk: Chunk, raw: Any, bases: list[Any], ids: tuple[bytes, ...]
    ) -> None:
        """The residual against what the rule says, or a delta to the parent's chunk where that is smaller."""
        header = self.store.header(ids[0])
        encoded: Encoded | None = None
        if step.misses[what] < MOST_MISSES and header is not None and header.depth < PREDICTED_DEPTH:
            guess = self._buffer(len(raw))
            try:
                numbers = self._likeliest(step, rule, raw, bases)
                rules.apply(rule, numbers, bases, guess)
                encoded = self._checked(encode_residual(raw, guess, 4), raw, guess, 4)
            except CodecError:
                encoded = None
            if encoded is not None and len(encoded.stored) <= GOOD_GUESS * len(raw):
                return chunk.made_by(Recipe(rule, ids, dict(numbers)), encoded)
            step.misses[what] += 1
        piece = chunk.piece
        return self._encode(chunk, raw, self.bases.of(piece.leaf, piece.index, piece.start, piece.stop))

    def _likeliest(self, step: AdamStep, rule: str, raw: Any, bases: list[Any]) -> Numbers:
        """Of several the numbers that leave the smallest residual at the beginning of the chunk."""
        if len(step.numbers) == 1:
            return step.numbers[0]
        stop = min(TRIAL_BYTES, len(raw))
        starts = [memoryview(each)[:stop] for each in (raw, *bases)]

        def residual(numbers: Numbers) -> int:
            guess = bytearray(stop)
            rules.apply(rule, numbers, starts[1:], guess)
            return len(encode_residual(starts[0], guess, 4, check=False).stored)

        return min(step.numbers, key=residual)

    def _encode(self, chunk: Chunk, raw: Any, base: Base | None) -> None:
        if not self.planes:
            chunk.encoded(encode_object(raw, CHUNK_WORTH_IT))
            return
        from ciuic.codec.plans import Plans  # numpy

        leaf = chunk.piece.leaf
        width, plans = leaf.width, self._plans.setdefault(leaf.path, Plans())
        if base is None:
            chunk.encoded(self._checked(encode(raw, width, plans=plans), raw, None, width))
        else:
            encoded = encode(raw, width, base.raw, most_ratio=base.most_ratio, plans=plans)
            chunk.encoded(self._checked(encoded, raw, base.raw, width), base.id)

    def _checked(self, encoded: Encoded, raw: Any, base: Any, width: int) -> Encoded:
        """What was encoded; the raw bytes if a full check is asked for and finds it wrong."""
        if not self.full_check or encoded.codec == Codec.RAW:
            return encoded
        began = time.thread_time()
        out = memoryview(bytearray(base if encoded.codec in (Codec.DELTA, Codec.PREDICTED) else len(raw)))
        try:
            decode_into(encoded.codec, encoded.stored, out, width)
            same = out == memoryview(raw).cast("B")
        except CodecError:
            same = False
        check_s = encoded.check_s + time.thread_time() - began
        return Encoded(encoded.codec, encoded.stored, check_s) if same else Encoded(Codec.RAW, raw, check_s)

    def _known(self, id: bytes) -> bool:
        return id in self.session or self.store.known(id)

    def _buffer(self, nbytes: int) -> memoryview:
        """One for each thread; what it held before is gone."""
        own: bytearray = getattr(self._scratch, "guess", bytearray())
        if len(own) < nbytes:
            own = self._scratch.guess = bytearray(nbytes)
        return memoryview(own)[:nbytes]


class _Clock:
    """Processor time of this thread."""

    def __init__(self) -> None:
        self._began = time.thread_time()

    def stop(self, chunk: Chunk, check_s: float | None = None) -> Chunk:
        """Charge it to a chunk, without what checking took."""
        spent = time.thread_time() - self._began
        chunk.seconds = spent - (chunk.check_s if check_s is None else check_s)
        return chunk
