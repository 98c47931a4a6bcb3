"""Casts: rounded as torch rounds, NaNs pinned, and bases that a chunk rests on in part."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ciuic.codec import CodecError, rules
from ciuic.codec.cast import BLOCK

CASTS = [("float32", "bfloat16"), ("float32", "float16"), ("float64", "float32")]
WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
BITS = {8: np.uint64, 4: np.uint32, 2: np.uint16}
between = st.sampled_from(CASTS)


def cast(source, target, *bases, skip=0, length=None):
    """The bytes that the rule makes; as many as the bases give, unless ``length``."""
    whole = sum(memoryview(base).nbytes for base in bases) - skip
    out = bytearray(whole // WIDTHS[source] * WIDTHS[target] if length is None else length)
    rules.apply("cast", {"from": source, "to": target, "skip": skip}, bases, out)
    return bytes(out)


def by_torch(source, target, data):
    floats = torch.frombuffer(bytearray(data), dtype=getattr(torch, source))
    return bytes(floats.to(getattr(torch, target)).view(torch.uint8).numpy())


def interesting(source, target):
    """Bits of every narrow number, of what is halfway to the next one, and of the neighbours of both."""
    narrow = np.arange(1 << 16, dtype=np.uint32)
    if target == "float32":
        narrow = np.concatenate([narrow, narrow * 0x10001, narrow << 16])
        with np.errstate(invalid="ignore"):
            wide = narrow.view(np.float32).astype(np.float64).view(np.uint64)
        half = np.uint64(1 << 28)
    elif target == "float16":
        wide = narrow.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
        half = np.uint32(1 << 12)
    else:
        wide, half = narrow << 16, np.uint32(1 << 15)
    one = wide.dtype.type(1)
    around = [wide, wide + one, wide - one, wide + half, wide + half + one, wide + half - one]
    # float16 and float32 have denormals whose steps are coarser
    around += [wide + (half << wide.dtype.type(shift)) for shift in (1, 4, 9)]
    return np.concatenate(around)


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_every_rounding_is_torchs(source, target):
    """Exact values, ties, and what lies a unit beside them, in every binade, denormals and overflow included."""
    bits = interesting(source, target)
    numbers = bits[~np.isnan(bits.view(source))]
    assert cast(source, target, numbers) == by_torch(source, target, numbers.tobytes())


@given(between, st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_any_bits(types, words):
    """The same for any bit pattern; a NaN becomes a NaN."""
    source, target = types
    bits = np.array(words, np.uint64).astype(BITS[WIDTHS[source]])
    made = np.frombuffer(cast(source, target, bits), BITS[WIDTHS[target]])
    expected = np.frombuffer(by_torch(source, target, bits.tobytes()), made.dtype) if len(bits) else made
    nans = np.isnan(bits.view(source))
    assert np.array_equal(made[~nans], expected[~nans])
    assert torch.from_numpy(made[nans].copy()).view(getattr(torch, target)).isnan().all()


@pytest.mark.parametrize(
    ("source", "target", "before", "after"),
    [
        ("float32", "bfloat16", [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFABCDEF], [0xFFFF] * 4),
        ("float32", "float16", [0x7FC00000, 0xFF800001, 0x7FC12345, 0xFFABCDEF], [0x7E00, 0xFE00, 0x7E09, 0xFF5E]),
        (
            "float64", "float32",
            [0x7FF8000000000000, 0xFFF0000000000001, 0x7FFFFFFFFFFFFFFF, 0xFFF5555555555555],
            [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFEAAAAA],
        ),
    ],
)  # fmt: skip
def test_nans_are_pinned(source, target, before, after):
    """Machines differ in what they make of a NaN; the rule does not, among numbers and in a block of its own."""
    wide, narrow = BITS[WIDTHS[source]], BITS[WIDTHS[target]]
    assert cast(source, target, np.array(before, wide)) == np.array(after, narrow).tobytes()
    many = np.zeros(2 * BLOCK + 3, wide)
    many[[0, BLOCK - 1, BLOCK, -1]] = before
    assert np.frombuffer(cast(source, target, many), narrow)[[0, BLOCK - 1, BLOCK, -1]].tolist() == after


@given(between, st.data())
def test_a_chunk_of_several_bases(types, data):
    """Wherever the bases are cut and the chunk begins, it is that part of the cast of the whole."""
    source, target = types
    width = WIDTHS[source]
    whole = np.random.default_rng(0).standard_normal(50).astype(source).tobytes()
    cuts = sorted(width * cut for cut in data.draw(st.lists(st.integers(0, 50), max_size=4)))
    bases = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    skip = width * data.draw(st.integers(0, 50))
    length = WIDTHS[target] * data.draw(st.integers(0, 50 - skip // width))
    expected = by_torch(source, target, whole)[skip // width * WIDTHS[target] :][:length]
    assert cast(source, target, *bases, skip=skip, length=length) == expected


@pytest.mark.parametrize(
    ("types", "bases", "skip", "length"),
    [
        (("float32", "bfloat16"), [bytes(8)], 0, 6),
        (("float32", "bfloat16"), [bytes(8)], 4, 4),
        (("float32", "bfloat16"), [bytes(8)], 12, 2),
        (("float32", "bfloat16"), [bytes(8)], 0, 3),
        (("float32", "float16"), [bytes(6), bytes(2)], 0, 4),
        (("float64", "float32"), [bytes(4)], 0, 2),
        (("float64", "bfloat16"), [bytes(8)], 0, 2),
        (("float32", "float32"), [bytes(8)], 0, 8),
        (("int32", "float32"), [bytes(8)], 0, 8),
        (("float32", "bfloat16"), [], 0, 2),
    ],
)
def test_what_does_not_fit(types, bases, skip, length):
    """Too few bytes, half elements, and casts that there are not: a CodecError."""
    with pytest.raises(CodecError):
        rules.apply("cast", {"from": types[0], "to": types[1], "skip": skip}, bases, bytearray(length))
