"""Reading and writing one safetensors file, streaming."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from ciuic.errors import InvalidImport, UnsupportedState
from ciuic.interchange.atomic_file import AtomicFile
from ciuic.interchange.regular_file import open_regular
from ciuic.interchange.safetensors_header import DTYPES, METADATA, encode_header, read_header
from ciuic.objects.state_tree import Tensor

if TYPE_CHECKING:
    import torch

PIECE_BYTES = 4 << 20


def write_tensors(
    out: AtomicFile,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    advance: Callable[[int], None] = lambda written: None,
) -> None:
    """Write a whole safetensors file. Names are unique. At most a piece of one tensor is in memory.

    Raises UnsupportedState for a dtype that the format lacks. ``advance`` hears the bytes of each piece
    written.
    """
    for name, tensor in tensors.items():
        if name == METADATA:
            raise UnsupportedState(f"{name}: the format keeps this name for itself. Export to a .pt file instead.")
        if tensor.dtype not in DTYPES or tensor.quantizer is not None:
            raise UnsupportedState(
                f"{name}: a safetensors file cannot hold {tensor.dtype} tensors. Export to a .pt file instead."
            )
    # The widest elements first, as the reference implementation does: so each tensor starts aligned.
    data_order = sorted(tensors, key=lambda name: -DTYPES[tensors[name].dtype][1])
    out.write(encode_header(tensors, data_order, metadata))
    for name in data_order:
        source = tensors[name].source
        for start in range(0, source.nbytes, PIECE_BYTES):
            stop = min(start + PIECE_BYTES, source.nbytes)
            out.write(source.read(start, stop))
            advance(stop - start)


def read_tensors(file: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every tensor of a file, in the order of its header, and its metadata. Raises InvalidImport."""
    import torch

    with open_regular(file) as stream:
        header = read_header(stream, os.fstat(stream.fileno()).st_size, file)
        tensors: dict[str, torch.Tensor] = {}
        for name, entry in header.tensors.items():
            dtype = getattr(torch, entry.dtype, None)
            if dtype is None:
                raise InvalidImport(f"{file}: {name!r} needs a newer torch, which has {entry.dtype}. Upgrade torch.")
            try:
                data = torch.empty(entry.stop - entry.start, dtype=torch.uint8)
            except (RuntimeError, MemoryError):
                size = (entry.stop - entry.start) >> 20
                raise InvalidImport(f"{file}: {name!r} takes {size} MiB, for which there is no memory.") from None
            stream.seek(header.data_start + entry.start)
            if stream.readinto(cast("Any", data.numpy())) != data.numel():
                raise InvalidImport(f"{file} ends within {name!r}. Get an intact copy of the file.")
            empty = not data.numel()
            tensors[name] = torch.empty(entry.shape, dtype=dtype) if empty else data.view(dtype).reshape(entry.shape)
    return tensors, header.metadata
