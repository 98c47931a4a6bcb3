"""Damage found before anything changes, damage that comes between the passes, and other copies."""

import shutil

import pytest

import ciuic
from ciuic.codec import Codec
from ciuic.objects.ids import Kind
from ciuic.restore import checking
from ciuic.state import restoring
from ciuic.store.pack_format import RECORD_LENGTH


@pytest.fixture
def copied(request, tmp_path, kit):
    """``copied(history)``: the same repository, to be damaged."""

    def copy(history):
        shutil.copytree(history.repo.path, tmp_path / "copy")
        other = kit.History.__new__(kit.History)
        other.__dict__.update(history.__dict__, repo=ciuic.Repo(tmp_path / "copy"))
        return other

    return copy


def flip(pack, offset, header):
    """Change the last of a record's stored bytes."""
    with open(pack.path, "r+b") as file:
        file.seek(offset + RECORD_LENGTH + header.stored_length - 1)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def deepest(records):
    return max(records, key=lambda record: record.header.depth)


def bottom(record):
    while record.bases:
        record = record.bases[0]
    return record


def victims(history, what):
    """(pack, offset, header) of the record to damage, and the chunks that rest on it."""
    if what == "raw":
        record = history.of_codec(Codec.RAW)[0]
    elif what == "planes":
        record = history.of_codec(Codec.PLANES)[0]
    elif what == "delta":
        record = deepest(history.of_codec(Codec.DELTA))
    elif what == "predicted":
        record = deepest(history.of_codec(Codec.PREDICTED))
    elif what == "base deep down":
        record = bottom(deepest(history.chunks()))
    else:
        record = deepest(history.of_codec(Codec.PREDICTED))
        row = record.pack.by_id[record.header.base]
        assert row.header.kind is Kind.RECIPE
        return record.pack, row.offset, row.header
    return record.pack, record.offset, record.header


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("deltas", "raw"), ("deltas", "delta"), ("deltas", "base deep down"),
        ("recipes", "planes"), ("recipes", "predicted"), ("recipes", "base deep down"), ("recipes", "recipe"),
    ],
)  # fmt: skip
def test_damage_before_a_restore_changes_nothing(request, copied, workers, kit, kind, what):
    """Wherever it is in the graph. The error names a tensor and a chunk."""
    history = copied(request.getfixturevalue(kind))
    pack, offset, header = victims(history, what)
    flip(pack, offset, header)
    model, optimizer = history.fresh()
    before = kit.state_of(model, optimizer)
    with pytest.raises(ciuic.DamagedData, match=r"(model|optimizer)/\S+, chunk \d+: .*") as caught:
        ciuic.Repo(history.repo.path).restore("HEAD", model=model, optimizer=optimizer, rng=False)
    assert str(pack.path) in str(caught.value) or header.id.hex()[:12] in str(caught.value)
    assert kit.same(kit.state_of(model, optimizer), before)


@pytest.mark.parametrize(("kind", "what"), [("deltas", "raw"), ("deltas", "base deep down"), ("recipes", "predicted")])
def test_damage_between_the_passes_is_noticed(request, copied, workers, monkeypatch, kind, what):
    """What has been checked may rot before it is decoded: its id says so. The live objects are mixed then."""
    history = copied(request.getfixturevalue(kind))
    victim = victims(history, what)
    original = restoring._apply

    def damaging(*arguments):
        flip(*victim)
        original(*arguments)

    monkeypatch.setattr(restoring, "_apply", damaging)
    model, optimizer = history.fresh()
    with pytest.raises(ciuic.RestoreInterrupted, match=r"half-way \((model|optimizer)/.*mixture"):
        history.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)


@pytest.mark.parametrize("between", [False, True], ids=["before", "between the passes"])
@pytest.mark.parametrize(
    ("kind", "what"), [("deltas", "delta"), ("deltas", "base deep down"), ("recipes", "predicted")]
)
def test_another_copy_is_used(request, copied, workers, monkeypatch, kit, kind, what, between):
    """Of the chunk itself or of one that it rests on."""
    history = copied(request.getfixturevalue(kind))
    victim = victims(history, what)
    model, optimizer = history.fresh()
    if between:
        original = restoring._apply

        def damaging(*arguments):
            flip(*victim)
            original(*arguments)

        monkeypatch.setattr(restoring, "_apply", damaging)
    else:
        flip(*victim)
    raw = bytes(request.getfixturevalue(kind).repo._store.read(Kind.CHUNK, victim[2].id))
    store = history.repo._store
    with store.shared():
        session = store.new_packs()
        session.add(Kind.CHUNK, victim[2].id, raw, codec=Codec.RAW, raw_length=len(raw), width=4)
        session.publish()
    ciuic.Repo(history.repo.path).restore("HEAD", model=model, optimizer=optimizer, rng=False)
    assert kit.same(kit.state_of(model, optimizer), history.states[-1])


def test_a_pack_that_was_cut_short(copied, deltas, workers, kit):
    """Found in the first pass, although the footers were read before."""
    history = copied(deltas)
    store = history.repo._store
    model, optimizer = history.fresh()
    before = kit.state_of(model, optimizer)
    with store.shared():
        packs = [store.pack(name) for name in store.present]
        assert all(pack.rows for pack in packs)
        for pack in packs:
            with open(pack.path, "r+b") as file:
                file.truncate(pack.length // 2)
        with pytest.raises(ciuic.DamagedData):
            history.repo._restore(
                history.repo._resolve("HEAD").snapshot,
                {"model": model, "optimizer": optimizer}, strict=True, keys=None, rng=False,
            )  # fmt: skip
    assert kit.same(kit.state_of(model, optimizer), before)


def test_neighbours_come_with_one_read_and_each_record_once(recipes, monkeypatch):
    """The first pass reads in file order, shared bases once."""
    reads = []
    original = checking._Checker.check

    def watched(self, run):
        reads.append([(record.pack.name, record.offset) for record in run])
        return original(self, run)

    monkeypatch.setattr(checking._Checker, "check", watched)
    model, optimizer = recipes.fresh()
    recipes.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)
    places = [place for run in reads for place in run]
    assert places == sorted(set(places))
    below = checking.closure(recipes.chunks())
    assert len(places) == len({(record.pack.name, record.offset) for record in below})
    assert len(reads) <= 2 * len({record.pack.name for record in below})
