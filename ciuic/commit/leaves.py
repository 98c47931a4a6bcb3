"""What is chunked: the tensors of a state tree, and plain values too long for their tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ciuic.errors import UnsupportedState
from ciuic.objects.dtypes import element_width
from ciuic.objects.plain import encode_plain
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, TensorSource, path_text

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


def chunked_leaves(components: Mapping[str, StateNode], raw_bytes: dict[str, int]) -> Iterator[Leaf]:
    """Every leaf that is chunked, in order; ``raw_bytes`` gets what each component holds, plain values included."""
    for name, component in components.items():
        raw_bytes[name] = 0
        stack: list[tuple[Path, StateNode]] = [((name,), component)]
        while stack:
            path, node = stack.pop()
            if len(path) + sum(key.count(".") for key in path if isinstance(key, str)) > MOST_NESTED:
                raise UnsupportedState(f"{path_text(path[:4])}/…: nested more than {MOST_NESTED} deep. Flatten it.")
            if isinstance(node, Container):
                stack.extend(((*path, key), child) for key, child in reversed(node.items))
            elif isinstance(node, Tensor):
                raw_bytes[name] += 0 if node.tie is not None else node.source.nbytes
                yield Leaf(path, node, node.source, element_width(node.dtype), node.dtype, tuple(node.shape))
            else:
                encoded = encode_plain(node.value, path_text(path))
                raw_bytes[name] += len(encoded)
                if len(encoded) > INLINE_LIMIT:
                    yield Leaf(path, node, BytesSource(encoded), 1, "", ())
