"""Raw bytes ↔ stored bytes. Pure functions; a codec's number is stored in each record and append-only.

Nothing here imports numpy before the first chunk of planes: `ciuic log` needs none.
"""

from __future__ import annotations

import time
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ciuic.codec.plans import Plans

SAMPLE_LENGTH = 8 * 1024
SAMPLE_PIECES = 16
GOLDEN = 0x9E3779B1  # of 2^32: its multiples are spread evenly, and in step with no row length
WORTH_IT = 0.97
"""What a codec has to leave at most; raw bytes need no decoding and can be mapped."""
OBJECT_WORTH_IT = 0.94
"""The same for trees: they are small beside their tensors, names shrink, and coding one costs next to nothing."""
CHUNK_WORTH_IT = 0.72
"""The same for zstandard on whole elements. It takes 2.5 s for a GB of weights, which stay at 92 % (fp32) or 78 %
(bf16); what is mostly zeros, integers or fp8 goes below 70 %."""
CLEARLY = 0.97
"""A delta has to be so much smaller than what rests on nothing."""
NOISE = 0.75
"""What planes leave of numbers in which zstandard finds nothing either."""
SMALL = 512
"""Bytes below which planes are not tried: a record's header is as large as what they save."""


class Codec(IntEnum):
    RAW = 0
    ZSTD = 1
    PLANES = 2
    DELTA = 3
    DERIVED = 4
    PREDICTED = 5


class CodecError(ValueError):
    """Stored bytes that their codec cannot decode to the stated length."""


class InexactArithmetic(CodecError):
    """This thread's floating point is not IEEE's and cannot be made so: nothing is wrong with what is stored."""


class Encoded(NamedTuple):
    """``stored`` is a buffer, for RAW the very one that was given; ``check_s``: processor seconds spent on checking."""

    codec: Codec
    stored: Any
    check_s: float


def encode_object(raw: Any, worth_it: float = OBJECT_WORTH_IT) -> Encoded:
    """RAW or ZSTD: for trees, and with ``CHUNK_WORTH_IT`` for chunks of a repository that has no planes."""
    return _zstd(memoryview(raw).cast("B"), raw, worth_it, False)


def encode(
    raw: Any,
    width: int = 1,
    base: Any = None,
    *,
    most_ratio: float = 1.0,
    worth_it: float = WORTH_IT,
    check: bool = True,
    plans: Plans | None = None,
) -> Encoded:
    """The smallest of RAW, ZSTD, PLANES and, with a ``base`` of the same length, DELTA, judged by samples.

    ``width``: bytes of an element; 16 is taken as two of 8. A delta that leaves more than ``most_ratio`` is not taken,
    nor anything that leaves more than ``worth_it``. ``check``: what was entropy-coded is decoded and compared.
    ``plans``: of the tensor that this is a chunk of.
    """
    view = memoryview(raw).cast("B")
    if base is not None:
        base = memoryview(base).cast("B")
        assert len(base) == len(view), "a base has the length of the raw bytes"
    if len(view) < SMALL:
        return _zstd(view, raw, worth_it, check)
    from ciuic.codec import planes
    from ciuic.codec.plans import Plans

    plans = Plans() if plans is None else plans
    width = min(width, 8)
    if base is not None:
        ratio, delta = plans.either(view, base, width)
        most = min(most_ratio, worth_it)
        if delta.ratio <= min(most, CLEARLY * ratio):
            stored, check_s = planes.encode(view, width, delta, base, check)
            plans.turned_out(delta, len(stored) / len(view))
            if len(stored) <= most * len(view):
                return Encoded(Codec.DELTA, stored, check_s)
    plan = plans.alone(view, width)
    if (width == 1 or plan.ratio < NOISE) and _sample_ratio(view) < min(plan.ratio, worth_it):
        whole = _zstd(view, raw, worth_it, check)
        if len(whole.stored) <= plan.ratio * len(view):
            return whole
    if plan.ratio <= worth_it:
        stored, check_s = planes.encode(view, width, plan, None, check)
        plans.turned_out(plan, len(stored) / len(view))
        if len(stored) <= worth_it * len(view):
            return Encoded(Codec.PLANES, stored, check_s)
    return Encoded(Codec.RAW, raw, 0.0)


def encode_residual(raw: Any, guess: Any, width: int, *, check: bool = True) -> Encoded:
    """PREDICTED: as a delta to ``guess``, which has the length of ``raw``, however large that comes out."""
    from ciuic.codec import choice, planes

    view, guessed = memoryview(raw).cast("B"), memoryview(guess).cast("B")
    width = min(width, 8)
    stored, check_s = planes.encode(view, width, choice.difference(view, guessed, width), guessed, check)
    return Encoded(Codec.PREDICTED, stored, check_s)


def decode_into(codec: int, stored: Any, out: Any, width: int) -> None:
    """Turn the writable buffer ``out``, of the raw bytes' length, into the raw bytes.

    RAW, ZSTD and PLANES overwrite it; DELTA and PREDICTED find the base or the guess in it. CodecError for anything
    malformed, and then ``out`` holds anything; allocates no more than a few times its length.
    """
    view = memoryview(out).cast("B")
    if codec in (Codec.PLANES, Codec.DELTA, Codec.PREDICTED):
        from ciuic.codec import planes

        planes.decode_into(memoryview(stored).cast("B"), view, min(width, 8), codec != Codec.PLANES)
    else:
        view[:] = memoryview(decode(codec, stored, len(view))).cast("B")


def decode(codec: int, stored: Any, raw_length: int, width: int = 1) -> Any:
    """Exactly ``raw_length`` raw bytes, of a codec without a base; CodecError otherwise. Allocates hardly more."""
    if codec == Codec.RAW:
        if len(memoryview(stored).cast("B")) != raw_length:
            raise CodecError("the length is not the stated one")
        return stored
    if codec == Codec.ZSTD:
        from ciuic.codec import zstd

        return zstd.decompress(stored, raw_length)
    if codec == Codec.PLANES:
        from ciuic.codec import planes

        return planes.decode(memoryview(stored).cast("B"), raw_length, min(width, 8))
    raise CodecError(f"codec {codec} is unknown, or needs a base")


def _zstd(view: memoryview, raw: Any, worth_it: float, check: bool) -> Encoded:
    from ciuic.codec import zstd

    if len(view) > 8 * SAMPLE_LENGTH and _sample_ratio(view) > worth_it:
        return Encoded(Codec.RAW, raw, 0.0)
    stored = zstd.compress(view)
    if len(stored) > worth_it * len(view):
        return Encoded(Codec.RAW, raw, 0.0)
    if not check:
        return Encoded(Codec.ZSTD, stored, 0.0)
    began = time.thread_time()
    same = _comes_back(stored, view)
    check_s = time.thread_time() - began
    return Encoded(Codec.ZSTD, stored, check_s) if same else Encoded(Codec.RAW, raw, check_s)


def _comes_back(frame: bytes, view: memoryview) -> bool:
    from ciuic.codec import zstd

    try:
        return zstd.decompress(frame, len(view)) == bytes(view)
    except CodecError:
        return False


def _sample_ratio(view: memoryview) -> float:
    from ciuic.codec import zstd

    sample = _sample(view) if len(view) > SAMPLE_LENGTH else view
    return len(zstd.compress(sample)) / len(sample)


def _sample(view: memoryview) -> bytes:
    """SAMPLE_LENGTH bytes from all over, since empty rows lie together. Aligned to every element's width."""
    piece = SAMPLE_LENGTH // SAMPLE_PIECES
    span = len(view) - piece
    starts = ((span * (GOLDEN * index & 0xFFFFFFFF) >> 32) & ~15 for index in range(SAMPLE_PIECES))
    return b"".join(view[start : start + piece] for start in starts)


def _zstandard() -> None:
    """Load what would be loaded later."""
    from ciuic.codec import zstd

    zstd.engines()
