"""Files that others wrote → the components of a snapshot. No code from a file is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciuic.errors import InvalidImport
from ciuic.interchange.flat_names import unflatten
from ciuic.interchange.sharded_safetensors import INDEX_SUFFIX, read_sharded
from ciuic.interchange.ties import restore_tied_names
from ciuic.objects.snapshot import COMPONENTS

ALL = "all"
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def read_file(file: str, *, to: str = "model") -> tuple[dict[str, Any], dict[str, str]]:
    """Component name → its state in nested containers and tensors, and the file's metadata.

    ``to`` names the component that the file becomes; "all" takes a .pt file that holds component → state.
    Names that safetensors.torch.save_model dropped are back, tied to the one that stayed. Raises
    InvalidImport for a file that is not what its suffix says, and UnsafePath for an index that leads out of
    its folder.
    """
    if to not in (*COMPONENTS, ALL):
        raise InvalidImport(f"there is no component {to!r}: choose one of {', '.join((*COMPONENTS, ALL))}.")
    if file.endswith((".safetensors", INDEX_SUFFIX)):
        if to == ALL:
            raise InvalidImport(f"{file}: a safetensors file holds one component. Say which one.")
        state, metadata = _read_safetensors(file)
        return {to: state}, metadata
    if not file.endswith(TORCH_SUFFIXES):
        raise InvalidImport(f"{file}: no known suffix. Import .safetensors, {INDEX_SUFFIX}, .pt or .pth.")
    from ciuic.interchange.torch_file import read_torch

    state = read_torch(file)
    if to != ALL:
        return {to: state}, {}
    if not isinstance(state, Mapping) or not state or not set(state) <= set(COMPONENTS):
        raise InvalidImport(f"{file} does not hold component → state. Name the component that it is to become.")
    return dict(state), {}


def _read_safetensors(file: str) -> tuple[Any, dict[str, str]]:
    from ciuic.interchange.safetensors_file import read_tensors

    tensors, metadata = read_sharded(file) if file.endswith(INDEX_SUFFIX) else read_tensors(file)
    return unflatten(restore_tied_names(tensors, metadata), metadata, file), metadata
