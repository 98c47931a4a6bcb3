"""Trees and snapshots: round trips, and hostile bytes."""

import dataclasses
import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic.objects.dtypes import DTYPE_WIDTHS, NUMPY_DTYPES
from ciuic.objects.encoding import EncodingError, Tagged, decode, encode
from ciuic.objects.ids import ID_LENGTH, Kind, digest, object_id
from ciuic.objects.snapshot import EPOCH, KINDS, PARTS, Snapshot, decode_snapshot, encode_snapshot
from ciuic.objects.tree import (
    BlobEntry,
    ChildEntry,
    TensorEntry,
    Tree,
    ValueEntry,
    chunk_count,
    decode_tree,
    encode_tree,
    stored_nbytes,
)

CHANNELS = Tagged("dict", ("scheme", "per_channel_affine", "scale", [0.5], "zero_point", [0], "axis", 0))
"""Of one channel, and no tensor of the tests has one."""
IDS = st.binary(min_size=ID_LENGTH, max_size=ID_LENGTH)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
KEYS = st.one_of(TEXT, st.integers(-5, 5))


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(sorted(DTYPE_WIDTHS)))
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=3)))
    channels = {"scale": [0.5] * shape[0], "zero_point": [3] * shape[0]}
    quantizer = {"scheme": "per_channel_affine", **channels, "axis": 0}
    chunk_size = draw(st.integers(1, 64))
    count = chunk_count(stored_nbytes(dtype, shape), chunk_size)
    return TensorEntry(
        dtype,
        shape,
        chunk_size,
        tuple(digest(bytes([index % 256])) for index in range(count)),
        tie=draw(st.none() | st.lists(KEYS, min_size=1, max_size=3).map(tuple)),
        array=draw(st.sampled_from(("torch", "numpy", "numpy.generic"))) if dtype in NUMPY_DTYPES else "torch",
        quantizer=quantizer if dtype.startswith(("qint", "quint")) else None,
    )


ENTRIES = st.one_of(
    tensors(),
    st.one_of(st.integers(), TEXT, st.just({1: (2,)})).map(ValueEntry),
    IDS.map(ChildEntry),
    IDS.map(lambda id: BlobEntry(10, 16, (id,))),
)


@given(st.dictionaries(KEYS, ENTRIES, max_size=4), st.dictionaries(TEXT, IDS, max_size=3))
def test_trees_come_back(entries, modules):
    """All kinds of entries, under text and integer keys."""
    tree = Tree("module", tuple(entries.items()), tuple(modules.items()))
    assert decode_tree(encode_tree(tree)) == tree


def tensor_map(**changes):
    tensor = {"dtype": "float32", "shape": [2], "chunk": 8, "chunks": bytes(ID_LENGTH), **changes}
    return {
        "kind": "dict",
        "entries": [["a", {"tensor": {key: value for key, value in tensor.items() if value is not None}}]],
    }


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"kind": "dict"},
        {"kind": "class", "entries": []},
        {"kind": "dict", "entries": [], "more": 1},
        {"kind": "dict", "entries": [], "modules": []},
        {"kind": "module", "entries": []},
        {"kind": "module", "entries": [], "modules": [[1, bytes(32)]]},
        {"kind": "module", "entries": [], "modules": [["a", bytes(31)]]},
        {"kind": "module", "entries": [], "modules": [["a", bytes(32)], ["a", bytes(32)]]},
        {"kind": "leaf", "entries": []},
        {"kind": "dict", "entries": [["a", {"value": 1}], ["a", {"value": 2}]]},
        {"kind": "dict", "entries": [["a", {"value": 1, "tree": bytes(32)}]]},
        {"kind": "dict", "entries": [["a", {}]]},
        {"kind": "dict", "entries": [["a", {"pickle": b""}]]},
        {"kind": "dict", "entries": [["a", {"value": Tagged("builtins.eval", ("1",))}]]},
        {"kind": "dict", "entries": [[True, {"value": 1}]]},
        {"kind": "dict", "entries": [[1.5, {"value": 1}]]},
        {"kind": "dict", "entries": [["a", {"tree": bytes(33)}]]},
        {"kind": "dict", "entries": [["a", {"blob": {"length": 1 << 60, "chunk": 1, "chunks": b""}}]]},
        {"kind": "dict", "entries": [["a", {"blob": {"length": -1, "chunk": 1, "chunks": b""}}]]},
        tensor_map(shape=[3]),
        tensor_map(shape=[1 << 62, 1 << 62]),
        tensor_map(shape=[-2]),
        tensor_map(shape=[True]),
        tensor_map(shape=[2.0]),
        tensor_map(shape="ab"),
        tensor_map(shape=[1] * 65),
        tensor_map(dtype="object"),
        tensor_map(dtype=["float32"]),
        tensor_map(chunk=0),
        tensor_map(chunk=-1),
        tensor_map(chunk=7.5),
        tensor_map(chunks=bytes(31)),
        tensor_map(chunks="0" * 32),
        tensor_map(array="pickle"),
        tensor_map(array="numpy", dtype="bfloat16", shape=[4]),
        tensor_map(chunk=1 << 40),
        tensor_map(shape=[0, 1 << 40, 1 << 40], chunks=b""),
        tensor_map(dtype="qint32"),
        tensor_map(quantizer=1),
        tensor_map(dtype="qint32", quantizer=5),
        tensor_map(dtype="qint32", quantizer=CHANNELS),
        tensor_map(tie=[1.5]),
        tensor_map(tie="ab"),
        tensor_map(shape=b"\2"),
        {"kind": "dict", "entries": ""},
        {"kind": "module", "entries": [], "modules": b""},
        {"kind": "dict", "entries": [["k" * 4097, {"value": 1}]]},
        tensor_map(extra=1),
    ],
)
def test_hostile_trees_are_refused(value):
    """Sound CBOR that is no tree, or whose shape and chunks disagree, is an EncodingError."""
    with pytest.raises(EncodingError):
        decode_tree(encode(value))


@given(st.dictionaries(KEYS, ENTRIES, max_size=3), st.data())
def test_mutated_trees_decode_or_raise_encoding_errors(entries, data):
    """A flipped byte never gets out as another exception."""
    encoded = bytearray(encode_tree(Tree("dict", tuple(entries.items()))))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        tree = decode_tree(bytes(encoded))
    except EncodingError:
        return
    assert encode_tree(tree) == bytes(encoded)


def snapshot(**changes):
    values = {
        "id": "0" * 64,
        "step": 499,
        "epoch": None,
        "timestamp": datetime(2025, 4, 5, 14, 23, 12, 345678, timezone.utc),
        "message": "after warm-up",
        "metrics": {"loss": 2.25, "nan": float("inf")},
        "config": {"lr": 3e-4, "betas": (0.9, 0.999), 1: [None]},
        "parents": ("1" * 64,),
        "tree": {"model": "2" * 64, "optimizer": "3" * 64, "another": "4" * 64},
        "contains": ("model", "optimizer"),
        "raw_bytes": {"model": 10, "optimizer": 20, "another": 3},
        "added_bytes": 12,
        "versions": {"ciuic": "0.1.0"},
        "cost": {"call": 0.004, "write": 1.5},
        "storage": {"weights": {"delta": (1000, 400), "identical": (70, 0)}, "other": {"raw": (5, 5)}, "none": {}},
    }
    return Snapshot(**{**values, **changes})


def test_a_snapshot_comes_back_with_its_id():
    """Every field but the id is in the bytes, and the id is their hash."""
    before = snapshot()
    data = encode_snapshot(before)
    id = object_id(Kind.SNAPSHOT, data)
    assert decode_snapshot(data, id) == dataclasses.replace(before, id=id.hex())


def test_a_snapshot_reads_as_the_article_prints_it():
    """``Snapshot(step=499, timestamp=2025-04-05T14:23:12Z)``."""
    assert str(snapshot()) == repr(snapshot()) == "Snapshot(step=499, timestamp=2025-04-05T14:23:12Z)"


@given(st.integers(0, 10**17))
def test_the_time_is_exact_to_the_microsecond(microseconds):
    """Far in the future too."""
    moment = EPOCH + timedelta(microseconds=microseconds)
    data = encode_snapshot(snapshot(timestamp=moment))
    assert decode_snapshot(data, bytes(32)).timestamp == moment


def test_a_tree_cannot_pose_as_a_chunk():
    """The same bytes have another id as each kind."""
    data = b"the same"
    assert len({object_id(kind, data) for kind in Kind}) == len(Kind)
    assert object_id(Kind.CHUNK, data) == digest(data)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "1"},
        {"step": True},
        {"epoch": 1.5},
        {"time": 10**30},
        {"time": "now"},
        {"message": 5},
        {"metrics": {"loss": 1}},
        {"metrics": [1]},
        {"config": 5},
        {"config": {"a": 1}},
        {"parents": [bytes(31)]},
        {"parents": ["0" * 64]},
        {"components": {"model": bytes(5)}},
        {"components": None},
        {"contains": [1]},
        {"raw_bytes": {"model": 1.5}},
        {"added_bytes": None},
        {"versions": {"a": 1}},
        {"cost": {"call": 1}},
        {"cost": {"call": math.inf}},
        {"cost": {"call": math.nan}},
        {"cost": [1.5]},
        {"cost": None},
        {"storage": None},
        {"storage": [["weights", {}]]},
        {"storage": {"weights": 5}},
        {"storage": {"weights": None}},
        {"storage": {"weights": [["raw", 1, 1]]}},
        {"storage": {"weights": {"raw": 1}}},
        {"storage": {"weights": {"raw": b"ab"}}},
        {"storage": {"weights": {"raw": "ab"}}},
        {"storage": {"weights": {"raw": {"a": 1, "b": 2}}}},
        {"storage": {"weights": {"raw": []}}},
        {"storage": {"weights": {"raw": [1]}}},
        {"storage": {"weights": {"raw": [1, 1, 1]}}},
        {"storage": {"weights": {"raw": [1, -1]}}},
        {"storage": {"weights": {"raw": [-1, 1]}}},
        {"storage": {"weights": {"raw": [1, 1.0]}}},
        {"storage": {"weights": {"raw": [True, 0]}}},
        {"storage": {"weights": {"raw": [1, False]}}},
        {"storage": {"weights": {"raw": [1, None]}}},
        {"storage": {str(part): {} for part in range(33)}},
        {"storage": {"weights": {str(kind): [1, 1] for kind in range(33)}}},
    ],
)
def test_hostile_snapshots_are_refused(change):
    """A field of the wrong type is an EncodingError."""
    value = {**decode(encode_snapshot(snapshot())), **change}
    with pytest.raises(EncodingError):
        decode_snapshot(encode(value), bytes(32))


def test_a_snapshot_that_does_not_say_its_cost():
    """As the first ones did not: read all the same."""
    value = decode(encode_snapshot(snapshot()))
    del value["cost"]
    assert decode_snapshot(encode(value), bytes(32)).cost == {}


def test_a_snapshot_that_does_not_say_how_it_is_stored():
    """As the first ones did not: read all the same, and one that is made without saying so says nothing."""
    value = decode(encode_snapshot(snapshot()))
    del value["storage"]
    before = decode_snapshot(encode(value), bytes(32))
    assert before == snapshot(storage={}, id=before.id)
    fields = {field.name: getattr(before, field.name) for field in dataclasses.fields(before)}
    del fields["storage"]
    assert Snapshot(**fields).storage == {}


SIZES = st.one_of(st.integers(0, 1 << 40), st.integers(0, (1 << 63) - 1))
NAMES = st.one_of(st.sampled_from(PARTS + KINDS), TEXT)
STORAGE = st.dictionaries(NAMES, st.dictionaries(NAMES, st.tuples(SIZES, SIZES), max_size=4), max_size=4)


@given(st.lists(STORAGE, min_size=1, max_size=2))
def test_how_a_snapshot_is_stored_comes_back(storages):
    """Any names and any sizes, pairs as tuples, the parts in their order, from one snapshot after the other."""
    for storage in storages:
        data = encode_snapshot(snapshot(storage=storage))
        read = decode_snapshot(data, bytes(32)).storage
        assert read == storage
        assert all(type(pair) is tuple for kinds in read.values() for pair in kinds.values())
        assert [part for part in read if part in PARTS] == [part for part in PARTS if part in storage]
        assert encode_snapshot(snapshot(storage=read)) == data


def test_how_a_snapshot_is_stored_is_its_reader_s_own():
    """What one caller does to it shows in no other snapshot, although like ones are decoded once."""
    data = encode_snapshot(snapshot())
    first = decode_snapshot(data, bytes(32))
    first.storage["weights"]["raw"] = (1, 1)
    del first.storage["other"]
    assert decode_snapshot(data, bytes(32)).storage == snapshot().storage


@pytest.mark.parametrize("name", ["step", "time", "message", "config", "parents", "components", "contains"])
def test_a_missing_field_is_refused(name):
    """Each field has to be there."""
    value = decode(encode_snapshot(snapshot()))
    del value[name]
    with pytest.raises(EncodingError):
        decode_snapshot(encode(value), bytes(32))


@given(st.data())
def test_mutated_snapshots_decode_or_raise_encoding_errors(data):
    """A flipped byte never gets out as another exception."""
    encoded = bytearray(encode_snapshot(snapshot()))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_snapshot(bytes(encoded), bytes(32))
    except EncodingError:
        return
