"""Planes, deltas and residuals: everything comes back, near the entropy, and hostile bytes do no harm."""

import functools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciuic.codec import (
    Codec,
    CodecError,
    Encoded,
    choice,
    decode,
    decode_into,
    encode,
    encode_residual,
    planes,
    split,
    zstd,
)
from ciuic.codec.choice import PLANE_WORTH_IT
from ciuic.codec.parts import BLOCK_BYTES
from ciuic.codec.plans import Plans
from ciuic.codec.transforms import DIFFERENCES, NONE, SCALED

WIDTHS = (1, 2, 4, 8)
FLOATS = {2: "<f2", 4: "<f4", 8: "<f8"}
ODD = [0.0, -0.0, 1e-7, -1e-7, 6e-8, float("inf"), float("-inf"), float("nan")]
COUNT = 20_000


def integers(values, width):
    return np.asarray(values).astype(f"<i{width}").view(f"<u{width}")


def elements(shape, count, width, seed):
    """Unsigned elements of a shape that a codec meets, or should not fall over."""
    chance = np.random.default_rng(seed)
    kind = f"<u{width}"
    if shape == "noise":
        return np.frombuffer(chance.bytes(count * width), kind)
    if shape == "zeros":
        return np.zeros(count, kind)
    if shape == "one value":
        return np.full(count, chance.integers(0, 1 << 8 * width, dtype=np.uint64).astype(kind))
    if shape == "floats":
        return chance.normal(0, 0.02, count).astype(FLOATS.get(width, "<f2")).view(np.uint8)[: count * width].view(kind)
    if shape == "odd floats":
        values = chance.choice(ODD, count).astype(FLOATS.get(width, "<f2"))
        return values.view(np.uint8)[: count * width].view(kind)
    if shape == "NaN payloads":
        top = {1: 0x7C, 2: 0x7F81, 4: 0x7F800001, 8: 0x7FF0000000000001}[width]
        return (np.full(count, top, "<u8") | chance.integers(0, 1 << 4 * width, count, dtype=np.uint64)).astype(kind)
    if shape == "few":
        x = np.zeros(count, kind)
        where = chance.random(count) < chance.choice([0.001, 0.02, 0.08, 0.2])
        x[where] = np.frombuffer(chance.bytes(count * width), kind)[where]
        return x
    if shape == "small":
        return integers(chance.geometric(chance.choice([0.2, 0.5, 0.9]), count) - chance.integers(0, 3), width)
    assert shape == "ramp"
    return np.arange(count).astype(kind)


SHAPES = ["noise", "zeros", "one value", "floats", "odd floats", "NaN payloads", "few", "small", "ramp"]
CHUNKS = {
    "shape": st.sampled_from(SHAPES),
    "count": st.sampled_from([0, 1, 2, 3, 7, 100, 511, 1000, 2049, 5000]),
    "tail": st.integers(0, 7),
    "width": st.sampled_from(WIDTHS),
    "seed": st.integers(0, 1 << 16),
}


def raw_of(x, tail):
    return x.tobytes() + bytes(range(1, 1 + tail % x.itemsize))


def back(encoded, base, length, width):
    """What decoding in place gives, at an odd address."""
    memory = bytearray(1 + length)
    out = memoryview(memory)[1:]
    out[:] = base if encoded.codec in (Codec.DELTA, Codec.PREDICTED) else b"\xa5" * length
    decode_into(encoded.codec, encoded.stored, out, width)
    return bytes(out)


@settings(max_examples=150, deadline=None)
@given(**CHUNKS)
def test_a_chunk_alone_comes_back(shape, count, tail, width, seed):
    """Every width, odd lengths, whatever the elements; never larger than it was."""
    raw = raw_of(elements(shape, count, width, seed), tail)
    encoded = encode(raw, width)
    assert encoded.codec in (Codec.RAW, Codec.ZSTD, Codec.PLANES) and len(encoded.stored) <= len(raw)
    assert back(encoded, None, len(raw), width) == raw
    assert bytes(decode(encoded.codec, encoded.stored, len(raw), width)) == raw


@settings(max_examples=250, deadline=None)
@given(**CHUNKS, change=st.sampled_from([*SHAPES, "wildly different"]))
def test_a_delta_and_a_residual_come_back(shape, count, tail, width, seed, change):
    """Whatever the difference, an element that wraps around too; the base itself is only read."""
    x = elements(shape, count, width, seed)
    base = elements("noise", count, width, seed + 1) if change == "wildly different" else x
    x = x if change == "wildly different" else x + elements(change, count, width, seed + 2)
    raw, before = raw_of(x, tail), raw_of(base, 0) + bytes(tail % width)
    encoded = encode(raw, width, before)
    assert len(encoded.stored) <= len(raw) and back(encoded, before, len(raw), width) == raw
    residual = encode_residual(raw, before, width)
    assert residual.codec == Codec.PREDICTED and back(residual, before, len(raw), width) == raw
    assert len(residual.stored) <= len(raw) + 8 + 8 * 8


@settings(max_examples=100, deadline=None)
@given(
    floats=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=40),
    bits=st.lists(st.integers(0, 2**32 - 1), max_size=8),
    factor=st.floats(0.5, 1, exclude_max=True, width=32),
    repeats=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_what_fades_comes_back(floats, bits, factor, repeats, seed):
    """NaNs of every kind, infinities, −0, denormals among floats that have lost a share, and some more."""
    base = np.concatenate([np.array(floats, "<f4").view("<u4"), np.array(bits, "<u4")])
    base = np.tile(base, repeats)
    with np.errstate(all="ignore"):
        x = (base.view("<f4") * np.float32(factor)).view("<u4") + elements("small", len(base), 4, seed)
    encoded = encode(x.tobytes(), 4, base.tobytes())
    assert back(encoded, base.tobytes(), x.nbytes, 4) == x.tobytes()


def test_an_average_that_fades_is_a_delta_to_what_it_fades_to():
    """A second moment ten steps later: a hundredth less, and a little of new squares. As a difference of both signs
    it would have a plane more to code."""
    noise = np.random.default_rng(3)
    base = noise.lognormal(-20, 2, COUNT).astype("<f4")
    x = base * np.float32(0.99) + (noise.random(COUNT) ** 8 * 1e-3 * base).astype("<f4")
    encoded = encode(x.tobytes(), 4, base.tobytes())
    assert encoded.codec == Codec.DELTA and encoded.stored[0] == SCALED
    assert len(encoded.stored) < 0.93 * len(encode_residual(x.tobytes(), base.tobytes(), 4).stored)
    assert back(encoded, base.tobytes(), x.nbytes, 4) == x.tobytes()


def test_a_plan_is_kept_for_chunks_that_look_alike():
    """A tensor's chunks share a plan, but not with one that is all zeros, or that hardly changed; and none is worse off
    than by itself by more than what a plan may be wrong."""
    plans = Plans()
    noise, before = elements("floats", COUNT, 4, 1), elements("floats", COUNT, 4, 2)
    few = noise.copy()
    few[::100] += 1
    zeros = np.zeros_like(noise)
    chunks = [(noise, None), (zeros, None), (noise, None), (noise, before), (few, noise), (noise, before)]
    for _ in range(3):
        for x, base in chunks:
            against = None if base is None else base.tobytes()
            shared, own = (encode(x.tobytes(), 4, against, plans=each) for each in (plans, None))
            assert len(shared.stored) <= len(own.stored) + 0.02 * x.nbytes
            assert back(shared, against, x.nbytes, 4) == x.tobytes()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_chunk_comes_back_by_every_codec(shape, width):
    """Long enough for samples, eights and every layer of a split."""
    x = elements(shape, COUNT, width, 7)
    for base in (None, x, x - elements("small", COUNT, width, 8), x - elements("few", COUNT, width, 9)):
        before = None if base is None else base.tobytes()
        for check in (True, False):
            encoded = encode(x.tobytes(), width, before, check=check)
            assert back(encoded, before, x.nbytes, width) == x.tobytes()
            assert check or encoded.check_s == 0


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("changed", range(1, 8))
def test_a_split_that_does_not_pay_leaves_the_plane(width, changed):
    """Elements so few that a split is longer than its plane, of which the bytes are then kept."""
    for count in range(20 * changed, 20 * changed + 80):
        x = np.full(count, 7, f"<u{width}")
        x[:: max(count // changed, 1)] = np.arange(3, 3 + len(x[:: max(count // changed, 1)])) * 0x21
        encoded = encode_residual(x.tobytes(), bytes(x.nbytes), width)
        assert back(encoded, bytes(x.nbytes), x.nbytes, width) == x.tobytes()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 2, 7, 8, 600, 4001])
@pytest.mark.parametrize("centre", [0, 5, 250])
def test_codes_of_every_length_come_back(width, count, centre):
    """Whatever a plan asks for: values that wrap around, none, some and all left over, an odd number of elements."""
    chance = np.random.default_rng(count)
    for bits in planes.BITS:
        for spread in (1, 4, 15, 40):
            x = (chance.integers(0, spread, count) + centre).astype(f"<u{width}")
            plan = choice.Plan(NONE, (choice.Group(0, width, choice.SPLIT, bits or split.ONE_BIT, centre),), 1.0)
            stored, _ = planes.encode(x.tobytes(), width, plan, None, True)
            assert back(Encoded(Codec.PLANES, stored, 0.0), None, x.nbytes, width) == x.tobytes()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("transform", DIFFERENCES)
def test_every_difference_comes_back(width, transform):
    """In several blocks, the last one shorter; elements that wrap around."""
    if transform == SCALED and width != 4:
        return
    count = 2 * BLOCK_BYTES // width + 77
    x, base = elements("noise", count, width, 1), elements("noise", count, width, 2)
    x = x.copy()
    x[::3] = base[::3] + elements("small", len(x[::3]), width, 3)
    groups = tuple(choice.Group(place, 1, choice.ZSTD) for place in range(width))
    plan = choice.Plan(transform, groups, 1.0, 0.75 if transform == SCALED else 0.0)
    stored, _ = planes.encode(x.tobytes(), width, plan, base.tobytes(), True)
    assert back(Encoded(Codec.DELTA, stored, 0.0), base.tobytes(), x.nbytes, width) == x.tobytes()


def test_complex_elements_are_halves():
    """16 bytes are taken as two of 8."""
    raw = elements("floats", COUNT, 8, 3).tobytes()
    encoded = encode(raw, 16, raw[:-8] + bytes(8))
    assert encoded.codec == Codec.DELTA and len(encoded.stored) < 200
    assert back(encoded, raw[:-8] + bytes(8), len(raw), 16) == raw


def plane_entropy(x, worth_it=1.0):
    """Bytes that x takes at the order-0 entropy of its byte planes; as they are where that is above ``worth_it``."""
    bits = 0.0
    for plane in x.view(np.uint8).reshape(-1, x.itemsize).T:
        share = np.bincount(plane)[np.bincount(plane) > 0] / len(x)
        entropy = -(share * np.log2(share)).sum()
        bits += (entropy if entropy <= 8 * worth_it else 8) * len(x)
    return bits / 8


@functools.cache
def adamw_step(kind, step):
    """(before, after) of what an optimizer changes by steps of relative size ``step``."""
    chance = np.random.default_rng(11)
    before = chance.uniform(-0.06, 0.06, 1 << 17).astype(np.float32)
    if kind == "second moment":
        before = (before * before * 1e-3).astype(np.float32)
    after = (before * (1 + step * chance.normal(0, 1, len(before)))).astype(np.float32)
    if kind == "weights bf16":
        return tuple(each.view("<u4").__rshift__(16).astype("<u2") for each in (before, after))
    return before.view("<u4"), after.view("<u4")


@pytest.mark.parametrize("step", [1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("kind", ["weights", "second moment", "weights bf16"])
def test_a_delta_is_near_the_entropy(kind, step):
    """Within 1.5 % of the order-0 entropy of the planes of the difference, hardly shrinking ones taken as they are."""
    before, after = adamw_step(kind, step)
    d = (after - before).astype(after.dtype)
    sign = (d.view(f"<i{d.itemsize}") >> 8 * d.itemsize - 1).view(d.dtype)
    floor = plane_entropy(d << 1 ^ sign, PLANE_WORTH_IT)
    encoded = encode(after.tobytes(), d.itemsize, before.tobytes())
    assert encoded.codec == Codec.DELTA and len(encoded.stored) <= 1.015 * floor + 1000


def test_what_hardly_changed_is_tiny():
    """An equal base costs a header, a thousandth of changed elements about what says which and what they are."""
    x = elements("floats", COUNT, 4, 1)
    assert len(encode(x.tobytes(), 4, x.tobytes()).stored) < 32
    y = x.copy()
    y[::1000] ^= 0x5A5A5A
    encoded = encode(y.tobytes(), 4, x.tobytes())
    assert encoded.codec == Codec.DELTA and len(encoded.stored) < 12 * COUNT / 1000


def test_a_delta_has_to_be_worth_its_base():
    """Not above ``most_ratio``, nor where the bytes alone are as small."""
    before, after = adamw_step("weights", 1e-3)
    assert encode(after.tobytes(), 4, before.tobytes(), most_ratio=0.3).codec == Codec.PLANES
    noise = elements("noise", len(after), 4, 2)
    assert encode(after.tobytes(), 4, noise.tobytes()).codec == Codec.PLANES
    assert encode(bytes(after.nbytes), 4, after.tobytes()).codec == Codec.PLANES
    assert encode(noise.tobytes(), 4, after.tobytes()) == Encoded(Codec.RAW, noise.tobytes(), 0.0)


@pytest.mark.parametrize("how", ["another byte", "no frame"])
def test_what_zstandard_spoils_is_kept_raw(monkeypatch, how):
    """The check finds every frame that does not come back, and the plane is stored as it is."""
    before, after = adamw_step("weights", 1e-4)
    text = b"the same line again and again\n" * 1000
    honest = zstd.compress_plane, zstd.compress

    def spoiled(compress, data):
        other = np.array(np.frombuffer(data, np.uint8))
        other[len(other) // 2] ^= 1
        return compress(other) if how == "another byte" else b"\0" * 20

    monkeypatch.setattr(zstd, "compress_plane", functools.partial(spoiled, honest[0]))
    monkeypatch.setattr(zstd, "compress", functools.partial(spoiled, honest[1]))
    encoded = encode(after.tobytes(), 4, before.tobytes())
    assert back(encoded, before.tobytes(), after.nbytes, 4) == after.tobytes()
    assert encode(text, 1).codec == Codec.RAW
    assert encode(text, 1, check=False).codec == Codec.ZSTD


def stored_kinds():
    """(codec, stored, base, width) of each kind of stream."""
    for width in WIDTHS:
        for shape in ("floats", "few", "small", "zeros"):
            change, base = elements(shape, 3000, width, 5), elements("floats", 3000, width, 6)
            raw = raw_of(base + change, 3)
            yield Codec.PREDICTED, bytes(encode_residual(raw, raw_of(base, 3), width).stored), raw_of(base, 3), width
            encoded = encode(raw_of(change, 3), width)
            if encoded.codec == Codec.PLANES:
                yield Codec.PLANES, bytes(encoded.stored), bytes(len(raw)), width


KINDS = list(stored_kinds())


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_planes_are_refused_or_wrong(kind, data):
    """Flipped, cut or longer: a CodecError or other bytes, never another exception, never a large allocation."""
    codec, stored, base, width = kind
    broken = bytearray(stored)
    change = data.draw(st.sampled_from(["flip", "header", "cut", "longer"]))
    if change in ("flip", "header"):
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, min(len(broken), 90 if change == "header" else len(broken)) - 1))
            broken[at] = data.draw(st.integers(0, 255))
    elif change == "cut":
        del broken[data.draw(st.integers(0, len(broken) - 1)) :]
    else:
        broken += data.draw(st.binary(min_size=1, max_size=9))
    out = bytearray(base)
    tracemalloc.start()
    try:
        decode_into(codec, bytes(broken), out, width)
        assert change in ("flip", "header")
    except CodecError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(out) == len(base) and peak < 300_000 + 12 * len(base)


@given(st.binary(max_size=200), st.sampled_from([2, 3, 4, 5, 6, 255]), st.integers(0, 3000), st.integers(0, 17))
def test_hostile_planes_are_refused(stored, codec, length, width):
    """What was never encoded: only CodecError."""
    for head in (b"", b"\0\1" + bytes(6), b"\2\1" + bytes(6)):
        try:
            decode_into(codec, head + stored, bytearray(length), width)
        except CodecError:
            continue


def test_widths_and_transforms_belong_to_their_codec():
    """A delta's bytes are no planes, planes no delta, and another width is another chunk."""
    before, after = adamw_step("weights", 1e-4)
    delta = encode(after.tobytes(), 4, before.tobytes())
    alone = encode(after.tobytes(), 4)
    for codec, stored, width in (
        (Codec.PLANES, delta.stored, 4), (Codec.DELTA, alone.stored, 4), (Codec.DELTA, delta.stored, 2),
        (Codec.DELTA, delta.stored, 8), (Codec.PLANES, alone.stored, 1), (Codec.PLANES, alone.stored, 3),
    ):  # fmt: skip
        with pytest.raises(CodecError):
            decode_into(codec, stored, bytearray(after.nbytes), width)
    with pytest.raises(CodecError):
        decode(Codec.DELTA, delta.stored, after.nbytes, 4)


@pytest.mark.parametrize(
    ("transform", "factor", "width"),
    [
        *((4, 0, 4), (4, -1, 4), (4, np.inf, 4), (4, np.nan, 4), (4, 1, 2), (4, 1, 8)),
        *((3, 1, 4), (2, 1, 4), (5, 1, 4), (6, 0, 4)),
    ],
)
def test_a_factor_is_a_number_for_floats(transform, factor, width):
    stored = planes.HEAD.pack(transform, 1, factor) + planes.GROUP.pack(0, width, planes.CONSTANT, width) + bytes(width)
    with pytest.raises(CodecError):
        decode_into(Codec.DELTA, stored, bytearray(16 * width), width)


def test_splits_do_not_nest_for_ever():
    """Deeper than a writer goes is refused, long before the stack is."""
    payload = planes.HEAD.pack(0, 1, 0) + planes.GROUP.pack(0, 1, planes.CONSTANT, 1) + b"\7"
    for _ in range(60):
        stream = planes.SPLIT_HEAD.pack(1, 0, 125, 1000, 0) + b"\xff" * 125 + payload
        payload = planes.HEAD.pack(0, 1, 0) + planes.GROUP.pack(0, 1, planes.SPLIT, len(stream)) + stream
    with pytest.raises(CodecError, match="in one another"):
        decode_into(Codec.PLANES, payload, bytearray(1000), 1)
