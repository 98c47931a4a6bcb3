"""Histories of a small fp32 tensor with its moments and its bf16 copy, their records built by hand in every codec."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
from ministore import Trainer

from ciuic.codec import Codec, encode, encode_residual, rules, zstd
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.recipe import Recipe, encode_recipe
from ciuic.store.copies import Copies
from ciuic.store.pack_format import RecordHeader
from ciuic.store.pack_session import PackSession

ELEMENTS = 512
GRADIENT = {"gain": 10.0, "keep": float(np.float32(0.999)), "take": float(np.float32(0.001))}
STEP = {"decay": 1.0, "rate": float(np.float32(-1e-3)), "root": 1.0, "eps": float(np.float32(1e-8))}
CAST = {"from": "float32", "to": "bfloat16", "skip": 0}


class State(NamedTuple):
    """Raw bytes of the first and second moment, the weights, and these in bf16."""

    m: bytes
    v: bytes
    w: bytes
    h: bytes

    def named(self) -> dict[str, object]:
        return dict(zip("mvwh", self, strict=True))


def applied(rule: str, numbers: dict[str, object], bases: list[bytes], nbytes: int) -> bytes:
    out = bytearray(nbytes)
    rules.apply(rule, numbers, bases, out)
    return bytes(out)


class Records:
    """Writes chunk records of its choice into packs of a trainer's store."""

    def __init__(self, trainer: Trainer, seed: int) -> None:
        self.trainer = trainer
        self.chance = random.Random(seed)
        self.depths: dict[bytes, int] = {}
        """As they were when the chunk was written last."""
        self._new: dict[bytes, int] = {}
        self.codecs: set[int] = set()

    def first(self) -> State:
        numbers = np.random.default_rng(self.chance.randrange(1 << 30))
        m = (numbers.standard_normal(ELEMENTS) * 1e-2).astype(np.float32).tobytes()
        v = (numbers.standard_normal(ELEMENTS) ** 2 * 1e-4).astype(np.float32).tobytes()
        w = (numbers.standard_normal(ELEMENTS) * 0.02).astype(np.float32).tobytes()
        return State(m, v, w, applied("cast", CAST, [w], len(w) // 2))

    def next(self, before: State) -> State:
        """A step of Adam, of which a few weights went another way."""
        numbers = np.random.default_rng(self.chance.randrange(1 << 30))
        m0 = np.frombuffer(before.m, np.float32)
        m = (0.9 * m0 + 1e-3 * numbers.standard_normal(ELEMENTS)).astype(np.float32).tobytes()
        v = applied("adamw.second_moment", GRADIENT, [before.v, before.m, m], len(m))
        w = np.frombuffer(applied("adamw.weight", STEP, [before.w, m, v], len(m)), np.float32).copy()
        w[numbers.integers(0, ELEMENTS, 8)] *= np.float32(1.0001)
        return State(m, v, w.tobytes(), applied("cast", CAST, [w.tobytes()], len(m) // 2))

    def write(self, state: State, before: State | None) -> None:
        """Records of a state in a pack of their own; each codec comes up, and no chain gets deeper than 40."""
        session = self.trainer.store.new_packs()
        with self.trainer.store.shared():
            step = before is not None and self.chance.random() < 0.6
            self._alone(session, state.m, 4)
            if before is not None and step and self._fits(before.v, before.m, state.m):
                self._made(session, state.v, "adamw.second_moment", GRADIENT, [before.v, before.m, state.m])
            else:
                self._on(session, state.v, before and before.v)
            if before is not None and step and self._fits(before.w, state.m, state.v):
                self._made(session, state.w, "adamw.weight", STEP, [before.w, state.m, state.v])
            else:
                self._on(session, state.w, before and before.w)
            if self._fits(state.w) and self.chance.random() < 0.8:
                self._made(session, state.h, "cast", CAST, [state.w])
            else:
                self._on(session, state.h, before and before.h, 2)
            self.trainer.store.index_commit(session.publish(), {})
            self.depths.update(self._new)
            self._new = {}

    def _fits(self, *bases: bytes) -> bool:
        return all(self._depth(base) < 40 for base in bases)

    def _depth(self, raw: bytes) -> int:
        """Of a chunk of this session, or of one that a commit may rely on; 99 for any other."""
        id, store = digest(raw), self.trainer.store
        if id in self._new:
            return self._new[id]
        return Copies(store, {}).find(id, Kind.CHUNK).header.depth if store.known(id) else 99

    def _alone(self, session: PackSession, raw: bytes, width: int) -> None:
        encoded = encode(raw, width)
        codec, stored = self.chance.choice(
            [(Codec.RAW, raw), (Codec.ZSTD, zstd.compress(memoryview(raw))), encoded[:2], encoded[:2]]
        )
        self._add(session, raw, codec, stored, width)

    def _on(self, session: PackSession, raw: bytes, base: bytes | None, width: int = 4) -> None:
        if base is None or not self._fits(base) or self.chance.random() < 0.1:
            return self._alone(session, raw, width)
        encoded = encode(raw, width, base)
        on = [base] if encoded.codec == Codec.DELTA else []
        return self._add(session, raw, encoded.codec, encoded.stored, width, on, digest(base) if on else NO_ID)

    def _made(
        self, session: PackSession, raw: bytes, rule: str, numbers: dict[str, object], bases: list[bytes]
    ) -> None:
        recipe = encode_recipe(Recipe(rule, tuple(map(digest, bases)), numbers))  # type: ignore[arg-type]
        id = object_id(Kind.RECIPE, recipe)
        session.copy(RecordHeader(Kind.RECIPE, 0, 1, 0, len(recipe), len(recipe), id, NO_ID, digest(recipe)), recipe)
        guess = applied(rule, numbers, bases, len(raw))
        if rule == "cast":
            assert guess == raw
            return self._add(session, raw, Codec.DERIVED, b"", 2, bases, id)
        return self._add(session, raw, Codec.PREDICTED, encode_residual(raw, guess, 4).stored, 4, bases, id)

    def _add(
        self,
        session: PackSession,
        raw: bytes,
        codec: int,
        stored: object,
        width: int,
        bases: list[bytes] | None = None,
        base: bytes = NO_ID,
    ) -> None:
        id = digest(raw)
        data = bytes(stored)  # type: ignore[call-overload]
        depth = max((1 + self._depth(each) for each in bases or ()), default=0)
        header = RecordHeader(Kind.CHUNK, codec, width, depth, len(data), len(raw), id, base, digest(data))
        if self._depth(raw) == 99:
            session.copy(header, data)
            self._new[id] = depth
            self.codecs.add(int(codec))
