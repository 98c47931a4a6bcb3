"""Names that share one tensor, in and out of files that know no sharing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciuic.objects.state_tree import Key, StateNode, Tensor, walk

PIECE_BYTES = 4 << 20


def first_names(node: StateNode) -> dict[tuple[Key, ...], tuple[Key, ...]]:
    """Path → path of the first tensor with the same memory and contents, for every tied tensor that has one.

    A tie says that memory is shared; a transposed or otherwise differing view of it is a tensor of its own
    here.
    """
    tensors = {path: leaf for path, leaf in walk(node) if isinstance(leaf, Tensor)}
    return {
        path: tensor.tie
        for path, tensor in tensors.items()
        if tensor.tie is not None and tensor.tie in tensors and _interchangeable(tensor, tensors[tensor.tie])
    }


def _interchangeable(a: Tensor, b: Tensor) -> bool:
    if (a.dtype, a.shape, a.quantizer) != (b.dtype, b.shape, b.quantizer):
        return False
    chunks = getattr(a.source, "chunks", None)
    if chunks is not None and chunks == getattr(b.source, "chunks", None):
        return True
    cuts = range(0, a.source.nbytes, PIECE_BYTES)
    pieces = ((start, min(start + PIECE_BYTES, a.source.nbytes)) for start in cuts)
    return all(bytes(a.source.read(*piece)) == bytes(b.source.read(*piece)) for piece in pieces)


def drop_tied_names(
    tensors: Mapping[str, Tensor], first: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of each group one name stays, the first by the alphabet, as in ``safetensors.torch.save_model``.

    Returns what stays, and dropped name → name that stays, which that function puts into the metadata.
    """
    groups: dict[str, list[str]] = {}
    for name in tensors:
        groups.setdefault(first.get(name, name), []).append(name)
    kept = {name: min(group) for group in groups.values() for name in group}
    dropped = {name: kept[name] for name in tensors if kept[name] != name}
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}, dropped


def restore_tied_names(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    """Every name that the metadata says was dropped, as the very tensor that stayed."""
    dropped = {name: kept for name, kept in metadata.items() if name not in tensors and name != "format"}
    return {**tensors, **{name: tensors[kept] for name, kept in dropped.items() if kept in tensors}}
