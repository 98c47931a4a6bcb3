"""Plain Python values: exactly what went in comes out, types and order included."""

import sys
from collections import Counter, OrderedDict, defaultdict
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic.errors import UnsupportedState
from ciuic.history.leaves import same_plain
from ciuic.objects.encoding import EncodingError, Tagged, encode
from ciuic.objects.plain import decode_plain, encode_plain

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
KEYS = st.one_of(TEXT, st.integers())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**130), 2**130),
    st.floats(),
    st.complex_numbers(),
    TEXT,
    st.binary(max_size=40),
)


def containers(inner):
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4).map(OrderedDict),
        st.dictionaries(KEYS, st.integers(), max_size=4).map(Counter),
    )


PLAIN = st.recursive(SCALARS, containers, max_leaves=15)


@given(PLAIN)
def test_plain_values_come_back_exactly(value):
    """int keys stay ints, tuples tuples, Counters Counters, NaN NaN, and dicts keep their order."""
    back = decode_plain(encode_plain(value, "x"))
    assert same_plain(back, value)
    assert encode_plain(back, "x") == encode_plain(value, "x")


def test_int_and_text_keys_do_not_meet():
    """{1: …} and {"1": …} are different, and may stand side by side."""
    value = {1: "int", "1": "text"}
    assert decode_plain(encode_plain(value, "x")) == value


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (defaultdict(int, {"a": 1}), {"a": 1}),
        (IntEnum("Colour", "RED").RED, 1),
        (sys.maxsize + 1, sys.maxsize + 1),
    ],
)
def test_near_relatives_come_back_as_the_plain_type(value, back):
    """Subclasses and buffers are stored as what they are a kind of."""
    result = decode_plain(encode_plain(value, "x"))
    assert (type(result), result) == (type(back), back)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {2}]}, "x/a/1"),
        ({"a": {"b": object()}}, "x/a/b"),
        (({1: len},), "x/0/1"),
        ({None: 1}, "x"),
        ({True: 1}, "x"),
        ({1.5: 1}, "x"),
        ({"s": "\ud800"}, "x"),
    ],
)
def test_what_is_not_plain_is_refused_by_its_path(value, path):
    """The message begins with where it is."""
    with pytest.raises(UnsupportedState, match=rf"^{path}: "):
        encode_plain(value, "x")


def test_nesting_too_deep_and_nesting_in_itself_are_refused():
    """Neither ends in a RecursionError."""
    value = []
    value.append(value)
    with pytest.raises(UnsupportedState, match=r"^x: "):
        encode_plain(value, "x")


@pytest.mark.parametrize(
    "value",
    [
        Tagged("os.system", ("true",)),
        Tagged("dict", (1,)),
        Tagged("dict", (1, 2, 1, 3)),
        Tagged("dict", (True, 2)),
        Tagged("dict", ([], 2)),
        Tagged("complex", (1.0,)),
        Tagged("complex", ("1", "2")),
        {"a": 1},
        {"a": Tagged("tuple", ())},
        [{"a": 1}],
    ],
)
def test_only_known_forms_decode(value):
    """Canonical CBOR that is no plain value: unknown type names run nothing.

    A bare map once came through as it was, with undecoded Tagged objects inside.
    """
    with pytest.raises(EncodingError):
        decode_plain(encode(value))


@given(st.binary(max_size=40))
def test_only_encoding_errors_escape(data):
    """Any bytes decode or raise EncodingError."""
    try:
        value = decode_plain(data)
    except EncodingError:
        return
    assert encode_plain(value, "x") == data
