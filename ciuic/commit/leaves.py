"""What is chunked: the tensors of a state tree, and plain values too long for their tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ciuic.errors import UnsupportedState
from ciuic.objects.dtypes import element_width
from ciuic.objects.extent import Extent
from ciuic.objects.plain import encode_plain
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, TensorSource, path_text
from ciuic.objects.tree import chunk_count

MOST_NESTED = 190
"""Containers and modules in one another: a reader follows no more than 200 levels."""
INLINE_LIMIT = 4096
"""Bytes of a plain value's encoding up to which it stands in its tree; a longer one is chunked."""
FIRST_MOMENTS = frozenset(("exp_avg", "momentum_buffer"))
SECOND_MOMENTS = frozenset(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"))

Path = tuple[Key, ...]


class BytesSource:
    """A TensorSource over bytes in memory."""

    stable = True

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> Any:
        return memoryview(self.data)[start:stop]


@dataclass(frozen=True)
class Leaf:
    """Bytes to be chunked. ``dtype`` is "" and ``shape`` () for a plain value's encoding.

    ``part``: of a training's state, as people look at what it takes.
    """

    path: Path
    node: StateNode
    source: TensorSource
    width: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def part(self) -> str:
        if self.path[0] == "model":
            return "weights"
        slot = self.path[-1] if self.path[0] == "optimizer" else ""
        return "first moment" if slot in FIRST_MOMENTS else "second moment" if slot in SECOND_MOMENTS else "other"


def chunked_leaves(
    components: Mapping[str, StateNode], raw_bytes: dict[str, int], chunk_size: int
) -> Iterator[Leaf]:
    """Every leaf that is chunked, in order; ``raw_bytes`` gets what each component holds, plain values included.

    UnsupportedState for a component that no reader would take.
    """
    for name, component in components.items():
        raw_bytes[name] = 0
        extent = Extent()
        stack: list[tuple[Path, StateNode]] = [((name,), component)]
        while stack:
            path, node = stack.pop()
            if len(path) + sum(key.count(".") for key in path if isinstance(key, str)) > MOST_NESTED:
                raise UnsupportedState(f"{path_text(path[:4])}/…: nested more than {MOST_NESTED} deep. Flatten it.")
            length = sum(len(key) + 1 if isinstance(key, str) else 8 for key in path)
            if isinstance(node, Container):
                fits = extent.leaf(length)
                stack.extend(((*path, key), child) for key, child in reversed(node.items))
            elif isinstance(node, Tensor):
                fits = extent.leaf(length, chunks=chunk_count(node.source.nbytes, chunk_size))
                raw_bytes[name] += 0 if node.tie is not None else node.source.nbytes
                yield Leaf(path, node, node.source, element_width(node.dtype), node.dtype, tuple(node.shape))
            else:
                encoded = encode_plain(node.value, path_text(path))
                raw_bytes[name] += len(encoded)
                fits = extent.value(length, node.value, len(encoded))
                if len(encoded) > INLINE_LIMIT:
                    yield Leaf(path, node, BytesSource(encoded), 1, "", ())
            if not fits:
                raise UnsupportedState(f"{name}: {extent.problem}. Store long lists of numbers as tensors or arrays.")
