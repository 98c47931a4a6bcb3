"""Chunks that rest on others: found by their footers, decoded once each, by whatever copies serve."""

from __future__ import annotations

import itertools
import os
import random
import struct
import threading
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciuic.codec import Codec, encode, encode_residual, rules
from ciuic.errors import DamagedData, MissingObject, UnsupportedFormat
from ciuic.objects.encoding import EncodingError
from ciuic.objects.ids import NO_ID, Kind, digest, object_id
from ciuic.objects.recipe import Recipe, decode_recipe, encode_recipe
from ciuic.store import evaluation, resolving
from ciuic.store.chains import Record, decode_records
from ciuic.store.evaluation import Evaluation
from ciuic.store.footer_index import FooterIndex
from ciuic.store.fsck import check
from ciuic.store.index import ROW, Index
from ciuic.store.pack_format import RECORD_LENGTH, RecordHeader
from ciuic.store.store import Store

FLOATS = 1024
ID_LISTS = st.lists(st.just(NO_ID) | st.binary(min_size=32, max_size=32), min_size=3, max_size=3)
NUMBERS = {
    "adamw.second_moment": {"gain": 10.0, "keep": 0.75, "take": 0.25},
    "adamw.weight": {"decay": 1.0, "rate": -0.125, "root": 0.5, "eps": 0.03125},
    "cast": {"from": "float32", "to": "bfloat16", "skip": 0},
}


def floats(seed: object, near: bytes | None = None) -> bytes:
    """Raw float32, positive; near those given, if any."""
    chance = random.Random(str(seed))
    before = struct.unpack(f"<{FLOATS}f", near) if near is not None else [1.0 + chance.random() for _ in range(FLOATS)]
    return struct.pack(f"<{FLOATS}f", *(each * (1 + 1e-5 * chance.random()) for each in before))


class Book:
    """Writes records of chosen depths and codecs into a store, and remembers depths."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.depths: dict[bytes, int] = {}

    def write(self, *records: tuple[bytes, Sequence[bytes], str], codec: Codec | None = None) -> str:
        """One pack of (raw, bases, rule) records; its name. Without a rule a base means a delta."""
        session = self.store.new_packs()
        for raw, bases, rule in records:
            depth = 1 + max((self.depths[digest(each)] for each in bases), default=-1)
            base = digest(bases[0]) if bases else NO_ID
            if rule:
                recipe = encode_recipe(Recipe(rule, tuple(map(digest, bases)), NUMBERS[rule]))  # type: ignore[arg-type]
                base = object_id(Kind.RECIPE, recipe)
                session.add(Kind.RECIPE, base, recipe, codec=0, raw_length=len(recipe))
                guess = made(rule, bases, len(raw))
                encoded = encode_residual(raw, guess, 4)
                stored, kind = (b"", Codec.DERIVED) if rule == "cast" else (encoded.stored, encoded.codec)
            elif bases:
                kind, stored, _ = encode(raw, 4, bases[0])
                if kind != Codec.DELTA:  # no smaller than by itself: it rests on its base all the same
                    kind, stored = Codec.DELTA, encode_residual(raw, bases[0], 4).stored
            elif codec == Codec.RAW:
                stored, kind = raw, Codec.RAW
            else:
                kind, stored, _ = encode(raw, 4)
            self.add(session, raw, stored, codec=kind, depth=depth, base=base)
        return self.publish(session)

    def add(self, session, raw, stored, *, codec, depth=0, base=NO_ID, **more) -> None:
        """``more``: header fields that lie."""
        data = bytes(stored)
        header = RecordHeader(Kind.CHUNK, codec, 4, depth, len(data), len(raw), digest(raw), base, digest(data))
        session.copy(header._replace(**more), data)
        self.depths[digest(raw)] = min(depth, self.depths.get(digest(raw), depth))

    def publish(self, session) -> str:
        packs = session.publish()
        self.store.index_commit(packs, {})
        (name,) = packs
        return name

    def chain(self, length: int, seed: object = 0) -> list[bytes]:
        """Raw bytes of a chain, a pack a link."""
        raws = [floats(seed)]
        self.write((raws[0], (), ""))
        for number in range(1, length):
            raws.append(floats((seed, number), raws[-1]))
            self.write((raws[-1], (raws[-2],), ""))
        return raws

    def steps(self, number: int) -> list[tuple[bytes, bytes, bytes]]:
        """(m, v, w) after each of so many AdamW steps: records with recipes, a pack a step."""
        m, v, w = floats("m"), floats("v"), floats("w")
        self.write((m, (), ""), (v, (), ""), (w, (), ""))
        states = [(m, v, w)]
        for step in range(number):
            m0, v0, w0 = states[-1]
            m = floats(("m", step), m0)
            v = nearly(made("adamw.second_moment", (v0, m0, m), len(m)))
            w = nearly(made("adamw.weight", (w0, m, v), len(m)))
            self.write((m, (), ""), (v, (v0, m0, m), "adamw.second_moment"), (w, (w0, m, v), "adamw.weight"))
            states.append((m, v, w))
        return states

    def read(self, raw: bytes) -> bool:
        return bytes(self.store.read(Kind.CHUNK, digest(raw))) == raw


def made(rule: str, bases: Iterable[bytes], nbytes: int) -> bytes:
    out = bytearray(nbytes)
    rules.apply(rule, NUMBERS[rule], list(bases), out)
    return bytes(out)


def nearly(guess: bytes) -> bytes:
    """A guess of which an element is off."""
    return guess[:8] + bytes([guess[8] ^ 1]) + guess[9:]


def buffers(raws: Iterable[bytes]) -> list[memoryview]:
    return [memoryview(bytearray(len(raw))) for raw in raws]


def damage(store: Store, pack: str, raw: bytes, at: int = RECORD_LENGTH) -> None:
    """Flip a bit of a record, of its payload's first byte."""
    row = store.pack(pack).by_id[digest(raw)]
    path = Path(store.path, "packs", f"{pack}.pack")
    data = bytearray(path.read_bytes())
    data[row.offset + at] ^= 1
    path.write_bytes(data)
    store.close_pack(pack)


@pytest.fixture
def store(tmp_path: Path):
    store = Store.create(str(tmp_path / "repo"), chunk_size=4096)
    with store.shared():
        yield store


@pytest.fixture
def book(store: Store) -> Book:
    return Book(store)


def test_every_depth(book: Book) -> None:
    """Each link of a chain of 40 is read by itself, and all of them at once, in any order."""
    raws = book.chain(41)
    for depth, raw in enumerate(raws):
        header = book.store.header(digest(raw))
        assert header is not None and header.depth == depth
        assert book.read(raw)
    random.Random(1).shuffle(raws)
    known: dict[bytes, Record] = {}
    outs = buffers(raws)
    decode_records([book.store.record(digest(raw), known) for raw in raws], outs)
    assert [bytes(out) for out in outs] == raws


def test_a_chain_needs_no_buffer_but_the_caller_s(book: Book) -> None:
    """Deltas are applied in place: nothing is allocated for the links below."""
    raw = book.chain(20)[-1]
    out = memoryview(bytearray(len(raw)))
    run = Evaluation([book.store.record(digest(raw))], [out])
    run.run(check=True)
    assert bytes(out) == raw
    assert run.most_live == 0


@pytest.mark.parametrize("in_memory", [False, True], ids=["lmdb", "footers"])
def test_steps_of_adam(book: Book, *, in_memory: bool) -> None:
    """Weights after 12 steps rest on the moments of each: every node is evaluated once, in few buffers."""
    if in_memory:
        book.store._use_footers()
        assert isinstance(book.store.index, FooterIndex)
    states = book.steps(12)
    m, v, w = states[-1]
    known: dict[bytes, Record] = {}
    records = [book.store.record(digest(raw), known) for raw in (m, v, w)]
    outs = buffers((m, v, w))
    run = Evaluation(records, outs)
    assert len(run.order) == len({record.header.id for record in run.order}) == 3 * 13
    run.run(check=True)
    assert [bytes(out) for out in outs] == [m, v, w]
    assert run.most_live <= 5 * len(w)
    for state in states:
        assert all(map(book.read, state))
    assert check(book.store, read_data=True).ok


def test_casts(book: Book) -> None:
    """A derived chunk has no stored bytes: it is made of the master, which may itself be a delta."""
    raws = book.chain(5)
    half = made("cast", raws[-1:], len(raws[0]) // 2)
    book.write((half, raws[-1:], "cast"))
    assert book.read(half)
    report = check(book.store, read_data=True)
    assert report.ok and report.recipes == 1


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False))
def test_any_graph(tmp_path_factory: pytest.TempPathFactory, chance: random.Random) -> None:
    """Deltas, casts and steps on whatever there is, some chunks in several copies: all are read, together and alone."""
    store = Store.create(str(tmp_path_factory.mktemp("any") / "repo"), chunk_size=4096)
    with store.shared():
        book = Book(store)
        raws = [floats(chance.random())]
        book.write((raws[0], (), ""))
        halves = []
        for number in range(25):
            kind = chance.randrange(5)
            bases = [chance.choice(raws) for _ in range(3)]
            if kind == 0:
                half = made("cast", bases[:1], len(bases[0]) // 2)
                halves.append(half)
                book.write((half, bases[:1], "cast"))
                continue
            if kind == 1:
                again = chance.choice(raws)
                book.write((again, (), ""), codec=Codec.RAW)
                continue
            rule = {2: "adamw.second_moment", 3: "adamw.weight"}.get(kind, "")
            raw = nearly(made(rule, bases, len(bases[0]))) if rule else floats((number, chance.random()), bases[0])
            book.write((raw, bases if rule else bases[:1], rule))
            raws.append(raw)
        asked = [chance.choice(raws + halves) for _ in range(12)]
        outs: list[memoryview | None] = [out if chance.random() < 0.8 else None for out in buffers(asked)]
        known: dict[bytes, Record] = {}
        records = [store.record(digest(raw), known if chance.random() < 0.8 else None) for raw in asked]
        decode_records(records, outs, check=chance.random() < 0.5)
        assert all(out is None or bytes(out) == raw for out, raw in zip(outs, asked, strict=True))
        assert all(map(book.read, raws + halves))
        report = check(store, read_data=True)
        assert report.ok, report.problems


def two_copies(book: Book, shallow_first: bool) -> tuple[bytes, str, str]:
    """A chunk that stands by itself in one pack and is three deep in another: (raw, shallow pack, deep pack)."""
    first = floats(0)
    second, third, last = (floats(seed, first) for seed in range(3))
    book.write((first, (), ""))
    book.write((second, (first,), ""))
    book.write((third, (second,), ""))
    packs = {}
    for shallow in (shallow_first, not shallow_first):
        packs[shallow] = book.write((last, () if shallow else (third,), ""))
    return last, packs[True], packs[False]


@pytest.mark.parametrize("in_memory", [False, True], ids=["lmdb", "footers"])
@pytest.mark.parametrize("shallow_first", [False, True])
def test_the_index_names_the_shallowest(book: Book, *, shallow_first: bool, in_memory: bool) -> None:
    """In whichever order copies are published, and when the index is built anew."""
    if in_memory:
        book.store._use_footers()
    raw, shallow, _ = two_copies(book, shallow_first)
    for _ in range(2):
        place = book.store.place(digest(raw))
        assert place is not None and place.pack == shallow and place.depth == 0
        if in_memory:
            book.store.index = FooterIndex()
            book.store._use_footers()
        else:
            assert book.store._rebuild_index()


def test_a_deeper_copy_takes_the_place_of_one_that_is_gone(book: Book) -> None:
    """A row whose pack is not listed any more gives way to any; one that was dropped too."""
    raw, shallow, deep = two_copies(book, True)
    index = book.store.index
    rows = [(digest(raw), 64, 10, 3)]
    index.update(book.store.generation, {deep: rows})
    assert index.place(digest(raw)).pack == shallow  # type: ignore[union-attr]
    index.update(book.store.generation, {deep: rows}, dropped_packs=[shallow])
    assert index.place(digest(raw)).depth == 3  # type: ignore[union-attr]


def test_old_rows(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index from before rows had depths is built anew."""
    raws = book.chain(3)
    with monkeypatch.context() as before:
        before.setattr("ciuic.store.index.LAYOUT", 1)
        before.setattr("ciuic.store.index.ROW", struct.Struct("<32sQQ"))
        index = book.store._lmdb_index
        with index.locked():
            for raw in raws:
                place = book.store.index.place(digest(raw))
            index.write_stamp(book.store.generation)
    again = Store(book.store.path)
    with again.shared():
        assert isinstance(again.index, Index)
        place = again.place(digest(raws[-1]))
        assert place is not None and place.depth == 2
        assert bytes(again.read(Kind.CHUNK, digest(raws[-1]))) == raws[-1]
    assert ROW.size == 49


def test_a_damaged_copy_of_a_base(book: Book) -> None:
    """The preferred copy's payload is damaged: another one that is less deep than the record serves."""
    raw, shallow, _ = two_copies(book, True)
    book.depths[digest(raw)] = 3
    top = floats("top", raw)
    book.write((top, (raw,), ""))
    record = book.store.record(digest(top))
    damage(book.store, shallow, raw)
    for check_first in (True, False):
        out = memoryview(bytearray(len(top)))
        decode_records([record], [out], check=check_first)
        assert bytes(out) == top
    assert book.read(top) and book.read(raw)
    report = check(book.store, read_data=True)
    assert len(report.problems) == 1 and shallow in report.problems[0]


def test_a_copy_that_is_too_deep(book: Book) -> None:
    """Of a base only copies less deep than the record are taken: with the others alone it cannot be read."""
    raw, shallow, _ = two_copies(book, True)
    top = floats("top", raw)
    book.write((top, (raw,), ""))
    assert book.depths[digest(top)] == 1
    damage(book.store, shallow, raw)
    record = book.store.record(digest(top))
    with pytest.raises(DamagedData, match=shallow):
        decode_records([record], buffers([top]))
    os.remove(book.store.join("packs", f"{shallow}.pack"))
    again = Store(book.store.path)
    with again.shared():
        with pytest.raises(DamagedData, match="has depth 3, and what rests on it only 1"):
            again.record(digest(top))
        assert not again.known(digest(top))
        assert again.known(digest(raw))
        assert bytes(again.read(Kind.CHUNK, digest(raw))) == raw


def test_a_missing_base(book: Book) -> None:
    """A base that no pack has: named, with what rests on it; no commit relies on that, and fsck says why."""
    raws = book.chain(3)
    place = book.store.place(digest(raws[1]))
    assert place is not None
    os.remove(book.store.join("packs", f"{place.pack}.pack"))
    again = Store(book.store.path)
    with again.shared():
        for ask in (again.record, lambda id: again.read(Kind.CHUNK, id)):
            who = f"{digest(raws[1]).hex()[:12]}, on which chunk {digest(raws[2]).hex()[:12]}"
            with pytest.raises(MissingObject, match=who):
                ask(digest(raws[2]))
        assert again.known(digest(raws[0]))
        assert again.header(digest(raws[2])) is None


def test_what_cannot_be_read_is_stored_again(book: Book) -> None:
    """A base is damaged for good: what rests on it is not known any more, so that the next commit stores it."""
    raws = book.chain(4)
    place = book.store.place(digest(raws[1]))
    assert place is not None
    assert book.store.known(digest(raws[3]))
    damage(book.store, place.pack, raws[1])
    with pytest.raises(DamagedData, match=place.pack):
        book.store.read(Kind.CHUNK, digest(raws[3]))
    assert [book.store.known(digest(raw)) for raw in raws] == [True, False, False, False]
    book.write((raws[3], (), ""))
    assert book.store.known(digest(raws[3]))
    assert book.read(raws[3])


def test_a_pack_published_meanwhile(book: Book) -> None:
    """A base in a pack that came after this view was taken is found."""
    raws = book.chain(2)
    other = Store(book.store.path)
    with other.shared():
        top = floats("top", raws[-1])
        theirs = Book(other)
        theirs.depths = dict(book.depths)
        theirs.write((top, (raws[-1],), ""))
        book.store.index = FooterIndex()
        book.store.index.update(book.store.generation, book.store._rows(book.store.present))
        assert bytes(book.store.read(Kind.CHUNK, digest(top))) == top


HOSTILE = {
    "base, depth 0": ({"depth": 0}, "a record with a base, and of depth 0|rests on others"),
    "no base, depth 2": ({"base": NO_ID}, "without a base"),
    "raw with a base": ({"codec": Codec.RAW}, "codec 0 with a base"),
    "unknown codec": ({"codec": 9}, "codec 9 with a base"),
    "derived with bytes": ({"codec": Codec.DERIVED}, "a derived record with stored bytes"),
    "another length": ({"raw_length": 2048}, "a base of another length"),
    "recipe for a base": ({"codec": Codec.PREDICTED}, "recipe "),
}


@pytest.mark.parametrize(("lie", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_lies(book: Book, lie: dict[str, object], problem: str) -> None:
    """Headers that no writer makes are refused when the record is looked up, and nothing relies on them."""
    raws = book.chain(2)
    top = floats("top", raws[-1])
    session = book.store.new_packs()
    stored = encode(top, 4, raws[-1]).stored
    book.add(session, top, stored, **{"codec": Codec.DELTA, "depth": 2, "base": digest(raws[-1]), **lie})
    book.publish(session)
    for ask in (lambda: book.store.record(digest(top)), lambda: book.store.read(Kind.CHUNK, digest(top))):
        with pytest.raises((DamagedData, MissingObject), match=problem):
            ask()
    assert not book.store.known(digest(top))
    report = check(book.store, read_data=True)
    assert report.ok == ("recipe" in problem or "raw_length" in lie)  # what is lost is a problem to those who need it


def test_a_writer_s_fault(book: Book) -> None:
    """Checksums hold and an id does not: that is said, and which record, even where it is another's base."""
    raws = book.chain(2)
    wrong, top = floats("wrong", raws[-1]), floats("top", raws[-1])
    session = book.store.new_packs()
    book.add(session, wrong, encode(floats("other", raws[-1]), 4, raws[-1]).stored, codec=Codec.DELTA, depth=2,
             base=digest(raws[-1]))  # fmt: skip
    book.add(session, top, encode(top, 4, wrong).stored, codec=Codec.DELTA, depth=3, base=digest(wrong))
    name = book.publish(session)
    for check_first, raw in itertools.product((False, True), (wrong, top)):
        record = book.store.record(digest(raw))
        with pytest.raises(DamagedData, match=f"{name}.*{digest(wrong).hex()[:12]}.*the writer or its memory"):
            decode_records([record], buffers([raw]), check=check_first)
    report = check(book.store, read_data=True)
    assert len(report.problems) == 1 and digest(wrong).hex()[:12] in report.problems[0]


def circle(book: Book, depths: tuple[int, int]) -> tuple[bytes, bytes]:
    """Two chunks, each a delta to the other."""
    one, other = floats("one"), floats("other")
    session = book.store.new_packs()
    for depth, raw, base in zip(depths, (one, other), (other, one), strict=True):
        book.add(session, raw, encode(raw, 4, floats(0, raw)).stored, codec=Codec.DELTA, depth=depth, base=digest(base))
    book.publish(session)
    return one, other


@pytest.mark.parametrize("depths", [(1, 1), (1, 2), (255, 254)])
def test_a_circle(book: Book, depths: tuple[int, int]) -> None:
    """Two chunks that rest on each other: refused at once, whatever depths they claim."""
    for raw in circle(book, depths):
        with pytest.raises(DamagedData, match="rests on it only"):
            book.store.record(digest(raw))
        assert not book.store.known(digest(raw))
    assert book.store.header(digest(raw)) is None
    check(book.store, read_data=True)


def wide(book: Book, levels: int) -> bytes:
    """Casts of two in each level, resting on all 32 of the level below: 32^levels paths."""
    below = [floats(number) for number in range(32)]
    book.write(*((raw, (), "") for raw in below))
    session = book.store.new_packs()
    for level in range(1, levels):
        here = []
        for number in range(32):
            raw = b"%32d%32d" % (level, number)
            bases = tuple(map(digest, below[number:] + below[:number]))
            recipe = encode_recipe(Recipe("cast", bases, NUMBERS["cast"]))  # type: ignore[arg-type]
            base = object_id(Kind.RECIPE, recipe)
            session.add(Kind.RECIPE, base, recipe, codec=0, raw_length=len(recipe))
            book.add(session, raw, b"", codec=Codec.DERIVED, depth=level, base=base)
            here.append(raw)
        below = here
    book.publish(session)
    return below[0]


def test_more_paths_than_can_be_walked(book: Book) -> None:
    """A graph of few records and very many paths is walked once a record."""
    raw = wide(book, 12)
    record = book.store.record(digest(raw))
    with pytest.raises(DamagedData):
        decode_records([record], buffers([raw]))
    assert len(check(book.store, read_data=True).problems) >= 32


def test_bounds(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many records below one chunk, or too much memory at once, end in DamagedData."""
    raw = book.steps(6)[-1][2]
    record = book.store.record(digest(raw))
    monkeypatch.setattr(evaluation, "MOST_LIVE_BYTES", 2 * len(raw))
    with pytest.raises(DamagedData, match="at once"):
        decode_records([record], buffers([raw]))
    monkeypatch.setattr("ciuic.store.resolving.MOST_NODES", 5)
    with pytest.raises(DamagedData, match="more than 5 records"):
        book.store.record(digest(raw))


def test_the_largest_depth(book: Book) -> None:
    """A chain of 255 is read; Python's stack has nothing to do with it."""
    raws = book.chain(1)
    session = book.store.new_packs()
    for depth in range(1, 256):
        raws.append(raws[-1][:-4] + struct.pack("<f", depth))
        stored = encode(raws[-1], 4, raws[-2]).stored
        book.add(session, raws[-1], stored, codec=Codec.DELTA, depth=depth, base=digest(raws[-2]))
    book.publish(session)
    assert book.read(raws[-1])
    assert book.store.known(digest(raws[-1]))
    assert check(book.store, read_data=True).ok
    with pytest.raises(ValueError, match="depth 256"):
        session.add(Kind.CHUNK, bytes(32), b"", codec=Codec.DELTA, raw_length=1, depth=256, base=digest(b""))


def test_many_threads(book: Book) -> None:
    """Threads that resolve and decode at the same time, one copy of a base damaged: all get what they asked for."""
    states = book.steps(6)
    chains = [book.chain(8, seed) for seed in range(4)]
    base = chains[0][3]
    place = book.store.place(digest(base))
    assert place is not None
    book.write((base, (chains[0][2],), ""), (floats("pad"), (), ""))  # a second copy, of the same depth
    damage(book.store, place.pack, base)
    wanted = [raw for state in states for raw in state] + [raw for chain in chains for raw in chain]
    barrier = threading.Barrier(8)

    def read(number: int) -> bool:
        barrier.wait()
        own = random.Random(number).sample(wanted, len(wanted))
        known: dict[bytes, Record] = {}
        outs = buffers(own)
        with book.store.shared():
            decode_records([book.store.record(digest(raw), known) for raw in own], outs)
        return [bytes(out) for out in outs] == own

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def test_a_pack_cut_short(book: Book) -> None:
    """A read that ends early is damage, and not bytes of something else."""
    raws = [floats(number) for number in range(3)]
    name = book.write(*((raw, (), "") for raw in raws), codec=Codec.RAW)
    pack = book.store.pack(name)
    rows = list(pack.rows)
    os.truncate(pack.path, rows[2].offset + 200)
    with pytest.raises(DamagedData):
        pack.read_payload(rows[2], memoryview(bytearray(rows[2].header.stored_length)))


@settings(max_examples=200)
@given(st.sampled_from(sorted(NUMBERS)), ID_LISTS, st.data())
def test_recipes_are_decoded_as_ever(rule: str, bases: list[bytes], data: st.DataObject) -> None:
    """What is remembered of other recipes changes nothing: neither what is read, nor what is refused."""
    others = tuple(map(digest, (b"a", b"b", b"c")))
    good = encode_recipe(Recipe(rule, others, NUMBERS[rule]))  # type: ignore[arg-type]
    raw = good.replace(b"".join(others), b"".join(bases))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + data.draw(st.integers(0, 3)) :]
    resolving._decode_recipe(good)
    try:
        expected = decode_recipe(raw)
    except EncodingError:
        with pytest.raises(EncodingError):
            resolving._decode_recipe(raw)
    else:
        assert resolving._decode_recipe(raw) == expected


def test_packs_are_closed_at_the_end_of_a_view(tmp_path: Path) -> None:
    """A sweep by another process frees their space at once, but for what a reader holds."""
    store = Store.create(str(tmp_path / "repo"), chunk_size=4096)
    book = Book(store)
    with store.shared():
        raws = book.chain(4)
        record = store.record(digest(raws[2]))
        assert book.read(raws[3])
        last = weakref.ref(store.pack(store.place(digest(raws[3])).pack))  # type: ignore[union-attr]
        assert last() is not None
    assert last() is None
    out = memoryview(bytearray(len(raws[2])))
    decode_records([record], [out])
    assert bytes(out) == raws[2]
    with store.shared():
        assert book.read(raws[3])


def test_features(book: Book, tmp_path: Path) -> None:
    """A new repository says `deltas`; one that does not is read as before; an unknown feature is refused."""
    assert book.store.features == {"deltas"}
    path = Path(book.store.path, "format")
    text = path.read_text()
    assert "\nfeatures deltas\n" in text
    path.write_text(text.replace(" deltas", ""))
    assert Store(book.store.path).features == frozenset()
    path.write_text(text.replace("deltas", "deltas shards"))
    with pytest.raises(UnsupportedFormat, match="shards"):
        Store(book.store.path)


def test_sessions_keep_bases_and_depths_together(book: Book) -> None:
    """A base without a depth, or a depth without a base, is a fault of the caller's."""
    session = book.store.new_packs()
    for depth, base in ((0, digest(b"x")), (1, NO_ID), (-1, digest(b"x"))):
        with pytest.raises(ValueError, match="a record of depth"):
            session.add(Kind.CHUNK, digest(b"y"), b"", codec=3, raw_length=1, depth=depth, base=base)
