"""State trees with places instead of tensors, there and back."""

import time
from collections import Counter, OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciuic.capture.placed import Placed
from ciuic.errors import UnsupportedState
from ciuic.objects.encoding import EncodingError, decode, encode
from ciuic.objects.state_tree import CONTAINER_KINDS, Container, Tensor, Value
from ciuic.writer.manifest import components_of, encodable

SLOT = bytes(range(256)) * 4

keys = st.text(max_size=6) | st.integers()
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text(max_size=4) | st.binary()
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.dictionaries(keys, inner, max_size=3).map(OrderedDict)
        | st.dictionaries(keys, st.integers(), max_size=3).map(Counter)
    ),
    max_leaves=6,
)
places = st.integers(0, 1000).flatmap(lambda start: st.builds(Placed, st.just(start), st.integers(0, 1024 - start)))
tensors = st.builds(
    Tensor,
    st.sampled_from(["float32", "bfloat16", "int4"]),
    st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
    places,
    tie=st.none() | st.lists(keys, max_size=3).map(tuple),
    array=st.sampled_from(["torch", "numpy", "numpy.generic"]),
    quantizer=st.none() | plain,
)
nodes = st.recursive(
    tensors | st.builds(Value, plain),
    lambda inner: st.builds(
        Container, st.sampled_from(CONTAINER_KINDS), st.lists(st.tuples(keys, inner), max_size=4).map(tuple)
    ),
    max_leaves=12,
)


def there_and_back(components, slot=SLOT):
    return components_of(decode(encode(encodable(components))), memoryview(slot), lambda: None)


def exactly(node):
    """The node in terms of which equality is identity: types, order, signs and NaNs count."""
    if isinstance(node, Container):
        return (node.kind, [(type(key), key, exactly(child)) for key, child in node.items])
    if isinstance(node, Value):
        return ("value", repr(node.value))
    placed = (
        SLOT[node.source.offset : node.source.offset + node.source.nbytes]
        if isinstance(node.source, Placed)
        else bytes(node.source.read(0, node.source.nbytes))
    )
    return (node.dtype, node.shape, placed, repr(node.tie), node.array, repr(node.quantizer))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=5), nodes, max_size=3))
def test_everything_comes_back(components):
    """Bytes, dtypes, shapes, ties, kinds, keys with their types, plain values, order."""
    back = there_and_back(components)
    assert list(back) == list(components)
    assert [exactly(node) for node in back.values()] == [exactly(node) for node in components.values()]


def test_no_depth_is_too_deep():
    """The commit refuses what is nested too deep, not the way to it."""
    node = Tensor("uint8", (4,), Placed(0, 4))
    for number in range(500):
        node = Container("list", ((0, Value(number)), (1, node)))
    back = there_and_back({"extra": node})["extra"]
    for number in reversed(range(500)):
        assert back[0] == Value(number)
        back = back[1]
    assert bytes(back.source.read(0, 4)) == SLOT[:4]


def test_text_that_is_no_unicode_gets_to_the_commit():
    """Which refuses it in its own words."""
    node = Container("dict", (("\ud800", Value(1)),))
    assert there_and_back({"extra": node}) == {"extra": node}


def test_what_is_not_plain_is_named():
    """By its path."""
    node = Container("dict", (("a", Container("list", ((0, Value({"x": object()})),))),))
    with pytest.raises(UnsupportedState, match=r"^extra/a/0/x: cannot store"):
        encodable({"extra": node})


def test_a_place_outside_of_the_slot():
    """Is not read."""
    with pytest.raises(EncodingError, match="outside"):
        there_and_back({"model": Tensor("uint8", (4,), Placed(1022, 4))})


def test_tensors_are_read_without_a_copy():
    """They do not change while they are read."""
    memory = bytearray(SLOT)
    calls = []
    node = {"model": Tensor("uint8", (16,), Placed(16, 16))}
    manifest = decode(encode(encodable(node)))
    source = components_of(manifest, memoryview(memory), lambda: calls.append(1))["model"].source
    view = source.read(4, 8)
    memory[20:24] = b"abcd"
    assert bytes(view) == b"abcd" and source.stable and calls == [1]


def test_two_thousand_tensors_take_milliseconds():
    """It is done while training waits; the bound is generous, the machine may be busy."""
    items = tuple((f"layers.{n}.weight", Tensor("float32", (64, n % 7), Placed(0, 8))) for n in range(2000))
    components = {"model": Container("module", items), "extra": Container("dict", (("lr", Value(0.1)),))}
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        encode(encodable(components))
        best = min(best, time.perf_counter() - start)
    assert best < 0.05
