"""zstandard: one engine of each kind a thread, and frames that are exactly what they say."""

from __future__ import annotations

import threading
from typing import Any

from ciuic.codec import CodecError


class _PerThread(threading.local):
    """A zstandard object serves one thread at a time."""

    def __init__(self) -> None:
        import zstandard  # 30 ms that `ciuic log` need not spend

        self.failure = zstandard.ZstdError
        self.content_size = zstandard.frame_content_size
        self.whole = zstandard.ZstdCompressor(level=1, write_content_size=True)
        # Hardly looks for matches: nearly a pure entropy coder, three times as fast as level 1 and smaller on planes.
        entropy = zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, hash_log=6, min_match=7, window_log=18, chain_log=6, search_log=1,
            target_length=0, write_content_size=True,
        )  # fmt: skip
        self.plane = zstandard.ZstdCompressor(compression_params=entropy)
        self.decompressor = zstandard.ZstdDecompressor()


_engines: _PerThread | None = None


def engines() -> _PerThread:
    """This thread's. The first call imports zstandard."""
    global _engines
    if _engines is None:
        _engines = _PerThread()
    return _engines


def compress(data: Any) -> bytes:
    """One frame, with matches: text, repeated rows."""
    return engines().whole.compress(data)


def compress_plane(data: Any) -> bytes:
    """One frame, entropy-coded: a plane of bytes."""
    return engines().plane.compress(data)


def decompress(frame: Any, length: int) -> bytes:
    """Exactly ``length`` bytes from exactly one frame; CodecError otherwise. Allocates no more than that."""
    engine = engines()
    try:
        if engine.content_size(frame) != length:
            raise CodecError("the frame's size is not the stated one")
        raw = engine.decompressor.decompress(frame, max_output_size=length, allow_extra_data=False)
    except engine.failure as error:
        raise CodecError(str(error)) from error
    if len(raw) != length:
        raise CodecError("the length is not the stated one")
    return raw
