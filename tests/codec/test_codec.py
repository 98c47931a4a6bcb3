"""Codecs: what comes back, what is worth compressing, and hostile stored bytes."""

import array
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic.codec import CHUNK_WORTH_IT, Codec, CodecError, decode, encode_object

COUNT = 1 << 16


def gaussian(scale=0.02, seed=0):
    """fp32 as a trained weight looks to a codec: sign and mantissa are noise, few exponents."""
    chance = random.Random(seed)
    return array.array("f", (chance.gauss(0, scale) for _ in range(COUNT)))


def brain_floats(floats):
    """The upper halves of fp32: bf16, cut."""
    return b"".join(struct.pack("<I", bits)[2:] for (bits,) in struct.iter_unpack("<I", floats.tobytes()))


def integers(below, kind):
    chance = random.Random(1)
    return array.array(kind, (chance.randrange(below) for _ in range(COUNT))).tobytes()


WEIGHTS = gaussian().tobytes()
ROW = 4096
SPARSE = array.array("f", (value if index % 8 == 0 else 0.0 for index, value in enumerate(gaussian()))).tobytes()
ROWS = b"".join(WEIGHTS[at : at + ROW] if at // ROW % 4 == 0 else bytes(ROW) for at in range(0, len(WEIGHTS), ROW))


@pytest.mark.parametrize(
    "raw",
    [
        WEIGHTS,
        array.array("f", (value * value for value in gaussian(1e-3))).tobytes(),
        brain_floats(gaussian()),
        random.Random(2).randbytes(COUNT),
    ],
    ids=["fp32 weights", "fp32 second moments", "bf16 weights", "random bytes"],
)
def test_training_noise_is_no_object(raw):
    """Without planes a quarter less at best, for ten times the time of hashing it: raw, not even copied."""
    codec, stored, _ = encode_object(raw, CHUNK_WORTH_IT)
    assert codec == Codec.RAW and stored is raw


@pytest.mark.parametrize(
    ("raw", "share"),
    [
        (bytes(1 << 20), 0.001),
        (integers(50_000, "q"), 0.3),
        (integers(50_000, "i"), 0.7),
        (SPARSE, 0.35),
        (ROWS, 0.35),
        (WEIGHTS[: len(WEIGHTS) // 2] + bytes(len(WEIGHTS) // 2), 0.55),
        (bytes(100), 0.5),
    ],
    ids=["zeros", "int64 tokens", "int32 tokens", "scattered zeros", "empty rows", "half empty", "a few bytes"],
)
def test_what_shrinks_is_compressed(raw, share):
    """Zeros, integers and what is half empty, wherever the empty half lies."""
    codec, stored, _ = encode_object(raw, CHUNK_WORTH_IT)
    assert codec == Codec.ZSTD and len(stored) < share * len(raw)
    assert decode(codec, stored, len(raw)) == raw


@given(st.binary(max_size=300), st.integers(1, 2000))
def test_everything_comes_back(piece, times):
    """Of any length, a sampled one or not; never longer than it was."""
    raw = piece * times
    codec, stored, _ = encode_object(memoryview(raw))
    assert len(stored) <= len(raw)
    assert decode(codec, stored, len(raw)) == raw


@given(st.binary(max_size=100), st.integers(0, 1 << 40))
def test_hostile_stored_bytes_are_refused(stored, length):
    """What is no frame of the stated length is a CodecError, and nothing is allocated for a length that is made up."""
    for codec in (Codec.RAW, Codec.ZSTD, 2):
        try:
            assert len(decode(codec, stored, length)) == length
        except CodecError:
            continue
