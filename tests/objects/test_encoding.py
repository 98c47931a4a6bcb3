"""The canonical encoding: one value, one encoding, for any CBOR reader, and nothing but EncodingError escapes."""

import math
import struct
import tracemalloc

import cbor2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ciuic.objects.encoding import MAX_DEPTH, EncodingError, Tagged, decode, encode

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(), TEXT, st.binary(max_size=80)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(TEXT, inner, max_size=5)),
    max_leaves=20,
)


def bits(value):
    """A value in which floats stand as their bits, so that NaN equals NaN and 0.0 differs from -0.0."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return type(value).__name__, value


@given(VALUES)
def test_an_independent_reader_reads_what_we_write(value):
    """``cbor2`` decodes our bytes to the value that went in."""
    assert bits(cbor2.loads(encode(value))) == bits(value)


@given(VALUES)
def test_a_value_comes_back_and_has_one_encoding(value):
    """Decoding gives the value, and encoding that gives the same bytes."""
    encoded = encode(value)
    assert bits(decode(encoded)) == bits(value)
    assert encode(decode(encoded)) == encoded


@given(VALUES)
def test_the_writer_agrees_with_cbor2s_canonical_one(value):
    """But for floats, which stay 64 bits wide, our encoding is the deterministic encoding of RFC 8949."""
    if b"\xfb" not in encode(value):
        assert decode(cbor2.dumps(value, canonical=True)) == value


@given(st.binary(max_size=60))
@example(b"")
@example(b"\x1b" + b"\xff" * 8)  # an integer
@example(b"\x9b" + b"\xff" * 8)  # an array that claims 2**64 - 1 items
@example(b"\xbb" + b"\xff" * 8)  # a map that claims as many
@example(b"\x5b" + b"\xff" * 8)  # as many bytes
@example(b"\xff")
@example(b"\xa1\x81\x80\x00")  # a list as a map's key
@example(b"\xc2\x40")
@example(b"\x61\xff")
def test_only_encoding_errors_escape_and_only_canonical_bytes_pass(data):
    """Any bytes are either refused, or exactly what the encoder writes for the value that they mean."""
    try:
        value = decode(data)
    except EncodingError:
        return
    assert encode(value) == data


@given(VALUES, st.data())
def test_a_changed_byte_is_refused_or_another_canonical_value(value, data):
    """Mutations of sound bytes reach deeper into the decoder than random bytes do."""
    encoded = bytearray(encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    del encoded[data.draw(st.integers(1, len(encoded))) :]
    test_only_encoding_errors_escape_and_only_canonical_bytes_pass.hypothesis.inner_test(bytes(encoded))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x18\x17", "23 in two bytes"),
        (b"\x19\x00\xff", "255 in three"),
        (b"\x1a\x00\x00\xff\xff", "65535 in five"),
        (b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff", "2**32 - 1 in nine"),
        (b"\x9f\xff", "an indefinite array"),
        (b"\x5f\x40\xff", "indefinite bytes"),
        (b"\xa2\x61b\x00\x61a\x00", "keys out of order"),
        (b"\xa2\x61a\x00\x61a\x00", "a key twice"),
        (b"\xa1\x00\x00", "an integer as a key"),
        (b"\xf9\x3c\x00", "a 16-bit float"),
        (b"\xfa\x3f\x80\x00\x00", "a 32-bit float"),
        (b"\xc2\x41\x01", "a bignum that fits an integer"),
        (b"\xc2\x49\x00" + b"\xff" * 8, "a bignum with a leading zero"),
        (b"\xc1\x00", "an unknown tag"),
        (b"\xf7", "undefined"),
        (b"\xf8\xff", "an unknown simple value"),
        (b"\x00\x00", "bytes after the end"),
        (b"\x61\x80", "text that is not UTF-8"),
        (b"\xd8\x1b\x80", "tag 27 without a name"),
        (b"\xd8\x1b\x00", "tag 27 without arguments"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_other_forms_are_refused(data, what):
    """Each non-canonical form of RFC 8949 that could give an object a second id."""
    with pytest.raises(EncodingError):
        decode(data)


def test_recursion_is_bounded_both_ways():
    """Deep nesting is an EncodingError, never a RecursionError."""
    nested = None
    for _ in range(MAX_DEPTH):
        nested = [nested]
    assert decode(encode(nested)) == nested
    with pytest.raises(EncodingError):
        encode([nested])
    with pytest.raises(EncodingError):
        decode(b"\x81" * 100_000 + b"\x00")
    with pytest.raises(EncodingError):
        decode(b"\xd8\x1b\x82\x61a" * 100_000 + b"\x00")


def test_claimed_lengths_allocate_nothing():
    """A few bytes that claim billions of items cost a few bytes."""
    tracemalloc.start()
    try:
        for head in (b"\x9b", b"\xbb", b"\x5b", b"\x7b"):
            with pytest.raises(EncodingError):
                decode(head + (2**40).to_bytes(8, "big") + b"\x00" * 100)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [object(), {1: 2}, "\ud800", {"\ud800": 1}, {1, 2}, 1j])
def test_what_has_no_encoding_is_refused(value):
    """The encoder raises EncodingError too, text with lone surrogates included."""
    with pytest.raises(EncodingError):
        encode(value)


def test_tagged_values_come_back():
    """Tag 27 carries a type's name and its arguments."""
    value = Tagged("tuple", (1, [Tagged("x", ())]))
    assert decode(encode(value)) == value
