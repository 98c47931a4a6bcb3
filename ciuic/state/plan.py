"""What a restore will do, gathered before anything is done."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

from ciuic.errors import UnsupportedState
from ciuic.objects.state_tree import StateNode, Tensor, walk
from ciuic.state.filling import Fill
from ciuic.state.tensors import check_supported, dtype_name, tensor_leaf

KeyFilter: TypeAlias = "str | Iterable[str] | Callable[[str], bool] | None"


def key_predicate(keys: KeyFilter) -> Callable[[str], bool]:
    """Whether a path ("model/layers.0.weight") is wanted: a glob, several, a function, or None for all."""
    if keys is None:
        return lambda path: True
    if callable(keys):
        return keys
    patterns = [keys] if isinstance(keys, str) else list(keys)
    return lambda path: any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


@dataclass
class Plan:
    """What a restore will do. ``problems`` empty means that everything fits; ``tensors`` are what it will read.

    ``actions`` are done in order; fills that follow each other are done at once.
    """

    wanted: Callable[[str], bool]
    strict: bool
    parameter_names: Mapping[int, str]
    actions: list[Callable[[], None] | Fill] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    _memory: dict[tuple[Any, ...], tuple[str, Any]] = field(default_factory=dict)

    def problem(self, text: str, *, partial: bool = True) -> None:
        """A difference: fatal when strict; otherwise ``partial`` ones are skipped and listed."""
        (self.problems if self.strict or not partial else self.skipped).append(text)

    def read(self, node: StateNode) -> None:
        """Note the tensors below ``node``: their stored bytes are checked before anything changes."""
        self.tensors += [leaf for _, leaf in walk(node) if isinstance(leaf, Tensor)]

    def tensor(self, live: torch.Tensor, node: StateNode, path: str) -> None:
        """Fill ``live`` in place."""
        if not self.fits(live, node, path) or not isinstance(node, Tensor):
            return
        chunks = getattr(node.source, "chunks", None)
        memory = (live.device, live.data_ptr(), live.stride(), live.shape)
        first, known = self._memory.setdefault(memory, (path, chunks)) if live.numel() else (path, chunks)
        if known != chunks:
            self.problem(f"{path} and {first} share memory here, but their stored values differ", partial=False)
            return
        self.read(node)
        self.actions.append(Fill(node, lambda: live))

    def fits(self, live: torch.Tensor, node: StateNode, path: str) -> bool:
        """Same dtype, shape and quantizer; otherwise a problem that names both sides."""
        if not isinstance(node, Tensor):
            self.problem(f"{path}: the snapshot holds a plain value, the live object a tensor")
            return False
        try:
            check_supported(live, path)
        except UnsupportedState as error:
            self.problem(str(error), partial=False)
            return False
        here, there = (dtype_name(live.dtype), tuple(live.shape)), (node.dtype, node.shape)
        if here != there:
            self.problem(f"{path}: {described(*there)} in the snapshot, {described(*here)} in the live object")
            return False
        if node.quantizer != (tensor_leaf(live, path).quantizer if live.is_quantized else None):
            self.problem(f"{path}: quantised by other scales in the snapshot than in the live object")
            return False
        if any(stride == 0 and size > 1 for stride, size in zip(live.stride(), live.shape, strict=True)):
            self.problem(f"{path}: the live tensor is expanded; its elements share memory. Make it contiguous")
            return False
        return True


def described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {list(shape)}"
