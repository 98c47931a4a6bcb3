"""Every codec on every dtype: what floats have at their edges, odd lengths, one element, and nothing at all."""

from __future__ import annotations

import pytest
from contents import CONTENTS, elements
from hypothesis import given, settings
from hypothesis import strategies as st

from ciuic.codec import Codec, choice, decode, decode_into, encode, encode_residual, planes, zstd
from ciuic.objects.dtypes import DTYPE_WIDTHS

LENGTHS = st.one_of(st.sampled_from((0, 1, 2, 3)), st.integers(4, 700))
SEEDS = st.integers(0, 1 << 30)


@st.composite
def chunks(draw: st.DrawFn, dtype: str) -> tuple[bytes, bytes]:
    """(raw, base) of one length, which need not be one of whole elements."""
    count, seed = draw(LENGTHS), draw(SEEDS)
    raw = elements(dtype, draw(st.sampled_from(CONTENTS)), count, seed)
    base = elements(dtype, draw(st.sampled_from(CONTENTS)), count, seed + draw(st.sampled_from((0, 1))))
    tail = draw(st.binary(max_size=DTYPE_WIDTHS[dtype] - 1))
    return raw + tail, base + tail[::-1]


def comes_back(codec: int, stored: object, raw: bytes, width: int, base: bytes = b"") -> None:
    based = codec in (Codec.DELTA, Codec.PREDICTED)
    out = bytearray(base if based else b"\xa5" * len(raw))
    decode_into(codec, bytes(stored), out, width)  # type: ignore[call-overload]
    assert out == raw
    if not based:
        assert bytes(decode(codec, bytes(stored), len(raw), width)) == raw  # type: ignore[call-overload]


@pytest.mark.parametrize("dtype", sorted(DTYPE_WIDTHS))
def test_every_codec_on_every_dtype(dtype: str) -> None:
    """As it is, by zstandard, in planes, as the difference to a base and to a guess, and as the encoder chooses."""
    width = DTYPE_WIDTHS[dtype]

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(chunks(dtype))
    def holds(chunk: tuple[bytes, bytes]) -> None:
        raw, base = chunk
        comes_back(Codec.RAW, raw, raw, width)
        comes_back(Codec.ZSTD, zstd.compress(raw), raw, width)
        comes_back(Codec.PREDICTED, encode_residual(raw, base, width).stored, raw, width, base)
        narrow = min(width, 8)
        if len(raw) >= narrow:
            plan = choice.alone(memoryview(raw), narrow)
            comes_back(Codec.PLANES, planes.encode(memoryview(raw), narrow, plan, None, True)[0], raw, width)
            plan = choice.difference(memoryview(raw), memoryview(base), narrow)
            stored = planes.encode(memoryview(raw), narrow, plan, memoryview(base), True)[0]
            comes_back(Codec.DELTA, stored, raw, width, base)
        for chosen in (encode(raw, width), encode(raw, width, base), encode(raw, width, worth_it=1.0)):
            comes_back(chosen.codec, chosen.stored, raw, width, base)

    holds()
