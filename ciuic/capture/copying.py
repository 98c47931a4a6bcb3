"""One staged copy: what may change anywhere is copied in the call, the rest while forward and backward run."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Any

import torch

from ciuic.capture import fence
from ciuic.capture.arena import Slot
from ciuic.capture.cuda import CudaCopies
from ciuic.capture.placed import Placed
from ciuic.capture.samples import Samples
from ciuic.errors import TornSnapshot
from ciuic.objects.state_tree import Container, Key, StateNode, Tensor, path_text, walk
from ciuic.state.tensors import LiveTensor

ALIGNMENT = 64
SMALL_BYTES = 4096
"""Up to this size ordering a copy costs more than making it."""
PIECE_BYTES = 16 << 20


class Layout:
    """Where each tensor of a state tree goes in a slot; tensors that are the same memory share a place."""

    def __init__(self, components: Mapping[str, StateNode]) -> None:
        self.places: dict[int, Placed] = {}  # by id of the leaf, which the tree keeps alive
        self.leaves: list[Tensor] = []  # one for each place
        self.size = 0
        memories: dict[tuple[Any, ...], Placed] = {}
        for leaf in tensors(components):
            memory = _memory(leaf)
            place = memories.get(memory) if memory is not None else None
            if place is None:
                place = Placed(self.size, leaf.source.nbytes)
                self.size += -(-place.nbytes // ALIGNMENT) * ALIGNMENT
                self.leaves.append(leaf)
                if memory is not None:
                    memories[memory] = place
            self.places[id(leaf)] = place

    def placed(self, node: StateNode) -> StateNode:
        """The same tree over places."""
        if isinstance(node, Tensor):
            return replace(node, source=self.places[id(node)])
        if isinstance(node, Container):
            return Container(node.kind, tuple((key, self.placed(child)) for key, child in node.items))
        return node


def tensors(components: Mapping[str, StateNode]) -> Iterator[Tensor]:
    """Every tensor leaf, in no particular order."""
    stack: list[StateNode] = list(components.values())
    while stack:
        node = stack.pop()
        if isinstance(node, Container):
            stack.extend(child for _, child in node.items)
        elif isinstance(node, Tensor):
            yield node


def _memory(leaf: Tensor) -> tuple[Any, ...] | None:
    """What tells that two leaves are the same bytes; None when nothing does."""
    source = leaf.source
    if not isinstance(source, LiveTensor) or not source.nbytes:
        return None
    tensor = source.tensor
    return tensor.device, tensor.data_ptr(), source.nbytes, leaf.shape, tensor.stride()


class Copy:
    """The copy of one state tree into one slot.

    The constructor has copied what may change anywhere when it returns; ``run`` copies the rest, in another thread.
    Until then the caller keeps the fence up by ``fence.register``.
    """

    def __init__(self, layout: Layout, components: Mapping[str, StateNode], ordered: Set[int], slot: Slot) -> None:
        """``ordered``: ids of the leaves that change only in an optimizer's step."""
        assert slot.mapping is not None
        self.layout = layout
        self.components = components
        self.slot = slot
        self.fence_seconds = 0.0
        self.copy_seconds = 0.0
        self.torn: list[Tensor] = []
        self._mapping = slot.mapping
        self._done = threading.Event()
        self._held_since: float | None = None
        self._cuda: CudaCopies | None = None
        self._later: list[Tensor] = []
        start = time.perf_counter()
        on_cuda: list[Tensor] = []
        for leaf in layout.leaves:
            source = leaf.source
            if isinstance(source, LiveTensor) and source.tensor.device.type == "cuda" and not leaf.quantizer:
                on_cuda.append(leaf)
            elif id(leaf) in ordered and source.nbytes > SMALL_BYTES:
                self._later.append(leaf)
            else:
                self._copy(leaf)
        if on_cuda:
            moves = [(_live(leaf), layout.places[id(leaf)].offset, id(leaf) in ordered) for leaf in on_cuda]
            self._cuda = CudaCopies(moves, self._mapping)
            self._on_cuda = on_cuda
        self._versions = [_live(leaf)._version for leaf in self._later]
        self._dense = [leaf for leaf in self._later if _live(leaf).is_contiguous()]
        self._samples = Samples(
            [_live(leaf).data_ptr() for leaf in self._dense], [leaf.source.nbytes for leaf in self._dense]
        )
        self.copy_seconds += time.perf_counter() - start

    # The fence's side

    def hold_step(self) -> None:
        if self._cuda is not None:
            self._cuda.hold_stream()
        if not self._later or self._done.is_set():
            return
        start = time.perf_counter()
        if self._held_since is None:
            self._held_since = start
        self._done.wait()

    def wait(self) -> None:
        self._done.wait()

    # The copying thread's side

    def run(self) -> None:
        """Copy what was ordered, let go of the fence; TornSnapshot when something changed meanwhile."""
        start = time.perf_counter()
        try:
            index = 0
            for leaf, version in zip(self._later, self._versions, strict=True):
                self._copy(leaf)
                dense = index < len(self._dense) and self._dense[index] is leaf
                place = self._mapping.address + self.layout.places[id(leaf)].offset
                if _live(leaf)._version != version or (dense and not self._samples.same(index, place)):
                    self.torn.append(leaf)
                index += dense
            if self._cuda is not None:
                self.torn += [self._on_cuda[each] for each in self._cuda.finish()]
            self._mapping.mark_ready(self.layout.size)
        finally:
            now = time.perf_counter()
            self.copy_seconds += now - start
            if self._held_since is not None:
                self.fence_seconds = now - self._held_since
            fence.release(self)
            self._done.set()
        if self.torn:
            raise TornSnapshot(
                f"{', '.join(self._names(self.torn[:3]))}{', …' if len(self.torn) > 3 else ''} changed while being "
                "copied, outside an optimizer's step. The copy was dropped; the next snapshot copies "
                f"{'it' if len(self.torn) == 1 else 'them'} at once. Call fence() before changing state by hand."
            )

    def give_up(self) -> None:
        """The copy will not be made."""
        fence.release(self)
        self._done.set()

    def placed(self) -> dict[str, StateNode]:
        """The state tree over the slot."""
        return {name: self.layout.placed(node) for name, node in self.components.items()}

    def _copy(self, leaf: Tensor) -> None:
        """A CPU tensor's row-major bytes to their place. Large copies let other threads run."""
        place = self.layout.places[id(leaf)]
        if not place.nbytes:
            return
        target = self._mapping.address + place.offset
        source = leaf.source
        if isinstance(source, LiveTensor) and _is_plain(source.tensor):
            ctypes.memmove(target, source.tensor.data_ptr(), place.nbytes)
            return
        step = PIECE_BYTES
        for begin in range(0, place.nbytes, step):
            piece = memoryview(source.read(begin, min(begin + step, place.nbytes))).cast("B")
            self._mapping.bytes[place.offset + begin : place.offset + begin + len(piece)] = piece

    def _names(self, leaves: list[Tensor]) -> Iterator[str]:
        wanted = {id(leaf) for leaf in leaves}
        for name, component in self.components.items():
            path: tuple[Key, ...]
            for path, node in walk(component, (name,)):
                if id(node) in wanted:
                    yield path_text(path)


def torn_memory(leaf: Tensor) -> tuple[int, ...]:
    """What a torn tensor is known by at the next snapshot."""
    return _live(leaf).data_ptr(), leaf.source.nbytes


def _live(leaf: Tensor) -> torch.Tensor:
    source = leaf.source
    assert isinstance(source, LiveTensor)
    return source.tensor


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_quantized
