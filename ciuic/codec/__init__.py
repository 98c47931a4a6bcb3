"""Raw bytes ↔ stored bytes. Pure functions; a codec's number is stored in each record and append-only."""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Any

SAMPLE_LENGTH = 16 * 1024
SAMPLE_PIECES = 16
GOLDEN = 0x9E3779B1  # of 2^32: its multiples are spread evenly, and in step with no row length
# What zstandard has to reach with tensors. It takes 2.5 s for a GB of weights, which stay at 92 % (fp32) or 78 %
# (bf16); what is mostly zeros, integers or fp8 goes below 70 %.
WORTH_IT = 0.72


class Codec(IntEnum):
    RAW = 0
    ZSTD = 1


class CodecError(ValueError):
    """Stored bytes that their codec cannot decode to the stated length."""


class _PerThread(threading.local):
    """A zstandard object serves one thread at a time."""

    def __init__(self) -> None:
        import zstandard  # 30 ms that `ciuic log` need not spend

        self.failure = zstandard.ZstdError
        self.content_size = zstandard.frame_content_size
        self.compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_objects: _PerThread | None = None


def _zstandard() -> _PerThread:
    global _objects
    if _objects is None:
        _objects = _PerThread()
    return _objects


def encode(raw: Any, worth_it: float = WORTH_IT) -> tuple[Codec, Any]:
    """The codec and the stored bytes. RAW, which returns ``raw`` itself, unless another leaves ``worth_it`` at most.

    A sample is tried first.
    """
    view = memoryview(raw).cast("B")
    compressor = _zstandard().compressor
    if len(view) > 4 * SAMPLE_LENGTH:
        sample = compressor.compress(_sample(view))
        if len(sample) > worth_it * SAMPLE_LENGTH:
            return Codec.RAW, raw
    stored = compressor.compress(view)
    return (Codec.ZSTD, stored) if len(stored) <= worth_it * len(view) else (Codec.RAW, raw)


def _sample(view: memoryview) -> bytes:
    """SAMPLE_LENGTH bytes from all over, since empty rows lie together. Aligned to every element's width."""
    piece = SAMPLE_LENGTH // SAMPLE_PIECES
    span = len(view) - piece
    starts = ((span * (GOLDEN * index & 0xFFFFFFFF) >> 32) & ~15 for index in range(SAMPLE_PIECES))
    return b"".join(view[start : start + piece] for start in starts)


def decode(codec: int, stored: Any, raw_length: int) -> Any:
    """Exactly ``raw_length`` raw bytes; CodecError otherwise. Allocates no more than that."""
    if codec == Codec.RAW:
        raw = stored
    elif codec == Codec.ZSTD:
        engine = _zstandard()
        try:
            if engine.content_size(stored) != raw_length:
                raise CodecError("the frame's size is not the stated one")
            raw = engine.decompressor.decompress(stored, max_output_size=raw_length)
        except engine.failure as error:
            raise CodecError(str(error)) from error
    else:
        raise CodecError(f"unknown codec {codec}")
    if len(raw) != raw_length:
        raise CodecError("the length is not the stated one")
    return raw
