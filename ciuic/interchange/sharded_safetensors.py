"""A model cut into several safetensors files, with a Hugging Face index: ``model.safetensors.index.json``.

The index is ``{"metadata": {…}, "weight_map": {tensor name: file name in the same folder}}``
(https://huggingface.co/docs/transformers/big_models#sharded-checkpoints).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NoReturn

from ciuic.errors import InvalidImport
from ciuic.interchange.regular_file import open_regular, path_inside
from ciuic.interchange.safetensors_file import read_tensors

if TYPE_CHECKING:
    import torch

INDEX_SUFFIX = ".safetensors.index.json"
LARGEST_INDEX = 100_000_000
"""Bytes."""


def read_sharded(index_file: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every tensor of the weight map, from the file it names, and the metadata of all files together.

    Raises InvalidImport, and UnsafePath for a file outside the index's own folder, before any tensor is read.
    """
    weight_map = _read_weight_map(index_file)
    folder = os.path.dirname(os.path.abspath(index_file))
    paths = {shard: path_inside(folder, shard) for shard in dict.fromkeys(weight_map.values())}
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    for shard, path in paths.items():
        held, shard_metadata = read_tensors(path)
        metadata.update(shard_metadata)
        for name in (name for name, where in weight_map.items() if where == shard):
            if name not in held:
                _refuse(index_file, f"{shard} does not hold {name!r}")
            tensors[name] = held[name]
    return {name: tensors[name] for name in weight_map}, metadata


def _read_weight_map(index_file: str) -> dict[str, str]:
    with open_regular(index_file) as stream:
        text = stream.read(LARGEST_INDEX + 1)
    if len(text) > LARGEST_INDEX:
        _refuse(index_file, "it is too large for an index")
    try:
        index: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(index_file, f"it is not JSON: {error}")
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        _refuse(index_file, "it has no weight_map from names to files")
    return weight_map


def _refuse(index_file: str, why: str) -> NoReturn:
    raise InvalidImport(f"{index_file} is not a usable index: {why}. Get an intact copy of the model.")
